"""The ray marcher: folded planes and rays -> pixels, one chunk of rays at a time.

Rays and objects are vectorised. Chunks run sequentially under `jax.checkpoint`, so that memory grows with the chunk
size instead of views x rays x samples. This replaces the paper's deferred back-propagation.
Legend: B batch, R rays, S samples per ray, P texels along a side, F channels of the folded planes.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lrm_jax.distributed import backend
from lrm_jax.geometry import rays, volume

# Samples that a CPU computes at once: the activations of a layer, 16,384 x 64 numbers, take 4 MB. 128 x 128 rays of 128
# samples take 0.35 s with this limit and 0.70 s in chunks of 4,096 rays; forward and backward take 4.0 s and 5.3 s
# (2 cores, 2026-11-25).
_SAMPLES_IN_CACHE = 2**14
_DEFAULT_RAYS = 4096  # Rays of each object in flight if the device's memory is unknown.
_MEMORY_FRACTION = 0.2  # Fraction of a device's memory for rays in flight.
# Density before its activation in empty space. The activation maps it, and its mean with any other value, to 0.
_EMPTY_RAW_DENSITY = -float(jnp.finfo(jnp.float32).max) / 8


def bins(
  origins: Float[Array, 'R 3'],
  directions: Float[Array, 'R 3'],
  keys: Key[Array, 'R'] | None,
  *,
  num_samples: int,
  half_size: float = 1.0,
) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
  """Returns (distances, delta) of samples in equal bins between where rays enter and leave [-half_size, half_size]^3.

  Stratified with one key per ray, midpoints of the bins without keys.
  """

  def sample(near, far, key):
    return rays.sample_distances(near, far, num_samples, key)

  return jax.vmap(sample)(*rays.intersect_cube(origins, directions, half_size), keys)


def normalised_bins(
  origins: Float[Array, 'R 3'],
  directions: Float[Array, 'R 3'],
  keys: Key[Array, 'R'] | None,
  *,
  num_samples: int,
  half_size: float,
) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
  """Returns (distances, delta) by TripoSR's rule: each step counts as 1 / num_samples, regardless of its length.

  The cube is smaller than [-half_size, half_size]^3 by a factor of 0.999. Rays whose path through it is shorter than
  0.01 see nothing (delta = 0). Source: TripoSR's code (tests/golden/README.md).
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
  """Returns the pixels [R] of rays over black; `field` maps points [R, S, 3] to (density [R, S], colour [R, S, 3]).

  Compositing is vectorised over rays. The field is evaluated at all points in one call, so that it reads from, and its
  gradient is added to, a single table.
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
  """Returns the pixels [R] over black by OpenLRM's two-pass rule: even samples, then importance samples.

  The first pass uses half of the samples, evenly spaced. The second draws the other half by the weights of the first.
  `field` maps points to (density before its activation, colour), and `density` is that activation. Points outside the
  cube [-1, 1]^3 count as empty; its faces belong to the cube. Unlike in OpenLRM, a ray that starts inside the cube does
  not see what lies behind its origin. Source: OpenLRM's code (tests/golden/README.md).
  """
  half = num_samples // 2
  near, far = rays.intersect_cube(origins, directions)

  def even_samples(near, far, key):
    return rays.sample_ends(near, far, half, key)

  if keys is None:
    even_keys, uniform = None, jnp.broadcast_to((jnp.arange(half) + 0.5) / half, (len(origins), half))
  else:
    even_keys, fine_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (half,)))(fine_keys)

  def evaluate(distances):
    points = origins[:, None] + rays.rounded(distances[..., None] * directions[:, None])
    raw, color = field(points)
    inside = jnp.all(jnp.abs(points) <= 1, axis=-1)
    return jnp.where(inside, raw, _EMPTY_RAW_DENSITY), jnp.where(inside[..., None], color, 0)

  coarse = jax.vmap(even_samples)(near, far, even_keys)
  raw, color = evaluate(coarse)
  _, weights = volume.composite_intervals(raw, color, coarse, density)
  fine = rays.sample_where_weights_are(coarse, weights, uniform)
  both_passes = zip((coarse, raw, color), (fine, *evaluate(fine)))
  distances, raw, color = (jnp.concatenate([a, b], axis=1) for a, b in both_passes)
  order = jnp.argsort(distances, axis=1)
  distances, raw = (jnp.take_along_axis(x, order, axis=1) for x in (distances, raw))
  color = jnp.take_along_axis(color, order[..., None], axis=1)
  return volume.composite_intervals(raw, color, distances, density)[0]


def render_rays(
  planes: Float[Array, 'B 3 P P F'],
  trace: Callable,
  origins: Float[Array, 'B R 3'],
  directions: Float[Array, 'B R 3'],
  key: Key[Array, '*k'] | None = None,
  *,
  rays_per_chunk: int | None,
  num_samples: int,
) -> volume.Pixels:
  """Returns the pixels [B, R] of all rays over black.

  `trace` maps (planes of one object, origins [R, 3], directions [R, 3], keys [R] or None) to the pixels of its rays.
  At most `rays_per_chunk` rays of each object are computed at once (None: all rays), or fewer on a CPU, so that their
  samples stay in the caches. The last chunk is padded with rays of zero length.
  Sampling is stratified with a `key`, or one for each object [B], and deterministic without one.
  """
  num_rays = origins.shape[1]
  chunk = min(rays_per_chunk or num_rays, num_rays)
  one_at_a_time = backend.current().one_object_at_a_time
  if one_at_a_time:
    chunk = min(chunk, max(1, _SAMPLES_IN_CACHE // num_samples))
  num_chunks = -(-num_rays // chunk)
  keys = None
  if key is not None:  # One key per ray, so that the result does not depend on the chunk size.
    keys = key if key.ndim else jax.random.split(key, len(origins))
    keys = jax.vmap(lambda of_object: jax.random.split(of_object, num_rays))(keys)
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
  """Returns how many rays of each of `num_objects` objects per device may be in flight.

  Their activations may fill a fixed fraction of the device's `memory`, in bytes. If the memory is unknown (None), the
  result is a moderate default.
  """
  if memory is None:
    return _DEFAULT_RAYS
  bytes_per_ray *= backend.current().lane_padding
  return max(128, int(_MEMORY_FRACTION * memory / (num_objects * bytes_per_ray)) // 128 * 128)
