"""AdamW as LRM trains: clipped gradients, decay on matrices only, a warm-up and a cosine to zero. Muon by choice.

Sources: LRM (arXiv 2311.04400), section 4.1 (configs/base.py has the certainty of each number); Jordan et al. 2024
(Muon), with the scale of updates of Liu et al. 2025 (arXiv 2502.16982).
"""

import jax
import jax.numpy as jnp
import optax
from optax import contrib


def make_optimizer(
  *,
  learning_rate: float,
  beta1: float,
  beta2: float,
  weight_decay: float,
  warmup_steps: int,
  clip_norm: float,
  num_train_steps: int,
  muon: bool = False,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns (transformation, schedule): an update is minus schedule(position) times what the first puts out.

  The schedule is kept apart so that training says where in it a step lies: by its number, or by the clock where
  the time is what is given. With `muon`, the kernels of transformer layers move along orthogonalised momenta, and
  all else as ever. Raises ValueError where the warm-up is longer than the training.
  """
  if not 0 <= warmup_steps < num_train_steps:
    raise ValueError(f'config.optimizer.{warmup_steps=} must be at least 0 and less than config.{num_train_steps=}')
  adam = optax.scale_by_adam(beta1, beta2)
  transform = optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.partition({'muon': _scale_by_muon(), 'adam': adam}, _rule) if muon else adam,
    optax.add_decayed_weights(weight_decay, mask=decayed),
  )
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, num_train_steps, end_value=0.0)
  return transform, schedule


def decayed(params):
  """Returns a tree of booleans: weight decay is for the kernels of linear maps, found by name.

  Not by rank: a bias of stacked layers has two axes. Biases, norms, tokens and position tables do not decay.
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def _rule(params):
  """Muon is for the matrices of stacked transformer layers, but those that read the camera: few numbers, many alike."""

  def label(path, _):
    names = [entry.key for entry in path]
    return 'muon' if names[-1] == 'kernel' and 'blocks' in names and 'modulation' not in names else 'adam'

  return jax.tree_util.tree_map_with_path(label, params)


def _scale_by_muon() -> optax.GradientTransformation:
  """Orthogonalised momenta of kernels [layers, in, out], scaled to the size that updates of Adam have (0.2)."""

  def kernels(params):
    return jax.tree.map(
      lambda x: contrib.MuonDimensionNumbers(reduction_axis=x.ndim - 2, output_axis=x.ndim - 1), params
    )

  def scale(updates, state, params=None):
    del params
    return jax.tree.map(lambda x: x * (0.2 * jnp.sqrt(max(x.shape[-2:]))), updates), state

  return optax.chain(
    contrib.scale_by_muon(weight_dimension_numbers=kernels),
    optax.GradientTransformation(lambda params: optax.EmptyState(), scale),
  )
