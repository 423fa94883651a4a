"""The training state, and the step that advances it.

state = {'step': int32, 'params': ..., 'opt_state': ..., 'guard': {'loss': float32, 'skipped': int32}}, nested dicts of
arrays. The guard is the running mean of the loss (NaN before the first step) and the number of consecutive skipped
steps. With a moving average of the parameters, state['ema'] has the same tree as state['params'].
Random keys are derived from the seed and the step, so that a step depends only on the state and its batch.
"""

from collections.abc import Callable, Sequence

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
import optax

from lrm_jax.distributed import sharding
from lrm_jax.geometry import rays
from lrm_jax.models import registry
from lrm_jax.models.lpips import LPIPS
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.training import losses, mixture
from lrm_jax.training.optimizer import frozen_parameters

_LOSS_MEMORY = 100  # Time constant of the running mean of the loss, in steps.


def averaged(state: dict) -> dict:
  """Returns the parameters of a state that are evaluated and exported: their moving average if it has one."""
  return state.get('ema', state['params'])


def to_float(batch: dict) -> dict:
  """Returns a batch with its images, which are uint8 in 0..255, as float32 in 0..1."""
  return {name: x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x for name, x in batch.items()}


def state_init(
  model_kwargs: dict, transform: optax.GradientTransformation, seed: int, *, ema: bool = False
) -> Callable[[], dict]:
  """Returns a function that creates the initial state. Jit it with the shardings that the state should have.

  With `ema`, the state has a moving average of the parameters.
  """

  def init():
    params = registry.parameters(registry.build_model(model_kwargs, nnx.Rngs(seed)))
    guard = {'loss': jnp.float32(jnp.nan), 'skipped': jnp.int32(0)}
    state = {'step': jnp.int32(0), 'params': params, 'opt_state': transform.init(params), 'guard': guard}
    return state | {'ema': jax.tree.map(jnp.copy, params)} if ema else state

  return init


def make_train_step(
  model: TriplaneModel,
  transform: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  window: int,
  rays_per_chunk: int,
  loss_weights: dict[str, float],
  accumulation: int = 1,
  loss_spike: float = 0.0,
  ema_decay: float = 0.0,
  num_datasets: int = 1,
  freeze: Sequence[str] = (),
  seed: int = 0,
) -> Callable[[dict, dict, jax.Array, LPIPS | None], tuple[dict, dict]]:
  """Returns step(state, batch, position, lpips) -> (state, metrics), to be jitted.

  `position` is the position in the learning rate schedule, in steps. lrm_jax/datasets/examples.py lists the keys of a
  batch. At most `rays_per_chunk` rays of each object are rendered at once. `lpips` is the frozen network, or None if
  its weight is 0; it is an argument so that it does not become a constant of the compiled program.
  A step is skipped if its loss or its gradient is NaN or infinite, or if its loss exceeds `loss_spike` times the
  running mean of the loss (0: no limit). Parameters and optimizer then stay unchanged. The metric `skipped` is the
  number of consecutive skipped steps.
  With several datasets, the metric `datasets` has the errors of each (see lrm_jax/training/mixture.py); the batch then
  has the number of each object's `dataset` [B].
  No gradients are computed for parameters that match the patterns `freeze` (see lrm_jax/training/optimizer.py).
  If `ema_decay` is positive, the state has a moving average of the parameters: m <- d m + (1 - d) p with
  d = min(ema_decay, (1 + t) / (10 + t)) after t steps, so that the random initial parameters are soon forgotten.
  """

  def loss_fn(params, batch, keys, lpips):
    if freeze:
      frozen = frozen_parameters(params, freeze)
      params = jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen)
    batch = to_float(batch)  # Here, so that only one micro-batch at a time is float32.
    trained = registry.with_parameters(model, params)
    planes = trained.encode(batch['image'], batch['camera_to_world'], batch['intrinsics'])
    single = {'positions': batch['target_position']} if 'target_position' in batch else {}  # Pixels, not windows.
    cameras = batch['target_camera_to_world'], batch['target_intrinsics']
    pixels = trained.render(
      planes, *cameras, window, batch['background'], keys, rays_per_chunk=rays_per_chunk, **single
    )
    loss, parts = losses.reconstruction(
      pixels,
      batch['target_color'],
      batch['target_opacity'],
      planes,
      lpips=lpips,
      pixel_weight=batch.get('target_weight'),
      target_depth=batch.get('target_depth'),
      directions=None if single else rays.pixel_rays(*cameras, window)[1],
      **loss_weights,
    )
    if num_datasets > 1:
      parts['datasets'] = mixture.errors(
        pixels.color, batch['target_color'], batch['dataset'], num_datasets, batch.get('target_weight')
      )
    return loss, parts

  def gradients(params, batch, keys, lpips):
    return jax.value_and_grad(loss_fn, has_aux=True)(params, batch, keys, lpips)

  def accumulated(params, batch, keys, lpips):
    """Returns the mean over micro-batches, each with an equal share of every device's objects."""
    micro, keys = jax.tree.map(lambda x: rearrange(x, '(b a) ... -> a b ...', a=accumulation), (batch, keys))

    def add(total, inputs):
      return jax.tree.map(jnp.add, total, gradients(params, *inputs, lpips)), None  # type: ignore[call-arg]

    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(gradients, params, *jax.tree.map(lambda x: x[0], (micro, keys)), lpips),
    )
    return jax.tree.map(lambda x: x / accumulation, jax.lax.scan(add, zeros, (micro, keys))[0])

  def step(state, batch, position, lpips=None):
    key = jax.random.fold_in(jax.random.key(seed), state['step'])
    # One key per object of the batch, so that rays do not depend on the micro-batches.
    keys = jax.random.split(key, len(batch['image']))
    (loss, parts), grads = (gradients if accumulation == 1 else accumulated)(state['params'], batch, keys, lpips)
    with jax.named_scope('optimizer'):
      updates, opt_state = transform.update(grads, state['opt_state'], state['params'])
      rate, norm, guard = schedule(position), optax.tree.norm(grads), state['guard']
      params = jax.tree.map(lambda p, u: p - rate * u, state['params'], updates)
    bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    if loss_spike:
      bad |= loss > loss_spike * guard['loss']
    mean = jnp.where(jnp.isnan(guard['loss']), loss, guard['loss'] + (loss - guard['loss']) / _LOSS_MEMORY)
    updated = {'params': params, 'opt_state': opt_state, 'guard': {'loss': mean, 'skipped': jnp.int32(0)}}
    if ema_decay:
      decay = jnp.minimum(ema_decay, (1.0 + state['step']) / (10.0 + state['step']))
      updated['ema'] = jax.tree.map(lambda m, p: m + (1 - decay) * (p - m), state['ema'], params)
    unchanged = {name: state[name] for name in updated}
    unchanged['guard'] = {'loss': guard['loss'], 'skipped': guard['skipped'] + 1}
    result = jax.tree.map(lambda new, old: jnp.where(bad, old, new), updated, unchanged)
    metrics = {'loss': loss, **parts, 'grad_norm': norm, 'learning_rate': rate, 'skipped': result['guard']['skipped']}
    return {'step': state['step'] + 1} | result, metrics

  return step


def compiler_options(*, deterministic: bool) -> dict[str, bool]:
  """Returns XLA's options for the compiled step. CPU programs are deterministic anyway, and so are those of TPUs.

  With `deterministic`, GPU programs add in a fixed order: without it, sums of many threads into one number, such as the
  gradients of the planes, differ in their last bits from run to run. XLA then replaces such scatters by slower ones and
  does not choose the fastest kernels by timing them.
  """
  if not deterministic:
    return {}
  return {'xla_gpu_deterministic_ops': True, 'xla_gpu_exclude_nondeterministic_ops': True}


def compile_step(step: Callable, mesh: jax.sharding.Mesh, state_shardings) -> Callable:
  """Returns the jitted step. The state is donated and keeps its shardings; the metrics are replicated."""
  return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, sharding.replicated(mesh)))
