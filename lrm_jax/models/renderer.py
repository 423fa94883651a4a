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
from jaxtyping import Array, Float, Key

from lrm_jax.distributed import backend
from lrm_jax.geometry import rays, volume

# Of rays that a CPU computes at once: 16,384 x 64 numbers of a layer are 4 MB. 128 x 128 rays of 128 samples take 0.35 s so,
# 0.70 in chunks of 4,096 rays; forward and backward 4.0 and 5.3 (2 cores, 2026-11-25).
_SAMPLES_IN_CACHE = 2**14
_RAYS = 4096  # in flight, of each object, where the memory is not known
_SHARE_OF_MEMORY = 0.2  # of a device, for rays in flight
_EMPTY = -float(jnp.finfo(jnp.float32).max) / 8  # A density before its activation: 0 after it, and means with it too.


def bins(
  origins: Float[Array, 'R 3'], directions: Float[Array, 'R 3'], keys: Key[Array, 'R'] | None, *, num_samples: int
) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
  """Returns (distances, delta) of samples in equal bins of each ray's way through the cube [-1, 1]^3."""

  def sample(near, far, key):
    return rays.sample_distances(near, far, num_samples, key)

  return jax.vmap(sample)(*rays.intersect_cube(origins, directions), keys)


def normalised_bins(
  origins: Float[Array, 'R 3'],
  directions: Float[Array, 'R 3'],
  keys: Key[Array, 'R'] | None,
  *,
  num_samples: int,
  half_size: float,
) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
  """Returns (distances, delta) by TripoSR's rule: each step counts as 1 / num_samples, however long it is.

  The cube is a thousandth smaller than [-half_size, half_size]^3, and rays through less than 0.01 of it see nothing.
  Source: SPEC.md.
  """
  near, far = rays.intersect_cube(origins, directions, 0.999 * half_size)

  def sample(near, far, key):
    return rays.sample_distances(near, far, num_samples, key)

  distances, _ = jax.vmap(sample)(near, far, keys)
  return distances, jnp.where(far - near > 0.01, 1 / num_samples, 0.0)[:, None]


def march(
  field: Callable,
  origins: Float[Array, 'R 3'],
  directions: Float[Array, 'R 3'],
  distances: Float[Array, 'R S'],
  delta: Float[Array, 'R 1'],
) -> volume.Pixels:
  """Returns the pixels [R] that rays show over black; `field` maps points [R, S, 3] to (density [R, S], colour).

  Each ray is composited on its own; the field is asked for all points at once, so that what it reads and what its
  gradient adds to is one table.
  """
  density, color = field(origins[:, None] + distances[..., None] * directions[:, None])
  return jax.vmap(volume.composite)(density, color, distances, delta)


def march_twice(
  field: Callable,
  density: Callable,
  origins: Float[Array, 'R 3'],
  directions: Float[Array, 'R 3'],
  keys: Key[Array, 'R'] | None,
  *,
  num_samples: int,
) -> volume.Pixels:
  """Returns the pixels [R] over black by OpenLRM's rule: half of the samples evenly, half where those found something.

  `field` maps points to (density before its activation, colour), `density` is that activation. What lies outside of
  the cube [-1, 1]^3, its faces not, counts as empty. Unlike OpenLRM's, a ray that starts in the cube does not see what
  lies behind it. Source: SPEC.md.
  """
  half = num_samples // 2
  near, far = rays.intersect_cube(origins, directions)

  def evenly(near, far, key):
    return rays.sample_ends(near, far, half, key)

  if keys is None:
    even_keys, uniform = None, jnp.broadcast_to((jnp.arange(half) + 0.5) / half, (len(origins), half))
  else:
    even_keys, fine_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (half,)))(fine_keys)

  def look(distances):
    points = origins[:, None] + rays.rounded(distances[..., None] * directions[:, None])
    raw, color = field(points)
    inside = jnp.all(jnp.abs(points) <= 1, axis=-1)
    return jnp.where(inside, raw, _EMPTY), jnp.where(inside[..., None], color, 0)

  coarse = jax.vmap(evenly)(near, far, even_keys)
  raw, color = look(coarse)
  _, weights = volume.composite_intervals(raw, color, coarse, density)
  fine = rays.sample_where_weights_are(coarse, weights, uniform)
  seen = (jnp.concatenate([a, b], axis=1) for a, b in zip((coarse, raw, color), (fine, *look(fine))))
  distances, raw, color = seen
  order = jnp.argsort(distances, axis=1)
  distances, raw = (jnp.take_along_axis(x, order, axis=1) for x in (distances, raw))
  color = jnp.take_along_axis(color, order[..., None], axis=1)
  return volume.composite_intervals(raw, color, distances, density)[0]


def render_rays(
  planes: Float[Array, 'B 3 P P F'],
  trace: Callable,
  origins: Float[Array, 'B R 3'],
  directions: Float[Array, 'B R 3'],
  key: Key[Array, ''] | None = None,
  *,
  rays_per_chunk: int | None,
  num_samples: int,
) -> volume.Pixels:
  """Returns the pixels [B, R] of all rays over black.

  `trace` maps (planes of one object, origins [R, 3], directions [R, 3], keys [R] or None) to the pixels of its rays.
  At most `rays_per_chunk` rays of each object are computed at once (None: all), fewer where a CPU's caches hold no more
  of their samples. The last chunk is padded with rays of no length. Stratified with a `key`, deterministic without.
  """
  num_rays = origins.shape[1]
  chunk = min(rays_per_chunk or num_rays, num_rays)
  one_at_a_time = backend.current().one_object_at_a_time
  if one_at_a_time:
    chunk = min(chunk, max(1, _SAMPLES_IN_CACHE // num_samples))
  num_chunks = -(-num_rays // chunk)
  keys = None
  if key is not None:  # One a ray, however they are cut into chunks.
    keys = jax.random.split(key, (len(origins), num_rays))
    keys = jnp.concatenate([keys, keys[:, : num_chunks * chunk - num_rays]], axis=1).reshape(-1, num_chunks, chunk)

  def split(x):
    x = jnp.pad(x, ((0, 0), (0, num_chunks * chunk - num_rays), (0, 0)))
    return x.reshape(len(x), num_chunks, chunk, -1)

  def one_chunk(planes, rays_and_keys):
    return trace(planes, *rays_and_keys)

  chunks = (split(origins), split(directions), keys)
  if one_at_a_time:

    def one_object(planes, chunks):
      return jax.lax.map(jax.checkpoint(functools.partial(one_chunk, planes)), chunks)

    pixels = jax.lax.map(lambda inputs: one_object(*inputs), (planes, chunks))
  else:
    all_objects = jax.checkpoint(lambda chunk: jax.vmap(one_chunk)(planes, chunk))

    def by_chunk(tree):
      return jax.tree.map(lambda x: x.swapaxes(0, 1), tree)

    pixels = by_chunk(jax.lax.map(all_objects, by_chunk(chunks)))
  return jax.tree.map(lambda x: x.reshape(len(origins), -1, *x.shape[3:])[:, :num_rays], pixels)


def rays_that_fit(memory: float | None, num_objects: int, bytes_per_ray: int) -> int:
  """Returns how many rays of each of `num_objects` objects on a device may be in flight.

  Their activations fill a share of its `memory`, in bytes; where it is not known (None), a moderate number.
  """
  if memory is None:
    return _RAYS
  bytes_per_ray *= backend.current().lane_padding
  return max(128, int(_SHARE_OF_MEMORY * memory / (num_objects * bytes_per_ray)) // 128 * 128)
