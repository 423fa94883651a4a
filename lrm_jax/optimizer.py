"""AdamW as LRM trains: clipped gradients, decay on matrices only, a warm-up and a cosine to zero.

Source: LRM (arXiv 2311.04400), section 4.1; see configs/base.py for the certainty of each number.
"""

import jax
import optax


def make_optimizer(
    *, learning_rate: float, beta1: float, beta2: float, weight_decay: float, warmup_steps: int,
    clip_norm: float, num_train_steps: int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns (transformation, schedule): an update is minus schedule(position) times what the first puts out.

  The schedule is kept apart so that training says where in it a step lies: by its number, or by the clock where
  the time is what is given. Raises ValueError where the warm-up is longer than the training.
  """
  if not 0 <= warmup_steps < num_train_steps:
    raise ValueError(f'config.optimizer.{warmup_steps=} must be at least 0 and less than config.{num_train_steps=}')
  transform = optax.chain(
      optax.clip_by_global_norm(clip_norm),
      optax.scale_by_adam(beta1, beta2),
      optax.add_decayed_weights(weight_decay, mask=decayed),
  )
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, num_train_steps, end_value=0.0)
  return transform, schedule


def decayed(params):
  """Returns a tree of booleans: weight decay is for the kernels of linear maps, found by name.

  Not by rank: a bias of stacked layers has two axes. Biases, norms, tokens and position tables do not decay.
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
