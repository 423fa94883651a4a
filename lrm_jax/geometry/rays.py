"""Rays: origins and directions of pixels, intersection with the cube, and sample distances along rays.

All lengths are in world units. Directions have unit length, so that distances along a ray are metric.
Legend: r rays, s samples per ray, i = s - 1 intervals, f fine samples, *b any leading dimensions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
import numpy as np


def pixel_rays(
  camera_to_world: Float[Array, '*b 4 4'], intrinsics: Float[Array, '*b 4'], size: int
) -> tuple[Float[Array, '*b size size 3'], Float[Array, '*b size size 3']]:
  """Returns (origins, directions) of the rays through the pixel centres of a size x size image.

  The centre of the pixel in row i, column j is ((j + 0.5) / size, (i + 0.5) / size). The camera looks along -z and its
  y axis points up, so y decreases from one row to the next.
  """
  centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
  focal, principal = intrinsics[..., None, :2], intrinsics[..., None, 2:]
  x = (centre[:, None] - principal)[..., 0] / focal[..., 0]  # [..., W]
  y = (centre[:, None] - principal)[..., 1] / focal[..., 1]  # [..., H]
  return _rays(camera_to_world, *jnp.broadcast_arrays(x[..., None, :], y[..., :, None]))


def rays_at(
  camera_to_world: Float[Array, '*b 4 4'], intrinsics: Float[Array, '*b 4'], positions: Float[Array, '*b h w 2']
) -> tuple[Float[Array, '*b h w 3'], Float[Array, '*b h w 3']]:
  """Returns (origins, directions) of the rays through positions (x, y) of an image, in 0..1 from its top left."""
  focal, principal = intrinsics[..., None, None, :2], intrinsics[..., None, None, 2:]
  offsets = (positions - principal) / focal
  return _rays(camera_to_world, offsets[..., 0], offsets[..., 1])


def _rays(
  camera_to_world: Float[Array, '*b 4 4'], x: Float[Array, '*b h w'], y: Float[Array, '*b h w']
) -> tuple[Float[Array, '*b h w 3'], Float[Array, '*b h w 3']]:
  """Returns (origins, unit directions) of rays, given the tangents of their angles to the right and downwards."""
  local = jnp.stack([x, -y, -jnp.ones_like(x)], axis=-1)
  # Explicit precision: TPUs would round to bfloat16, which moves rays by up to 1.6 pixels at 384 px, and GPUs to TF32.
  directions = jnp.einsum(
    '...ij,...hwj->...hwi', camera_to_world[..., :3, :3], local, precision=jax.lax.Precision.HIGHEST
  )
  directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
  origins = jnp.broadcast_to(camera_to_world[..., None, None, :3, 3], directions.shape)
  return origins, directions


def intersect_cube(
  origins: Float[Array, '*r 3'], directions: Float[Array, '*r 3'], half_size: float = 1.0
) -> tuple[Float[Array, '*r'], Float[Array, '*r']]:
  """Returns (near, far), the distances at which rays enter and leave the cube [-half_size, half_size]^3.

  If a ray starts inside the cube, near = 0. If it misses, near = far = 0: the interval is empty, so nothing is seen
  along the ray. Direction components close to zero are replaced by +-1e-7, so that no infinities reach the gradients;
  such a ray still hits or misses as the parallel ray does.
  """
  steps = jnp.where(jnp.abs(directions) < 1e-7, jnp.where(directions < 0, -1e-7, 1e-7), directions)
  inverse = 1 / steps  # Multiplies by the inverse instead of dividing, to match OpenLRM's rounding.
  first, second = (-half_size - origins) * inverse, (half_size - origins) * inverse
  near = jnp.maximum(jnp.max(jnp.minimum(first, second), axis=-1), 0.0)
  far = jnp.min(jnp.maximum(first, second), axis=-1)
  hit = far > near
  return jnp.where(hit, near, 0.0), jnp.where(hit, far, 0.0)


def sample_distances(
  near: Float[Array, '*r'], far: Float[Array, '*r'], num_samples: int, key: Key[Array, ''] | None = None
) -> tuple[Float[Array, '*r s'], Float[Array, '*r 1']]:
  """Returns (distances, delta): one distance in each of `num_samples` equal bins, and the width of a bin.

  With a `key`, samples are stratified (uniform within their bins); without one, they are the midpoints of the bins. The
  quadrature weight is the width of a bin, not the gap between neighbouring samples, so that the sum is unbiased under
  stratified sampling.
  """
  delta = ((far - near) / num_samples)[..., None]
  offset = 0.5 if key is None else jax.random.uniform(key, near.shape + (num_samples,))
  return near[..., None] + delta * (jnp.arange(num_samples) + offset), delta


def rounded(product: Float[Array, '*n']) -> Float[Array, '*n']:
  """Identity that stops the compiler from fusing this product into an FMA, to match the original's rounding.

  OpenLRM was trained with each operation rounded, and sometimes the last bit decides: for example, whether a point on
  a face of the cube counts as inside.
  """
  return jnp.maximum(product, -jnp.finfo(jnp.float32).max)


def sample_ends(
  near: Float[Array, '*r'], far: Float[Array, '*r'], num_samples: int, key: Key[Array, ''] | None = None
) -> Float[Array, '*r s']:
  """Returns `num_samples` (at least 2) equally spaced distances from `near` to `far`, including both ends.

  With a `key`, each distance is increased by a random fraction of the gap, so the last one may exceed `far`.
  Source: OpenLRM's sampler (tests/golden/README.md). `sample_distances` samples the midpoints of bins instead.
  """
  offset = np.arange(num_samples, dtype=np.float32) / np.float32(num_samples - 1)
  distances = near[..., None] + rounded((far - near)[..., None] * offset)
  if key is not None:
    jitter = jax.random.uniform(key, near.shape + (num_samples,))
    distances += jitter * ((far - near) / (num_samples - 1))[..., None]
  return distances


def sample_where_weights_are(
  distances: Float[Array, '*r s'], weights: Float[Array, '*r i'], uniform: Float[Array, '*r f']
) -> Float[Array, '*r f']:
  """Returns distances drawn in proportion to the `weights` of the i = s - 1 intervals: importance sampling.

  The weights are blurred with their neighbours (a maximum, then a mean of two) and padded by 0.01. They form a
  histogram whose bins lie between the midpoints of the intervals, without the first and the last interval. `uniform`
  numbers in 0..1 are mapped by the inverse of its cumulative distribution, which is linear within each bin. Needs at
  least 4 distances. Gradients are stopped.
  Source: NeRF, section 5.2 (inverse transform sampling); mip-NeRF (blur); OpenLRM (constants; tests/golden/README.md).
  """
  weights = jax.lax.stop_gradient(weights)

  def edge(x):
    return jnp.concatenate([x[..., :1], x, x[..., -1:]], axis=-1)

  widened = jnp.maximum(edge(weights)[..., :-1], edge(weights)[..., 1:])
  widened = (widened[..., :-1] + widened[..., 1:]) / 2 + 0.01
  middles = (distances[..., :-1] + distances[..., 1:]) / 2
  probability = widened[..., 1:-1] + 1e-5
  cumulative = jnp.cumsum(probability / jnp.sum(probability, axis=-1, keepdims=True), axis=-1)
  cumulative = jnp.concatenate([jnp.zeros_like(cumulative[..., :1]), cumulative], axis=-1)
  # Index of the first bin edge above each number, like `searchsorted` with side='right'.
  after = jnp.sum(cumulative[..., None, :] <= uniform[..., None], axis=-1)
  below, above = jnp.maximum(after - 1, 0), jnp.minimum(after, cumulative.shape[-1] - 1)

  def take(x, index):
    return jnp.take_along_axis(x, index, axis=-1)

  length = take(cumulative, above) - take(cumulative, below)
  part = (uniform - take(cumulative, below)) / jnp.where(length < 1e-5, 1, length)
  start, end = take(middles, below), take(middles, above)
  return jax.lax.stop_gradient(start + part * (end - start))
