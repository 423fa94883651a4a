"""data/infinigen.py: recipes, bad input, and, with Blender and Infinigen, objects that render.py's readers take."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from lrm_jax.data import infinigen, render
from lrm_jax.errors import InputError

PYTHON = render.ROOT / '.venv-infinigen/bin/python'
KINDS = 'tableware:BowlFactory\nfruits:FruitFactoryPineapple  # the crown is the hard part\n'


@pytest.fixture
def kinds(tmp_path):
  (tmp_path / 'kinds.txt').write_text(KINDS)
  return tmp_path / 'kinds.txt'


# A worker with the protocol of data/rendering/worker.py that copies the recipe into the folder of the object.
WORKER = """
import json, os, pathlib, sys
replies = os.fdopen(int(sys.argv[3]), 'w')
say = lambda error: print(json.dumps({'error': error}), file=replies, flush=True)
say(None)
for line in sys.stdin:
  work = json.loads(line)
  out = pathlib.Path(work['out']); out.mkdir()
  recipe = json.loads(pathlib.Path(work['file']).read_text())
  (out / 'object.json').write_text(json.dumps(recipe | {'settings': json.loads(sys.argv[2])}))
  say('no bowl today' if 'Bowl' in recipe['kind'] else None)
"""


@pytest.fixture
def python(tmp_path):
  """The path of a program that stands for Infinigen's Python."""
  import sys

  (tmp_path / 'worker.py').write_text(WORKER)
  program = tmp_path / 'python'
  program.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "worker.py"} "$@"\n')
  program.chmod(0o755)
  return program


def made(out: Path) -> dict[str, dict]:
  return {path.parent.name: json.loads(path.read_text()) for path in out.glob('*/object.json')}


def test_objects_take_kinds_in_turn_and_failures_are_reported(kinds, python, tmp_path, capsys):
  out = tmp_path / 'out'
  options = [f'--kinds={kinds}', f'--python={python}', f'--out={out}', '--seed=7', '--workers=1', '--depth']
  assert infinigen.main([*options, '--count=4']) == 1
  found = made(out)
  assert [found[f'infinigen_7_{index:07d}']['kind'] for index in range(4)] == [
    line.split()[0] for line in KINDS.splitlines()
  ] * 2
  assert len({one['seed'] for one in found.values()}) == 4
  assert found['infinigen_7_0000001']['settings']['depth'] is True
  printed = capsys.readouterr()
  assert '2 of 4 objects failed' in printed.err and 'no bowl today' in printed.err
  # More objects continue the same set, and shards divide it.
  assert infinigen.main([*options, '--first=2', '--count=4', '--shard=1/2']) == 0
  assert made(out).keys() == {f'infinigen_7_{index:07d}' for index in (0, 1, 2, 3, 5)}
  assert made(out)['infinigen_7_0000001'] == found['infinigen_7_0000001']


@pytest.mark.parametrize(
  'options, message',
  [
    (['--count=0'], '--count=0 must be at least 1'),
    (['--count=1', '--python=/no/python'], r'/no/python does not exist: run `make infinigen-env`'),
    (['--count=1', '--fov=400'], '--fov=400.0 must be between'),
    (['--count=1', '--shard=2/2'], '--shard=2/2 must be i/n'),
  ],
)
def test_bad_options_are_refused(options, message, python, tmp_path):
  with pytest.raises(InputError, match=message):
    infinigen.main([f'--python={python}', f'--out={tmp_path / "out"}', *options])


@pytest.mark.parametrize(
  'text, message', [('# none\n', 'has no kinds'), ('BowlFactory\n', "'BowlFactory' is not MODULE")]
)
def test_bad_lists_of_kinds_are_refused(text, message, python, kinds, tmp_path):
  kinds.write_text(text)
  with pytest.raises(InputError, match=message):
    infinigen.main([f'--python={python}', f'--kinds={kinds}', f'--out={tmp_path / "out"}', '--count=1'])
  assert not (tmp_path / 'out').exists()


def test_kinds_that_ship_are_all_different():
  kinds = infinigen.read_kinds(infinigen.KINDS)
  assert len(set(kinds)) == len(kinds) > 30


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason='Infinigen is not installed: run `make infinigen-env`')
def test_infinigen_makes_and_renders_the_same_objects_again(kinds, tmp_path):
  options = [f'--kinds={kinds}', '--count=2', '--num_views=2', '--size=64', '--samples=4', '--depth', '--normals']
  for name in ('first', 'second'):
    assert infinigen.main([*options, f'--out={tmp_path / name}']) == 0
  for uid in ('infinigen_0_0000000', 'infinigen_0_0000001'):
    first, second = (tmp_path / name / uid for name in ('first', 'second'))
    pixels = [np.asarray(Image.open(folder / 'views/001.webp')).astype(int) for folder in (first, second)]
    np.testing.assert_array_equal(*(x[..., 3] > 0 for x in pixels))
    assert 0.02 < np.mean(pixels[0][..., 3] > 128) < 0.9
    assert np.abs(pixels[0] - pixels[1]).mean() < 1
    depth = np.asarray(Image.open(first / 'depth/001.png'))
    assert np.mean((depth > 0) == (pixels[0][..., 3] > 128)) > 0.95
    about = json.loads((first / 'object.json').read_text())
    assert about['kind'] in KINDS and about['seed'] == infinigen.recipe(KINDS.split('\n'), 0, int(uid[-7:]))['seed']
  green = np.asarray(Image.open(tmp_path / 'first/infinigen_0_0000001/views/000.webp'))[:32]
  assert green[green[..., 3] > 250].mean(0)[1] > green[green[..., 3] > 250].mean(0)[2]  # The crown is not blue.
