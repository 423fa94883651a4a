"""Worker processes that render objects: replaced when one crashes, or is killed because an object takes too long."""

from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
from pathlib import Path
import queue
import select
import shutil
import subprocess
import threading
import time

WORKER = Path(__file__).with_name('worker.py')
_START_SECONDS = 120.0  # for the engine to come up


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of an object: `error` is None where it was rendered."""

  uid: str
  error: str | None
  seconds: float


class EngineError(RuntimeError):
  """The engine cannot be started: no object can be rendered."""


def render_all(
  objects: Sequence[tuple[str, Path]],
  out: Path,
  settings: dict,
  command: Sequence[str],
  *,
  workers: int,
  timeout: float,
) -> Iterator[Result]:
  """Yields the results of objects (uid, file) as they come, rendered into out/<uid> by `workers` processes.

  `command` starts a worker. An object that takes longer than `timeout` seconds is given up. Raises EngineError where no
  worker can be started. When the iterator is closed, workers are ended and nothing half-written stays.
  """
  todo, results, stop = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
  for work in objects:
    todo.put(work)

  def serve():
    worker = None
    try:
      while not stop.is_set():
        try:
          uid, path = todo.get_nowait()
        except queue.Empty:
          return
        if worker is None or not worker.alive:
          worker = Worker(command, settings, out)
        began = time.monotonic()
        error = worker.render(uid, path, timeout, stop)
        if not stop.is_set():
          results.put(Result(uid, error, time.monotonic() - began))
    except Exception as error:  # Raised where the results are taken.
      results.put(error)
    finally:
      if worker is not None:
        worker.close()
      results.put(None)

  threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(objects)))]
  for thread in threads:
    thread.start()
  try:
    running = len(threads)
    while running:
      result = results.get()
      if isinstance(result, Exception):
        raise result
      if result is None:
        running -= 1
      else:
        yield result
  finally:
    stop.set()
    for thread in threads:
      thread.join()


class Worker:
  """A process that renders one object at a time. EngineError where it does not come up."""

  def __init__(self, command: Sequence[str], settings: dict, out: Path):
    self._out = out
    mine, theirs = os.pipe()
    # In a group of its own: ^C reaches us, and we end it.
    self._process = subprocess.Popen(
      [*command, json.dumps(settings), str(theirs)],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      pass_fds=[theirs],
      text=True,
      start_new_session=True,
    )
    os.close(theirs)
    self._replies, self._buffer = mine, b''
    try:
      error = self._reply(_START_SECONDS)
    except TimeoutError:
      error = f'it did not start within {_START_SECONDS:g} s'
    if error:
      self.close()
      raise EngineError(error)

  @property
  def alive(self) -> bool:
    """Whether it can render another object."""
    return self._process is not None and self._process.poll() is None

  def render(self, uid: str, path: Path, timeout: float, stop: threading.Event | None = None) -> str | None:
    """Returns None where the object was rendered, else why not; a worker that hangs or has died is closed."""
    work = {'uid': uid, 'file': str(path.absolute()), 'out': str((self._out / uid).absolute())}
    try:
      self._process.stdin.write(json.dumps(work) + '\n')
      self._process.stdin.flush()
      error = self._reply(timeout, stop)
    except TimeoutError:
      error = f'it took longer than {timeout:g} s'
      self.close()
    except BrokenPipeError:
      error = self._death()
    if error is not None and self._process is not None:
      self._clean()
    return error

  def close(self) -> None:
    """Ends the process, and removes what it left half-written."""
    if self._process is None:
      return
    self._process.kill()
    self._process.wait()
    self._process.stdin.close()
    os.close(self._replies)
    self._clean()
    self._process = None

  def _clean(self) -> None:
    for left in self._out.glob(f'.*.{self._process.pid}.partial'):
      shutil.rmtree(left, ignore_errors=True)

  def _reply(self, timeout: float, stop: threading.Event | None = None) -> str | None:
    end = time.monotonic() + timeout
    while b'\n' not in self._buffer:
      if (stop is not None and stop.is_set()) or time.monotonic() > end:
        raise TimeoutError
      if select.select([self._replies], [], [], min(0.2, max(0.0, end - time.monotonic())))[0]:
        part = os.read(self._replies, 4096)
        if not part:
          return self._death()
        self._buffer += part
    line, self._buffer = self._buffer.split(b'\n', 1)
    return json.loads(line)['error']

  def _death(self) -> str:
    code = self._process.wait()
    return f'the renderer died of signal {-code}' if code < 0 else f'the renderer ended with exit code {code}'


def remove_leftovers(out: Path) -> None:
  """Removes what processes that are no more have left half-written in a folder."""
  for left in out.glob('.*.partial'):
    pid = left.name.split('.')[-2]
    if pid.isdigit() and not Path(f'/proc/{pid}').exists():
      shutil.rmtree(left, ignore_errors=True)
