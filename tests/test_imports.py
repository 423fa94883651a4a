"""Packages import only from lower layers, from the maths up to the commands, and importing has no side effects."""

import ast
import graphlib
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]

# Layers, lowest first. A module may import from its own package and from the layers before its own.
LAYERS = (
  {'errors', 'extras'},
  {'geometry'},
  {'distributed'},
  {'models'},
  {'storage'},
  {'datasets'},
  {'weights', 'evaluation'},
  {'reconstruction'},
  {'training'},
  {'command_line'},
  {'train', 'reconstruct', 'evaluate', 'export', 'quickstart', 'data_check', 'view', 'client', 'report'},
)
# Third-party packages and the only packages of lrm_jax that may import them.
ONLY_IN = {
  'flax': {'models', 'weights', 'training', 'export', 'evaluation'},
  'optax': {'training'},
  'orbax': {'storage'},
  'grain': {'datasets'},
  'tensorflow_datasets': {'datasets'},
  'absl': {'train'},
  'ml_collections': {'storage', 'weights', 'training', 'train', 'report'},
  'matplotlib': {'evaluation'},
  'tensorboardX': {'training'},
  'starlette': {'view'},
  'uvicorn': {'view'},
}


def module_name(path: Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in (ROOT / 'lrm_jax').rglob('*.py')}


def imports(path: Path) -> set[str]:
  """Returns the modules that a file imports, including imports inside functions."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: use absolute imports, from lrm_jax...'
      names = {f'{node.module}.{alias.name}' for alias in node.names}
      found |= names & MODULES.keys()
      if not names <= MODULES.keys():
        found.add(node.module)
  return found


def layer(module: str) -> int:
  name = module.split('.')[1]
  layers = [number for number, names in enumerate(LAYERS) if name in names]
  assert layers, f'{module} has no layer: add its package to LAYERS'
  return layers[0]


LAYERED = sorted(set(MODULES) - {'lrm_jax'})


@pytest.mark.parametrize('module', LAYERED)
def test_module_imports_only_its_own_layer_and_those_below(module):
  package = module.split('.')[1]
  for imported in imports(MODULES[module]):
    if imported in MODULES and imported != 'lrm_jax':
      assert layer(imported) <= layer(module), f'{module} must not import {imported}, which is in a layer above'
    top = imported.split('.')[0]
    assert top not in ONLY_IN or package in ONLY_IN[top], f'{module} must not import {imported}'
    assert not imported.startswith('lrm_jax.data') or imported.startswith('lrm_jax.datasets'), (
      f'the library must not import {imported}'
    )
    assert not imported.startswith('lrm_jax.configs') or package == 'quickstart', f'{module} must not import {imported}'
    # torch_lrm.py is a PyTorch file that runs without this package, so no other module may import it.
    assert top != 'torch' or module == 'lrm_jax.export.torch_lrm', f'{module} must not import torch'
    assert imported != 'lrm_jax.export.torch_lrm'


def test_packages_of_one_layer_do_not_import_each_other():
  for names in LAYERS[:-1]:
    for module in LAYERED:
      package = module.split('.')[1]
      if package in names:
        others = {f'lrm_jax.{name}' for name in names - {package}} if package not in ('errors', 'extras') else set()
        for imported in imports(MODULES[module]):
          assert not any(imported == other or imported.startswith(other + '.') for other in others), (module, imported)


def test_imports_have_no_cycle():
  graph = {module: imports(MODULES[module]) & MODULES.keys() - {'lrm_jax'} for module in LAYERED}
  tuple(graphlib.TopologicalSorter(graph).static_order())


def test_top_level_of_the_package_stays_small():
  assert len(list((ROOT / 'lrm_jax').glob('*.py'))) < 12


def test_geometry_of_numpy_does_not_import_jax():
  code = (
    'import sys, lrm_jax, lrm_jax.geometry.cameras, lrm_jax.geometry.images; print(lrm_jax.__version__); '
    "sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'tensorflow', 'torch')))"
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert result.stdout.strip()


def test_unknown_name_of_the_package_is_an_attribute_error():
  import lrm_jax

  with pytest.raises(AttributeError, match='no attribute'):
    _ = lrm_jax.nothing
