"""Run directories: what a training writes and everything else reads.

  DIR/config.json            the configuration, whole
  DIR/checkpoints/<step>/    Orbax: `params`, `opt_state` (training only), `config`, `progress`
  DIR/metrics.jsonl          one line a logged step (lrm_jax/metrics.py)

The data position is not stored: it is the step times the batch size, whatever the number of workers or processes.
Shipped models have the same layout, with the parameters alone, in bfloat16.
"""

from collections.abc import Mapping
import json
from pathlib import Path

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lrm_jax import state as state_lib
from lrm_jax.models.triplane_model import TriplaneModel


def manager(workdir: str | Path, *, keep_every: int = 0) -> ocp.CheckpointManager:
  """Returns the manager of a run's checkpoints: the last two are kept, and each at a multiple of `keep_every`."""
  policies = [preservation_policy.LatestN(2)]
  if keep_every:
    policies.append(preservation_policy.EveryNSteps(keep_every))
  options = ocp.CheckpointManagerOptions(preservation_policy=preservation_policy.AnyPreservationPolicy(policies))
  return ocp.CheckpointManager(_checkpoints(workdir), options=options)


def saved_steps(workdir: str | Path) -> list[int]:
  """Returns the steps that a run has checkpoints of, in order; none where there is no run."""
  path = _checkpoints(workdir)
  return sorted(int(p.name) for p in path.glob('[0-9]*') if p.name.isdigit()) if path.is_dir() else []


def write_config(workdir: str | Path, config: ConfigDict) -> None:
  """Writes DIR/config.json, whole or not at all."""
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  fresh = workdir / 'config.json.tmp'
  fresh.write_text(json.dumps(config.to_dict(), indent=2) + '\n')
  fresh.rename(workdir / 'config.json')


def read_config(workdir: str | Path) -> ConfigDict:
  """Returns the configuration of a run; FileNotFoundError where there is none."""
  path = Path(workdir) / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(f'{workdir} is no run directory: it has no config.json; give the --workdir of a training')
  return ConfigDict(json.loads(path.read_text()))


def save(checkpoints: ocp.CheckpointManager, state: dict, config: ConfigDict) -> None:
  """Starts to write a state, in the background; what is there is replaced by nothing half-written."""
  step = int(state['step'])
  progress = {'step': step, 'objects_seen': step * config.batch_size}
  checkpoints.save(step, args=ocp.args.Composite(
      params=ocp.args.StandardSave(state['params']), opt_state=ocp.args.StandardSave(state['opt_state']),
      config=ocp.args.JsonSave(config.to_dict()), progress=ocp.args.JsonSave(progress)))


def restore_state(checkpoints: ocp.CheckpointManager, abstract_state: dict) -> dict | None:
  """Returns the last state, each array on the devices that `abstract_state` asks for; None where there is none.

  Raises ValueError where the checkpoint is of another model or optimizer.
  """
  step = checkpoints.latest_step()
  if step is None:
    return None
  names = ('params', 'opt_state')
  for name in names:
    _check_shapes(Path(checkpoints.directory) / str(step) / name, abstract_state[name])
  items = checkpoints.restore(step, args=ocp.args.Composite(
      **{name: ocp.args.StandardRestore(abstract_state[name]) for name in names}))
  counter = jax.device_put(jnp.int32(step), abstract_state['step'].sharding)
  return {'step': counter, 'params': items['params'], 'opt_state': items['opt_state']}


def restore(directory: str | Path, step: int | None = None) -> tuple[TriplaneModel, ConfigDict, int]:
  """Returns (model, config, step) of a run directory: the last checkpoint, or that of `step`.

  Parameters come back in float32 on the default device. FileNotFoundError where there is no such checkpoint.
  """
  config = read_config(directory)
  model = state_lib.abstract_model(config.model.to_dict())
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=device), state_lib.parameters(model))
  params, step = restore_parameters(directory, target, step)
  return state_lib.with_parameters(model, params), config, step


def restore_parameters(directory: str | Path, target: dict, step: int | None = None) -> tuple[dict, int]:
  """Returns (parameters, step) of a run directory, each array read straight to where `target` has it, in its dtype.

  FileNotFoundError where there is no such checkpoint, ValueError where it is of another model.
  """
  path, steps = _checkpoints(directory), saved_steps(directory)
  if not steps or (step is not None and step not in steps):
    wanted = 'a checkpoint' if step is None else f'a checkpoint of step {step}'
    raise FileNotFoundError(f'{path} does not hold {wanted}; it has: {steps or "nothing"}')
  step = steps[-1] if step is None else step
  _check_shapes(path / str(step) / 'params', target)
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(path / str(step) / 'params', target), step


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


def _check_shapes(item: Path, wanted) -> None:
  """Raises ValueError, with what differs, where the arrays of a saved item are not those of the tree `wanted`.

  Before anything is restored: Orbax stops at the first that differs, while others are still being read.
  """
  shapes = lambda tree: {
      '/'.join(map(str, path)): tuple(leaf.shape)
      for path, leaf in ocp.tree.to_flat_dict(tree).items() if hasattr(leaf, 'shape')}
  stored, wanted = shapes(ocp.PyTreeCheckpointHandler().metadata(epath.Path(item)).tree), shapes(wanted)
  if told := differences(stored, wanted):
    more = f' and {len(told) - 3} others' if len(told) > 3 else ''
    raise ValueError(
        f'{item} is of another model or optimizer than the configuration describes: give another --workdir, or the '
        f'configuration it was made with ({"; ".join(told[:3])}{more})')


def _checkpoints(directory: str | Path) -> Path:
  return Path(directory).absolute() / 'checkpoints'
