"""A pool of worker processes that render objects. Workers that crash, or take too long and are killed, are replaced."""

from collections.abc import Iterator, Sequence
import contextlib
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
_START_SECONDS = 120.0  # time limit for the start of the engine


@dataclasses.dataclass(frozen=True)
class Result:
  """The result for one object: `error` is None if it was rendered."""

  uid: str
  error: str | None
  seconds: float


class EngineError(RuntimeError):
  """The engine cannot be started, so no object can be rendered."""


def render_all(
  objects: Sequence[tuple[str, Path]],
  out: Path,
  settings: dict,
  command: Sequence[str],
  *,
  workers: int,
  timeout: float,
) -> Iterator[Result]:
  """Renders objects (uid, file) into out/<uid> with `workers` processes; yields the results as they are completed.

  `command` starts a worker. Objects that take longer than `timeout` seconds are given up. Raises EngineError if a
  worker cannot be started. Closing the iterator stops the workers and removes incomplete folders.
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
        if worker is not None and not worker.alive:
          worker.close()
          worker = None
        if worker is None:
          worker = Worker(command, settings, out)
        start = time.monotonic()
        error = worker.render(uid, path, timeout, stop)
        if not stop.is_set():
          results.put(Result(uid, error, time.monotonic() - start))
    except Exception as error:  # Re-raised by the consumer of the results, in the main thread.
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
  """A process that renders one object at a time. The constructor raises EngineError if it does not start."""

  def __init__(self, command: Sequence[str], settings: dict, out: Path):
    self._out = out
    read_end, write_end = os.pipe()
    # A session of its own, so that Ctrl-C reaches only this process, which then stops the worker.
    self._process = subprocess.Popen(
      [*command, json.dumps(settings), str(write_end)],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      pass_fds=[write_end],
      text=True,
      start_new_session=True,
    )
    os.close(write_end)
    self._replies, self._buffer = read_end, b''
    try:
      error = self._reply(_START_SECONDS)
    except TimeoutError:
      error = f'the renderer did not start within {_START_SECONDS:g} s'
    if error:
      self.close()
      raise EngineError(error)

  @property
  def alive(self) -> bool:
    """Whether the process is running and can render another object."""
    return self._process is not None and self._process.poll() is None

  def render(self, uid: str, path: Path, timeout: float, stop: threading.Event | None = None) -> str | None:
    """Renders a file into out/<uid> and returns None, or an error message. A worker that hangs is closed."""
    work = {'uid': uid, 'file': str(path.absolute()), 'out': str((self._out / uid).absolute())}
    try:
      self._process.stdin.write(json.dumps(work) + '\n')
      self._process.stdin.flush()
      error = self._reply(timeout, stop)
    except TimeoutError:
      error = f'rendering took longer than {timeout:g} s'
      self.close()
    except BrokenPipeError:
      error = self._exit_message()
    if error is not None and self._process is not None:
      self._clean()
    return error

  def close(self) -> None:
    """Kills the process, and removes its incomplete folders."""
    if self._process is None:
      return
    self._process.kill()
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):  # Unsent bytes of a worker that died.
      self._process.stdin.close()
    os.close(self._replies)
    self._clean()
    self._process = None

  def _clean(self) -> None:
    for leftover in self._out.glob(f'.*.{self._process.pid}.partial'):
      shutil.rmtree(leftover, ignore_errors=True)

  def _reply(self, timeout: float, stop: threading.Event | None = None) -> str | None:
    """Returns the error in the next reply, or None; raises TimeoutError after `timeout` s, or if `stop` is set."""
    end = time.monotonic() + timeout
    while b'\n' not in self._buffer:
      if (stop is not None and stop.is_set()) or time.monotonic() > end:
        raise TimeoutError
      if select.select([self._replies], [], [], min(0.2, max(0.0, end - time.monotonic())))[0]:
        part = os.read(self._replies, 4096)
        if not part:
          return self._exit_message()
        self._buffer += part
    line, self._buffer = self._buffer.split(b'\n', 1)
    return json.loads(line)['error']

  def _exit_message(self) -> str:
    code = self._process.wait()
    if code < 0:
      return f'the renderer was killed by signal {-code}'
    return f'the renderer exited with code {code}'


def remove_leftovers(out: Path) -> None:
  """Removes incomplete folders in `out` whose processes no longer exist."""
  for leftover in out.glob('.*.partial'):
    pid = leftover.name.split('.')[-2]
    if pid.isdigit() and not Path(f'/proc/{pid}').exists():
      shutil.rmtree(leftover, ignore_errors=True)
