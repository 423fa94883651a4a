"""The queue and the jobs of python -m lrm_jax.view, without a model, and the errors of its start."""

import socket
import sys
import threading
import time

import pytest

pytest.importorskip('starlette', reason="Starlette is not installed: pip install '.[view]'")

from lrm_jax.command_line import run_main
from lrm_jax.errors import FailureError
from lrm_jax.view import __main__ as command
from lrm_jax.view import jobs, uploads
from lrm_jax.view.fair_queue import FairQueue
from lrm_jax.view.options import Options


def test_clients_are_served_in_turn():
  queue = FairQueue()
  for item in ['a1', 'a2', 'a3', 'b1', 'c1', 'c2']:
    queue.put(item[0], item)
  assert queue.order() == ['a1', 'b1', 'c1', 'a2', 'c2', 'a3'] and len(queue) == 6 and queue.count('a') == 3
  assert queue.remove('c1') and not queue.remove('c1')
  assert [queue.take() for _ in range(5)] == ['a1', 'b1', 'c2', 'a2', 'a3']
  queue.put('a', 'a4')
  queue.put('b', 'b2')
  assert queue.take() == 'b2' and queue.take() == 'a4'  # Served longest ago, though it came later.
  with pytest.raises(IndexError):
    queue.take()


class Work:
  """Work that waits until it may go on, and says what it did."""

  def __init__(self):
    self.may, self.names, self.error = threading.Semaphore(0), [], None

  def __call__(self, job):
    job.begin('image')
    self.names.append(job.name)
    (job.folder / 'x.png').write_bytes(b'x')
    job.publish('input', job.folder / 'x.png')
    while not self.may.acquire(timeout=0.01):
      job.advance(0.5)
    if self.error:
      raise self.error


@pytest.fixture
def line(tmp_path):
  """(jobs, their work, a function that submits one)."""
  work = Work()
  result = jobs.Jobs(tmp_path, work)
  result.start()

  def submit(name, client='me'):
    upload = uploads.Upload('0', name, tmp_path, 1, 1, True, ())
    return result.submit(upload, 'auto', 'quickstart', Options(), client)

  yield result, work, submit
  result.close()


def ended(job):
  end = time.monotonic() + 30
  while job.status not in jobs.ENDED and time.monotonic() < end:
    time.sleep(0.005)
  return job.status


def test_jobs_run_one_at_a_time_and_clients_in_turn(line):
  line, work, submit = line
  some = [submit(name, name[0]) for name in ('a1', 'a2', 'b1')]
  assert [line.ahead(job) for job in some[1:]] in ([2, 1], [1, 2])  # a1 may not have begun.
  for _ in some:
    work.may.release()
  assert [ended(job) for job in some] == ['done'] * 3 and work.names == ['a1', 'b1', 'a2']


def test_jobs_are_cancelled_while_they_wait_and_while_they_run(line, tmp_path):
  line, work, submit = line
  first, second = submit('a'), submit('b')
  while first.status != 'running':
    time.sleep(0.005)
  assert line.cancel(second.id).status == 'cancelled'
  line.cancel(first.id)
  assert ended(first) == 'cancelled' and work.names == ['a'] and not first.files
  assert not (tmp_path / first.id).exists() and not (tmp_path / second.id).exists()
  with pytest.raises(uploads.RequestError, match='has ended already') as info:
    line.cancel(first.id)
  assert info.value.status == 409


def test_too_many_jobs_are_refused(line):
  line, _, submit = line
  some = [submit(str(number)) for number in range(8)]
  with pytest.raises(uploads.RequestError, match='8 of your jobs are waiting') as info:
    for number in range(2):  # One of the first may be running.
      some.append(submit(str(number)))
  assert info.value.status == 429
  submit('mine', 'another')
  for job in some:
    line.cancel(job.id)


@pytest.mark.parametrize(
  'error, sentence',
  [
    (OSError(28, 'No space left on device', '/x'), 'the result cannot be written (No space left on device)'),
    (MemoryError(), 'out of memory: use a smaller resolution, video or texture'),
    (FailureError('the Hub does not answer'), 'the Hub does not answer'),
    (KeyError('bug'), 'the server failed (KeyError); its log has the details'),
  ],
)
def test_failed_job_has_a_sentence_and_no_files(line, tmp_path, error, sentence):
  _, work, submit = line
  work.error = error
  job = submit('a')
  work.may.release()
  assert ended(job) == 'failed' and sentence in job.error
  assert not job.files and not (tmp_path / job.id).exists()


def test_results_are_shown_again_after_a_restart_and_leftovers_are_removed(line, tmp_path):
  line, work, submit = line
  job = submit('chair')
  work.may.release()
  assert ended(job) == 'done'
  leftover, foreign = tmp_path / '20260101-000000-01234567', tmp_path / 'photos'
  for folder in (leftover, foreign):
    folder.mkdir()
    (folder / 'a.glb').write_bytes(b'x')
  broken = tmp_path / '20260101-000000-00000000'
  broken.mkdir()
  (broken / 'job.json').write_text('{"name": 3}')
  again = jobs.Jobs(tmp_path, work)
  [found] = again.latest(9)
  assert found.record() == job.record() and found.path('input').read_bytes() == b'x'
  assert not leftover.exists() and foreign.is_dir() and broken.is_dir()
  again.delete(found.id)
  assert not (tmp_path / job.id).exists() and not again.latest(9)


def start(monkeypatch, capsys, *options):
  """Returns (exit code, what was printed to stderr) of the command."""
  monkeypatch.setattr(sys, 'argv', ['view', *map(str, options)])
  with pytest.raises(SystemExit) as info:
    run_main(command.main)
  return info.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
  'options, sentence',
  [
    (['--checkpoint=nowhere'], 'Model nowhere was not found'),
    (['--port=70000'], '--port=70000 must be in 0 to 65535'),
    (['--host=no.such.host.invalid'], '--host=no.such.host.invalid is no address'),
    (['--max_upload=0'], '--max_upload=0 must be above 0'),
  ],
)
def test_start_that_is_not_possible(monkeypatch, capsys, tmp_path, options, sentence):
  code, error = start(monkeypatch, capsys, f'--out={tmp_path}', '--port=0', *options)
  assert code == 2 and sentence in error and error.startswith('error: ') and error.count('\n') == 1


def test_directory_without_a_model_is_reported_at_the_start(monkeypatch, capsys, tmp_path):
  code, error = start(monkeypatch, capsys, f'--out={tmp_path / "out"}', '--port=0', f'--checkpoint={tmp_path}')
  assert code == 2 and 'does not contain a model in a known format' in error


def test_port_and_directory_that_are_taken(monkeypatch, capsys, tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    code, error = start(monkeypatch, capsys, f'--out={tmp_path}', f'--port={port}')
  assert code == 2 and f'cannot listen on 127.0.0.1 port {port}' in error and error.count('\n') == 1
  with command.lock.exclusive(command.epath.Path(tmp_path), 'server', '--out'):
    code, error = start(monkeypatch, capsys, f'--out={tmp_path}', '--port=0')
  assert code == 2 and 'is in use by another server' in error and 'give another --out' in error
