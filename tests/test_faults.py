"""Tests of the faults of long runs that are listed in docs/operations.md."""

from concurrent import futures
import contextlib
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from conftest import make_tiny_config
from lrm_jax.errors import FailureError, Interrupted
from lrm_jax.models import registry
from lrm_jax.storage import checkpoint
from lrm_jax.training import loop as train_lib
from lrm_jax.training.metric_writer import read
import training_processes

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tiny_config):
  return tiny_config


def command(file, workdir):
  """Runs the training command to its end; returns (exit code, last line of its output)."""
  started = training_processes.start(file, workdir)
  [code] = training_processes.finish(started, workdir)
  output = training_processes.log_text(workdir)
  assert 'Traceback' not in output, output
  return code, output.strip().splitlines()[-1]


@pytest.mark.slow
def test_resume_after_sigterm_equals_uninterrupted_run(config, tmp_path, monkeypatch):
  train_lib.train(config, tmp_path / 'whole')
  finish_step, seen = train_lib._finish_step, []

  def stop(*args):
    finish_step(*args)
    seen.append(args)
    if len(seen) == 3:
      signal.raise_signal(signal.SIGTERM)

  monkeypatch.setattr(train_lib, '_finish_step', stop)
  before = signal.getsignal(signal.SIGTERM)
  config.checkpoint_every = 1000
  with pytest.raises(Interrupted, match='step 3 is saved'):
    train_lib.train(config, tmp_path / 'run')
  assert signal.getsignal(signal.SIGTERM) == before
  assert checkpoint.saved_steps(tmp_path / 'run') == [3] and len(training_processes.losses(tmp_path / 'run')) == 3
  monkeypatch.undo()
  train_lib.train(config, tmp_path / 'run')
  assert training_processes.losses(tmp_path / 'run') == training_processes.losses(tmp_path / 'whole')


@pytest.mark.slow
def test_sigterm_exits_with_the_requeue_code(config, tmp_path):
  config.update(dict(num_train_steps=100_000, checkpoint_every=100_000, eval_every=100_000))
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  started = training_processes.start(file, workdir)
  training_processes.wait_for(lambda: training_processes.steps(workdir), started)
  started[0].send_signal(signal.SIGTERM)
  assert training_processes.finish(started, workdir, 60) == [75]
  assert checkpoint.saved_steps(workdir) == [len(training_processes.steps(workdir))]


@pytest.mark.slow
def test_killed_process_ends_the_others_and_the_launcher_restarts(config, tmp_path):
  config.update(dict(num_train_steps=120, batch_size=8, checkpoint_every=5, eval_every=120))
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  training_processes.train(file, tmp_path / 'whole')
  with training_processes.log_path(workdir).open('w') as log:
    launcher = subprocess.Popen(
      [ROOT / 'launch' / 'local.sh', '2', f'--config={file}', f'--workdir={workdir}', '--peer_timeout=10'],
      stdout=log,
      stderr=log,
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHON': sys.executable, 'RESTARTS': '1'},
    )
  training_processes.wait_for(lambda: checkpoint.saved_steps(workdir), [launcher])
  children = psutil.Process(launcher.pid).children()
  first = {child.environ()['JAX_PROCESS_ID']: child for child in children if 'lrm_jax.train' in child.cmdline()}
  first['1'].kill()
  killed = time.monotonic()
  training_processes.wait_for(
    lambda: not first['0'].is_running() or first['0'].status() == psutil.STATUS_ZOMBIE, seconds=60
  )
  assert time.monotonic() - killed < 40  # The timeout is 10 s.
  assert training_processes.finish([launcher], workdir) == [0], training_processes.log_text(workdir)
  output = training_processes.log_text(workdir)
  assert 'a process exited with code 137: stopping the others' in output
  # Process 0 notices a broken connection, or the silence of its peer.
  assert 'most likely because another process ended' in output or 'another task died' in output
  assert 'restarting from the last checkpoint (exit code 137, 1 of 1 failures)' in output
  assert 'resuming after step' in output
  np.testing.assert_allclose(
    training_processes.losses(workdir), training_processes.losses(tmp_path / 'whole'), rtol=1e-4
  )


@pytest.mark.slow
def test_kill_during_a_checkpoint_keeps_the_previous_one(config, tmp_path):
  config.update(dict(num_train_steps=30, checkpoint_every=1, eval_every=30))
  config.model.decoder_width = 256  # Large enough that writing takes a while.
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  started = training_processes.start(file, workdir)
  training_processes.wait_for(lambda: len(checkpoint.saved_steps(workdir)) >= 2, started)

  def unfinished():
    return list((workdir / 'checkpoints').glob('*tmp*'))

  while started[0].poll() is None:
    if unfinished():
      started[0].send_signal(signal.SIGSTOP)  # Freeze the process, so that the checkpoint stays unfinished.
      if unfinished():
        break
      started[0].send_signal(signal.SIGCONT)
  assert started[0].poll() is None, 'no unfinished checkpoint was seen'
  started[0].kill()
  started[0].wait()
  good = checkpoint.saved_steps(workdir)[-1]
  assert unfinished() and checkpoint.restore(workdir)[2] == good
  training_processes.train(file, workdir)
  assert f'resuming after step {good}' in training_processes.log_text(workdir)
  assert [line['step'] for line in training_processes.steps(workdir)] == list(range(1, 31)) and not unfinished()


def kill_and_resume(file: Path, workdir: Path, kills: int, rng: np.random.Generator) -> int:
  """Starts a training and kills it, `kills` times; returns the step of the last checkpoint."""
  before = 0
  for number in range(kills):
    [process] = started = training_processes.start(file, workdir)
    early = number % 4 == 3
    if early:  # At any time after the first second, also while it reads the last checkpoint.
      time.sleep(rng.uniform(1, 12))
    else:  # While it trains and saves every step.
      training_processes.wait_for(lambda before=before: checkpoint.saved_steps(workdir)[-1:] > [before], started)
      time.sleep(rng.uniform(0, 2))
    process.kill()
    process.wait()
    output = training_processes.log_text(workdir)
    begun = 'a new run\n' if number == 0 else f'resuming after step {before}\n'
    assert begun in output or (early and f'{workdir.name}: ' not in output), output
    saved = checkpoint.saved_steps(workdir)[-1]
    assert saved >= before
    before = saved
  return before


@pytest.mark.slow
def test_ten_random_kills_are_resumed(config, tmp_path):
  """Two runs, killed five times each, end with losses that are bit-identical to those of an uninterrupted run."""
  config.update(dict(num_train_steps=10_000, checkpoint_every=1, eval_every=100_000))
  file = training_processes.write_config(config, tmp_path / 'config.py')
  runs = [tmp_path / 'first', tmp_path / 'second']
  with futures.ThreadPoolExecutor(2) as pool:
    saved = list(pool.map(kill_and_resume, [file] * 2, runs, [5] * 2, [np.random.default_rng(seed) for seed in (0, 1)]))
  config.checkpoint_every = 10_000
  whole = training_processes.start(training_processes.write_config(config, tmp_path / 'whole.py'), tmp_path / 'whole')
  training_processes.wait_for(lambda: len(training_processes.steps(tmp_path / 'whole')) > max(saved), whole)
  whole[0].kill()
  whole[0].wait()
  for workdir, last in zip(runs, saved):
    config.num_train_steps = last + 5
    training_processes.train(training_processes.write_config(config, tmp_path / 'config.py'), workdir)
    assert f'resuming after step {last}\n' in training_processes.log_text(workdir)
    lines = training_processes.steps(workdir)
    assert [line['step'] for line in lines] == list(range(1, last + 6))
    # Later steps follow another learning-rate schedule.
    assert [line['loss'] for line in lines[:last]] == training_processes.losses(tmp_path / 'whole')[:last]


def log_has(workdir, text):
  return text in training_processes.log_text(workdir)


@contextlib.contextmanager
def mounted(path: Path, options: str):
  """Mounts an in-memory file system at `path`; skips the test if mounting is not allowed."""
  path.mkdir()
  if subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', path], capture_output=True, check=False
  ).returncode:
    pytest.skip('mounting a file system needs root')
  try:
    yield
  finally:
    subprocess.run(['umount', '-l', path], check=True)


@pytest.mark.slow
def test_full_disk_is_reported_and_keeps_the_last_checkpoint(config, tmp_path):
  config.update(dict(num_train_steps=30, checkpoint_every=1, eval_every=30))
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'small' / 'run'
  with mounted(tmp_path / 'small', 'size=1500k'):
    code, output = command(file, workdir)
    assert code == 2 and 'cannot be written (No space left on device); existing checkpoints are kept' in output
    good = checkpoint.saved_steps(workdir)[-1]
    subprocess.run(['mount', '-o', 'remount,size=50m', tmp_path / 'small'], check=True)
    code, _ = command(file, workdir)
    assert code == 0 and log_has(workdir, f'resuming after step {good}')
    assert [line['step'] for line in training_processes.steps(workdir)] == list(range(1, 31))


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 2])
def test_full_disk_while_writing_metrics_is_reported(config, tmp_path, count):
  """Process 0 writes the metrics. It must exit at once: waiting for its peers, which wait for it, would deadlock."""
  config.update(dict(num_train_steps=100_000, checkpoint_every=100_000, eval_every=100_000))
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  with mounted(workdir, 'size=60k'):
    started = training_processes.start(file, workdir, processes=count)
    codes = training_processes.finish(started, workdir)
  assert codes[0] == 2 and all(codes)
  output = training_processes.log_text(workdir).strip().splitlines()[-1]
  assert output.startswith(f'error: {workdir}: metrics cannot be written (No space left on device): ')


@pytest.mark.slow
def test_read_only_directory_is_reported(config, tmp_path):
  file = training_processes.write_config(config, tmp_path / 'config.py')
  training_processes.train(file, tmp_path / 'run')
  with mounted(tmp_path / 'fixed', 'size=20m'):
    shutil.copytree(tmp_path / 'run', tmp_path / 'fixed' / 'run')
    subprocess.run(['mount', '-o', 'remount,ro', tmp_path / 'fixed'], check=True)
    for name in ('run', 'new'):
      done = subprocess.run(
        [sys.executable, '-m', 'lrm_jax.train', f'--config={file}', f'--workdir={tmp_path / "fixed" / name}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
      )
      assert done.returncode == 2
      [line] = done.stderr.strip().splitlines()
      assert line.startswith('error: ') and 'Read-only file system' in line and str(tmp_path / 'fixed') in line
    assert checkpoint.saved_steps(tmp_path / 'fixed' / 'run') == checkpoint.saved_steps(tmp_path / 'run')


def files_of(directory):
  return {
    path.relative_to(directory): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


@pytest.fixture(scope='session')
def trained(tmp_path_factory, dataset):
  """A run of 6 steps, with checkpoints of steps 3 and 6, which tests copy."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  train_lib.train(make_tiny_config(dataset), workdir)
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize('fault', ['cut', 'flipped', 'missing', 'zeros'])
def test_damaged_checkpoint_is_reported_and_left_unchanged(config, trained, tmp_path, fault):
  shutil.copytree(trained, tmp_path / 'run')
  last = tmp_path / 'run' / 'checkpoints' / '6'
  largest = max(
    (path for path in (last / 'params').rglob('*') if path.is_file() and path.parent.name == 'd'),
    key=lambda path: path.stat().st_size,
  )
  content = largest.read_bytes()
  damaged = {
    'cut': content[: len(content) // 2],
    'zeros': bytes(len(content)),
    'flipped': content[: len(content) // 2]
    + bytes([content[len(content) // 2] ^ 1])
    + content[len(content) // 2 + 1 :],
  }
  largest.write_bytes(damaged[fault]) if fault in damaged else shutil.rmtree(last / 'params' / 'd')
  before = files_of(tmp_path / 'run')
  config.num_train_steps = 8
  with pytest.raises(ValueError, match=r'6 is damaged \(.*rm -r .*checkpoints/6'):
    train_lib.train(config, tmp_path / 'run')
  assert files_of(tmp_path / 'run') == before
  if fault == 'cut':
    with pytest.raises(ValueError, match='6 is damaged'):
      checkpoint.restore(tmp_path / 'run')
    shutil.rmtree(last)
    train_lib.train(config, tmp_path / 'run')
    assert [line['step'] for line in training_processes.steps(tmp_path / 'run')] == list(range(1, 9))


@pytest.mark.slow
def test_run_directory_is_locked(config, trained, tmp_path):
  shutil.copytree(trained, tmp_path / 'run')
  before = files_of(tmp_path / 'run')
  config.num_train_steps = 8
  holder = subprocess.Popen(
    [
      sys.executable,
      '-c',
      f'import time\nfrom etils import epath\nfrom lrm_jax.storage import lock\n'
      f'with lock.exclusive(epath.Path({str(tmp_path / "run")!r})):\n  print("held", flush=True)\n  time.sleep(100)',
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert holder.stdout is not None and holder.stdout.readline() == 'held\n'
  with pytest.raises(ValueError, match=f'in use by another training .process {holder.pid} on '):
    train_lib.train(config, tmp_path / 'run')
  assert files_of(tmp_path / 'run') == before
  holder.kill()
  holder.communicate()
  train_lib.train(config, tmp_path / 'run')  # The lock is released when its owner ends, even if it was killed.


class Changed:
  """Iterates over batches and applies `change(number, batch)` to each."""

  def __init__(self, batches, change):
    self.batches, self.change = batches, change

  def __iter__(self):
    for number, batch in enumerate(self.batches, 1):
      self.change(number, batch)
      yield batch

  def close(self):
    self.batches.close()


@pytest.fixture
def poison(monkeypatch):
  """A function: applies `change(step, batch)` to every batch of the trainings of this test."""
  make = train_lib.pipeline.make_dataset
  return lambda change: monkeypatch.setattr(
    train_lib.pipeline,
    'make_dataset',
    lambda *args, start, batch_size, **kwargs: Changed(
      make(*args, start=start, batch_size=batch_size, **kwargs),
      lambda number, batch: change(start // batch_size + number, batch),
    ),
  )


@pytest.mark.slow
@pytest.mark.parametrize('spike', [False, True])
def test_bad_step_is_skipped_and_its_objects_are_logged(config, tmp_path, poison, spike):
  """After a NaN or a loss spike the run continues, and a resumed run skips the same step."""
  config.update(dict(num_train_steps=8, loss_spike=5.0, checkpoint_every=2))
  taken = {}

  def change(step, batch):
    taken[step] = batch['record'].copy()
    if step == 5:
      batch['background'][0] = 1e6 if spike else np.nan  # Rays let at least a thousandth of it through.

  poison(change)
  train_lib.train(config, tmp_path / 'run')
  lines = training_processes.steps(tmp_path / 'run')
  assert [line['skipped'] for line in lines] == [0, 0, 0, 0, 1, 0, 0, 0]
  assert all(np.isfinite(line['loss']) for line in lines if line['step'] != 5)
  [skipped] = [json.loads(line) for line in (tmp_path / 'run' / 'skipped.jsonl').read_text().splitlines()]
  sources = train_lib.Trainer(config, lpips=None).sources
  assert skipped['step'] == 5 and skipped['uids'] == train_lib.pipeline.uids(sources, taken[5])
  assert all(uid.startswith('ball_') for uid in skipped['uids']) and len(skipped['uids']) == config.batch_size
  # A run that resumes after step 4 also skips step 5: the mean is part of the checkpoint.
  config.num_train_steps = 4
  config.optimizer.warmup_steps = 2
  train_lib.train(config, tmp_path / 'pieces')
  config.num_train_steps = 8
  train_lib.train(config, tmp_path / 'pieces')
  assert [line['skipped'] for line in training_processes.steps(tmp_path / 'pieces')] == [0, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.slow
def test_skipped_steps_leave_the_parameters_unchanged(config, tmp_path, poison):
  def change(step, batch):
    if step > 3:
      batch['background'][:] = np.nan

  poison(change)
  config.max_skipped_steps = 2
  with pytest.raises(train_lib.DivergedError, match='step 6: .*max_skipped_steps = 2 steps in a row .*skipped.jsonl'):
    train_lib.train(config, tmp_path)
  assert [json.loads(line)['step'] for line in (tmp_path / 'skipped.jsonl').read_text().splitlines()] == [4, 5, 6]
  assert checkpoint.saved_steps(tmp_path) == [3]
  config.max_skipped_steps = 100
  train_lib.train(config, tmp_path)
  three, six = (registry.parameters(checkpoint.restore(tmp_path, step)[0]) for step in (3, 6))
  train_lib.jax.tree.map(np.testing.assert_array_equal, three, six)


@pytest.mark.parametrize(
  'change, message',
  [({'max_skipped_steps': -1}, 'max_skipped_steps = -1'), ({'loss_spike': 0.5}, 'loss_spike = 0.5 .* above 1')],
)
def test_invalid_limits_raise(config, tmp_path, change, message):
  config.update(change)
  with pytest.raises(ValueError, match=message):
    train_lib.train(config, tmp_path / 'run')


@pytest.mark.slow
def test_dead_data_workers_are_reported(config, tmp_path):
  config.update(dict(num_train_steps=100_000, checkpoint_every=100_000, eval_every=100_000))
  config.data.num_workers = 2
  killed = []

  def kill(*args):
    finish_step(*args)
    if not killed and len(training_processes.steps(tmp_path)) >= 3:
      workers = [child for child in psutil.Process().children() if 'spawn_main' in ' '.join(child.cmdline())]
      assert len(workers) == 2
      for worker in workers:
        worker.kill()
        killed.append(worker)

  finish_step = train_lib._finish_step
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_lib, '_finish_step', kill)
    with pytest.raises(FailureError, match='a data worker exited unexpectedly .*exit code'):
      train_lib.train(config, tmp_path)
  assert killed and len(read(tmp_path)) >= 3
