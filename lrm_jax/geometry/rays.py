"""Rays: from pixels to origins and directions, through the cube, to sample distances.

World units throughout; directions have unit length, so that distances along a ray are metric.
Legend: R rays, S samples a ray. `...` are any leading dimensions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
import numpy as np


def pixel_rays(
  camera_to_world: Float[Array, '*b 4 4'], intrinsics: Float[Array, '*b 4'], size: int
) -> tuple[Float[Array, '*b size size 3'], Float[Array, '*b size size 3']]:
  """Returns (origins, directions) of the rays through the pixel centres of a size x size picture.

  Pixel (row i, column j) has its centre at ((j + 0.5) / size, (i + 0.5) / size); the camera looks along -z
  and its y axis points up, so rows run against y.
  """
  centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
  focal, principal = intrinsics[..., None, :2], intrinsics[..., None, 2:]
  x = (centre[:, None] - principal)[..., 0] / focal[..., 0]  # [..., W]
  y = (centre[:, None] - principal)[..., 1] / focal[..., 1]  # [..., H]
  x, y = jnp.broadcast_arrays(x[..., None, :], y[..., :, None])
  local = jnp.stack([x, -y, -jnp.ones_like(x)], axis=-1)
  directions = jnp.einsum('...ij,...hwj->...hwi', camera_to_world[..., :3, :3], local)
  directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
  origins = jnp.broadcast_to(camera_to_world[..., None, None, :3, 3], directions.shape)
  return origins, directions


def intersect_cube(
  origins: Float[Array, '*r 3'], directions: Float[Array, '*r 3'], half_size: float = 1.0
) -> tuple[Float[Array, '*r'], Float[Array, '*r']]:
  """Returns (near, far), the distances at which rays enter and leave the cube [-half_size, half_size]^3.

  A ray that starts inside has near = 0; one that misses has near = far, an interval of no length, so that
  nothing is seen along it. A direction component near zero is moved off zero: such a ray runs between two
  faces for practically ever, or misses, and either way no infinity reaches the gradients.
  """
  steps = jnp.where(jnp.abs(directions) < 1e-7, jnp.where(directions < 0, -1e-7, 1e-7), directions)
  inverse = 1 / steps  # Times it, not divided by the steps: weights from elsewhere were rounded so.
  first, second = (-half_size - origins) * inverse, (half_size - origins) * inverse
  near = jnp.maximum(jnp.max(jnp.minimum(first, second), axis=-1), 0.0)
  far = jnp.min(jnp.maximum(first, second), axis=-1)
  hit = far > near
  return jnp.where(hit, near, 0.0), jnp.where(hit, far, 0.0)


def sample_distances(
  near: Float[Array, '*r'], far: Float[Array, '*r'], num_samples: int, key: Key[Array, ''] | None = None
) -> tuple[Float[Array, '*r s'], Float[Array, '*r 1']]:
  """Returns (distances, delta): one distance in each of `num_samples` equal bins, and the width of a bin.

  Stratified (uniform in its bin) with a `key`, the middle of the bin without one. The width of the bin, not
  the gap between neighbours, is the quadrature weight: the sum is then unbiased under stratification.
  """
  delta = ((far - near) / num_samples)[..., None]
  offset = 0.5 if key is None else jax.random.uniform(key, near.shape + (num_samples,))
  return near[..., None] + delta * (jnp.arange(num_samples) + offset), delta


def rounded(product: Float[Array, '*n']) -> Float[Array, '*n']:
  """Returns a product as it is, and keeps compilers from adding to it before it is rounded (FMA).

  Where the last bit decides, as whether a point on a face of the cube is inside, weights from elsewhere were trained
  with each step rounded.
  """
  return jnp.maximum(product, -jnp.finfo(jnp.float32).max)


def sample_ends(
  near: Float[Array, '*r'], far: Float[Array, '*r'], num_samples: int, key: Key[Array, ''] | None = None
) -> Float[Array, '*r s']:
  """Returns `num_samples` distances from `near` to `far`, both ends among them; at least 2.

  With a `key` each is moved on by a random part of the gap to the next, the last one too, beyond `far`.
  Source: OpenLRM's sampler (SPEC.md); where bins are wanted, `sample_distances` takes their middles.
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
  """Returns distances drawn where `weights` of the i = s - 1 intervals between `distances` are: importance sampling.

  Weights are widened to the neighbours (a maximum, then a mean of two) and 0.01 is added. They make up a histogram
  whose bins lie between the middles of intervals; `uniform` numbers in 0..1 are mapped by the inverse of its
  cumulative sum, linearly in each bin. The first and the last interval have no bin of their own. At least 4 distances.
  No gradient passes. Source: NeRF, section 5.2; mip-NeRF's widening; OpenLRM's numbers (SPEC.md).
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
  after = jnp.sum(cumulative[..., None, :] <= uniform[..., None], axis=-1)  # How many lie at or before each number.
  below, above = jnp.maximum(after - 1, 0), jnp.minimum(after, cumulative.shape[-1] - 1)

  def take(x, index):
    return jnp.take_along_axis(x, index, axis=-1)

  length = take(cumulative, above) - take(cumulative, below)
  part = (uniform - take(cumulative, below)) / jnp.where(length < 1e-5, 1, length)
  start, end = take(middles, below), take(middles, above)
  return jax.lax.stop_gradient(start + part * (end - start))
