"""Finds views whose colours do not fit those of neighbouring views: another exposure, a cast, swapped channels.

Points of the visual hull are projected into pairs of views that see them. The median difference of their colours is
robust to points that one of the views does not really see. A view whose colours have changed differs from nearly all of
its neighbours in the same direction, and by more than these differ from each other; a view of a side with other colours
does not. Thresholds were chosen on the embedded dataset; its false alarms are in data/README.md.
Legend: V views, P points, S pixels along a side.
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from lrm_jax.datasets.visual_hull import project_to_pixels
from lrm_jax.geometry import images

_SIZE = 64  # pixels along a side of the compared images
_WIDEST = 70.0  # degrees between the directions of views that are compared
_BEHIND = 0.08  # world units; a point farther than this behind the nearest one in its pixel is hidden
_POINTS = 60  # least number of points that two views have to share
_NEIGHBOURS = 3  # least number of neighbours; a view with fewer is not checked
_MOST = 0.9  # share of the neighbours that a view has to differ from
_OFFSET = 0.12  # least offset, in 0..1, that is a problem
_RATIO = 3.0  # least offset as a multiple of the differences between the other views (their upper quartile)


def find_problems(
  poses: np.ndarray, intrinsics: np.ndarray, views: list[np.ndarray], points: np.ndarray
) -> Iterator[tuple[str, str]]:
  """Yields (kind, description) if views [H, H, 4], premultiplied, have other colours than their neighbours.

  `poses` [V, 4, 4] are normalised to the input view, and `points` [P, 3] are the visual hull of the object.
  """
  odd = odd_views(differences(poses, intrinsics, views, points))
  if odd:
    listed = ', '.join(
      f'{view} ({", ".join(f"{name} {255 * value:+.0f}" for name, value in zip(("red", "green", "blue"), offset))})'
      for view, offset in odd
    )
    yield (
      'other colours',
      f'views have other colours than their neighbours, by these amounts of 255: {listed}; the light, the exposure or '
      'the order of the colour channels has changed',
    )


def differences(
  poses: np.ndarray, intrinsics: np.ndarray, views: list[np.ndarray], points: np.ndarray
) -> dict[tuple[int, int], np.ndarray]:
  """Returns {(i, j): median colour [3] of view i minus that of view j, at points that both see}, for i < j."""
  seen = list(_colors(poses, intrinsics, views, points))
  backward = poses[:, :3, 2]
  cosines = backward @ backward.T
  found = {}
  for i in range(len(views)):
    for j in range(i + 1, len(views)):
      if cosines[i, j] > np.cos(np.deg2rad(_WIDEST)):
        both = seen[i][0] & seen[j][0]
        if np.count_nonzero(both) >= _POINTS:
          found[i, j] = np.median(seen[i][1][both] - seen[j][1][both], axis=0)
  return found


def _colors(poses, intrinsics, views, points) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (mask [P] of the points that a view sees, their colours [P, 3]) of each view."""
  for pose, camera, view in zip(poses, intrinsics, views):
    image = images.resize(view, _SIZE)
    inside, rows, columns = project_to_pixels(points, pose, camera, _SIZE)
    distance = np.linalg.norm(points - pose[:3, 3], axis=-1)
    nearest = np.full((_SIZE, _SIZE), np.inf)
    np.minimum.at(nearest, (rows[inside], columns[inside]), distance[inside])
    nearest = ndimage.minimum_filter(nearest, 3)
    opaque = ndimage.binary_erosion(image[..., 3] > 0.99)
    inside &= opaque[rows, columns] & (distance < nearest[rows, columns] + _BEHIND)
    yield inside, image[rows, columns, :3]


def odd_views(pairs: dict[tuple[int, int], np.ndarray]) -> list[tuple[int, np.ndarray]]:
  """Returns (view, offset [3]) of the views whose colours differ from those of their neighbours, in order.

  The offset is what nearly all neighbours agree on, in each channel.
  """
  odd: dict[int, np.ndarray] = {}
  while True:  # The worst view first: its neighbours are then judged without it.
    left = {pair: difference for pair, difference in pairs.items() if not odd.keys() & set(pair)}
    offsets = _offsets(left)
    worst = max(offsets, key=lambda view: np.abs(offsets[view]).max(), default=None)
    if worst is None:
      break
    others = [np.abs(difference).max() for pair, difference in left.items() if worst not in pair]
    usual = float(np.quantile(others, 0.75)) if others else 0.0
    if np.abs(offsets[worst]).max() < max(_OFFSET, _RATIO * usual):
      break
    odd[worst] = offsets[worst]
  return sorted(odd.items())


def _offsets(pairs) -> dict[int, np.ndarray]:
  """Returns {view: offset [3]} of the views with enough neighbours; 0 where these differ in opposite directions."""
  neighbours: dict[int, list[np.ndarray]] = {}
  for (i, j), difference in pairs.items():
    neighbours.setdefault(i, []).append(difference)
    neighbours.setdefault(j, []).append(-difference)
  found = {}
  for view, differences in neighbours.items():
    if len(differences) >= _NEIGHBOURS:
      low, high = np.quantile(differences, [1 - _MOST, _MOST], axis=0)
      found[view] = np.where(low > 0, low, np.where(high < 0, high, 0.0))
  return found
