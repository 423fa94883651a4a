"""Run directories: written by a training, read by everything else.

  DIR/config.json            the complete configuration
  DIR/checkpoints/<step>/    Orbax: `params`, `ema` (if config.ema_decay is positive), `opt_state` and `progress`;
                             the last two are for training only
  DIR/metrics.jsonl          one line per logged step (lrm_jax/training/metric_writer.py)

A run directory may be on gs:// or s3:// (lrm_jax/storage/paths.py).

The position in the data is stored as a number of examples, for any number of workers or processes.
Models that ship with the package have the same layout, with only the parameters, in bfloat16.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import math
from pathlib import Path
import shlex

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import orbax.checkpoint as ocp

from lrm_jax.distributed import sharding
from lrm_jax.errors import InputError, must_be_mended, one_line, passes
from lrm_jax.models import registry
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.storage import checksum, paths, preservation

_TREES = ('params', 'ema', 'opt_state')  # The trees of arrays in a checkpoint; `ema` may be missing.


def manager(
  workdir: str | Path, *, keep_every: int = 0, best: preservation.Best | None = None
) -> ocp.CheckpointManager:
  """Returns the checkpoint manager of a run. It keeps the checkpoints that lrm_jax/storage/preservation.py lists."""
  options = ocp.CheckpointManagerOptions(preservation_policy=preservation.policy(keep_every, best))
  with _explained(workdir, 'its checkpoints cannot be opened'):
    return ocp.CheckpointManager(_checkpoints(workdir), options=options)


def saved_steps(workdir: str | Path) -> list[int]:
  """Returns the steps of a run's checkpoints in ascending order; empty if there is no run."""
  path = _checkpoints(workdir)
  return sorted(int(p.name) for p in path.glob('[0-9]*') if p.name.isdigit()) if path.is_dir() else []


def write_config(workdir: str | Path, config: ConfigDict) -> None:
  """Writes DIR/config.json atomically."""
  workdir = paths.directory(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  fresh = workdir / 'config.json.tmp'
  fresh.write_text(json.dumps(config.to_dict(), indent=2) + '\n')
  fresh.replace(workdir / 'config.json')


def read_config(workdir: str | Path) -> ConfigDict:
  """Returns the configuration of a run. Raises InputError if `workdir` is not a run directory."""
  path = paths.directory(workdir) / 'config.json'
  if not path.is_file():
    raise InputError(f'{workdir} is not a run directory: config.json is missing; give the --workdir of a training')
  return ConfigDict(json.loads(path.read_text()))


def save(checkpoints: ocp.CheckpointManager, state: dict, position: Mapping | None = None) -> None:
  """Saves a state asynchronously and atomically, with `position`, which is kept as JSON in `progress`.

  If this checkpoint, or the previous one, cannot be written, raises InputError if a person must act (a full disk), and
  otherwise the error of Orbax or its storage backend.
  """
  names = [name for name in _TREES if name in state]
  step, guard = int(state['step']), {name: value.item() for name, value in state['guard'].items()}
  guard = {name: None if math.isnan(value) else value for name, value in guard.items()}
  progress = {
    'step': step,
    'guard': guard,
    'position': dict(position or {}),
    'sums': {name: int(checksum.checksum(state[name])) for name in names},
  }
  with _explained(checkpoints.directory, 'a checkpoint cannot be written'):
    preservation.drop_optimizer_states(paths.directory(checkpoints.directory), checkpoints.all_steps())
    checkpoints.save(
      step,
      args=ocp.args.Composite(
        progress=ocp.args.JsonSave(progress), **{name: ocp.args.StandardSave(state[name]) for name in names}
      ),
    )


def best_policy(workdir: str | Path, metric: str, *, lower_is_better: bool) -> preservation.Best:
  """Returns the policy that keeps the best checkpoint of a run by a metric, see lrm_jax/storage/preservation.py."""
  return preservation.Best(_checkpoints(workdir), metric, lower_is_better=lower_is_better)


def finish(checkpoints: ocp.CheckpointManager) -> None:
  """Waits until all pending checkpoints are written. Raises like `save` if one cannot be written."""
  with _explained(checkpoints.directory, 'a checkpoint cannot be written'):
    checkpoints.wait_until_finished()


def restore_state(checkpoints: ocp.CheckpointManager, abstract_state: dict) -> tuple[dict, dict] | None:
  """Returns (state, progress) of the latest checkpoint, or None without a checkpoint.

  The state has the shardings of `abstract_state`. If that has a moving average of the parameters and the checkpoint has
  none, it starts from the parameters.
  Raises InputError if the checkpoint is damaged or belongs to another model or optimizer.
  """
  step = checkpoints.latest_step()
  if step is None:
    return None
  path = paths.directory(checkpoints.directory) / str(step)
  names = [name for name in _TREES if name in abstract_state and (name != 'ema' or (path / name).exists())]
  if (path / 'params').exists() and not (path / 'opt_state').exists():
    raise InputError(
      f'{path} has no optimizer state: checkpoints that are kept for good have only parameters. Start a new run from '
      f'it, with another --workdir and this one as --config.init_from'
    )
  with _damage_explained(path):
    for name in names:
      _check_shapes(path / name, abstract_state[name])
    args = ocp.args.Composite(
      progress=ocp.args.JsonRestore(), **{name: ocp.args.StandardRestore(abstract_state[name]) for name in names}
    )
    items = checkpoints.restore(step, args=args)
    if _wrong_checksum(items, names):  # Read again: a network file system may have returned wrong bytes once.
      items = checkpoints.restore(step, args=args)
    if problem := _wrong_checksum(items, names):
      raise OSError(problem)
  guard = items['progress']['guard']

  def put(value, shape):
    return sharding.place(np.asarray(math.nan if value is None else value, shape.dtype), shape.sharding)

  state = {name: items[name] for name in names}
  if 'ema' in abstract_state and 'ema' not in state:
    state['ema'] = jax.tree.map(jnp.copy, state['params'])  # The step donates both: they must not share memory.
  guard = {name: put(guard[name], abstract_state['guard'][name]) for name in guard}
  return {'step': put(step, abstract_state['step']), 'guard': guard} | state, items['progress']


def restore(directory: str | Path, step: int | None = None) -> tuple[TriplaneModel, ConfigDict, int]:
  """Returns (model, config, step) of a run directory, from the latest checkpoint or the checkpoint of `step`.

  Parameters are float32 on the default device. Raises InputError if there is no such checkpoint.
  """
  config = read_config(directory)
  model = registry.abstract_model(config.model.to_dict())
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=device), registry.parameters(model)
  )
  params, step = restore_parameters(directory, target, step)
  return registry.with_parameters(model, params), config, step


def restore_parameters(directory: str | Path, target: dict, step: int | None = None) -> tuple[dict, int]:
  """Returns (parameters, step) of a run directory, read directly into the shardings and dtypes of `target`.

  If the checkpoint has a moving average of the parameters, that is what is returned. Raises InputError if there is no
  such checkpoint, or if it belongs to another model.
  """
  path, steps = _checkpoints(directory), saved_steps(directory)
  if not steps or (step is not None and step not in steps):
    wanted = 'a checkpoint' if step is None else f'a checkpoint of step {step}'
    raise InputError(f'{path} does not contain {wanted}; available steps: {steps or "none"}')
  step = steps[-1] if step is None else step
  path = path / str(step)
  with _damage_explained(path), ocp.StandardCheckpointer() as checkpointer:
    item = path / 'ema' if (path / 'ema').exists() else path / 'params'
    _check_shapes(item, target)
    return checkpointer.restore(item, target), step


def write_model(directory: str | Path, params: dict, config: ConfigDict, step: int, dtype=jnp.bfloat16) -> None:
  """Writes a run directory with only the parameters, stored in `dtype`, for inference and fine-tuning."""
  write_config(directory, config)
  small = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(_checkpoints(directory) / str(step) / 'params', small, force=True)


def differences(stored: Mapping[str, tuple], expected: Mapping[str, tuple]) -> list[str]:
  """Returns a line for each parameter that has different shapes in two {name: shape}, or is missing from either."""
  return [
    f'{name} is {stored.get(name, "missing")} in the checkpoint and {expected.get(name, "missing")} in the model'
    for name in sorted(stored.keys() | expected.keys())
    if stored.get(name) != expected.get(name)
  ]


def _check_shapes(item: epath.Path, wanted) -> None:
  """Raises InputError, with the differences, if the arrays of a saved item do not have the shapes of the tree `wanted`.

  Call it before restoring: Orbax raises at the first mismatch while other arrays are still being read.
  """

  def shapes(tree):
    return {
      '/'.join(map(str, path)): tuple(leaf.shape)
      for path, leaf in ocp.tree.to_flat_dict(tree).items()
      if hasattr(leaf, 'shape')
    }

  stored, wanted = shapes(ocp.PyTreeCheckpointHandler().metadata(item).tree), shapes(wanted)
  if lines := differences(stored, wanted):
    more = f' and {len(lines) - 3} others' if len(lines) > 3 else ''
    raise _OtherModelError(
      f'{item} belongs to another model or optimizer than the configuration describes: give another --workdir, or the '
      f'configuration of that run ({"; ".join(lines[:3])}{more})'
    )


def _wrong_checksum(items, names: list[str]) -> str | None:
  """Returns which of the named items differs from what was saved, or None. All processes get the same result."""
  for name in names:
    saved = items['progress']['sums'][name]
    if (found := int(checksum.checksum(items[name]))) != saved:
      return f'the checksum of {name} is {found}, but was {saved} when it was saved'
  return None


class _OtherModelError(InputError):
  """The checkpoint is intact but belongs to another model or optimizer."""


@contextlib.contextmanager
def _explained(path: str | Path, problem: str) -> Iterator[None]:
  """Adds the path, and what happens next, to the exceptions of Orbax and its storage backends.

  Those that a person must mend become an InputError with one sentence; the others keep their type and traceback.
  """
  try:
    yield
  except Exception as error:  # Orbax and tensorstore raise exceptions of many types.
    if must_be_mended(error):
      raise InputError(
        f'{path}: {problem} ({_reason(error)}); existing checkpoints are kept: fix the cause, then the same command '
        'resumes from the latest of them'
      ) from error
    error.add_note(f'{path}: {problem}; existing checkpoints are kept, and the same command resumes from the latest')
    raise


@contextlib.contextmanager
def _damage_explained(path: epath.Path) -> Iterator[None]:
  """Turns the exceptions that Orbax raises for a damaged checkpoint into an InputError with one sentence.

  An error that may pass keeps its type and traceback: the checkpoint may be intact, so never suggest deleting it.
  """
  try:
    yield
  except (_OtherModelError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    if passes(error):
      error.add_note(f'{path} cannot be read; nothing was changed')
      raise
    if must_be_mended(error):
      raise InputError(f'{path} cannot be read ({_reason(error)}); nothing was changed: fix the cause') from error
    remedy = f', rm -r {shlex.quote(str(path))}' if paths.is_local(path) else ''
    raise InputError(
      f'{path} is damaged ({_reason(error)}); nothing was changed: to resume from the previous checkpoint, '
      f'remove it{remedy}'
    ) from error


def _reason(error: BaseException) -> str:
  text = one_line(error)
  if 'os_error_code' in text:  # tensorstore: the names of many files, then the message of the operating system.
    text = text.rpartition(': ')[2].partition(' [')[0]
  return text if len(text) <= 200 else f'{text[:120]} ... {text[-70:]}'


def _checkpoints(directory: str | Path) -> epath.Path:
  return paths.directory(directory) / 'checkpoints'
