"""Rasterises triangles onto a grid of pixels: which pixel centres are covered by which triangles.

Pixel (column, row) has its centre at (column + 0.5, row + 0.5). Legend: T triangles, K vertices, n covered pixels.
"""

from collections.abc import Iterator

import numpy as np

_AT_ONCE = 2**20  # Candidate pixels; bounds the memory.
# Moves the grid by a tiny irrational step, so that no pixel centre lies exactly on the edge of two triangles.
_SHIFT = np.array([2**0.5, 3**0.5]) * 1e-6


def covered(corners: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
  """Yields (triangle [n], column [n], row [n], barycentric [n, 3]) of the pixels that triangles [T, 3, 2] cover.

  Triangles are taken in groups; all pixels of one triangle are in one group. Degenerate triangles cover nothing.
  """
  corners = corners + _SHIFT
  low = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, size).astype(np.int64)
  high = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, size).astype(np.int64)
  extent = np.maximum(high - low, 0)
  counts = extent[:, 0] * extent[:, 1]
  used = np.flatnonzero(counts)
  if not len(used):
    return
  group = np.cumsum(counts[used]) // _AT_ONCE
  for part in np.split(used, np.flatnonzero(np.diff(group)) + 1):
    count = counts[part]
    triangle = np.repeat(part, count)
    place = np.arange(len(triangle)) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(place, extent[triangle, 0])
    row, column = row + low[triangle, 1], column + low[triangle, 0]
    a, b, c = (corners[triangle, i] for i in range(3))
    point = np.stack([column, row], axis=-1) + 0.5
    weights = np.stack([_area(b, c, point), _area(c, a, point), _area(a, b, point)], axis=-1)
    total = weights.sum(axis=-1)
    with np.errstate(divide='ignore', invalid='ignore'):
      weights = weights / total[:, None]
    inside = (total != 0) & np.all(weights >= 0, axis=-1)
    yield triangle[inside], column[inside], row[inside], weights[inside]


def nearest(pixels: np.ndarray, distance: np.ndarray, triangles: np.ndarray, size: int) -> np.ndarray:
  """Returns the distance [size, size] along the viewing direction to the nearest triangle; infinite without one.

  `pixels` [K, 2] and `distance` [K] are the projected vertices. Triangles behind the camera are left out.
  """
  triangles = triangles[np.all(distance[triangles] > 1e-6, axis=-1)]
  result = np.full(size * size, np.inf)
  for triangle, column, row, weights in covered(pixels[triangles], size):
    # 1 / distance is linear in the image.
    depth = 1 / np.sum(weights / distance[triangles[triangle]], axis=-1)
    np.minimum.at(result, row * size + column, depth)
  return result.reshape(size, size)


def crossings(vertices: np.ndarray, triangles: np.ndarray, size: int) -> np.ndarray:
  """Returns the winding numbers [size, size, size] (x, y, z) of a closed mesh at the centres of the cells of a grid.

  The grid has unit cells from 0 to `size`. Along each line parallel to z, the winding number changes by one at each
  triangle, up or down by its orientation. Lines whose changes do not add up to 0 meet a hole and get 0.
  """
  change = np.zeros((size, size, size + 1), np.int64)
  corners = vertices[triangles]
  for triangle, column, row, weights in covered(corners[..., :2], size):
    height = np.sum(weights * corners[triangle, :, 2], axis=-1)
    a, b, c = (corners[triangle, i, :2] for i in range(3))
    upwards = np.where(_area(a, b, c) > 0, 1, -1)
    # A crossing below the centre of a cell changes that cell.
    np.add.at(change, (column, row, np.clip(np.ceil(height - 0.5), 0, size).astype(np.int64)), -upwards)
  winding = np.cumsum(change, axis=-1)
  return np.where(winding[..., -1:] == 0, winding[..., :-1], 0)


def _area(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
  """Returns twice the signed area of triangles [n, 2]."""
  return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
