"""Imports go one way: maths <- models <- work <- commands, and importing has no effect."""

import ast
import graphlib
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]

# A module imports those of its own layer and of the ones before it, without cycles.
LAYERS = (
    {'errors', 'types', 'cameras', 'rays', 'volume', 'resize', 'images', 'sharding', 'topology', 'paths'},
    {'models'},
    {'losses', 'optimizer', 'examples', 'input_pipeline', 'state', 'cost', 'checkpoint', 'metrics', 'progress', 'surface', 'mesh', 'glb', 'video',
     'preprocess', 'reconstructor', 'sources', 'evaluation', 'page', 'weights', 'inspection', 'contact_sheet', 'folders', 'startup', 'compiled', 'lock', 'cluster',
     'trainer', 'loop', 'dry_run'},
    {'train', 'reconstruct', 'evaluate', 'export', 'quickstart', 'data_check'},
)
# Packages that layers may not know, beside what the layers before them may not.
FORBIDDEN = ({'flax', 'optax', 'orbax', 'ml_collections', 'grain', 'tensorflow_datasets'},
             {'optax', 'orbax', 'ml_collections', 'grain', 'tensorflow_datasets'}, {'absl'}, set())


def module_name(path: Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in (ROOT / 'lrm_jax').rglob('*.py')}


def imports(path: Path) -> set[str]:
  """Returns the modules that a file imports, those within functions too."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: write imports from the top, lrm_jax...'
      names = {f'{node.module}.{alias.name}' for alias in node.names}
      found |= names & MODULES.keys()
      if not names <= MODULES.keys():
        found.add(node.module)
  return found


def layer(module: str) -> int:
  name = module.split('.')[1]
  layers = [number for number, names in enumerate(LAYERS) if name in names]
  assert layers, f'{module} has no layer: say in this test where it belongs'
  return layers[0]


LAYERED = sorted(set(MODULES) - {'lrm_jax'})


@pytest.mark.parametrize('module', LAYERED)
def test_a_module_imports_only_from_its_layer_and_below(module):
  for imported in imports(MODULES[module]):
    if imported in MODULES and imported != 'lrm_jax':
      assert layer(imported) <= layer(module), f'{module} may not import {imported}: it lies above'
    assert imported.split('.')[0] not in FORBIDDEN[layer(module)], f'{module} may not import {imported}'
    assert imported.split('.')[0] not in {'data', 'tests'}, f'the library may not import {imported}'
    # One file is written for PyTorch, which runs it without us: nobody imports it.
    assert imported.split('.')[0] != 'torch' or module == 'lrm_jax.export.torch_lrm', f'{module} may not import torch'
    assert imported != 'lrm_jax.export.torch_lrm'


def test_no_import_is_part_of_a_cycle():
  graph = {module: imports(MODULES[module]) & MODULES.keys() - {'lrm_jax'} for module in LAYERED}
  tuple(graphlib.TopologicalSorter(graph).static_order())


def test_the_package_its_cameras_and_pictures_do_without_jax():
  code = ("import sys, lrm_jax, lrm_jax.cameras, lrm_jax.images; print(lrm_jax.__version__); "
          "sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'tensorflow', 'torch')))")
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stdout + result.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error():
  import lrm_jax

  with pytest.raises(AttributeError, match='no attribute'):
    lrm_jax.nothing  # pylint: disable=pointless-statement
