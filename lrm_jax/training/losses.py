"""Training losses: errors of the colour, mask, depth and normals of rendered views, perceptual distance, regularisers.

Sources: LRM (arXiv 2311.04400), section 3.4, for the mean over views of MSE + lambda * LPIPS; OpenLRM for the total
variation; TripoSR for the cross-entropy of the mask. The errors of mask, depth, surface and normals and the entropy
of the opacity are ours.
Legend: B batch, V views, h w window, P texels along a plane's side, C channels.
"""

from collections.abc import Callable, Mapping

from einops import rearrange
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lrm_jax.errors import InputError
from lrm_jax.geometry.volume import Pixels

_DEPTH_TERMS = ('depth_weight', 'surface_weight', 'normal_weight')
_UNSEEN = 1.0  # World units from the surface at which the part of a ray's light that meets nothing counts.
_NORMAL_STEP = 2  # pixels from a pixel to the neighbours that its normal is made of
MIN_NORMAL_WINDOW = 2 * _NORMAL_STEP + 1  # pixels along a side: smaller windows have no normals
_MIN_OPACITY = 0.05  # The depth of rays that see less has no meaning.
_MIN_COSINE = 0.2  # Where normals and the direction to the camera have less, the neighbours may be of two surfaces.


def needs_depth(weights: Mapping[str, float]) -> bool:
  """Returns whether a loss with these weights (`config.loss`) needs the depth of the targets."""
  return any(weights.get(name, 0.0) > 0 for name in _DEPTH_TERMS)


def reconstruction(
  pixels: Pixels,
  target_color: Float[Array, 'B V h w 3'],
  target_opacity: Float[Array, 'B V h w'],
  planes: Float[Array, 'B 3 P P C'],
  *,
  pixel_weight: Float[Array, 'B V h w'] | None = None,
  target_depth: Float[Array, 'B V h w'] | None = None,
  directions: Float[Array, 'B V h w 3'] | None = None,
  lpips_weight: float = 0.0,
  mask_weight: float = 0.0,
  mask_entropy_weight: float = 0.0,
  opacity_entropy_weight: float = 0.0,
  depth_weight: float = 0.0,
  surface_weight: float = 0.0,
  normal_weight: float = 0.0,
  total_variation_weight: float = 0.0,
  lpips: Callable | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Returns (loss, its terms): MSE + the weighted sum of the terms with a positive weight, averaged over all views.

  `pixel_weight` multiplies the errors of single pixels in the means; it excludes LPIPS and normals, which need whole
  windows.
  Terms with weight 0 are not computed. `lpips` maps two batches of images [N, h, w, 3] in 0..1 to distances [N]; it is
  required if `lpips_weight` is positive. `depth_weight`, `surface_weight` and `normal_weight` need `target_depth`:
  distances along the rays in world units, 0 for background, where there is no error. The depth has no error if the mean
  of what a ray sees is at the surface; the surface has none only if all of it is, and nothing passes. Normals also need
  the unit `directions` of the rays.
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
  if depth_weight > 0 or surface_weight > 0 or normal_weight > 0:
    if target_depth is None:
      raise InputError(f'{depth_weight=}, {surface_weight=}, {normal_weight=} need `target_depth`')
    is_object = target_depth > 0
    if depth_weight > 0:
      parts['depth'] = _mean(jnp.where(is_object, jnp.abs(pixels.depth - target_depth), 0.0), pixel_weight)
      loss += depth_weight * parts['depth']
    if surface_weight > 0:
      assert pixels.squared_depth is not None
      # sum_i w_i (t_i - d)^2 of each ray. What passes counts as far away: else an empty scene would have no error.
      squares = pixels.squared_depth + target_depth * (target_depth * pixels.opacity - 2 * pixels.depth)
      squares += (1 - pixels.opacity) * _UNSEEN**2
      parts['surface'] = _mean(jnp.where(is_object, squares, 0.0), pixel_weight)
      loss += surface_weight * parts['surface']
    if normal_weight > 0:
      assert directions is not None and pixel_weight is None
      parts['normal'] = normal_error(pixels, target_depth, directions)
      loss += normal_weight * parts['normal']
  if total_variation_weight > 0:
    parts['total_variation'] = total_variation(planes)
    loss += total_variation_weight * parts['total_variation']
  return loss, parts


def normal_error(
  pixels: Pixels, target_depth: Float[Array, '*b h w'], directions: Float[Array, '*b h w 3']
) -> Float[Array, '']:
  """Returns the mean of 1 - cos(angle between the normals of the rendered and of the true depth), over all pixels.

  Pixels have no error at the border of the window, at the silhouette, where the depths of two surfaces meet, and where
  the render is empty.
  """
  seen = pixels.opacity > _MIN_OPACITY
  depth = jnp.where(seen, pixels.depth / jnp.where(seen, pixels.opacity, 1.0), 0.0)
  target = normals(target_depth, directions)
  k = _NORMAL_STEP
  facing = -jnp.sum(target * directions[..., k:-k, k:-k, :], axis=-1) > _MIN_COSINE
  valid = facing & _with_neighbours(target_depth > 0) & _with_neighbours(seen)
  error = jnp.where(valid, 1 - jnp.sum(normals(depth, directions) * target, axis=-1), 0.0)
  return jnp.sum(error) / target_depth.size


def normals(depth: Float[Array, '*b h w'], directions: Float[Array, '*b h w 3']) -> Float[Array, '*b h-4 w-4 3']:
  """Returns the unit normals, towards the camera, of the points at these distances along rays from one origin.

  They are the cross products of central differences over 4 pixels, since rays that are sampled at random are noisy. The
  border of 2 pixels has none.
  """
  points, k = depth[..., None] * directions, _NORMAL_STEP
  down = points[..., 2 * k :, k:-k, :] - points[..., : -2 * k, k:-k, :]
  right = points[..., k:-k, 2 * k :, :] - points[..., k:-k, : -2 * k, :]
  normal = jnp.cross(down, right)
  squares = jnp.sum(jnp.square(normal), axis=-1, keepdims=True)
  return normal * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))


def _with_neighbours(mask: Bool[Array, '*b h w']) -> Bool[Array, '*b h-4 w-4']:
  """Returns where a pixel and the four that its normal is made of are all True."""
  k = _NORMAL_STEP
  across = mask[..., k:-k, 2 * k :] & mask[..., k:-k, : -2 * k]
  return mask[..., k:-k, k:-k] & mask[..., 2 * k :, k:-k] & mask[..., : -2 * k, k:-k] & across


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
