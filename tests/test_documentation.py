"""The documentation says what the code does: its Python examples run, its messages exist, its drawings are the code's.

`make docs` checks links, docstrings and the rest of the site; tests/test_tutorials.py runs commands.
"""

import ast
import contextlib
import importlib
import os
from pathlib import Path
import re
import subprocess
import sys
import textwrap

from flax import nnx
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from conftest import DATA, TINY_MODEL
from lrm_jax.export import export
from lrm_jax.geometry import cameras
from lrm_jax.models import registry
from lrm_jax.storage import checkpoint

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / 'README.md', *(ROOT / 'data').glob('*.md'), *(ROOT / 'docs').rglob('*.md')])


def python_blocks() -> dict[str, str]:
  """Returns {file and number: source} of the Python examples in pages and in docstrings of modules."""
  found = {}
  for page in PAGES:
    for number, block in enumerate(re.findall(r'^```python\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)):
      found[f'{page.relative_to(ROOT)}:{number}'] = block
  for path in sorted((ROOT / 'lrm_jax').rglob('*.py')):
    tree = ast.parse(path.read_text())
    owners = [node for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    for docstring in filter(None, map(ast.get_docstring, [tree, *owners])):
      indented = [block for block in docstring.split('\n\n') if all(x.startswith('  ') for x in block.split('\n'))]
      code = [block for block in indented if re.search(r'^  (import |\w+ = )', block, re.MULTILINE)]
      if code:
        found[str(path.relative_to(ROOT))] = textwrap.dedent('\n'.join(code))
  return found


BLOCKS = python_blocks()
# Values of the examples that are replaced so that they take seconds.
SMALLER = {
  'docs/meshes.md:0': {'128': '32', '256': '32', '48': '3'},
  'README.md:0': {'(12': '(3', '128': '32'},
  'lrm_jax/reconstruction/result.py': {'(48, size=256)': '(3, size=32)', "save('out')": "save('out', num_frames=3)"},
}
OF_SEVERAL_VIEWS = ['docs/input_views.md:0']
OF_THE_SERVER = ['docs/view.md:0', 'lrm_jax/client.py']
OF_PYTORCH = ['docs/weights.md:0', 'lrm_jax/export/torch_lrm.py']
PLAIN = ['docs/coordinates.md:0']
ELSEWHERE = ['lrm_jax/export/stablehlo.py']  # tests/test_stablehlo.py runs it, in a process without this library.
OTHERS = {*OF_SEVERAL_VIEWS, *OF_THE_SERVER, *OF_PYTORCH, *PLAIN, *ELSEWHERE}
OF_THE_DEMO = sorted(BLOCKS.keys() - OTHERS)


def test_examples_are_found():
  assert BLOCKS.keys() >= OTHERS
  assert {'README.md:0', 'docs/meshes.md:0', 'lrm_jax/reconstruction/result.py'} <= set(OF_THE_DEMO)


def execute(name: str, **variables) -> dict:
  """Runs an example with these variables, and returns all of them."""
  source = BLOCKS[name]
  for old, new in SMALLER.get(name, {}).items():
    assert old in source, f'{name} has no {old}'
    source = source.replace(old, new)
  exec(compile(source, name, 'exec'), variables)
  return variables


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """The working directory, with the images that examples read."""
  pixels = np.zeros((64, 64, 4), np.uint8)
  pixels[12:52, 20:44] = (200, 80, 40, 255)
  for name in ('photo', 'chair', 'front', 'back'):
    Image.fromarray(pixels).save(tmp_path / f'{name}.png')
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize('name', PLAIN)
def test_plain_examples_run(name):
  execute(name)


@pytest.mark.slow
@pytest.mark.parametrize('name', OF_THE_DEMO)
def test_examples_with_the_model_that_ships_run(name, photos):
  import lrm_jax

  made = execute(name, lrm_jax=lrm_jax)
  if name == 'docs/meshes.md:0':
    assert made['mesh'].metadata['report'].watertight and len(made['mesh'].faces) <= 20_000
    assert made['turn'].color.shape == (3, 32, 32, 3) and np.isinf(made['depth'][0, 0])
    assert all(path.is_file() for path in made['files'].values())
    np.testing.assert_array_equal(made['again'].planes, made['chair'].planes)


def tiny_run(directory: Path, **changes) -> Path:
  """Writes a run directory with a tiny, random model, and returns it."""
  model = TINY_MODEL | changes
  params = registry.parameters(registry.build_model(model, nnx.Rngs(0)))
  checkpoint.write_model(directory, params, ConfigDict({'model': model, 'data': DATA}), step=1)
  return directory


@pytest.mark.parametrize('name', OF_SEVERAL_VIEWS)
def test_examples_with_several_views_run(name, photos):
  tiny_run(photos / 'runs/mine', num_input_views=4)
  poses = cameras.orbit(2)
  made = execute(
    name,
    images=np.full((2, 16, 16, 3), 0.5, np.float32),
    camera_to_world=poses,
    intrinsics=np.tile(cameras.intrinsics_from_fov(50), (2, 1)),
  )
  assert made['planes'].shape == (1, *made['result'].planes.shape)


@pytest.mark.parametrize('name', OF_PYTORCH)
def test_examples_with_pytorch_run(name, photos, monkeypatch):
  torch = pytest.importorskip('torch', reason="PyTorch is not installed: pip install '.[torch]'")
  out = export(tiny_run(photos / 'run'), photos / 'OUT', format='torch')
  (photos / 'DIR').symlink_to(out)
  monkeypatch.syspath_prepend(out)
  image = torch.full((1, 16, 16, 3), 0.5)
  poses = torch.tensor(cameras.orbit(2)[None], dtype=torch.float32)
  lenses = torch.tensor(cameras.intrinsics_from_fov(50), dtype=torch.float32).expand(1, 2, 4)
  variables = dict(image=image, images=image, camera_to_world=poses, intrinsics=lenses, points=torch.zeros(1, 1, 3))
  made = execute(name, **variables)
  assert (made.get('views') or made['pixels']).color.shape == (1, 2, 128, 128, 3)
  sys.modules.pop('torch_lrm')


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """The address of `python -m lrm_jax.view`."""
  pytest.importorskip('starlette', reason="Starlette is not installed: pip install '.[view]'")
  out = tmp_path_factory.mktemp('view')
  command = [sys.executable, '-m', 'lrm_jax.view', '--port=0', f'--out={out}', '--no_warm_up']
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  with subprocess.Popen(command, cwd=out, env=environment, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    yield process.stdout.readline().split()[1].rstrip('/')
    process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize('name', OF_THE_SERVER)
def test_examples_with_the_server_run(name, server, photos, monkeypatch):
  from lrm_jax.client import Client

  monkeypatch.setitem(SMALLER, name, {'http://127.0.0.1:8321': server})
  execute(name, Client=Client)
  assert next(photos.glob('*.glb')).stat().st_size > 1000


def strings(folder: Path) -> set[str]:
  """Returns the texts in the sources of a folder; what is inserted into an f-string is '{}'."""
  found = set()

  def text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
      return str(node.value)
    return ''.join(text(part) if isinstance(part, ast.Constant) else '{}' for part in node.values)  # type: ignore[attr-defined]

  for path in folder.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        found.add(text(node))
  return found


def test_messages_of_the_troubleshooting_page_exist():
  page = (ROOT / 'docs/troubleshooting.md').read_text()
  rows = [row.split(' | ')[0] for row in page.splitlines() if row.startswith('| ')]
  messages = [message for row in rows for message in re.findall(r'`([^`]* [^`]*)`', row)]
  assert len(messages) > 35
  # The message of a missing package and that of a missing model begin with a name that the code inserts.
  texts = strings(ROOT / 'lrm_jax') | strings(ROOT / 'data')
  for message in messages:
    parts = [re.escape(part) for part in re.split(r'\.\.\.', message)]
    pattern = re.compile('.*'.join(parts).replace('training', '(training|{})'), re.DOTALL)
    assert any(pattern.search(one) for one in texts), f'docs/troubleshooting.md: no message is like {message!r}'


@contextlib.contextmanager
def importable(folder: Path):
  sys.path.insert(0, str(folder))
  try:
    yield
  finally:
    sys.path.remove(str(folder))


def test_drawings_of_cameras_are_those_of_the_code(tmp_path):
  with importable(ROOT / 'docs/site'):
    importlib.import_module('draw_cameras').main(tmp_path)
  for name in ('cameras_world.svg', 'cameras_image.svg'):
    assert (tmp_path / name).read_text() == (ROOT / 'docs' / name).read_text(), (
      f'docs/{name} is not what python docs/site/draw_cameras.py draws'
    )
