"""The worker pool: a crash or a hang loses only one object, and no incomplete folders are left behind."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest
from test_render import BOAT, ROOT

from lrm_jax.data.rendering import pool

# A worker with the protocol of data/rendering/worker.py; the uid of an object decides what it does.
WORKER = """
import json, os, sys, time, pathlib
replies = os.fdopen(int(sys.argv[2]), 'w')
say = lambda error: print(json.dumps({'error': error}), file=replies, flush=True)
if json.loads(sys.argv[1]).get('broken'):
  say('no graphics here'); sys.exit()
say(None)
for line in sys.stdin:
  work = json.loads(line); uid = work['uid']; out = pathlib.Path(work['out'])
  folder = out.parent / f'.{uid}.{os.getpid()}.partial'; folder.mkdir()
  (folder / 'pid').write_text(str(os.getpid()))
  if 'crash' in uid: os.kill(os.getpid(), 11)
  if 'exit' in uid: sys.exit(3)
  if 'hang' in uid: time.sleep(1000)
  if 'bad' in uid: say('a bad file'); continue
  time.sleep(0.02)
  folder.rename(out); say(None)
"""


@pytest.fixture
def command(tmp_path):
  (tmp_path / 'worker.py').write_text(WORKER)
  return [sys.executable, str(tmp_path / 'worker.py')]


def run(command, out, uids, *, workers=2, timeout=1.5, settings=None):
  out.mkdir(exist_ok=True)
  objects = [(uid, Path(uid)) for uid in uids]
  return {
    result.uid: result.error
    for result in pool.render_all(objects, out, settings or {}, command, workers=workers, timeout=timeout)
  }


@pytest.mark.parametrize('workers', [1, 3])
def test_failures_lose_only_one_object(command, tmp_path, workers):
  uids = ['a', 'crash_1', 'b', 'hang', 'c', 'bad', 'd', 'exit', 'e', 'crash_2', 'f']
  results = run(command, tmp_path / 'out', uids, workers=workers)
  assert {uid: error for uid, error in results.items() if len(uid) > 1} == {
    'crash_1': 'the renderer was killed by signal 11',
    'crash_2': 'the renderer was killed by signal 11',
    'bad': 'a bad file',
    'hang': 'rendering took longer than 1.5 s',
    'exit': 'the renderer exited with code 3',
  }
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == list('abcdef')
  assert [results[uid] for uid in 'abcdef'] == [None] * 6


def test_worker_renders_many_objects(command, tmp_path):
  run(command, tmp_path / 'out', [f'o{i}' for i in range(12)], workers=2)
  pids = {(folder / 'pid').read_text() for folder in (tmp_path / 'out').iterdir()}
  assert len(pids) <= 2


def test_engine_that_cannot_start_raises(command, tmp_path):
  with pytest.raises(pool.EngineError, match='no graphics here'):
    run(command, tmp_path / 'out', ['a', 'b'], settings={'broken': True})


def test_closing_the_iterator_stops_the_workers(command, tmp_path):
  (tmp_path / 'out').mkdir()
  results = pool.render_all(
    [('a', Path('a')), ('hang', Path('hang'))], tmp_path / 'out', {}, command, workers=1, timeout=100
  )
  assert next(results).uid == 'a'
  pid = int((tmp_path / 'out/a/pid').read_text())
  results.close()
  assert not Path(f'/proc/{pid}').exists()
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a']


def test_only_folders_of_dead_processes_are_removed(tmp_path):
  dead = subprocess.Popen(['true'])
  dead.wait()
  for pid in (dead.pid, os.getpid()):
    (tmp_path / f'.cup.v2.{pid}.partial').mkdir()
  pool.remove_leftovers(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == [f'.cup.v2.{os.getpid()}.partial']


@pytest.mark.parametrize('number', [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_interrupted_render_is_resumed(number, tmp_path):
  pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[raster]'")
  for i in range(40):
    (tmp_path / f'boat_{i}.glb').write_bytes(BOAT.read_bytes())
  args = [
    sys.executable,
    'data/render.py',
    str(tmp_path),
    '--out',
    str(tmp_path / 'out'),
    '--engine=raster',
    '--num_views=6',
    '--size=128',
    '--workers=2',
  ]
  process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

  def done():
    return list((tmp_path / 'out').glob('boat_*'))

  while len(done()) < 3 and process.poll() is None:
    time.sleep(0.01)
  if process.poll() is not None and 'EGL' in process.stderr.read():
    pytest.skip('OpenGL through EGL is not available')
  process.send_signal(number)
  process.stderr.close()
  assert process.wait(timeout=20) == (143 if number == signal.SIGTERM else -number)
  before = {path: path.stat().st_mtime_ns for path in done()}
  assert 3 <= len(before) < 40
  if number == signal.SIGTERM:
    assert not list((tmp_path / 'out').glob('.*'))
  time.sleep(0.5)  # Workers whose parent was killed exit at the end of their input.
  again = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=False)
  assert again.returncode == 0, again.stderr
  assert len(done()) == 40 and not list((tmp_path / 'out').glob('.*'))
  assert all(path.stat().st_mtime_ns == at for path, at in before.items())


@pytest.mark.slow
def test_beam_pipeline_renders_the_same_views(tmp_path):
  pytest.importorskip('apache_beam', reason="Apache Beam is not installed: pip install '.[beam]'")
  pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[raster]'")
  for i in range(4):
    (tmp_path / f'boat_{i}.glb').write_bytes(BOAT.read_bytes())
  (tmp_path / 'bad.glb').write_bytes(b'this is no glTF')
  options = [str(tmp_path), '--engine=raster', '--num_views=3', '--size=64']
  done = subprocess.run(
    [sys.executable, 'data/render_beam.py', *options, '--out', str(tmp_path / 'beam')],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  if 'EGL' in done.stderr:
    pytest.skip('OpenGL through EGL is not available')
  assert done.returncode == 1 and 'bad: FAILED: ' in done.stderr and '4 of 5 objects' in done.stdout, done.stderr
  subprocess.run(
    [sys.executable, 'data/render.py', *options, '--out', str(tmp_path / 'plain')],
    cwd=ROOT,
    capture_output=True,
    check=False,
  )
  for i in range(4):
    for view in range(3):
      name = f'boat_{i}/views/{view:03d}.webp'
      assert (tmp_path / 'beam' / name).read_bytes() == (tmp_path / 'plain' / name).read_bytes()


@pytest.mark.slow
def test_slurm_array_splits_the_objects_and_forwards_signals(tmp_path):
  """Starts the tasks as Slurm does, without Slurm."""
  pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[raster]'")
  for i in range(30):
    (tmp_path / f'boat_{i:02d}.glb').write_bytes(BOAT.read_bytes())
  (tmp_path / 'objects.txt').write_text(f'{tmp_path}\n')

  def start(task, count, out, options='--num_views=2 --size=32'):
    settings = dict(
      OBJECTS=f'@{tmp_path}/objects.txt',
      OUT=str(tmp_path / out),
      ENGINE='raster',
      OPTIONS=options,
      PYTHON=sys.executable,
      SLURM_ARRAY_TASK_ID=str(5 + task),
      SLURM_ARRAY_TASK_MIN='5',
      SLURM_ARRAY_TASK_COUNT=str(count),
      SLURM_CPUS_PER_TASK='2',
    )
    return subprocess.Popen(
      ['bash', 'launch/render_array.sbatch'],
      cwd=ROOT,
      env=os.environ | settings,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )

  tasks = [start(task, 3, 'shared') for task in range(3)]
  errors = [task.communicate()[1] for task in tasks]
  if any('EGL' in error for error in errors):
    pytest.skip('OpenGL through EGL is not available')
  assert [task.returncode for task in tasks] == [0, 0, 0], errors
  assert len(list((tmp_path / 'shared').glob('boat_*'))) == 30
  task = start(0, 1, 'stopped', '--num_views=8 --size=256')
  while not list((tmp_path / 'stopped').glob('boat_*')):
    time.sleep(0.01)
  task.send_signal(signal.SIGTERM)
  assert task.wait(timeout=20) == 143
  assert not list((tmp_path / 'stopped').glob('.*')) and len(list((tmp_path / 'stopped').glob('boat_*'))) < 30


@pytest.mark.slow
def test_procedural_objects_by_beam_and_by_slurm_array_are_those_of_the_command(tmp_path):
  pytest.importorskip('apache_beam', reason="Apache Beam is not installed: pip install '.[beam]'")
  pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[procedural]'")

  def run(command, **environment):
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)

  options = ['--num_views=2', '--size=32']
  plain = run([sys.executable, 'data/procedural.py', '--count=6', f'--out={tmp_path / "plain"}', *options])
  if 'EGL' in plain.stderr:
    pytest.skip('OpenGL through EGL is not available')
  beam = run([sys.executable, 'data/procedural_beam.py', '--count=6', f'--out={tmp_path / "beam"}', *options])
  assert beam.returncode == 0 and '6 of 6 objects' in beam.stdout, beam.stderr
  for task in range(2):
    settings = dict(
      COUNT='6',
      OUT=str(tmp_path / 'slurm'),
      OPTIONS=' '.join(options),
      PYTHON=sys.executable,
      SLURM_ARRAY_TASK_ID=str(task),
      SLURM_ARRAY_TASK_MIN='0',
      SLURM_ARRAY_TASK_COUNT='2',
    )
    done = run(['bash', 'launch/procedural_array.sbatch'], **settings)
    assert done.returncode == 0, done.stderr
  names = sorted(path.relative_to(tmp_path / 'plain') for path in (tmp_path / 'plain').glob('*/views/*.webp'))
  assert len(names) == 12
  for name in names:
    expected = (tmp_path / 'plain' / name).read_bytes()
    assert (tmp_path / 'beam' / name).read_bytes() == expected == (tmp_path / 'slurm' / name).read_bytes()
