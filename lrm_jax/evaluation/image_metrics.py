"""Image metrics: PSNR, SSIM, mask IoU and depth error; functions of arrays on a device, used in compiled code.

Images are in 0..1 with channels last. Everything is float32, and exact to 1e-5 against scikit-image in float64.
Legend: V views, H W image; ... any leading dimensions.
"""

from collections.abc import Callable, Mapping
import types

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lrm_jax.errors import InputError

_RADIUS, _SIGMA = 5, 1.5  # pixels, the Gaussian window of SSIM
SMALLEST = 2 * _RADIUS + 1  # pixels along a side of an image
Networks = Mapping[str, Callable]  # metric -> network that compares two batches of images [N, H, W, 3]
NO_NETWORKS: Networks = types.MappingProxyType({})


def psnr(image: Float[Array | np.ndarray, '... H W 3'], reference) -> Float[Array, '...']:
  """Returns the peak signal-to-noise ratio in dB, at most 100, of images in 0..1."""
  error = jnp.mean(jnp.square(jnp.asarray(image, jnp.float32) - reference), axis=(-3, -2, -1))
  return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def ssim(image: Float[Array | np.ndarray, '... H W 3'], reference) -> Float[Array, '...']:
  """Returns the structural similarity of images in 0..1.

  Uses a Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01 and K2 = 0.03. The result is the mean over all pixels
  whose window lies inside the image. Raises InputError for images smaller than 11 x 11 pixels.
  Source: Wang et al. 2004.
  """
  if min(image.shape[-3:-1]) < SMALLEST:
    raise InputError(f'SSIM needs images of at least 11 x 11 pixels, not {image.shape[-3]} x {image.shape[-2]}')
  # Variances do not depend on the mean. Around 0, the squares lose a quarter of the digits that they lose around 1,
  # the white background, where K2^2 = 0.0009 would be no longer large against the rounding error.
  x, y = jnp.asarray(image, jnp.float32) - 0.5, jnp.asarray(reference, jnp.float32) - 0.5
  mean_x, mean_y, xx, yy, xy = _blur(jnp.stack([x, y, x * x, y * y, x * y]))
  var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
  mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
  c1, c2 = 0.01**2, 0.03**2
  numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
  denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
  return jnp.mean(numerator / denominator, axis=(-3, -2, -1))


def mask_iou(opacity: Float[Array, '... H W'], reference: Float[Array, '... H W']) -> Float[Array, '...']:
  """Returns the intersection over union of the pixels whose opacity is above 0.5; 1 if both masks are empty."""
  seen, true = opacity > 0.5, reference > 0.5
  both, either = jnp.sum(seen & true, axis=(-2, -1)), jnp.sum(seen | true, axis=(-2, -1))
  return jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)


def depth_error(
  depth: Float[Array, '... H W'], opacity: Float[Array, '... H W'], reference: Float[Array, '... H W']
) -> Float[Array, '...']:
  """Returns the mean absolute error of the depth, in the unit of `reference`, without aligning scale or shift.

  `depth` is sum_i w_i t_i, so depth / opacity is the distance along the ray. `reference` is 0 for background. The mean
  is over pixels where both show the object (opacity above 0.5); it is NaN if there is none.
  """
  both = (opacity > 0.5) & (reference > 0)
  error = jnp.where(both, jnp.abs(depth / jnp.maximum(opacity, 0.5) - reference), 0)
  return jnp.sum(error, axis=(-2, -1)) / jnp.sum(both, axis=(-2, -1))


def compare(pixels, reference: dict, networks: Networks = NO_NETWORKS) -> dict[str, Float[Array, '...']]:
  """Returns the metrics {name: [...]} of pixels (color, depth, opacity; the last two may be None).

  `reference` has color [..., H, W, 3], opacity [..., H, W] and optionally depth [..., H, W]. Each of `networks`, such
  as LPIPS, adds a metric. `mask_iou` is computed if the pixels have an opacity, `depth_error` if both have depth.
  """
  result = {'psnr': psnr(pixels.color, reference['color']), 'ssim': ssim(pixels.color, reference['color'])}

  def flat(x):
    return x.reshape(-1, *x.shape[-3:])

  for name, network in networks.items():
    values = network(flat(jnp.asarray(pixels.color, jnp.float32)), flat(reference['color']))
    result[name] = values.reshape(pixels.color.shape[:-3])
  if pixels.opacity is not None:
    result['mask_iou'] = mask_iou(pixels.opacity, reference['opacity'])
    if pixels.depth is not None and 'depth' in reference:
      result['depth_error'] = depth_error(pixels.depth, pixels.opacity, reference['depth'])
  return result


def _blur(x: Float[Array, '... H W C']) -> Float[Array, '... h w C']:
  """Convolves H and W with the Gaussian window, without padding; equally weighted pixels are added first."""
  weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
  weights = (weights / weights.sum()).astype(np.float32)
  for axis in (x.ndim - 3, x.ndim - 2):
    size = x.shape[axis] - 2 * _RADIUS

    def shifted(offset, x=x, axis=axis, size=size):
      return jax.lax.slice_in_dim(x, offset, offset + size, axis=axis)

    pairs = (weights[i] * (shifted(i) + shifted(2 * _RADIUS - i)) for i in range(_RADIUS))
    x = sum(pairs, start=weights[_RADIUS] * shifted(_RADIUS))
  return x
