"""The ray marcher: folded planes and rays -> pixels, a chunk of rays at a time.

A ray is marched on its own; rays and objects are mapped over. Chunks run one after another under
`jax.checkpoint`, so that memory grows with the chunk and not with views x rays x samples: this takes the place
of the paper's deferred back-propagation.
Legend: B batch, R rays, S samples, P texels, F channels of the folded planes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax import rays, volume
from lrm_jax.models import triplane
from lrm_jax.types import Key


def march(
    field: Callable, origin: Float[Array, '3'], direction: Float[Array, '3'], key: Key | None, *, num_samples: int
) -> volume.Pixels:
  """Returns the pixel that one ray shows over black; `field` maps points [S, 3] to (density [S], colour [S, 3])."""
  near, far = rays.intersect_cube(origin, direction)
  distances, delta = rays.sample_distances(near, far, num_samples, key)
  density, color = field(origin + distances[:, None] * direction)
  return volume.composite(density, color, distances, delta)


def render_rays(
    planes: Float[Array, 'B 3 P P F'], after_first: Callable, origins: Float[Array, 'B R 3'],
    directions: Float[Array, 'B R 3'], key: Key | None = None, *, num_samples: int, rays_per_chunk: int,
) -> volume.Pixels:
  """Returns the pixels [B, R] of all rays over black.

  `after_first` is the rest of the NeRF MLP. At most `rays_per_chunk` rays of each object are in flight; the last
  chunk is filled up with rays of no length. Stratified with a `key`, deterministic without.
  """
  num_rays = origins.shape[1]
  chunk = min(rays_per_chunk, num_rays)
  num_chunks = -(-num_rays // chunk)
  keys = None if key is None else jax.random.split(key, (num_chunks, len(origins), chunk))

  def split(x):
    x = jnp.pad(x, ((0, 0), (0, num_chunks * chunk - num_rays), (0, 0)))
    return x.reshape(len(x), num_chunks, chunk, -1).swapaxes(0, 1)

  def one_object(planes, origins, directions, keys):
    field = lambda points: after_first(triplane.sample_sum(planes, points))
    one_ray = lambda origin, direction, key: march(field, origin, direction, key, num_samples=num_samples)
    return jax.vmap(one_ray, in_axes=(0, 0, None if keys is None else 0))(origins, directions, keys)

  @jax.checkpoint
  def one_chunk(chunk):
    return jax.vmap(one_object, in_axes=(0, 0, 0, None if keys is None else 0))(planes, *chunk)

  pixels = jax.lax.map(one_chunk, (split(origins), split(directions), keys))
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(len(origins), -1, *x.shape[3:])[:, :num_rays], pixels)
