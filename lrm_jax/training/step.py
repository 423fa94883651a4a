"""The state of a training and the step that advances it: plain nested dicts of arrays, sharded by one rule.

state = {'step': int32, 'params': ..., 'opt_state': ..., 'guard': {'loss': float32, 'skipped': int32}}. Everything random
is drawn from a key folded with the step, so that a step depends on nothing but the state and its batch. The guard is the
running mean of the loss (nan: none yet) and how many steps in a row have been skipped.
Legend: A micro-batches of a step (gradient accumulation), B objects a step.
"""

from collections.abc import Callable

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
import optax

from lrm_jax.distributed import sharding
from lrm_jax.models import registry
from lrm_jax.models.lpips import LPIPS
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.training import losses

_LOSS_MEMORY = 100  # steps that the running mean of the loss looks back


def state_init(model_kwargs: dict, transform: optax.GradientTransformation, seed: int) -> Callable[[], dict]:
  """Returns the function that makes the first state, to be jitted with the shardings it should have."""

  def init():
    params = registry.parameters(registry.build_model(model_kwargs, nnx.Rngs(seed)))
    guard = {'loss': jnp.float32(jnp.nan), 'skipped': jnp.int32(0)}
    return {'step': jnp.int32(0), 'params': params, 'opt_state': transform.init(params), 'guard': guard}

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
  seed: int = 0,
) -> Callable[[dict, dict, jax.Array, LPIPS | None], tuple[dict, dict]]:
  """Returns step(state, batch, position, lpips) -> (state, metrics), to be jitted.

  `position` is where in the schedule the step lies, in steps. A batch has the keys of lrm_jax/datasets/pipeline.py.
  `lpips` is the frozen network where its weight is above 0: an argument, so that it is no constant of the program.
  A step whose loss or gradient is no number, or whose loss is above `loss_spike` (0: any) times the running mean, is
  skipped: parameters and optimizer stay as they were, and the metric `skipped` counts how many in a row.
  """

  def loss_fn(params, batch, key, lpips):
    trained = registry.with_parameters(model, params)
    planes = trained.encode(batch['image'], batch['camera_to_world'], batch['intrinsics'])
    pixels = trained.render(
      planes,
      batch['target_camera_to_world'],
      batch['target_intrinsics'],
      window,
      batch['background'],
      key,
      rays_per_chunk=rays_per_chunk,
    )
    return losses.reconstruction(
      pixels, batch['target_color'], batch['target_opacity'], planes, lpips=lpips, **loss_weights
    )

  def gradients(params, batch, key, lpips):
    return jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key, lpips)

  def accumulated(params, batch, key, lpips):
    """The mean over micro-batches, each made of a share of every device's objects."""
    micro = jax.tree.map(lambda x: rearrange(x, '(b a) ... -> a b ...', a=accumulation), batch)

    def add(total, inputs):
      return jax.tree.map(jnp.add, total, gradients(params, *inputs, lpips)), None

    keys = jax.random.split(key, accumulation)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(gradients, params, jax.tree.map(lambda x: x[0], micro), key, lpips),
    )
    return jax.tree.map(lambda x: x / accumulation, jax.lax.scan(add, zeros, (micro, keys))[0])

  def step(state, batch, position, lpips=None):
    key = jax.random.fold_in(jax.random.key(seed), state['step'])
    (loss, parts), grads = (gradients if accumulation == 1 else accumulated)(state['params'], batch, key, lpips)
    updates, opt_state = transform.update(grads, state['opt_state'], state['params'])
    rate, norm, guard = schedule(position), optax.tree.norm(grads), state['guard']
    params = jax.tree.map(lambda p, u: p - rate * u, state['params'], updates)
    bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    if loss_spike:
      bad |= loss > loss_spike * guard['loss']
    mean = jnp.where(jnp.isnan(guard['loss']), loss, guard['loss'] + (loss - guard['loss']) / _LOSS_MEMORY)
    moved = {'params': params, 'opt_state': opt_state, 'guard': {'loss': mean, 'skipped': jnp.int32(0)}}
    stayed = {name: state[name] for name in ('params', 'opt_state')}
    stayed['guard'] = {'loss': guard['loss'], 'skipped': guard['skipped'] + 1}
    result = jax.tree.map(lambda new, old: jnp.where(bad, old, new), moved, stayed)
    metrics = {'loss': loss, **parts, 'grad_norm': norm, 'learning_rate': rate, 'skipped': result['guard']['skipped']}
    return {'step': state['step'] + 1} | result, metrics

  return step


def compile_step(step: Callable, mesh: jax.sharding.Mesh, state_shardings) -> Callable:
  """Returns the jitted step: state in and out sharded by rule, its memory reused, metrics on every device."""
  return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, sharding.replicated(mesh)))
