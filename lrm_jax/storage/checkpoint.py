"""Run directories: what a training writes and everything else reads.

  DIR/config.json            the configuration, whole
  DIR/checkpoints/<step>/    Orbax: `params`, `opt_state` and `progress` (training only)
  DIR/metrics.jsonl          one line a logged step (lrm_jax/training/metric_writer.py)

A run directory may be on gs:// or s3:// (lrm_jax/storage/paths.py).

The data position is not stored: it is the step times the batch size, whatever the number of workers or processes.
Shipped models have the same layout, with the parameters alone, in bfloat16.
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
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lrm_jax.distributed import sharding
from lrm_jax.models import registry
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.storage import checksum, paths


def manager(workdir: str | Path, *, keep_every: int = 0) -> ocp.CheckpointManager:
  """Returns the manager of a run's checkpoints: the last two are kept, and each at a multiple of `keep_every`."""
  policies = [preservation_policy.LatestN(2)]
  if keep_every:
    policies.append(preservation_policy.EveryNSteps(keep_every))
  options = ocp.CheckpointManagerOptions(preservation_policy=preservation_policy.AnyPreservationPolicy(policies))
  with _told(workdir, 'its checkpoints cannot be opened'):
    return ocp.CheckpointManager(_checkpoints(workdir), options=options)


def saved_steps(workdir: str | Path) -> list[int]:
  """Returns the steps that a run has checkpoints of, in order; none where there is no run."""
  path = _checkpoints(workdir)
  return sorted(int(p.name) for p in path.glob('[0-9]*') if p.name.isdigit()) if path.is_dir() else []


def write_config(workdir: str | Path, config: ConfigDict) -> None:
  """Writes DIR/config.json, whole or not at all."""
  workdir = paths.directory(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  fresh = workdir / 'config.json.tmp'
  fresh.write_text(json.dumps(config.to_dict(), indent=2) + '\n')
  fresh.replace(workdir / 'config.json')


def read_config(workdir: str | Path) -> ConfigDict:
  """Returns the configuration of a run; FileNotFoundError where there is none."""
  path = paths.directory(workdir) / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(f'{workdir} is no run directory: it has no config.json; give the --workdir of a training')
  return ConfigDict(json.loads(path.read_text()))


def save(checkpoints: ocp.CheckpointManager, state: dict) -> None:
  """Starts to write a state, in the background; what is there is replaced by nothing half-written.

  Raises OSError where it, or the one before it, cannot be written.
  """
  step, guard = int(state['step']), {name: value.item() for name, value in state['guard'].items()}
  guard = {name: None if math.isnan(value) else value for name, value in guard.items()}
  progress = {
    'step': step,
    'guard': guard,
    'sums': {name: int(checksum.checksum(state[name])) for name in ('params', 'opt_state')},
  }
  with _told(checkpoints.directory, 'a checkpoint cannot be written'):
    checkpoints.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(state['params']),
        opt_state=ocp.args.StandardSave(state['opt_state']),
        progress=ocp.args.JsonSave(progress),
      ),
    )


def finish(checkpoints: ocp.CheckpointManager) -> None:
  """Waits until all that was begun is written; OSError where it cannot be."""
  with _told(checkpoints.directory, 'a checkpoint cannot be written'):
    checkpoints.wait_until_finished()


def restore_state(checkpoints: ocp.CheckpointManager, abstract_state: dict) -> dict | None:
  """Returns the last state, each array on the devices that `abstract_state` asks for; None where there is none.

  Raises ValueError where the checkpoint is of another model or optimizer, or damaged.
  """
  step = checkpoints.latest_step()
  if step is None:
    return None
  names, path = ('params', 'opt_state'), paths.directory(checkpoints.directory) / str(step)
  with _told_damaged(path):
    for name in names:
      _check_shapes(path / name, abstract_state[name])
    items = checkpoints.restore(
      step,
      args=ocp.args.Composite(
        progress=ocp.args.JsonRestore(), **{name: ocp.args.StandardRestore(abstract_state[name]) for name in names}
      ),
    )
    for name, told in items['progress']['sums'].items():
      if (found := int(checksum.checksum(items[name]))) != told:
        raise OSError(f'the bits of {name} add up to {found}, and did to {told} when they were saved')
  guard = items['progress']['guard']

  def put(value, shape):
    return sharding.place(np.asarray(math.nan if value is None else value, shape.dtype), shape.sharding)

  return {
    'step': put(step, abstract_state['step']),
    'params': items['params'],
    'opt_state': items['opt_state'],
    'guard': {name: put(guard[name], abstract_state['guard'][name]) for name in guard},
  }


def restore(directory: str | Path, step: int | None = None) -> tuple[TriplaneModel, ConfigDict, int]:
  """Returns (model, config, step) of a run directory: the last checkpoint, or that of `step`.

  Parameters come back in float32 on the default device. FileNotFoundError where there is no such checkpoint.
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
  """Returns (parameters, step) of a run directory, each array read straight to where `target` has it, in its dtype.

  FileNotFoundError where there is no such checkpoint, ValueError where it is of another model.
  """
  path, steps = _checkpoints(directory), saved_steps(directory)
  if not steps or (step is not None and step not in steps):
    wanted = 'a checkpoint' if step is None else f'a checkpoint of step {step}'
    raise FileNotFoundError(f'{path} does not hold {wanted}; it has: {steps or "nothing"}')
  step = steps[-1] if step is None else step
  path = path / str(step)
  with _told_damaged(path), ocp.StandardCheckpointer() as checkpointer:
    _check_shapes(path / 'params', target)
    return checkpointer.restore(path / 'params', target), step


def write_model(directory: str | Path, params: dict, config: ConfigDict, step: int, dtype=jnp.bfloat16) -> None:
  """Writes a run directory with the parameters alone, stored in `dtype`, for others to load."""
  write_config(directory, config)
  small = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(_checkpoints(directory) / str(step) / 'params', small, force=True)


def differences(there: Mapping[str, tuple], here: Mapping[str, tuple]) -> list[str]:
  """Returns what differs between {name: shape} of parameters that are found and of those that are wanted, in words."""
  names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
  return [f'{name} is {there.get(name, "missing")} there, {here.get(name, "not wanted")} here' for name in names]


def _check_shapes(item: epath.Path, wanted) -> None:
  """Raises ValueError, with what differs, where the arrays of a saved item are not those of the tree `wanted`.

  Before anything is restored: Orbax stops at the first that differs, while others are still being read.
  """

  def shapes(tree):
    return {
      '/'.join(map(str, path)): tuple(leaf.shape)
      for path, leaf in ocp.tree.to_flat_dict(tree).items()
      if hasattr(leaf, 'shape')
    }

  stored, wanted = shapes(ocp.PyTreeCheckpointHandler().metadata(item).tree), shapes(wanted)
  if told := differences(stored, wanted):
    more = f' and {len(told) - 3} others' if len(told) > 3 else ''
    raise _OtherModelError(
      f'{item} is of another model or optimizer than the configuration describes: give another --workdir, or the '
      f'configuration it was made with ({"; ".join(told[:3])}{more})'
    )


# What says nothing of a checkpoint: nobody should remove it for that. Python's, and how tensorstore's begin.
_PASSING = (PermissionError, ConnectionError, TimeoutError, MemoryError)
_PASSING_WORDS = ('PERMISSION_DENIED', 'UNAUTHENTICATED', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED')


class _OtherModelError(ValueError):
  """A checkpoint is whole, and of another model or optimizer."""


@contextlib.contextmanager
def _told(where: str | Path, what: str) -> Iterator[None]:
  """Turns what Orbax and its stores raise into an OSError of one sentence; what is there stays."""
  try:
    yield
  except jax.errors.JaxRuntimeError:  # Of processes and devices, not of files.
    raise
  except Exception as error:  # Theirs are of many kinds.
    raise OSError(
      f'{where}: {what} ({_reason(error)}); the checkpoints that are there are kept, and the same command '
      'goes on from the last of them'
    ) from error


@contextlib.contextmanager
def _told_damaged(path: epath.Path) -> Iterator[None]:
  """Turns what Orbax raises for a checkpoint into a ValueError of one sentence."""
  try:
    yield
  except (_OtherModelError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    if isinstance(error, _PASSING) or str(error).startswith(_PASSING_WORDS):
      raise OSError(f'{path} cannot be read ({_reason(error)}); nothing was changed') from error
    remedy = f', rm -r {shlex.quote(str(path))}' if paths.is_local(path) else ''
    raise ValueError(
      f'{path} is damaged ({_reason(error)}); nothing was changed: to go on from the checkpoint before it, '
      f'remove it{remedy}'
    ) from error


def _reason(error: BaseException) -> str:
  text = ' '.join(str(error).split())
  if 'os_error_code' in text:  # tensorstore's: the names of many files, then what the system said.
    text = text.rpartition(': ')[2].partition(' [')[0]
  return text if len(text) <= 200 else f'{text[:120]} ... {text[-70:]}'


def _checkpoints(directory: str | Path) -> epath.Path:
  return paths.directory(directory) / 'checkpoints'
