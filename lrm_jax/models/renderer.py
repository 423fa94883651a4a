"""The ray marcher: folded planes and rays -> pixels, a chunk of rays at a time.

Rays and objects are mapped over. Chunks run one after another under
`jax.checkpoint`, so that memory grows with the chunk and not with views x rays x samples: this takes the place
of the paper's deferred back-propagation.
Legend: B batch, R rays, S samples, P texels, F channels of the folded planes.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax import rays, volume
from lrm_jax.models import triplane
from lrm_jax.types import Key


def march(
    field: Callable, origins: Float[Array, 'R 3'], directions: Float[Array, 'R 3'], keys: Key | None, *, num_samples: int
) -> volume.Pixels:
  """Returns the pixels [R] that rays show over black; `field` maps points [R, S, 3] to (density [R, S], colour).

  Each ray is sampled and composited on its own, with its own key; the field is asked for all points at once, so that
  what it reads and what its gradient adds to is one table.
  """
  sample = lambda near, far, key: rays.sample_distances(near, far, num_samples, key)
  distances, delta = jax.vmap(sample)(*rays.intersect_cube(origins, directions), keys)
  density, color = field(origins[:, None] + distances[..., None] * directions[:, None])
  return jax.vmap(volume.composite)(density, color, distances, delta)


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
  keys = None if key is None else jax.random.split(key, (len(origins), num_chunks, chunk))

  def split(x):
    x = jnp.pad(x, ((0, 0), (0, num_chunks * chunk - num_rays), (0, 0)))
    return x.reshape(len(x), num_chunks, chunk, -1)

  def one_chunk(planes, rays_and_keys):
    return march(
        lambda points: after_first(triplane.sample_sum(planes, points)), *rays_and_keys, num_samples=num_samples)

  chunks = (split(origins), split(directions), keys)
  if _one_object_at_a_time():
    one_object = lambda planes, chunks: jax.lax.map(jax.checkpoint(functools.partial(one_chunk, planes)), chunks)
    pixels = jax.lax.map(lambda inputs: one_object(*inputs), (planes, chunks))
  else:
    all_objects = jax.checkpoint(lambda chunk: jax.vmap(one_chunk)(planes, chunk))
    by_chunk = lambda tree: jax.tree.map(lambda x: x.swapaxes(0, 1), tree)
    pixels = by_chunk(jax.lax.map(all_objects, by_chunk(chunks)))
  return jax.tree.map(lambda x: x.reshape(len(origins), -1, *x.shape[3:])[:, :num_rays], pixels)


def _one_object_at_a_time() -> bool:
  """A single CPU: the planes of one object, and their gradient, stay in its cache; others want all the rays there are."""
  return jax.default_backend() == 'cpu' and jax.sharding.get_abstract_mesh().size <= 1
