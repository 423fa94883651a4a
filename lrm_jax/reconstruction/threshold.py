"""Chooses the density at which the surface of a volume is extracted."""

from jaxtyping import Float
import numpy as np

from lrm_jax.errors import InputError

_CANDIDATES = 1.2 ** -np.arange(1.0, 40.0)  # Thresholds that are tried, in units of the greatest density.
_RAYS = 48  # Rays along a side of the grid, at least, where it has so many points.


def rendered_threshold(density: Float[np.ndarray, 'N N N']) -> float:
  """Returns the density, per world unit, whose surface lies where the rendered volume shows one.

  `density` is on a grid over the cube [-1, 1]^3. Parallel rays go through it along the three axes. A ray sees the
  volume if it loses more than half of its light; the solid part then reaches from the point where half of the absorbed
  light is absorbed to the same point of the opposite ray. The solid part of a surface reaches from the first point
  above its threshold to the last. The threshold with the best intersection over union of these parts, over all rays,
  wins; so outline and depth decide. Raises InputError if no ray sees the volume. (Our choice: the paper names none.)
  """
  spacing = 2 / (len(density) - 1)
  greatest_depth = spacing * max(density.sum(axis).max() for axis in range(3))
  if not greatest_depth > np.log(2):
    raise InputError(
      f'no surface: the volume is empty, no ray through it loses more than {1 - np.exp(-greatest_depth):.0%} of its '
      'light; give an image of one whole object on a plain background, or a threshold below the highest density, '
      f'{density.max():.3g}'
    )
  candidates = density.max() * _CANDIDATES
  both, either = np.zeros((2, len(candidates)))
  stride = max(1, len(density) // _RAYS)
  for axis in range(3):
    rays = np.moveaxis(density, axis, -1)[::stride, ::stride].reshape(-1, len(density))
    rays = rays[rays.max(axis=-1) > candidates.min()]
    first, last, visible = _rendered_part(rays, spacing)
    length = np.where(visible, last - first + 1, 0)
    for index, candidate in enumerate(candidates):
      above = rays > candidate
      start, end = _first(above), _last(above)
      size = np.where(above[np.arange(len(rays)), start], end - start + 1, 0)
      common = np.maximum(np.minimum(end, last) - np.maximum(start, first) + 1, 0) * (visible & (size > 0))
      both[index] += common.sum()
      either[index] += (size + length - common).sum()
  return float(candidates[np.argmax(both / np.maximum(either, 1))])


def _rendered_part(rays: Float[np.ndarray, 'R N'], spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns first and last index [R] of the solid part of rays, and which of them [R] see the volume."""
  depth = np.cumsum(rays, axis=-1) * spacing  # optical depth
  total = depth[:, -1:]
  half = -np.log((1 + np.exp(-total)) / 2)  # depth at which half of the absorbed light is absorbed
  before = np.concatenate([np.zeros_like(total), depth[:, :-1]], axis=-1)
  return _first(depth >= half), _last(total - before >= half), total[:, 0] > np.log(2)


def _first(mask: np.ndarray) -> np.ndarray:  # 0 where the mask has no point
  return np.argmax(mask, axis=-1)


def _last(mask: np.ndarray) -> np.ndarray:
  return mask.shape[-1] - 1 - np.argmax(mask[:, ::-1], axis=-1)
