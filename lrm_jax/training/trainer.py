"""The parts of a training, created from a configuration: mesh, model, optimizer, data and the compiled step."""

from collections.abc import Generator, Sequence
import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.datasets import pipeline
from lrm_jax.distributed import accelerators, backend, sharding
from lrm_jax.errors import InputError
from lrm_jax.models import lora, registry
from lrm_jax.models.lpips import LPIPS
from lrm_jax.storage import checkpoint
from lrm_jax.training import cost, losses, micro_batches, synthetic, trackers
from lrm_jax.training import step as step_lib
from lrm_jax.training.optimizer import check_patterns, make_optimizer
from lrm_jax.weights import initial


class Trainer:
  """Mesh, model, optimizer, data and the compiled step of a configuration.

  `lpips` is the perceptual network, or None if its weight is 0. `devices` (default: all) need not be attached, see
  lrm_jax/distributed/accelerators.py; for such devices the step can be compiled but not run. Raises InputError if
  values of the configuration do not fit together. With `synthetic_data`, batches are random and no data are read.
  """

  def __init__(
    self,
    config: ConfigDict,
    *,
    lpips: LPIPS | None,
    devices: Sequence[jax.Device] | None = None,
    synthetic_data: bool = False,
  ):
    check(config, jax.device_count() if devices is None else len(devices))
    self.config, self.synthetic_data = config, synthetic_data
    self.mesh = sharding.make_mesh(**config.mesh, devices=devices)
    self.lpips = sharding.place_replicated(self.mesh, lpips)
    model_kwargs = config.model.to_dict()
    self.model = registry.abstract_model(model_kwargs)
    self.sources = []
    if not synthetic_data:
      self.sources = pipeline.training_sources(
        config.data.to_dict(),
        image_size=config.model.image_size,
        input_position=self.model.input_position,
        num_input_views=self.model.num_input_views,
        with_depth=losses.needs_depth(config.loss.to_dict()),
      )
    optimizer = dict(config.optimizer)
    if config.model.get('lora_rank', 0):
      optimizer['freeze'] = (*config.optimizer.freeze, f'!{lora.PATTERN}')  # Only LoRA's parameters train.
    transform, self.schedule = make_optimizer(num_train_steps=config.num_train_steps, **optimizer)
    self.init = step_lib.state_init(model_kwargs, transform, config.seed, ema=config.ema_decay > 0)
    self.abstract_state = jax.eval_shape(self.init)
    check_patterns(self.abstract_state['params'], optimizer['freeze'], config.optimizer.multipliers)
    self.shardings = sharding.shardings(self.mesh, self.abstract_state)
    memory = accelerators.mesh_memory(self.mesh)
    with jax.set_mesh(self.mesh):
      self.accumulation = micro_batches.number(
        config,
        self.mesh.size,
        sharding.bytes_per_device(self.abstract_state, self.shardings),
        memory,
        backend.platform(),
      )
      rays_per_chunk = config.rays_per_chunk or self.model.rays_that_fit(
        memory, config.batch_size // self.accumulation // self.mesh.size
      )
    step = step_lib.make_train_step(
      self.model,
      transform,
      self.schedule,
      window=config.data.window,
      rays_per_chunk=rays_per_chunk,
      loss_weights={name: value for name, value in config.loss.items() if name.endswith('_weight')},
      accumulation=self.accumulation,
      loss_spike=config.loss_spike,
      ema_decay=config.ema_decay,
      num_datasets=len(self.sources),
      freeze=tuple(optimizer['freeze']),
      seed=config.seed,
    )
    self._step = step_lib.compile_step(step, self.mesh, self.shardings)

  def compile(self) -> jax.stages.Compiled:
    """Returns the compiled step(state, batch, position, lpips) for the mesh, without running it."""
    everywhere = sharding.replicated(self.mesh)

    def shapes_on_mesh(tree):
      return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)

    batch = cost.abstract_batch(self.config, sharding.batch_sharding(self.mesh), num_datasets=len(self.sources))
    position = shapes_on_mesh(jax.ShapeDtypeStruct((), np.float32))
    with jax.set_mesh(self.mesh):
      return self._step.lower(self.abstract_on_devices, batch, position, shapes_on_mesh(self.lpips)).compile(  # type: ignore[attr-defined]
        compiler_options=step_lib.compiler_options(deterministic=self.config.deterministic)
      )

  def first_state(self, given: dict[str, np.ndarray | jax.Array] | None = None) -> dict:
    """Returns a new state, created on its devices. Arrays in `given` {path: array} replace random parameters.

    If an array has fewer layers than the parameter, it replaces the first ones.
    """
    state = jax.jit(self.init, out_shardings=self.shardings)()
    if given:

      def place(array, old):
        if len(array) < len(old):
          return jax.jit(lambda old, first: old.at[: len(first)].set(first), out_shardings=old.sharding)(old, array)
        if isinstance(array, jax.Array):  # A run's arrays were read into their sharding, unless they were resized.
          same = array.sharding.is_equivalent_to(old.sharding, array.ndim)
          return array if same else jax.jit(lambda x: x, out_shardings=old.sharding)(array)
        return sharding.place(array.astype(old.dtype, copy=False), old.sharding)

      fresh = traverse_util.flatten_dict(state['params'], sep='/')
      fresh = {path: place(given[path], old) if path in given else old for path, old in fresh.items()}
      state['params'] = traverse_util.unflatten_dict(fresh, sep='/')
      if 'ema' in state:
        state['ema'] = jax.tree.map(jnp.copy, state['params'])  # The step donates both: they must not share memory.
    return state

  def read_weights(self) -> tuple[dict[str, np.ndarray | jax.Array], list[str]]:
    """Returns (initial parameters {path: array}, lines about them) from config.init_from and config.encoder_weights.

    Without both, they are empty. Raises InputError if they do not fit the configuration.
    """
    return initial.load(self.config, traverse_util.flatten_dict(self.abstract_on_devices['params'], sep='/'))

  @property
  def abstract_on_devices(self) -> dict:
    """The shapes, dtypes and shardings of the state."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self.abstract_state, self.shardings
    )

  def last_state(self, checkpoints) -> tuple[dict, dict] | None:
    """Returns (state, progress) of the latest checkpoint, or None if there is none."""
    return checkpoint.restore_state(checkpoints, self.abstract_on_devices)

  def batches(self, start: int) -> Generator[tuple[dict, np.ndarray]]:
    """Yields (global batch, record numbers) of each step after the first `start` examples.

    Batches are sharded over the mesh. The record numbers are those of the records that this process read.
    """
    config, rows = self.config, sharding.batch_rows(self.mesh, self.config.batch_size)
    if self.synthetic_data:
      batch = synthetic.batch(config, len(rows))
      while True:  # Each step copies the batch to the devices, as with real data.
        yield self._place(batch)
    numpy_batches = pipeline.make_dataset(
      self.sources,
      batch_size=config.batch_size,
      rows=rows,
      seed=config.seed,
      start=start,
      num_workers=config.data.num_workers,
      max_broken_share=config.data.max_broken_share,
    )
    ends = np.cumsum(pipeline.sizes(self.sources))
    try:
      # No variable holds a batch: it would stay on the host, besides its copy on the devices, until the next is read.
      yield from map(functools.partial(self._place, ends=ends), numpy_batches)
    finally:
      numpy_batches.close()

  def _place(self, batch: dict[str, np.ndarray], ends: np.ndarray | None = None) -> tuple[dict, np.ndarray]:
    """Returns (the rows of this process as part of the global batch, their record numbers).

    `ends` are the first record numbers after each dataset of a mixture.
    """
    records, placement = batch['record'], sharding.batch_sharding(self.mesh)
    inputs = {name: x for name, x in batch.items() if name != 'record'}
    if ends is not None and len(ends) > 1:
      inputs['dataset'] = np.searchsorted(ends, records, side='right').astype(np.int32)
    return {name: jax.make_array_from_process_local_data(placement, x) for name, x in inputs.items()}, records


def check(config: ConfigDict, num_devices: int) -> None:
  """Raises InputError if values of a configuration do not fit together, or do not fit the number of devices."""
  data = config.data
  for name in ('max_skipped_steps', 'loss_spike', 'checkpoint_minutes'):
    if config[name] < 0:
      raise InputError(f'config.{name} = {config[name]} must be at least 0')
  if 0 < config.loss_spike <= 1:
    raise InputError(
      f'config.loss_spike = {config.loss_spike} must be above 1 (it is a multiple of the mean loss), or 0 to disable it'
    )
  trackers.check(config.trackers)
  positive = ['num_train_steps', 'batch_size', 'log_every', 'checkpoint_every', 'eval_every']
  for name in positive:
    if config[name] < 1:
      raise InputError(f'config.{name} = {config[name]} must be at least 1')
  micro_batches.check(config, num_devices)
  if not 0 <= config.ema_decay < 1:
    raise InputError(
      f'config.ema_decay = {config.ema_decay} must be at least 0 (no average) and below 1, such as 0.999'
    )
  if negative := [name for name, value in config.loss.items() if name.endswith('_weight') and value < 0]:
    raise InputError(f'config.loss.{negative[0]} = {config.loss[negative[0]]} must be at least 0')
  if data.rays not in ('window', 'foreground'):
    raise InputError(f"config.data.rays = {data.rays!r} must be 'window' or 'foreground'")
  for name in ('lpips_weight', 'normal_weight'):
    if data.rays == 'foreground' and config.loss[name] > 0:
      raise InputError(
        f"config.data.rays = 'foreground' has no windows, which config.loss.{name} = {config.loss[name]} needs: set "
        "config.data.rays = 'window' (config.data.foreground_bias moves windows to the object), or the weight to 0"
      )
  if config.loss.normal_weight > 0 and data.window < losses.MIN_NORMAL_WINDOW:
    raise InputError(
      f'config.data.window = {data.window} has no normals, which config.loss.normal_weight = '
      f'{config.loss.normal_weight} needs: use at least {losses.MIN_NORMAL_WINDOW} pixels, or set the weight to 0'
    )
  if not 0 <= data.foreground_share < 1:
    raise InputError(
      f'config.data.foreground_share = {data.foreground_share} must be at least 0 and below 1: some pixels must show '
      'the background'
    )
  if not data.background:
    raise InputError('config.data.background = () must have at least one grey level, such as (1.0,)')
  if not 1 <= data.window <= data.resize_min <= data.resize_max:
    raise InputError(
      'config.data must satisfy 1 <= window <= resize_min <= resize_max, but they are '
      f'{data.window}, {data.resize_min}, {data.resize_max}'
    )
