"""Rays: from pixels to origins and directions, through the cube, to sample distances.

World units throughout; directions have unit length, so that distances along a ray are metric.
Legend: R rays, S samples a ray. `...` are any leading dimensions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.types import Key


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
  first, second = (-half_size - origins) / steps, (half_size - origins) / steps
  near = jnp.maximum(jnp.max(jnp.minimum(first, second), axis=-1), 0.0)
  far = jnp.min(jnp.maximum(first, second), axis=-1)
  hit = far > near
  return jnp.where(hit, near, 0.0), jnp.where(hit, far, 0.0)


def sample_distances(
    near: Float[Array, '*r'], far: Float[Array, '*r'], num_samples: int, key: Key | None = None
) -> tuple[Float[Array, '*r s'], Float[Array, '*r 1']]:
  """Returns (distances, delta): one distance in each of `num_samples` equal bins, and the width of a bin.

  Stratified (uniform in its bin) with a `key`, the middle of the bin without one. The width of the bin, not
  the gap between neighbours, is the quadrature weight: the sum is then unbiased under stratification.
  """
  delta = ((far - near) / num_samples)[..., None]
  offset = 0.5 if key is None else jax.random.uniform(key, near.shape + (num_samples,))
  return near[..., None] + delta * (jnp.arange(num_samples) + offset), delta
