"""Resuming with another configuration: what changed, what is carried out, and what is refused.

A checkpoint has a `Position`. A run may be resumed with another batch size, because the data position is counted in
examples, and with another schedule, because the learning rate is a function of the position. Other data or another seed
order the examples differently, so that some would be seen twice and others never: config.allow_other_data allows that.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json

from flax import traverse_util
from ml_collections import ConfigDict

from lrm_jax.datasets.pipeline import Source
from lrm_jax.datasets.records import open_split, uid
from lrm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Position:
  """How far a training is.

  `step` steps are done, which took `examples` examples. `schedule` is the position in the learning rate schedule, in
  steps. `data` identifies the datasets. `began` is the time of the first step in seconds since 1970 (0: unknown), and
  `training_seconds` the time spent on steps (lrm_jax/training/timing.py). `scores` are those of an evaluation at
  this step.
  """

  step: int = 0
  examples: int = 0
  schedule: float = 0.0
  data: dict = dataclasses.field(default_factory=dict)
  began: float = 0.0
  training_seconds: float = 0.0
  scores: dict = dataclasses.field(default_factory=dict)


def identity(sources: Sequence[Source]) -> dict[str, list]:
  """Returns {name: [split, number of records, times per epoch, uid of the first record]} of datasets.

  It does not depend on where the datasets are stored, because jobs may copy them to local disks.
  """
  found = {}
  for source in sources:
    records = open_split(source.path, source.split)
    first = uid(records[0]) if len(records) else ''
    found[source.name] = [source.split, len(records), float(source.times), first]
  return found


def read_position(progress: Mapping, old: ConfigDict) -> Position:
  """Returns the position of a checkpoint with the `progress` and the configuration `old`.

  Checkpoints of before 2026-11-27 have only the step.
  """
  step = progress['step']
  values = {'step': step, 'examples': step * old.batch_size, 'schedule': float(step)} | dict(
    progress.get('position', {})
  )
  return Position(**{field.name: values[field.name] for field in dataclasses.fields(Position) if field.name in values})


def differences(*configs: ConfigDict) -> dict[str, tuple[str, ...]]:
  """Returns {dotted name: value in each, as JSON} of the values that differ; '-' means that a value is missing."""
  plain = [json.loads(json.dumps(config.to_dict())) for config in configs]
  flat = [traverse_util.flatten_dict(config, sep='.') for config in plain]
  names = sorted(set().union(*flat))
  values = {name: tuple(json.dumps(x[name]) if name in x else '-' for x in flat) for name in names}
  return {name: found for name, found in values.items() if len(set(found)) > 1}


def check(position: Position, changes: Mapping[str, tuple[str, ...]], sources: Sequence[Source], allowed: bool) -> None:
  """Raises InputError if the data or the seed differ from those of the checkpoint and that is not `allowed`."""
  reasons = [f'config.{name} was {a} and is {b}' for name, (a, b) in changes.items() if name == 'seed']
  if position.data:
    now = identity(sources)
    reasons += [
      f'dataset {name!r} was {json.dumps(position.data.get(name))} and is {json.dumps(now.get(name))}'
      for name in sorted(position.data.keys() | now.keys())
      if position.data.get(name) != now.get(name)
    ]
  else:
    reasons += [
      f'config.{name} was {a} and is {b}'
      for name, (a, b) in changes.items()
      if name.startswith('data.') and name.rpartition('.')[2] in ('path', 'train_split', 'times') and a != '-'
    ]
  if reasons and not allowed:
    raise InputError(
      f'the examples would not continue those of the checkpoint ({"; ".join(reasons)}): some would be seen twice and '
      'others not at all; give another --workdir, or allow it with --config.allow_other_data=True'
    )


def describe(
  position: Position, changes: Mapping[str, tuple[str, ...]], rates: tuple[float, float], num_train_steps: int
) -> str:
  """Returns what changes, one line each, and what follows from it. `rates` are the old and new learning rates."""
  lines = [f'  config.{name}: {a} -> {b}' for name, (a, b) in changes.items()]
  if lines:
    lines.insert(0, 'the configuration differs from that of the checkpoint:')
  if 'batch_size' in changes:
    lines.append(f'the data continue after example {position.examples:,}, with batches of another size')
  if abs(rates[0] - rates[1]) > 1e-6 * max(rates):
    lines.append(f'the learning rate continues at {rates[1]:.3g} instead of {rates[0]:.3g}')
  if position.schedule > num_train_steps:
    lines.append(
      f'the checkpoint is at step {position.step}, beyond config.num_train_steps = {num_train_steps}: nothing is '
      'trained'
    )
  return '\n'.join(lines)
