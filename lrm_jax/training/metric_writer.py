"""What a run leaves behind to look at: DIR/metrics.jsonl, DIR/skipped.jsonl, TensorBoard events, pictures."""

from collections.abc import Iterator
import contextlib
import json
import os
import time

from etils import epath
import imageio.v3 as imageio
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import directory_check

from lrm_jax.geometry import images
from lrm_jax.storage import paths

_SECONDS_BETWEEN_UPLOADS = 60.0


class MetricWriter:
  """Appends scalars and pictures to a run directory; where not `active` (other processes), does nothing."""

  def __init__(self, workdir: str | os.PathLike, *, active: bool = True):
    self.workdir, self.active = paths.directory(workdir), active
    self._metrics, self._skipped = (_Lines(self.workdir / name) for name in ('metrics.jsonl', 'skipped.jsonl'))
    if active:
      with self._told():
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._board = _Board(self.workdir / 'tensorboard')

  @property
  def skipped_path(self) -> epath.Path:
    return self._skipped.path

  def truncate_after(self, step: int) -> None:
    """Drops lines of steps beyond `step`: what a stopped run wrote after its last checkpoint is done again."""
    if self.active:
      with self._told():
        self._metrics.truncate_after(step)
        self._skipped.truncate_after(step)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends one JSON line {"step": step, ...} and the same to TensorBoard; it can be read at once."""
    if not self.active:
      return
    with self._told():
      self._metrics.append({'step': step, **values})
      self._board.write(step, *(summary.scalar(name, value) for name, value in values.items()))

  def write_skipped(self, step: int, values: dict) -> None:
    """Appends one JSON line on a step that was skipped, with the `uids` of its objects."""
    if self.active:
      with self._told():
        self._skipped.append({'step': step, **values})

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a picture [H, W, 3] in 0..1 to DIR/images/<name>_<step>.png and TensorBoard."""
    if not self.active:
      return
    path = self.workdir / 'images' / f'{name}_{step:08d}.png'
    with self._told():
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(imageio.imwrite('<bytes>', images.to_bytes(image), extension='.png'))
      self._board.write(step, summary.image(name, images.to_bytes(image), dataformats='HWC'))

  def flush(self) -> None:
    """Writes what has been held back, as in stores in a cloud: a checkpoint must not know of steps that have no lines."""
    if self.active:
      with self._told():
        self._metrics.flush()
        self._skipped.flush()

  def close(self) -> None:
    self.flush()
    if self.active:
      with self._told():
        self._board.close()

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Gives an error of the file system the directory, and what to do."""
    try:
      yield
    except OSError as error:
      raise OSError(
        f'{self.workdir}: metrics cannot be written ({error.strerror or error}): mend that, and the same command goes '
        'on from the last checkpoint'
      ) from error


class _Board:
  """TensorBoard's events, written by the thread that has them: SummaryWriter's own thread dies of a full disk, and hangs all."""

  def __init__(self, directory: epath.Path):
    directory_check(os.fspath(directory))
    self._events = EventsWriter(os.fspath(directory / 'events'))

  def write(self, step: int, *summaries) -> None:
    for one in summaries:
      self._events.write_event(Event(step=step, wall_time=time.time(), summary=one))
    self._events.flush()

  def close(self) -> None:
    if self._events is not None:
      self._events.close()
      self._events = None


class _Lines:
  """A file of JSON lines that grows. Stores in a cloud cannot append: there the whole file is written, once a minute."""

  def __init__(self, path: epath.Path):
    self.path = path
    self._local = paths.is_local(path)
    self._lines: list[str] | None = None  # all of them, where the file is not local
    self._written = time.monotonic()

  def append(self, values: dict) -> None:
    line = json.dumps(values) + '\n'
    if self._local:
      with self.path.open('a') as stream:
        stream.write(line)
      return
    if self._lines is None:
      self._lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
    self._lines.append(line)
    if time.monotonic() - self._written > _SECONDS_BETWEEN_UPLOADS:
      self.flush()

  def flush(self) -> None:
    if self._lines is not None:
      self.path.write_text(''.join(self._lines))
      self._written = time.monotonic()

  def truncate_after(self, step: int) -> None:
    if not self.path.exists():
      return
    kept = ''.join(line + '\n' for line in self.path.read_text().splitlines() if _is_before(line, step))
    fresh = self.path.with_suffix('.jsonl.tmp')
    fresh.write_text(kept)
    fresh.replace(self.path)


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
  """Returns the lines of a run's metrics.jsonl."""
  lines = (paths.directory(workdir) / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines if line.strip()]


def _is_before(line: str, step: int) -> bool:
  try:
    return json.loads(line)['step'] <= step
  except (json.JSONDecodeError, KeyError):  # The last line of a run that was killed while it wrote.
    return False
