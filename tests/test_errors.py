"""The table "What is final and what is retried" of docs/operations.md: faults, exit codes and what is printed."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax import train
from lrm_jax.command_line import run_main
from lrm_jax.datasets import pipeline
from lrm_jax.distributed import processes
from lrm_jax.errors import FailureError, InputError, Interrupted
from lrm_jax.storage import checkpoint, checksum, lock
from lrm_jax.training.loop import DivergedError
from lrm_jax.training.metric_writer import MetricWriter

XlaError = jax.errors.JaxRuntimeError


def leave(main):
  codes = []
  run_main(main, codes.append)
  [code] = codes
  return code


def fail(error):
  def main():
    raise error

  return main


def outcome(main, capsys):
  """Returns (exit code, stderr, whether stderr is a single sentence and not a traceback)."""
  code = leave(main)
  err = capsys.readouterr().err
  assert 'Traceback' in err or err.count('\n') == 1
  return code, err, 'Traceback' not in err


@pytest.mark.parametrize(
  'error',
  [
    InputError('size = 0 is too small:\n  give 64'),
    DivergedError('step 6: 3 steps in a row were skipped, size = 0'),
    OSError(errno.ENOSPC, 'No space left on device', 'size = 0'),
    OSError(errno.EDQUOT, 'Disk quota exceeded', 'size = 0'),
    OSError(errno.EROFS, 'Read-only file system', 'size = 0'),
    PermissionError(errno.EACCES, 'Permission denied', 'size = 0'),
    IsADirectoryError(errno.EISDIR, 'Is a directory', 'size = 0'),
    FileExistsError(errno.EEXIST, 'File exists', 'size = 0'),
  ],
)
def test_what_a_person_must_mend_is_one_sentence_and_final(error, capsys):
  code, err, sentence = outcome(fail(error), capsys)
  assert code == 2 and sentence and err.startswith('error: ') and 'size = 0' in err


@pytest.mark.parametrize(
  'error',
  [
    ValueError('operands could not be broadcast together with shapes (3,) (4,)'),  # NumPy's.
    TypeError('bug'),
    KeyError('bug'),
    AssertionError('bug'),
    FileNotFoundError(errno.ENOENT, 'No such file or directory', '/tmp/ours'),
    OSError(errno.EIO, 'Input/output error', '/network/data'),
    OSError(errno.ESTALE, 'Stale file handle', '/network/data'),
    OSError(errno.ENOSPC, 'No space left on device'),  # Of what? The traceback tells.
    XlaError('INTERNAL: an illegal memory access was encountered'),
  ],
)
def test_bugs_and_failures_have_their_traceback_and_are_retried(error, capsys):
  code, err, sentence = outcome(fail(error), capsys)
  assert code == 1 and not sentence
  assert err.startswith('Traceback') and type(error).__name__ in err.splitlines()[-1]


def test_directory_of_another_training_is_final(tmp_path, capsys):
  def main():
    with lock.exclusive(epath.Path(tmp_path)), lock.exclusive(epath.Path(tmp_path)):
      pass

  code, err, sentence = outcome(main, capsys)
  assert code == 2 and sentence and f'in use by another training (process {os.getpid()} on ' in err


@pytest.mark.parametrize('number, code, printed', [(signal.SIGINT, 130, 'stopped\n'), (signal.SIGKILL, -9, '')])
def test_signals_end_a_command_with_their_code(number, code, printed):
  """A shell, and so a launcher, sees -9 as 128 + 9 (tests/test_launch.py). SIGTERM: tests/test_several_processes.py."""
  script = """
import signal, time
from lrm_jax.command_line import run_main
signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells start what is in the background without it.
run_main(lambda: print('began', flush=True) or time.sleep(99))
"""
  process = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert process.stdout is not None and process.stdout.readline() == 'began\n'
  process.send_signal(number)
  _, err = process.communicate(timeout=60)
  assert (process.returncode, err) == (code, printed)


def test_exit_codes(capsys):
  assert leave(lambda: None) == 0
  assert leave(lambda: 3) == 3
  assert leave(fail(KeyboardInterrupt())) == 130
  assert leave(fail(FailureError('a worker exited'))) == 1
  assert leave(fail(Interrupted('stopped by SIGTERM'))) == 75
  assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize(
  'error',
  [
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(float)),
    XlaError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 90194313216 bytes.'),
  ],
)
def test_out_of_memory_says_what_to_lower(error, tmp_path, capsys):
  """It is final before the first checkpoint; afterwards the same configuration has fitted, so it is retried."""

  def main():
    raise train.explain(error, tmp_path) from error

  for expected in (2, 1):
    code, err, sentence = outcome(main, capsys)
    assert code == expected and sentence and err.startswith('error: out of memory (')
    for name in ('rays_per_chunk', 'gradient_accumulation', 'model.remat', 'mesh.fsdp', 'data.num_workers'):
      assert f'config.{name}' in err
    (tmp_path / 'checkpoints/3').mkdir(parents=True, exist_ok=True)
  assert outcome(fail(error), capsys)[::2] == (1, True)  # Other commands.


@pytest.mark.parametrize(
  'message, lost',
  [
    ('UNAVAILABLE: failed to connect to all addresses', True),
    ('INTERNAL: NCCL operation ncclAllReduce failed: unhandled system error', True),
    ('UNKNOWN: Gloo all-reduce failed: Connection closed by peer', True),
    ('INTERNAL: an illegal memory access was encountered', False),
    ('INVALID_ARGUMENT: shapes do not match', False),
  ],
)
def test_lost_peer_is_one_sentence_and_a_defective_device_has_its_traceback(message, lost, tmp_path, monkeypatch):
  assert train.explain(XlaError(message), tmp_path) is None  # A single process has no peers.
  monkeypatch.setattr(processes, 'several', lambda: True)
  explained = train.explain(XlaError(message), tmp_path)
  assert isinstance(explained, FailureError) if lost else explained is None


@pytest.mark.parametrize(
  'error', [OSError(errno.EIO, 'Input/output error'), ValueError('cannot reshape'), MemoryError()]
)
@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_failure_in_a_data_worker_is_retried(dataset, tiny_config, error, workers, capsys):
  """An I/O error of a network file system, or our bug, raised where a worker makes an example."""
  if workers and not isinstance(error, OSError):
    return  # Starting a process takes seconds; one kind is enough.
  [source] = pipeline.training_sources(tiny_config.data.to_dict(), image_size=16, input_position=(0, -2, 0))

  def main():
    make = pipeline.Source(source.path, source.split, Failing(error))  # type: ignore[arg-type]
    batches = pipeline.make_dataset([make], batch_size=2, num_workers=workers, max_broken_share=0.5)
    try:
      next(batches)
    finally:
      batches.close()

  code, err, sentence = outcome(main, capsys)
  assert code == 1 and sentence == isinstance(error, MemoryError) and str(error) in err


class Failing:
  """Takes the place of MakeExample."""

  def __init__(self, error):
    self.error = error

  def __call__(self, record, rng):
    raise self.error


def test_too_many_broken_records_are_final(dataset, tiny_config, capsys, caplog):
  caplog.set_level(logging.CRITICAL)
  [source] = pipeline.training_sources(tiny_config.data.to_dict(), image_size=16, input_position=(0, -2, 0))
  make = pipeline.Source(source.path, source.split, Failing(pipeline.BrokenRecordError('a is damaged')))  # type: ignore[arg-type]
  code, err, sentence = outcome(lambda: next(pipeline.make_dataset([make], batch_size=2)) and None, capsys)
  assert (code, sentence) == (2, True) and 'a is damaged' in err


STATE = {
  'step': jnp.int32(3),
  'guard': {'loss': jnp.float32(1.0), 'skipped': jnp.int32(0)},
  'params': {'w': jnp.arange(4.0)},
  'opt_state': {'m': jnp.zeros(4)},
}
TENSORSTORE_FULL = ValueError(
  'Error writing local file "/run/checkpoints/3/params/d/1": Error writing: [os_error_code=\'28\'] '
  "[source locations='tensorstore/x.cc:1']: No space left on device [os_error_code='ENOSPC']"
)


class Manager:
  """Takes the place of Orbax's CheckpointManager: `save` fails, and `restore` returns each of `results` in turn."""

  def __init__(self, directory, error=None, results=()):
    self.directory, self.error, self.results = directory, error, list(results)

  def save(self, step, args):
    raise self.error

  def latest_step(self):
    return 3

  def all_steps(self):
    return [3]

  def restore(self, step, args):
    result = self.results.pop(0)
    if isinstance(result, Exception):
      raise result
    return result


@pytest.mark.parametrize(
  'error, final',
  [
    (OSError(errno.ENOSPC, 'No space left on device', '/run/checkpoints/3'), True),
    (TENSORSTORE_FULL, True),
    (ValueError('PERMISSION_DENIED: the service account lacks storage.objects.create'), True),
    (OSError(errno.EIO, 'Input/output error'), False),
    (ValueError('UNAVAILABLE: Error writing gs://bucket/run: 503'), False),
    (RuntimeError('a thread of Orbax died'), False),
  ],
)
def test_failed_checkpoint_is_final_only_if_a_person_must_act(tmp_path, error, final, capsys):
  code, err, sentence = outcome(lambda: checkpoint.save(Manager(tmp_path, error), STATE), capsys)
  assert (code, sentence) == ((2, True) if final else (1, False))
  assert f'{tmp_path}: a checkpoint cannot be written' in err and 'existing checkpoints are kept' in err


@pytest.fixture
def readable(monkeypatch):
  monkeypatch.setattr(checkpoint, '_check_shapes', lambda *_: None)
  monkeypatch.setattr(checkpoint.sharding, 'place', lambda array, _: array)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE)


def items(change=0.0):
  progress = {
    'step': 3,
    'guard': {'loss': 1.0, 'skipped': 0},
    'sums': {name: int(checksum.checksum(STATE[name])) for name in ('params', 'opt_state')},
  }
  return {'params': {'w': STATE['params']['w'] + change}, 'opt_state': STATE['opt_state'], 'progress': progress}


def test_wrong_checksum_is_read_again_and_reported_if_it_stays_wrong(tmp_path, readable, capsys):
  """A network file system may return wrong bytes once; a damaged file returns them again."""
  state, _ = checkpoint.restore_state(Manager(tmp_path, results=[items(1.0), items()]), readable)
  assert state['params']['w'][1] == 1
  twice = Manager(tmp_path, results=[items(1.0), items(1.0)])
  code, err, sentence = outcome(lambda: checkpoint.restore_state(twice, readable) and None, capsys)
  assert (code, sentence) == (2, True) and re.search(r'3 is damaged \(the checksum of params .*rm -r ', err)


@pytest.mark.parametrize(
  'error, final, damaged',
  [
    (ValueError('NOT_FOUND: the array params.w is missing'), True, True),
    (PermissionError(errno.EACCES, 'Permission denied'), True, False),
    (OSError(errno.ESTALE, 'Stale file handle'), False, False),
    (TimeoutError('no reply'), False, False),
    (ValueError('DEADLINE_EXCEEDED: reading gs://bucket/run'), False, False),
  ],
)
def test_checkpoint_that_cannot_be_read_is_called_damaged_only_if_it_is(
  tmp_path, readable, error, final, damaged, capsys
):
  main = lambda: checkpoint.restore_state(Manager(tmp_path, results=[error]), readable) and None  # noqa: E731
  code, err, sentence = outcome(main, capsys)
  assert (code, sentence) == ((2, True) if final else (1, False))
  assert ('rm -r' in err) == damaged and 'nothing was changed' in err


@pytest.mark.parametrize('number, final', [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)])
def test_metrics_that_cannot_be_written(tmp_path, monkeypatch, number, final, capsys):
  writer = MetricWriter(tmp_path)

  def append(values):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(writer._metrics, 'append', append)
  code, err, sentence = outcome(lambda: writer.write(1, {'loss': 1.0}), capsys)
  assert (code, sentence) == ((2, True) if final else (1, False))
  assert f'{tmp_path}: metrics cannot be written' in err
  writer.close()


def test_unreachable_coordinator_is_retried(monkeypatch, capsys):
  """Its host may only be late: Kubernetes starts the pods of a job minutes apart."""
  monkeypatch.setattr(time, 'sleep', lambda _: None)
  monkeypatch.setattr(processes.socket, 'create_connection', lambda *_, **__: fail(ConnectionRefusedError('no'))())
  member = processes.Membership('127.0.0.1:1', 2, 1)
  code, err, sentence = outcome(lambda: processes._await_coordinator(member, 0), capsys)
  assert (code, sentence) == (1, True) and 'could not connect to process 0 at 127.0.0.1:1' in err
