"""The input pipeline: random access, shuffling, mixing of datasets, making examples, batching; sharded and resumable.

Batches are NumPy. A batch is a function of the seed and of the number of examples before it, whatever the number of
workers or processes. Examples are made in lrm_jax/datasets/examples.py.
Legend: B objects, V = 1 + side views (view 0 is the input view), H W input image, h w window.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import logging
from pathlib import Path
import zlib

import grain
import numpy as np

from lrm_jax.datasets import mixture
from lrm_jax.datasets.examples import MakeExample
from lrm_jax.datasets.records import BrokenRecordError, open_split, uid
from lrm_jax.errors import FailureError, InputError

_TRIES = 8  # Consecutive records that are tried in place of a broken one.
_CHUNK = 8  # At most so many examples at once come from a worker: few enough for its memory, more than one for speed.
_BATCHES_AHEAD = 2  # Batches that workers make ahead.


@dataclasses.dataclass(frozen=True)
class Source:
  """A split of a dataset; `make` turns each of its records into `times` examples per epoch.

  `name` is that of the dataset in a mixture, or ''. The seed of the dataset is derived from the run's seed and `name`.
  """

  path: str | Path
  split: str
  make: MakeExample
  times: float = 1.0
  name: str = ''


def training_sources(
  data: Mapping, *, image_size: int, input_position: Sequence[float], num_input_views: int = 1, with_depth: bool = False
) -> list[Source]:
  """Returns the datasets of the `data` section of a configuration: `path`, and the entries of `mixture` with a path.

  An entry of the mixture has its own path, and may override other values of the section. Raises InputError if it
  overrides a value that the section does not have, or one that all examples of a batch must share.
  """
  sources = []
  for name, where, values in mixture.datasets(data):
    shares = tuple(values.get('input_view_shares', ()))
    if shares and (len(shares) != num_input_views or min(shares) < 0 or not sum(shares) > 0):
      raise InputError(
        f'{where}.input_view_shares = {shares} must be empty, or have a share, at least 0, for each number of input '
        f'views from 1 to config.model.num_input_views = {num_input_views}'
      )
    for shared in ('window', 'num_side_views', 'rays'):
      if values.get(shared) != data.get(shared):
        raise InputError(
          f'{where}.{shared} = {values[shared]} must equal config.data.{shared} = {data[shared]}, because batches '
          'mix all datasets'
        )
    if not values.get('times', 1.0) > 0:
      raise InputError(f'{where}.times = {values["times"]} must be positive')
    rules = {field.name: values[field.name] for field in dataclasses.fields(MakeExample) if field.name in values}
    rules |= dict(
      image_size=image_size,
      num_input_views=num_input_views,
      with_depth=with_depth,
      input_position=tuple(input_position),
      background=tuple(values['background']),
      input_view_shares=shares,
    )
    sources.append(Source(values['path'], values['train_split'], MakeExample(**rules), values.get('times', 1.0), name))
  return sources


def make_dataset(
  sources: Sequence[Source],
  *,
  batch_size: int,
  rows: Sequence[int] | None = None,
  seed: int = 0,
  start: int = 0,
  num_workers: int = 0,
  max_broken_share: float = 0.0,
) -> 'Batches':
  """Returns an endless iterator over batches, which starts after the first `start` examples of the training.

  An epoch has `times` examples of each record (exactly, if the `times` are whole numbers), with the datasets evenly
  mixed. `batch_size` is the global batch size; this process reads only the rows `rows` of each batch (None: all), so a
  batch does not depend on which process reads which rows. Reading ahead is done by `num_workers` processes, or by a
  thread if it is 0; they pass on chunks of a few examples, and batches are put together in this process.
  Keys: image [B, H, W, 3] uint8, camera_to_world [B, 4, 4], intrinsics [B, 4]; target_color [B, V, h, w, 3] uint8,
  target_opacity [B, V, h, w] uint8, target_camera_to_world [B, V, 4, 4], target_intrinsics [B, V, 4],
  background [B, V, 3]; record [B] int32, the index of the object in the concatenation of the splits; with single pixels
  in place of windows also target_position [B, V, h, w, 2] and target_weight [B, V, h, w].
  Broken records are logged and replaced by the next one of their split. The iterator raises InputError if they exceed
  `max_broken_share` of the examples read so far, or of one epoch if that is more.
  """
  rows = range(batch_size) if rows is None else rows
  first, datasets, examples = 0, [], []
  for source in sources:
    records = open_split(source.path, source.split)
    source_seed = zlib.crc32(f'{seed}/{source.name}'.encode()) if source.name else seed
    # Random numbers are drawn before rows are selected; otherwise all processes would draw the same ones.
    datasets.append(
      grain.MapDataset.range(len(records))
      .seed(source_seed)
      .shuffle()
      .repeat(None)
      .random_map(_ReadExample(records, source.make, first, max_broken_share > 0))
    )
    examples.append(source.times * len(records))
    first += len(records)
  dataset = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, examples)
  chunk = max(size for size in range(1, _CHUNK + 1) if len(rows) % size == 0)
  chunks = len(rows) // chunk
  dataset = (
    _Rows(dataset, batch_size, rows, start)
    .batch(chunk)
    .to_iter_dataset(
      grain.ReadOptions(num_threads=0 if num_workers else 1, prefetch_buffer_size=_BATCHES_AHEAD * chunks)
    )
  )
  if num_workers:
    # Grain has this buffer twice, in the queue of each worker and in the process that reads the queues.
    buffer = -(-_BATCHES_AHEAD * chunks // (2 * num_workers))
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=buffer))
  epoch = sum(examples) * len(rows) / batch_size
  return Batches(iter(dataset), chunks=chunks, epoch=epoch, max_broken_share=max_broken_share)


class _Rows(grain.MapDataset):
  """Keeps the given rows of each group of `batch_size` consecutive elements, after the first `start` elements."""

  def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int], start: int):
    super().__init__(parent)
    self._batch_size, self._rows, self._start = batch_size, list(rows), start

  def __len__(self):
    return (len(self._parent) - self._start) // self._batch_size * len(self._rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    step, place = divmod(index, len(self._rows))
    return self._parent[self._start + step * self._batch_size + self._rows[place]]


class _ReadExample(grain.transforms.RandomMap):
  """Makes an example from the record at an index, or from the next good record if that one is broken.

  Adds `record`, the index of the record used, and `broken`, the number of broken records before it.
  """

  def __init__(self, records, make: MakeExample, first: int, replace: bool):
    self._records, self._make, self._first, self._replace = records, make, first, replace

  def random_map(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    for broken in range(_TRIES):
      place = (index + broken) % len(self._records)
      try:
        example = self._make(self._records[place], rng)
        return example | {'record': np.int32(self._first + place), 'broken': np.int32(broken)}  # type: ignore[return-value]
      except BrokenRecordError as error:
        if not self._replace or broken == _TRIES - 1:
          raise
        logging.getLogger(__name__).warning('record %d is broken, using the next one: %s', place, error)
    raise AssertionError('unreachable')


class Batches(Iterator[dict[str, np.ndarray]]):
  """An iterator over batches that stops its workers when it is closed, and raises if too many records are broken.

  A batch is the concatenation of `chunks` elements of `iterator`. Each is copied as it comes, because it is in memory
  shared with the workers, which is then freed: so one batch and one chunk are held, and not two batches. `epoch` is the
  number of examples of an epoch that this process reads.
  """

  def __init__(self, iterator, *, chunks: int, epoch: float = 0.0, max_broken_share: float = 0.0):
    self._iterator, self._chunks, self._epoch, self._max_broken_share = iterator, chunks, epoch, max_broken_share
    self.seen = self.broken = 0

  def __next__(self) -> dict[str, np.ndarray]:
    try:
      batch = self._assembled()
    except RuntimeError as error:
      if 'exit code' not in str(error):
        raise
      raise FailureError(
        f'a data worker exited unexpectedly ({" ".join(str(error).split()[:9])}). If the machine ran out of memory, '
        'lower config.data.num_workers. The same command resumes from the last checkpoint'
      ) from error
    self.seen += len(batch['record'])
    self.broken += int(batch.pop('broken').sum())
    if self.broken > self._max_broken_share * max(self.seen, self._epoch):
      raise InputError(
        f'{self.broken} broken records among {self.seen} examples exceed config.data.max_broken_share = '
        f'{self._max_broken_share:g}. See the log for the records read so far, and '
        '`python -m lrm_jax.data_check DIR --objects=0` for all of them'
      )
    return batch

  def _assembled(self) -> dict[str, np.ndarray]:
    batch: dict[str, np.ndarray] = {}
    for place in range(self._chunks):
      for name, part in next(self._iterator).items():
        if not place:
          batch[name] = np.empty((self._chunks * len(part), *part.shape[1:]), part.dtype)
        batch[name][place * len(part) : (place + 1) * len(part)] = part
    return batch

  def close(self) -> None:
    """Stops reading ahead and ends the iterator."""
    # Drop Grain's iterator here: if it lives until the interpreter exits, its destructor reports errors.
    iterator, self._iterator = self._iterator, iter(())
    if hasattr(iterator, 'close'):
      iterator.close()


def sizes(sources: Sequence[Source]) -> list[int]:
  """Returns the number of records of each dataset."""
  return [len(open_split(source.path, source.split)) for source in sources]


def uids(sources: Sequence[Source], records: Iterable[int]) -> list[str]:
  """Returns the uids of objects, given their indices in the concatenation of the splits (`record` of a batch)."""
  splits = [open_split(source.path, source.split) for source in sources]
  ends = np.cumsum([len(split) for split in splits])
  names = []
  for record in records:
    number = int(np.searchsorted(ends, record, side='right'))
    start = ends[number - 1] if number else 0
    names.append(uid(splits[number][int(record - start)]))
  return names
