"""Writes the metrics of a run: DIR/metrics.jsonl, skipped.jsonl, starts.jsonl, images, and the trackers.

starts.jsonl has one line per start of the run: the step, the time, the git revision, versions and devices.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
import time

from etils import epath
import imageio.v3 as imageio
import numpy as np

from lrm_jax.errors import InputError, must_be_mended
from lrm_jax.geometry import images
from lrm_jax.storage import paths
from lrm_jax.training import trackers


class MetricWriter:
  """Appends scalars and images to a run directory, and passes them to the trackers of these names.

  If not `active` (in all processes except one), does nothing.
  If the directory cannot be written, raises InputError if a person must act (a full disk), otherwise OSError.
  """

  def __init__(
    self, workdir: str | os.PathLike, *, active: bool = True, tracker_names: Sequence[str] = ('tensorboard',)
  ):
    self.workdir, self.active = paths.directory(workdir), active
    self._metrics, self._skipped, self._starts = (
      _Lines(self.workdir / name) for name in ('metrics.jsonl', 'skipped.jsonl', 'starts.jsonl')
    )
    self._trackers: list[trackers.Writer] = []
    if active:
      with self._explained():
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._trackers = trackers.make(tuple(tracker_names), self.workdir)

  @property
  def skipped_path(self) -> epath.Path:
    return self._skipped.path

  def start(self, step: int, config: Mapping, about: Mapping) -> None:
    """Records a start of the run at `step`: appends `about` to starts.jsonl, and passes it and `config` to trackers."""
    if not self.active:
      return
    with self._explained():
      self._starts.append({'step': step, 'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'), **about})
      for tracker in self._trackers:
        tracker.start(step, config, about)

  def truncate_after(self, step: int) -> None:
    """Removes the lines of steps after `step`, which a resumed run repeats: they are newer than its checkpoint."""
    if self.active:
      with self._explained():
        self._metrics.truncate_after(step)
        self._skipped.truncate_after(step)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends one JSON line {"step": step, ...} and passes the same values to the trackers, without buffering."""
    if not self.active:
      return
    with self._explained():
      self._metrics.append({'step': step, **values})
      for tracker in self._trackers:
        tracker.write(step, values)

  def write_skipped(self, step: int, values: dict) -> None:
    """Appends one JSON line about a skipped step, with the `uids` of its objects."""
    if self.active:
      with self._explained():
        self._skipped.append({'step': step, **values})

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes an image [H, W, 3] in 0..1 to DIR/images/<name>_<step>.png and to the trackers."""
    if not self.active:
      return
    path = self.workdir / 'images' / f'{name}_{step:08d}.png'
    with self._explained():
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = images.to_bytes(image)
      path.write_bytes(imageio.imwrite('<bytes>', pixels, extension='.png'))
      for tracker in self._trackers:
        tracker.write_image(step, name, pixels)

  def flush(self) -> None:
    """Writes buffered lines. Call it before saving a checkpoint: the lines of all its steps must have been written.

    Only the lines of runs in cloud storage are buffered.
    """
    if self.active:
      with self._explained():
        self._metrics.flush()
        self._skipped.flush()
        self._starts.flush()

  def close(self) -> None:
    self.flush()
    with self._explained():
      for tracker in self._trackers:
        tracker.close()
    self._trackers = []

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Adds the directory to errors of the file system, and what to do to those that a person must mend."""
    try:
      yield
    except OSError as error:
      problem = f'{self.workdir}: metrics cannot be written'
      if must_be_mended(error):
        raise InputError(
          f'{problem} ({error.strerror or error}): fix the cause, then the same command resumes from the last '
          'checkpoint'
        ) from error
      error.add_note(f'{problem}; the same command resumes from the last checkpoint')
      raise


class _Lines:
  """A file to which JSON lines are appended.

  Cloud storage cannot append, so there the lines are kept in memory and the whole file is rewritten once a minute.
  """

  def __init__(self, path: epath.Path):
    self.path = path
    self._local = paths.is_local(path)
    self._lines: list[str] | None = None  # All lines of the file, if it is in cloud storage.
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
    if time.monotonic() - self._written > paths.SECONDS_BETWEEN_UPLOADS:
      self.flush()

  def flush(self) -> None:
    if self._lines is not None:
      self.path.write_text(''.join(self._lines))
      self._written = time.monotonic()

  def truncate_after(self, step: int) -> None:
    if not self.path.exists():
      return
    kept = ''.join(line + '\n' for line in self.path.read_text().splitlines() if _is_at_most(line, step))
    fresh = self.path.with_suffix('.jsonl.tmp')
    fresh.write_text(kept)
    fresh.replace(self.path)


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
  """Returns the lines of a run's metrics.jsonl, each {'step': step, name: value, ...}, without an incomplete one.

  Raises InputError if the directory has none.
  """
  return _read_lines(workdir, 'metrics.jsonl')


def read_starts(workdir: str | os.PathLike) -> list[dict]:
  """Returns the lines of a run's starts.jsonl, oldest first; empty if it has none."""
  return _read_lines(workdir, 'starts.jsonl', required=False)


def newest_images(workdir: str | os.PathLike) -> dict[str, tuple[int, np.ndarray]]:
  """Returns {name: (step, image [H, W, 3] in 0..1)}: the newest image of each name that `write_image` has written."""
  newest: dict[str, tuple[int, epath.Path]] = {}
  folder = paths.directory(workdir) / 'images'
  for path in sorted(folder.glob('*.png'), key=os.fspath) if folder.is_dir() else []:
    name, _, step = path.stem.rpartition('_')
    if name and step.isdigit() and int(step) >= newest.get(name, (0, path))[0]:
      newest[name] = int(step), path
  return {name: (step, images.decode(path.read_bytes())[..., :3]) for name, (step, path) in newest.items()}


def _read_lines(workdir: str | os.PathLike, name: str, *, required: bool = True) -> list[dict]:
  path = paths.directory(workdir) / name
  if not path.is_file():
    if required:
      raise InputError(f'{workdir} has no {name}: give the --workdir of a training')
    return []
  *lines, last = path.read_text().split('\n')
  found = [json.loads(line) for line in lines if line.strip()]
  with contextlib.suppress(json.JSONDecodeError):  # The line that a run is writing, or was when it was killed.
    found.append(json.loads(last))
  return found


def _is_at_most(line: str, step: int) -> bool:
  """Returns whether a line belongs to `step` or an earlier step; False for an incomplete line."""
  try:
    return json.loads(line)['step'] <= step
  except (json.JSONDecodeError, KeyError):  # The last line of a run that was killed while writing it.
    return False
