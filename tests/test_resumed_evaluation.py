"""An evaluation that was stopped continues with the same command, and gives the bytes of an uninterrupted one."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import trimesh

from lrm_jax import evaluate
from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError
from lrm_jax.evaluation import novel_views
from lrm_jax.evaluation.finished import Finished, Part

FILES = ('results.json', 'results.md', 'report.html')


@pytest.fixture(scope='module')
def options(run_directory, dataset, tmp_path_factory):
  """An evaluation of views and of surfaces: a ball for each object."""
  meshes = tmp_path_factory.mktemp('meshes')
  for number in range(6):
    trimesh.creation.icosphere(subdivisions=2, radius=0.3 + 0.05 * number).export(meshes / f'ball_{number}.glb')
  return [
    f'--checkpoint={run_directory}',
    f'--data={dataset}',
    '--split=train',
    '--size=16',
    '--resolution=16',
    f'--meshes={meshes}',
  ]


@pytest.fixture(autouse=True)
def one_object_per_batch(monkeypatch):
  monkeypatch.setattr(novel_views, '_OBJECTS_PER_CALL', 1)


def command(monkeypatch, *words):
  """Runs the command in this process and returns its exit code."""
  monkeypatch.setattr(sys, 'argv', ['evaluate', *map(str, words)])
  with pytest.raises(SystemExit) as info:
    run_main(evaluate.main)
  return info.value.code


def stop_after(monkeypatch, count):
  """Stops an evaluation, as Ctrl-C does, after it has written this many times."""
  add, calls = Part.add, []

  def counted(self, values):
    if len(calls) == count:
      raise KeyboardInterrupt
    calls.append(values)
    add(self, values)

  monkeypatch.setattr(Part, 'add', counted)
  return calls


@pytest.mark.parametrize('protocol', ['lrm', pytest.param('geometry', marks=pytest.mark.slow)])
def test_continued_evaluation_gives_the_same_bytes(options, tmp_path, monkeypatch, capsys, protocol):
  words = [*options, f'--protocol={protocol}', '--input_views=0,2']
  assert command(monkeypatch, *words, f'--out={tmp_path / "whole"}') == 0
  out = tmp_path / 'stopped'
  with pytest.MonkeyPatch.context() as patch:
    stop_after(patch, 3)
    assert command(monkeypatch, *words, f'--out={out}') == 130
  assert [path.name for path in out.iterdir()] == ['unfinished']
  lines = out / 'unfinished' / 'objects.jsonl'
  assert len(lines.read_text().splitlines()) == 3
  with lines.open('a') as stream:  # As a kill leaves it.
    stream.write('{"part": "mod')
  capsys.readouterr()
  with pytest.MonkeyPatch.context() as patch:
    calls = stop_after(patch, 10**9)
    assert command(monkeypatch, *words, f'--out={out}') == 0
  assert 'continues after 3 finished objects' in capsys.readouterr().out
  whole = {'lrm': 2 * 5 * 4, 'geometry': 4}[protocol]  # Inputs, systems, objects.
  assert len(calls) == whole - 3
  for name in FILES:
    assert (out / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name
  assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_other_settings_are_refused_or_start_again(options, tmp_path, monkeypatch, capsys):
  words = [*options, '--no_baselines', f'--out={tmp_path}']
  with pytest.MonkeyPatch.context() as patch:
    stop_after(patch, 2)
    command(monkeypatch, *words)
  capsys.readouterr()
  for other, message in (
    ('--size=12', 'size was 16 and is 12'),
    ('--checkpoint=quickstart', 'hash was "'),
    ('--objects=3', 'uids was "'),
  ):
    assert command(monkeypatch, *words, other) == 2
    error = capsys.readouterr().err
    assert message in error and '--restart' in error and error.count('\n') == 1
  assert command(monkeypatch, *words, '--size=12', '--restart') == 0
  assert 'continues' not in capsys.readouterr().out and not (tmp_path / 'unfinished').exists()


def test_values_are_stored_exactly(tmp_path, rng):
  value = {'x': [float(x) for x in rng.normal(size=5).astype(np.float32)] + [float('nan')]}
  Finished(tmp_path, {'a': 1}).part('p').add({7: value})
  again = Finished(tmp_path, {'a': 1})
  assert 7 in again.part('p') and 6 not in again.part('p') and again.count == 1
  np.testing.assert_array_equal(again.part('p')[7]['x'], value['x'])
  with pytest.raises(InputError, match='a was 1 and is 2'):
    Finished(tmp_path, {'a': 2})
  assert Finished(tmp_path, {'a': 2}, restart=True).count == 0


@pytest.mark.slow
def test_killed_evaluation_continues(options, tmp_path):
  words = [sys.executable, '-m', 'lrm_jax.evaluate', *options, '--protocol=lrm', '--input_views=0,1,2,3,4']
  subprocess.run([*words, f'--out={tmp_path / "whole"}'], check=True)
  out = tmp_path / 'killed'
  process = subprocess.Popen([*words, f'--out={out}'])
  lines = out / 'unfinished' / 'objects.jsonl'
  until = time.monotonic() + 300
  while not (lines.is_file() and lines.stat().st_size) and time.monotonic() < until:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  result = subprocess.run([*words, f'--out={out}'], check=True, capture_output=True, text=True)
  assert 'continues after' in result.stdout
  for name in FILES:
    assert (out / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name
