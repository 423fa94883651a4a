"""A dataset of procedural objects that is built while they are made: no folders of views are kept."""

from collections.abc import Iterator, Mapping
from pathlib import Path
import shutil
import sys
import tempfile

from lrm_jax.data import build
from lrm_jax.data.object_views import ObjectViews, example_of
from lrm_jax.data.rendering import pool
from lrm_jax.datasets import folders
from lrm_jax.datasets.records import BrokenRecordError

MEMORY = Path('/dev/shm')  # A file system in memory, on Linux.


class ProceduralViews(ObjectViews):
  """Views of procedural objects; `splits` maps the name of a split to {uid: file that the worker is asked for}.

  `settings`, `command`, `workers` and `timeout` are those of `pool.render_all`. Each object is rendered into a
  temporary folder, in memory where the system has a file system for that, which is removed when the object is read.
  """

  name = 'procedural_views'

  def __init__(self, *, settings: dict, command: list[str], workers: int, timeout: float, **kwargs):
    self._settings, self._command, self._workers, self._timeout = settings, command, workers, timeout
    super().__init__(**kwargs)

  def _read_in_sequence(self, found: Mapping[str, Path]) -> Iterator[tuple[str, dict]]:
    parent = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix='lrm_jax_procedural_', dir=parent) as place:
      out = Path(place)
      results = pool.render_all(
        list(found.items()), out, self._settings, self._command, workers=self._workers, timeout=self._timeout
      )
      for number, result in enumerate(results, 1):
        try:
          if result.error:
            raise BrokenRecordError(result.error)
          yield result.uid, example_of(folders.read(self.layout, result.uid, out / result.uid, self._options))
        except BrokenRecordError as error:
          self.skipped[result.uid] = str(error)
        shutil.rmtree(out / result.uid, ignore_errors=True)
        if number % 100 == 0 or number == len(found):
          print(f'[{number}/{len(found)}]', flush=True)


def write(
  objects: list[tuple[str, Path]],
  place: Path,
  settings: dict,
  command: list[str],
  *,
  workers: int,
  timeout: float,
  test_share: float,
) -> int:
  """Writes a dataset of objects (uid, file) to place/<name>/<version>, and prints its path; returns the exit code.

  Objects are divided into splits as in data/build.py. Objects that fail are listed in skipped.jsonl, and the exit code
  is then 1. Raises InputError if the dataset already exists.
  """
  splits = build.split_by_uid(dict(objects), test_share=test_share)
  builder = ProceduralViews(
    splits=splits, settings=settings, command=command, workers=workers, timeout=timeout, data_dir=place
  )
  build.build(builder)
  for uid, reason in builder.skipped.items():
    print(f'skipped {uid}: {reason}', file=sys.stderr)
  counts = ', '.join(f'{split.num_examples} {name}' for name, split in builder.info.splits.items())
  print(f'{builder.data_dir}: {counts} objects, {len(builder.skipped)} skipped')
  return int(bool(builder.skipped))
