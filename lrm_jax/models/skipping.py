"""Faster rendering that skips samples in empty space (by an occupancy grid) and behind opaque surfaces.

For inference only: it has no gradient. The error is bounded: at most an optical depth of `EMPTY_DEPTH` per ray is lost
in cells that the grid marks as empty, and at most the fraction `BEHIND` of the light is lost behind opaque surfaces.
The PSNR to the full rendering is above 45 dB (tests/test_skipping.py).
Legend: R rays, S samples per ray, P points and G = P - 1 cells of the occupancy grid along a side, Q points.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lrm_jax.geometry import volume

GRID = 64  # Cells of the occupancy grid along a side.
EMPTY_DEPTH = 0.005  # Optical depth that may be lost along the longest ray.
BEHIND = 1e-3  # Fraction of the light that may be lost behind opaque surfaces.
_SEGMENT = 16  # Samples of each ray between two tests for opacity.
_BATCH = 8192  # Points at which the field is evaluated at once.


def occupied_cells(density: Float[Array, 'P P P'], empty: float) -> Bool[Array, 'G G G']:
  """Returns whether each grid cell is occupied, given the density at the grid points.

  A cell is occupied if the density at a corner of it or of a neighbouring cell exceeds `empty`.
  """
  largest = jax.lax.reduce_window(density, -jnp.inf, jax.lax.max, (4, 4, 4), (1, 1, 1), ((1, 1),) * 3)
  return largest > empty


def is_occupied(cells: Bool[Array, 'G G G'], points: Float[Array, '*q 3']) -> Bool[Array, '*q']:
  """Returns whether points in [-1, 1]^3 lie in occupied cells; False for points outside this cube."""
  size = len(cells)
  cell = jnp.clip(jnp.floor((points + 1) * (size / 2)), 0, size - 1).astype(jnp.int32)
  flat = (cell[..., 0] * size + cell[..., 1]) * size + cell[..., 2]
  return cells.reshape(-1).at[flat].get(mode='promise_in_bounds') & jnp.all(jnp.abs(points) <= 1, axis=-1)


def march_skipping(
  field: Callable,
  occupied: Callable,
  origins: Float[Array, 'R 3'],
  directions: Float[Array, 'R 3'],
  distances: Float[Array, 'R S'],
  delta: Float[Array, 'R 1'],
) -> volume.Pixels:
  """Returns the pixels [R] of rays over black, like `renderer.march`, but skips samples that are not seen.

  `field` maps points [Q, 3] to (density [Q], colour [Q, 3]). `occupied` maps points to whether the field must be
  evaluated there.
  """
  num_rays, num_samples = distances.shape
  num_segments = -(-num_samples // _SEGMENT)
  padded = jnp.pad(distances, ((0, 0), (0, num_segments * _SEGMENT - num_samples)), constant_values=jnp.inf)
  segments = padded.reshape(num_rays, num_segments, _SEGMENT).swapaxes(0, 1)

  def one_segment(before, distances):
    valid = jnp.isfinite(distances)  # Padding of the last segment is infinite.
    distances = jnp.where(valid, distances, 0)
    points = origins[:, None] + distances[..., None] * directions[:, None]
    needed = valid & occupied(points) & (delta > 0) & (before < -jnp.log(BEHIND))[:, None]
    density, color = _evaluate_needed(field, points.reshape(-1, 3), needed.reshape(-1))
    density, color = density.reshape(distances.shape), color.reshape(points.shape)
    pixels = volume.composite(density, color, distances, delta)
    light = jnp.exp(-before)
    seen = volume.Pixels(pixels.color * light[:, None], pixels.depth * light, pixels.opacity)
    return before + jnp.sum(density * delta, axis=1), seen

  optical_depth, parts = jax.lax.scan(one_segment, jnp.zeros(num_rays), segments)
  return volume.Pixels(parts.color.sum(axis=0), parts.depth.sum(axis=0), -jnp.expm1(-optical_depth))


def _evaluate_needed(field, points, needed):
  """Returns (density [Q], colour [Q, 3]), evaluated in batches at the needed points and zero at the others."""
  num_points = len(points)
  batch = min(_BATCH, num_points)
  index = jnp.nonzero(needed, size=num_points + batch, fill_value=num_points)[0]
  points = jnp.concatenate([points, jnp.zeros((1, 3), points.dtype)])

  def one_batch(state):
    first, result = state
    part = jax.lax.dynamic_slice_in_dim(index, first, batch)
    density, color = field(points.at[part].get(mode='promise_in_bounds'))
    values = jnp.concatenate([density[:, None], color], axis=1)
    return first + batch, result.at[part].set(values, mode='promise_in_bounds')

  count = jnp.sum(needed)
  result = jnp.zeros((num_points + 1, 4), points.dtype)  # The extra row receives the padding of the last batch.
  _, result = jax.lax.while_loop(lambda state: state[0] < count, one_batch, (0, result))
  return result[:num_points, 0], result[:num_points, 1:]
