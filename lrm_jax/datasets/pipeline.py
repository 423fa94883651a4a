"""From datasets to batches: random access, shuffled, mixed, made into examples, sharded by process, resumable.

Batches are NumPy and the same whatever the number of workers or processes: a step's batch is a function of the seed
and the step. Examples are made in lrm_jax/datasets/examples.py.
Legend: B objects, V = 1 + side views (view 0 is the input view), H W input picture, h w window.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import logging
from pathlib import Path
import zlib

import grain
import numpy as np

from lrm_jax.datasets.examples import MakeExample
from lrm_jax.datasets.records import BrokenRecordError, open_split, uid
from lrm_jax.errors import Failure

_TRIES = 8  # Records in a row that are tried in place of a broken one.


@dataclasses.dataclass(frozen=True)
class Source:
  """A split of a dataset: each of its records makes `times` examples an epoch, by the rules of `make`."""

  path: str | Path
  split: str
  make: MakeExample
  times: float = 1.0
  name: str = ''  # Of a dataset in a mixture: its random numbers are drawn from the seed and this.


def training_sources(data: Mapping, *, image_size: int, input_position: Sequence[float]) -> list[Source]:
  """Returns the datasets of the section `data` of a configuration: that of `path`, and those of `mixture` with a path.

  An entry of the mixture has a path of its own, and any other values of the section that differ. Raises ValueError where
  it names one that is not there, or one that all examples of a batch must share.
  """
  common = {name: value for name, value in data.items() if name != 'mixture'}
  sources = []
  for name, entry in {'': {}, **data.get('mixture', {})}.items():
    where = f'config.data.mixture.{name}'
    if unknown := set(entry) - set(common):
      raise ValueError(f'{where} has {", ".join(sorted(unknown))}, which config.data does not have')
    for shared in ('window', 'num_side_views'):
      if entry.get(shared, common[shared]) != common[shared]:
        raise ValueError(
          f'{where}.{shared} = {entry[shared]} must be config.data.{shared} = {common[shared]}: a batch '
          'has examples of all datasets'
        )
    values = common | dict(entry)
    if not values['path'] or (name and 'path' not in entry):
      continue
    if not values.get('times', 1.0) > 0:
      raise ValueError(f'{where if name else "config.data"}.times = {values["times"]} must be above 0')
    rules = {field.name: values[field.name] for field in dataclasses.fields(MakeExample) if field.name in values}
    rules |= dict(image_size=image_size, input_position=tuple(input_position), background=tuple(values['background']))
    sources.append(Source(values['path'], values['train_split'], MakeExample(**rules), values.get('times', 1.0), name))
  return sources


def make_dataset(
  sources: Sequence[Source],
  *,
  batch_size: int,
  rows: Sequence[int] | None = None,
  seed: int = 0,
  start_step: int = 0,
  num_workers: int = 0,
  max_broken_share: float = 0.0,
) -> 'Batches':
  """Returns the endless batches of datasets, from that of `start_step` on.

  An epoch has `times` examples of each record, exactly where these are whole numbers, its datasets evenly mixed.
  `batch_size` objects a step over all processes, of which this one reads those at the places `rows` (None: all), so that
  a step is the same whoever reads what. With `num_workers` processes read ahead, else threads do.
  Keys: image [B, H, W, 3], camera_to_world [B, 4, 4], intrinsics [B, 4]; target_color [B, V, h, w, 3],
  target_opacity [B, V, h, w], target_camera_to_world [B, V, 4, 4], target_intrinsics [B, V, 4],
  background [B, V, 3]; record [B] int32, the object's place in the splits, one after another.
  A broken record is named in the log, and the next one of its split is taken; more of them than `max_broken_share` of
  what has been read, or of an epoch where that is more, and ValueError is raised.
  """
  rows = range(batch_size) if rows is None else rows
  first, datasets, examples = 0, [], []
  for source in sources:
    records = open_split(source.path, source.split)
    own = zlib.crc32(f'{seed}/{source.name}'.encode()) if source.name else seed
    # Random draws come before the rows are picked: after it, all processes would draw the same numbers.
    datasets.append(
      grain.MapDataset.range(len(records))
      .seed(own)
      .shuffle()
      .repeat(None)
      .random_map(_ReadExample(records, source.make, first, max_broken_share > 0))
    )
    examples.append(source.times * len(records))
    first += len(records)
  dataset = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, examples)
  dataset = _Rows(dataset, batch_size, rows).batch(len(rows))[start_step:]
  dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0 if num_workers else 1, prefetch_buffer_size=16))
  if num_workers:
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
  return Batches(
    iter(dataset), copy=num_workers > 0, epoch=sum(examples) * len(rows) / batch_size, max_broken_share=max_broken_share
  )


class _Rows(grain.MapDataset):
  """Of every `batch_size` elements in a row those at some places, one after another."""

  def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int]):
    super().__init__(parent)
    self._batch_size, self._rows = batch_size, list(rows)

  def __len__(self):
    return len(self._parent) // self._batch_size * len(self._rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    step, place = divmod(index, len(self._rows))
    return self._parent[step * self._batch_size + self._rows[place]]


class _ReadExample(grain.transforms.RandomMap):
  """The number of a record -> an example; of the next good record where it is broken, and how many were."""

  def __init__(self, records, make: MakeExample, first: int, replace: bool):
    self._records, self._make, self._first, self._replace = records, make, first, replace

  def random_map(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    for broken in range(_TRIES):
      place = (index + broken) % len(self._records)
      try:
        example = self._make(self._records[place], rng)
        return example | {'record': np.int32(self._first + place), 'broken': np.int32(broken)}
      except BrokenRecordError as error:
        if not self._replace or broken == _TRIES - 1:
          raise
        logging.getLogger(__name__).warning('record %d is broken, the next is taken: %s', place, error)
    raise AssertionError('unreachable')


class Batches(Iterator[dict[str, np.ndarray]]):
  """An iterator that ends its workers when it is closed, and stops where too many records are broken.

  With `copy`, batches leave the memory that is shared with workers, which is then given back at once. `epoch` is how
  many examples of an epoch come by here.
  """

  def __init__(self, iterator, *, copy: bool = False, epoch: float = 0.0, max_broken_share: float = 0.0):
    self._iterator, self._copy, self._epoch, self._max_broken_share = iterator, copy, epoch, max_broken_share
    self.seen = self.broken = 0

  def __next__(self) -> dict[str, np.ndarray]:
    try:
      batch = next(self._iterator)
    except RuntimeError as error:
      if 'exit code' not in str(error):
        raise
      raise Failure(
        f'a data worker has ended ({" ".join(str(error).split()[:9])}): where the machine ran out of memory, lower '
        'config.data.num_workers; the same command goes on from the last checkpoint'
      ) from error
    if self._copy:
      batch = {name: np.array(value) for name, value in batch.items()}
    self.seen += len(batch['record'])
    self.broken += int(batch.pop('broken').sum())
    if self.broken > self._max_broken_share * max(self.seen, self._epoch):
      raise ValueError(
        f'{self.broken} broken records among {self.seen} examples, more than config.data.max_broken_share = '
        f'{self._max_broken_share:g} allows: they are named in the log; `python -m lrm_jax.data_check` lists them all'
      )
    return batch

  def close(self) -> None:
    """Stops reading ahead; nothing follows."""
    # Grain's iterator is let go here: one that lives until the interpreter ends complains on its way out.
    iterator, self._iterator = self._iterator, iter(())
    if hasattr(iterator, 'close'):
      iterator.close()


def uids(sources: Sequence[Source], records: Sequence[int]) -> list[str]:
  """Returns the names of objects by their place in the splits, one after another (`record` of a batch)."""
  splits = [open_split(source.path, source.split) for source in sources]
  ends = np.cumsum([len(split) for split in splits])
  names = []
  for record in records:
    number = int(np.searchsorted(ends, record, side='right'))
    names.append(uid(splits[number][int(record - (ends[number - 1] if number else 0))]))
  return names
