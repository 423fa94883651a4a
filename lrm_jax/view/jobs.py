"""Jobs: reconstructions that wait in a fair queue, run one at a time on the device, and can be cancelled.

A job has a directory OUT/ID for its files. It is removed if the job fails or is cancelled. job.json is written last, so
that a directory without it is what a killed server has left.
"""

from collections.abc import Callable
import dataclasses
import datetime
import json
import logging
from pathlib import Path
import re
import secrets
import shutil
import threading
import time

from lrm_jax.errors import FailureError, InputError, must_be_mended, one_line, out_of_memory
from lrm_jax.view.fair_queue import FairQueue
from lrm_jax.view.options import Options
from lrm_jax.view.request_error import RequestError
from lrm_jax.view.uploads import Mask, Upload

_LOGGER = logging.getLogger(__name__)
PHASES = ('model', 'image', 'planes', 'mesh', 'files', 'turntable')
ENDED = ('done', 'failed', 'cancelled')
_IDENTIFIER = re.compile(r'\d{8}-\d{6}-[0-9a-f]{8}')
_RECORD = 'job.json'
_OF_A_CLIENT, _OF_ALL = 8, 64  # waiting jobs


class Cancelled(Exception):  # noqa: N818  (not an error)
  """The job was cancelled while it ran."""


@dataclasses.dataclass(eq=False)
class Job:
  """One reconstruction. `status` is queued, running, done, failed or cancelled.

  `phase` is the current one of PHASES, `progress` its finished share in 0..1, and `seconds` the time of the finished
  ones. `files` are the names of the files that are ready, by kind; `report` has the numbers of the mesh.
  """

  id: str
  folder: Path
  name: str
  model: str
  client: str = ''
  options: Options = dataclasses.field(default_factory=Options)
  upload: Upload | None = None
  mask: Mask = 'auto'
  status: str = 'queued'
  phase: str = ''
  progress: float = 0.0
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  created: str = ''
  notes: list[str] = dataclasses.field(default_factory=list)
  report: dict = dataclasses.field(default_factory=dict)
  error: str | None = None
  files: dict[str, str] = dataclasses.field(default_factory=dict)
  viewable: bool = False
  _stop: threading.Event = dataclasses.field(default_factory=threading.Event)
  _began: float = 0.0

  def begin(self, phase: str) -> None:
    """Ends the current phase and begins another one; raises Cancelled if the job was cancelled."""
    self.finish()
    self.phase, self.progress, self._began = phase, 0.0, time.monotonic()
    self.advance(0.0)

  def finish(self) -> None:
    """Ends the current phase."""
    if self.phase:
      self.seconds[self.phase] = round(time.monotonic() - self._began, 3)
      self.phase, self.progress = '', 0.0

  def advance(self, share: float) -> None:
    """Sets the finished share of the phase, in 0..1; raises Cancelled if the job was cancelled."""
    self.progress = share
    if self._stop.is_set():
      raise Cancelled

  def publish(self, kind: str, path: Path) -> None:
    """Makes a finished file of the job's directory known."""
    self.files[kind] = path.name

  def path(self, kind: str) -> Path:
    """Returns the path of a file that is ready; RequestError with 404 otherwise."""
    if kind not in self.files:
      ready = ', '.join(self.files) or 'none yet'
      raise RequestError(404, f'job {self.id} has no file {kind[:20]!r}; its files: {ready}')
    return self.folder / self.files[kind]

  def record(self) -> dict:
    """Returns what job.json has."""
    names = ('id', 'name', 'model', 'created', 'seconds', 'notes', 'report', 'files')
    return {name: getattr(self, name) for name in names} | {'options': dataclasses.asdict(self.options)}


class Jobs:
  """All jobs: those that wait, the one that runs, and those that have ended, also before this server was started.

  `work` computes a job; it is called by one thread, one job after the other. All methods may be called from any thread.
  """

  def __init__(self, directory: Path, work: Callable[[Job], None]):
    self._directory, self._work = directory, work
    self._lock = threading.Condition()
    self._queue: FairQueue[Job] = FairQueue()
    self._jobs: dict[str, Job] = {job.id: job for job in _read(directory)}
    self._running: Job | None = None
    self._closed = False
    self._thread: threading.Thread | None = None

  def start(self, first: Callable[[], None] = lambda: None) -> None:
    """Starts the thread that works; it calls `first` before the first job."""

    def loop():
      first()
      while (job := self._next()) is not None:
        self._run(job)

    self._thread = threading.Thread(target=loop, name='jobs', daemon=True)
    self._thread.start()

  def close(self, seconds: float = 5.0) -> None:
    """Cancels all jobs and waits for the thread, at most so many seconds."""
    with self._lock:
      self._closed = True
      for job in self._jobs.values():
        if job.status not in ENDED:
          job._stop.set()
      self._lock.notify_all()
    if self._thread is not None:
      self._thread.join(seconds)

  def submit(self, upload: Upload, mask: Mask, model: str, options: Options, client: str) -> Job:
    """Puts a job into the queue; RequestError with 429 or 503 if too many are waiting."""
    now = datetime.datetime.now(datetime.UTC)
    identifier = f'{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}'
    job = Job(
      identifier,
      self._directory / identifier,
      upload.name,
      model,
      client,
      options,
      upload,
      mask,
      created=now.isoformat(timespec='seconds'),
    )
    with self._lock:
      if self._queue.count(client) >= _OF_A_CLIENT:
        raise RequestError(429, f'{_OF_A_CLIENT} of your jobs are waiting: wait for one, or cancel one')
      if len(self._queue) >= _OF_ALL:
        raise RequestError(503, f'{_OF_ALL} jobs are waiting: try again later')
      self._jobs[job.id] = job
      self._queue.put(client, job)
      self._lock.notify_all()
    return job

  def get(self, identifier: str) -> Job:
    """Returns a job; RequestError with 404 if there is none."""
    with self._lock:
      if identifier not in self._jobs:
        raise RequestError(404, f'there is no job {identifier[:40]!r}')
      return self._jobs[identifier]

  def latest(self, count: int) -> list[Job]:
    """Returns the last jobs, the newest first."""
    with self._lock:
      return sorted(self._jobs.values(), key=lambda job: job.id, reverse=True)[:count]

  def ahead(self, job: Job) -> int:
    """Returns how many jobs will run before a waiting job, with the one that runs now; 0 if it does not wait."""
    with self._lock:
      order = self._queue.order()
      return order.index(job) + (self._running is not None) if job in order else 0

  def cancel(self, identifier: str) -> Job:
    """Cancels a job that waits or runs, and returns it; RequestError with 409 if it has ended."""
    job = self.get(identifier)
    with self._lock:
      if job.status in ENDED:
        raise RequestError(409, f'job {job.id} has ended already ({job.status}): it cannot be cancelled')
      job._stop.set()
      if self._queue.remove(job):
        job.status, job.upload, job.mask = 'cancelled', None, 'auto'
    return job

  def delete(self, identifier: str) -> None:
    """Removes an ended job and its files; RequestError with 409 if it has not ended."""
    job = self.get(identifier)
    with self._lock:
      if job.status not in ENDED:
        raise RequestError(409, f'job {job.id} is {job.status}: cancel it first')
      del self._jobs[job.id]
    shutil.rmtree(job.folder, ignore_errors=True)

  def _next(self) -> Job | None:
    with self._lock:
      while not self._closed and not len(self._queue):
        self._lock.wait()
      if self._closed:
        return None
      self._running = job = self._queue.take()
      job.status = 'running'
      return job

  def _run(self, job: Job) -> None:
    status, error = 'done', None
    try:
      job.folder.mkdir(parents=True)
      self._work(job)
      job.finish()
      _write(job)
    except Cancelled:
      status = 'cancelled'
    except Exception as problem:
      status, error = 'failed', _sentence(problem)
    if status != 'done':
      job.files.clear()
      job.viewable = False
      shutil.rmtree(job.folder, ignore_errors=True)
    with self._lock:
      job.error, job.phase, job.upload, job.mask = error, '', None, 'auto'
      job.status = status
      self._running = None


def _sentence(problem: Exception) -> str:
  """Returns the sentence about an exception for the user; if it is a bug, the log has its traceback."""
  if isinstance(problem, (InputError, FailureError)):
    return one_line(problem)
  if isinstance(problem, OSError) and must_be_mended(problem):
    return f'the result cannot be written ({problem.strerror}): make room for it, then try again'
  if out_of_memory(problem):
    return 'out of memory: use a smaller resolution, video or texture'
  _LOGGER.error('a job failed', exc_info=problem)
  return f'the server failed ({type(problem).__name__}); its log has the details'


def _write(job: Job) -> None:
  fresh = job.folder / f'{_RECORD}.tmp'
  fresh.write_text(json.dumps(job.record(), indent=2) + '\n')
  fresh.replace(job.folder / _RECORD)


def _read(directory: Path) -> list[Job]:
  """Returns the finished jobs of a directory, and removes those that a killed server has left unfinished."""
  jobs = []
  for folder in sorted(directory.iterdir()) if directory.is_dir() else []:
    if not _IDENTIFIER.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
      continue
    if not (folder / _RECORD).is_file():
      shutil.rmtree(folder, ignore_errors=True)
      continue
    try:
      values = json.loads((folder / _RECORD).read_text())
      files = {kind: name for kind, name in values['files'].items() if Path(name).name == name}
      job = Job(
        folder.name,
        folder,
        values['name'],
        values['model'],
        options=Options(**values['options']),
        status='done',
        seconds=values['seconds'],
        created=values['created'],
        notes=values['notes'],
        report=values['report'],
        files={
          kind: name for kind, name in files.items() if (folder / name).is_file() and not (folder / name).is_symlink()
        },
      )
      job.viewable = 'planes' in job.files
      jobs.append(job)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
      _LOGGER.warning('%s cannot be read and is not shown: %s', folder / _RECORD, error)
  return jobs
