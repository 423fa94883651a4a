"""The parts of a training, created from a configuration: mesh, model, optimizer, data and the compiled step."""

from collections.abc import Generator, Sequence

from flax import traverse_util
import jax
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.datasets import pipeline
from lrm_jax.distributed import accelerators, sharding
from lrm_jax.errors import InputError
from lrm_jax.models import registry
from lrm_jax.models.lpips import LPIPS
from lrm_jax.storage import checkpoint
from lrm_jax.training import cost, trackers
from lrm_jax.training import step as step_lib
from lrm_jax.training.optimizer import make_optimizer
from lrm_jax.weights import dino, pretrained


class Trainer:
  """Mesh, model, optimizer, data and the compiled step of a configuration.

  `lpips` is the perceptual network, or None if its weight is 0. `devices` (default: all) need not be attached, see
  lrm_jax/distributed/accelerators.py; for such devices the step can be compiled but not run. Raises InputError if
  values of the configuration do not fit together.
  """

  def __init__(self, config: ConfigDict, *, lpips: LPIPS | None, devices: Sequence[jax.Device] | None = None):
    check(config, jax.device_count() if devices is None else len(devices))
    self.config = config
    self.mesh = sharding.make_mesh(**config.mesh, devices=devices)
    self.lpips = sharding.place_replicated(self.mesh, lpips)
    model_kwargs = config.model.to_dict()
    self.model = registry.abstract_model(model_kwargs)
    self.sources = pipeline.training_sources(
      config.data.to_dict(), image_size=config.model.image_size, input_position=self.model.input_position
    )
    transform, schedule = make_optimizer(num_train_steps=config.num_train_steps, **config.optimizer)
    self.init = step_lib.state_init(model_kwargs, transform, config.seed)
    self.abstract_state = jax.eval_shape(self.init)
    self.shardings = sharding.shardings(self.mesh, self.abstract_state)
    with jax.set_mesh(self.mesh):
      rays_per_chunk = config.rays_per_chunk or self.model.rays_that_fit(
        accelerators.mesh_memory(self.mesh), -(-config.batch_size // config.gradient_accumulation // self.mesh.size)
      )
    step = step_lib.make_train_step(
      self.model,
      transform,
      schedule,
      window=config.data.window,
      rays_per_chunk=rays_per_chunk,
      loss_weights={name: value for name, value in config.loss.items() if name.endswith('_weight')},
      accumulation=config.gradient_accumulation,
      loss_spike=config.loss_spike,
      seed=config.seed,
    )
    self._step = step_lib.compile_step(step, self.mesh, self.shardings)

  def compile(self) -> jax.stages.Compiled:
    """Returns the compiled step(state, batch, position, lpips) for the mesh, without running it."""
    everywhere = sharding.replicated(self.mesh)

    def shapes_on_mesh(tree):
      return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)

    batch = cost.abstract_batch(self.config, sharding.batch_sharding(self.mesh))
    position = shapes_on_mesh(jax.ShapeDtypeStruct((), np.float32))
    with jax.set_mesh(self.mesh):
      return self._step.lower(self.abstract_on_devices, batch, position, shapes_on_mesh(self.lpips)).compile(  # type: ignore[attr-defined]
        compiler_options=step_lib.compiler_options(deterministic=self.config.get('deterministic', False))
      )

  def first_state(self, given: dict[str, np.ndarray | jax.Array] | None = None) -> dict:
    """Returns a new state, created on its devices. Arrays in `given` {path: array} replace random parameters."""
    state = jax.jit(self.init, out_shardings=self.shardings)()
    if given:

      def place(array, old):
        if isinstance(array, jax.Array):  # It was read directly into its sharding.
          return array
        return sharding.place(array.astype(old.dtype, copy=False), old.sharding)

      fresh = traverse_util.flatten_dict(state['params'], sep='/')
      fresh = {path: place(given[path], old) if path in given else old for path, old in fresh.items()}
      state['params'] = traverse_util.unflatten_dict(fresh, sep='/')
    return state

  def read_weights(self) -> dict[str, np.ndarray | jax.Array]:
    """Returns the initial parameters {path: array} from config.init_from and config.encoder_weights; {} without both.

    Raises InputError if they do not fit the configuration.
    """
    config, given = self.config, {}
    target = traverse_util.flatten_dict(self.abstract_on_devices['params'], sep='/')
    if config.init_from:
      try:
        given = dict(pretrained.load_parameters(config.init_from, target))
      except InputError as error:
        raise InputError(f'config.init_from = {error}') from error
    if config.encoder_weights:
      prefix = 'encoder/'
      encoder = dino.load(
        config.encoder_weights,
        {path.removeprefix(prefix): x.shape for path, x in target.items() if path.startswith(prefix)},
      )
      given |= {prefix + path: array for path, array in encoder.items()}
    return given

  @property
  def abstract_on_devices(self) -> dict:
    """The shapes, dtypes and shardings of the state."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self.abstract_state, self.shardings
    )

  def last_state(self, checkpoints) -> dict | None:
    """Returns the state of the latest checkpoint, or None if there is none."""
    return checkpoint.restore_state(checkpoints, self.abstract_on_devices)

  def batches(self, start_step: int) -> Generator[tuple[dict, np.ndarray]]:
    """Yields (global batch, record numbers) of each step after `start_step` steps.

    Batches are sharded over the mesh. The record numbers are those of the records that this process read.
    """
    config = self.config
    numpy_batches = pipeline.make_dataset(
      self.sources,
      batch_size=config.batch_size,
      rows=sharding.batch_rows(self.mesh, config.batch_size),
      seed=config.seed,
      start_step=start_step,
      num_workers=config.data.num_workers,
      max_broken_share=config.data.max_broken_share,
    )
    placement = sharding.batch_sharding(self.mesh)
    try:
      for batch in numpy_batches:
        records = batch.pop('record')
        yield {name: jax.make_array_from_process_local_data(placement, x) for name, x in batch.items()}, records
    finally:
      numpy_batches.close()


def check(config: ConfigDict, num_devices: int) -> None:
  """Raises InputError if values of a configuration do not fit together, or do not fit the number of devices."""
  data = config.data
  for name in ('max_skipped_steps', 'loss_spike'):
    if config[name] < 0:
      raise InputError(f'config.{name} = {config[name]} must be at least 0')
  if 0 < config.loss_spike <= 1:
    raise InputError(
      f'config.loss_spike = {config.loss_spike} must be above 1 (it is a multiple of the mean loss), or 0 to disable it'
    )
  trackers.check(config.get('trackers', ()))
  positive = ['num_train_steps', 'batch_size', 'gradient_accumulation', 'log_every', 'checkpoint_every', 'eval_every']
  for name in positive:
    if config[name] < 1:
      raise InputError(f'config.{name} = {config[name]} must be at least 1')
  share = config.gradient_accumulation * num_devices
  if config.batch_size % share:
    raise InputError(
      f'config.batch_size = {config.batch_size} must be a multiple of config.gradient_accumulation x devices = '
      f'{config.gradient_accumulation} x {num_devices}'
    )
  if negative := [name for name, value in config.loss.items() if name.endswith('_weight') and value < 0]:
    raise InputError(f'config.loss.{negative[0]} = {config.loss[negative[0]]} must be at least 0')
  if not data.background:
    raise InputError('config.data.background = () must have at least one grey level, such as (1.0,)')
  if not 1 <= data.window <= data.resize_min <= data.resize_max:
    raise InputError(
      'config.data must satisfy 1 <= window <= resize_min <= resize_max, but they are '
      f'{data.window}, {data.resize_min}, {data.resize_max}'
    )
