"""Training losses: errors of the colour, mask and depth of rendered views, perceptual distance, regularisers.

Sources: LRM (arXiv 2311.04400), section 3.4, for the mean over views of MSE + lambda * LPIPS; OpenLRM for the total
variation; TripoSR for the cross-entropy of the mask. The errors of mask, depth and surface and the entropy of the
opacity are ours.
Legend: B batch, V views, h w window, P texels along a plane's side, C channels.
"""

from collections.abc import Callable, Mapping

from einops import rearrange
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.errors import InputError
from lrm_jax.geometry.volume import Pixels


def needs_depth(weights: Mapping[str, float]) -> bool:
  """Returns whether a loss with these weights (`config.loss`) needs the depth of the targets."""
  return any(weights.get(name, 0.0) > 0 for name in ('depth_weight', 'surface_weight'))


def reconstruction(
  pixels: Pixels,
  target_color: Float[Array, 'B V h w 3'],
  target_opacity: Float[Array, 'B V h w'],
  planes: Float[Array, 'B 3 P P C'],
  *,
  pixel_weight: Float[Array, 'B V h w'] | None = None,
  target_depth: Float[Array, 'B V h w'] | None = None,
  lpips_weight: float = 0.0,
  mask_weight: float = 0.0,
  mask_entropy_weight: float = 0.0,
  opacity_entropy_weight: float = 0.0,
  depth_weight: float = 0.0,
  surface_weight: float = 0.0,
  total_variation_weight: float = 0.0,
  lpips: Callable | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Returns (loss, its terms): MSE + the weighted sum of the terms with a positive weight, averaged over all views.

  `pixel_weight` multiplies the errors of single pixels in the means; it excludes LPIPS, which needs whole windows.
  Terms with weight 0 are not computed. `lpips` maps two batches of images [N, h, w, 3] in 0..1 to distances [N]; it is
  required if `lpips_weight` is positive, as is `target_depth` if `depth_weight` or `surface_weight` is: distances along
  the rays in world units, 0 for background, where there is no error. The depth has no error if the mean of what a ray
  sees is at the surface; the surface has none only if all of it is.
  """
  mse = _mean(jnp.square(pixels.color - target_color), pixel_weight)
  parts = {'mse': mse}
  loss = mse
  if lpips_weight > 0:
    if lpips is None:
      raise InputError(f'{lpips_weight=} needs the network `lpips`')

    def stack(x):
      return rearrange(x, 'b v h w c -> (b v) h w c')

    with jax.named_scope('lpips'):
      parts['lpips'] = jnp.mean(lpips(stack(pixels.color), stack(target_color)))
    loss += lpips_weight * parts['lpips']
  if mask_weight > 0:
    parts['mask'] = _mean(jnp.square(pixels.opacity - target_opacity), pixel_weight)
    loss += mask_weight * parts['mask']
  if mask_entropy_weight > 0:
    parts['mask_entropy'] = cross_entropy(pixels.opacity, target_opacity, pixel_weight)
    loss += mask_entropy_weight * parts['mask_entropy']
  if opacity_entropy_weight > 0:
    parts['opacity_entropy'] = cross_entropy(pixels.opacity, pixels.opacity, pixel_weight)
    loss += opacity_entropy_weight * parts['opacity_entropy']
  if depth_weight > 0 or surface_weight > 0:
    if target_depth is None:
      raise InputError(f'{depth_weight=}, {surface_weight=} need `target_depth`')
    is_object = target_depth > 0
    if depth_weight > 0:
      parts['depth'] = _mean(jnp.where(is_object, jnp.abs(pixels.depth - target_depth), 0.0), pixel_weight)
      loss += depth_weight * parts['depth']
    if surface_weight > 0:
      assert pixels.squared_depth is not None
      # sum_i w_i (t_i - d)^2 of each ray.
      squares = pixels.squared_depth + target_depth * (target_depth * pixels.opacity - 2 * pixels.depth)
      parts['surface'] = _mean(jnp.where(is_object, squares, 0.0), pixel_weight)
      loss += surface_weight * parts['surface']
  if total_variation_weight > 0:
    parts['total_variation'] = total_variation(planes)
    loss += total_variation_weight * parts['total_variation']
  return loss, parts


def cross_entropy(
  opacity: Float[Array, '*b'], target: Float[Array, '*b'], weight: Float[Array, '*b'] | None = None
) -> Float[Array, '']:
  """Returns the mean of -(t log o + (1 - t) log(1 - o)), for opacities o and targets t in 0..1, times the weights.

  Opacities are clipped to [0.001, 0.999], so that gradients are finite.
  """
  opacity = jnp.clip(opacity, 1e-3, 1 - 1e-3)
  return -_mean(target * jnp.log(opacity) + (1 - target) * jnp.log1p(-opacity), weight)


def _mean(error: Float[Array, '...'], weight: Float[Array, '...'] | None) -> Float[Array, '']:
  """Returns the mean of errors, times the weights of their pixels, which may lack the axis of channels."""
  if weight is None:
    return jnp.mean(error)
  return jnp.mean(error * (weight if weight.ndim == error.ndim else weight[..., None]))


def total_variation(planes: Float[Array, 'B 3 P P C']) -> Float[Array, '']:
  """Returns the mean squared difference of neighbouring texels along the height, plus that along the width."""
  return jnp.mean(jnp.square(jnp.diff(planes, axis=2))) + jnp.mean(jnp.square(jnp.diff(planes, axis=3)))
