"""The optimizer: AdamW with gradient clipping, weight decay on kernels only, warm-up and cosine schedule; or Muon.

Sources: LRM (arXiv 2311.04400), section 4.1 (configs/base.py tags the source of each value); Muon: Jordan et al. 2024,
with the scale of updates of Liu et al. 2025 (arXiv 2502.16982).
"""

from collections.abc import Callable, Mapping, Sequence
import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from lrm_jax.errors import InputError

_LAYERED = ('encoder', 'decoder')  # The parts of a model with `blocks`.
_BEFORE_LAYERS = {
  'patch_embedding',
  'class_token',
  'position_embedding',
  'registers',
  'tokens',
  'camera_embedding',
  'first',
}


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
  freeze: Sequence[str] = (),
  multipliers: Sequence[str] = (),
  layer_decay: Sequence[str] = (),
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns (transformation, schedule). A step changes the parameters by -schedule(position) * transformed gradient.

  The schedule is separate because its position may be driven by the step or by elapsed time. With `muon`, the kernels
  of transformer layers use Muon's orthogonalised momentum, and all other parameters use Adam.
  Parameters whose path matches a pattern of `freeze` do not change and have no optimizer state. `multipliers` are texts
  PATTERN=FACTOR; a factor multiplies the learning rate of the parameters that match its pattern, weight decay included,
  and the last pattern that matches counts. Patterns are those of shells: '*' also matches '/', and a pattern after '!'
  stands for all parameters that it does not match. `layer_decay` are texts PART=FACTOR, see `layer_factors`; these
  factors and the multipliers are multiplied. Raises InputError unless the warm-up is shorter than the training and
  these texts are well-formed.
  """
  if not 0 <= warmup_steps < num_train_steps:
    raise InputError(f'config.optimizer.{warmup_steps=} must be at least 0 and less than config.{num_train_steps=}')
  adam = optax.scale_by_adam(beta1, beta2)
  scale, decay = parse_multipliers(multipliers), parse_layer_decay(layer_decay)
  parts = [
    optax.clip_by_global_norm(clip_norm),
    optax.partition({'muon': _scale_by_muon(), 'adam': adam}, _optimizer_names) if muon else adam,
    optax.add_decayed_weights(weight_decay, mask=decayed),
  ]
  if multipliers:
    parts.append(
      optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(lambda path, x: x * scale(name(path)), updates)
      )
    )
  transform = optax.chain(*parts)
  if freeze:

    def labels(params):
      return jax.tree.map(lambda frozen: 'frozen' if frozen else 'trained', frozen_parameters(params, freeze))

    transform = optax.partition({'trained': transform, 'frozen': optax.set_to_zero()}, labels)
  if decay:
    transform = optax.chain(
      transform,
      optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, layer_factors(updates, decay))),
    )
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, num_train_steps, end_value=0.0)
  return transform, schedule


def name(path) -> str:
  """Returns the name of a parameter, such as 'encoder/blocks/mlp/expand/kernel', given its path in a tree."""
  return '/'.join(str(entry.key) for entry in path)


def frozen_parameters(params, freeze: Sequence[str]):
  """Returns a tree of booleans that is True for parameters whose name matches one of the patterns `freeze`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: any(_matches(name(path), pattern) for pattern in freeze), params
  )


def _matches(parameter: str, pattern: str) -> bool:
  if pattern.startswith('!'):
    return not fnmatch.fnmatchcase(parameter, pattern[1:])
  return fnmatch.fnmatchcase(parameter, pattern)


def parse_multipliers(multipliers: Sequence[str]) -> Callable[[str], float]:
  """Returns a function from the name of a parameter to its multiplier. Raises InputError for a malformed text."""
  pairs = []
  for text in multipliers:
    pattern, _, factor = text.rpartition('=')
    try:
      pairs.append((pattern, float(factor)))
    except ValueError:
      pairs.append(('', -1.0))
    if not pairs[-1][0] or not pairs[-1][1] >= 0:
      raise InputError(
        f'config.optimizer.multipliers has {text!r}: write PATTERN=FACTOR with a factor of at least 0, such as '
        "'encoder/*=0.1'"
      )
  return lambda parameter: next((f for pattern, f in reversed(pairs) if _matches(parameter, pattern)), 1.0)


def parse_layer_decay(texts: Sequence[str]) -> dict[str, float]:
  """Returns {part of the model: decay per layer} of texts PART=FACTOR. Raises InputError for a malformed text."""
  decay = {}
  for text in texts:
    part, _, factor = text.partition('=')
    try:
      decay[part] = float(factor)
    except ValueError:
      decay[part] = 0.0
    if part not in _LAYERED or not 0 < decay[part] <= 1:
      raise InputError(
        f'config.optimizer.layer_decay has {text!r}: write PART=FACTOR, where PART is {" or ".join(_LAYERED)} and the '
        "factor is above 0 and at most 1, such as 'encoder=0.75'"
      )
  return decay


def layer_factors(params, decay: Mapping[str, float]):
  """Returns a tree of the factors of the learning rate; for stacked layers, one for each layer, along the first axis.

  In a part of the model with L layers and a decay d, it is d^(L - l) for layer l = 0 ... L - 1, d^(L + 1) for what
  comes before them (position tables, tokens, patch and camera embeddings), and 1 for what follows them, as in BEiT (Bao
  et al. 2021).
  """

  def factors(path, leaf):
    part, child = path[0].key, path[1].key if len(path) > 1 else ''
    if part not in decay:
      return 1.0
    depth = jax.tree.leaves(params[part]['blocks'])[0].shape[0]
    if child == 'blocks':
      return (decay[part] ** (depth - np.arange(depth))).reshape(-1, *[1] * (leaf.ndim - 1)).astype(np.float32)
    # TripoSR's decoder has a norm and a linear layer, `first`, before its layers; in the others the norm follows them.
    before = _BEFORE_LAYERS | ({'norm'} if 'first' in params[part] else set())
    return decay[part] ** (depth + 1) if child in before else 1.0

  return jax.tree_util.tree_map_with_path(factors, params)


def check_patterns(params, freeze: Sequence[str], multipliers: Sequence[str]) -> None:
  """Raises InputError if a pattern matches no parameter, or if all parameters are frozen."""
  names = [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  for pattern in [*freeze, *(text.rpartition('=')[0] for text in multipliers)]:
    if not any(_matches(parameter, pattern) for parameter in names):
      raise InputError(
        f'config.optimizer: the pattern {pattern!r} matches no parameter; their names are like {names[0]!r} and '
        f'{names[-1]!r}'
      )
  if freeze and all(jax.tree.leaves(frozen_parameters(params, freeze))):
    raise InputError(f'config.optimizer.freeze = {tuple(freeze)} leaves no parameter to train')


def decayed(params):
  """Returns a tree of booleans that is True for the kernels of linear layers, the only parameters with weight decay.

  Biases, norms, tokens and position tables do not decay, nor does TripoSR's pooler: it is unused, and is kept so that
  its files can be written back unchanged. Kernels are found by name and not by rank, because the biases
  of stacked layers have two axes.
  """

  def rule(path, _):
    return path[-1].key == 'kernel' and path[0].key != 'pooler'

  return jax.tree_util.tree_map_with_path(rule, params)


def _optimizer_names(params):
  """Returns a tree of 'muon' and 'adam': Muon for the kernels of transformer layers, except the modulation kernels.

  Modulation kernels read the camera embedding, whose inputs are few numbers, often similar.
  """

  def label(path, _):
    names = [entry.key for entry in path]
    return 'muon' if names[-1] == 'kernel' and 'blocks' in names and 'modulation' not in names else 'adam'

  return jax.tree_util.tree_map_with_path(label, params)


def _scale_by_muon() -> optax.GradientTransformation:
  """Returns Muon for kernels [layers, in, out], scaled so that its updates have the typical RMS of Adam's (0.2)."""

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
