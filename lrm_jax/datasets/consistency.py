"""Finds single views of an object that do not fit the others: copies, masks of other cameras, other colours.

Silhouettes are compared in two steps. Of a coarse grid of the cube [-1, 1]^3, the points that almost all views keep are
divided, and tested again with silhouettes of twice the size. A view fits if its silhouette is covered by the hull of
the other views. Thresholds were chosen on the embedded dataset; its false alarms are in data/README.md.
Legend: V views, P points, S pixels along a side, H image side.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from lrm_jax.datasets import color_consistency
from lrm_jax.datasets.visual_hull import MIN_COVERAGE, project_to_pixels
from lrm_jax.geometry import images

_SIZE = 32  # pixels along a side of the compared images; silhouettes are compared at this and twice this size
_GRID = 40  # points along a side of the cube
_SAME = 6 / 255  # largest difference of two images that are the same, in any pixel; lossy files differ a little
_MOVED = 3.0  # least angle in degrees between two cameras that are different
_SYMMETRIC = 0.85  # least share of the hull that a symmetry of the object maps behind the silhouettes of all views
_FITS = 0.95  # least share of the silhouette of a view that the hull of the others covers
_FEWEST = 6  # views without which an object is not checked, because the hull of few views fits anything
_FATTEST = 0.4  # of the cube: a larger hull, of silhouettes that fill their images, says nothing
_ONE_COLOR = 0.5 / 255  # largest range of colours of an image of one colour, without the outermost 2 %
_SAME_COLOR = 2 / 255  # largest difference of colours that count as the same
_ALL_ONE_COLOR = 2 / 255  # the same, if all views of an object have one colour


def find_problems(poses: np.ndarray, intrinsics: np.ndarray, views: list[np.ndarray]) -> Iterator[tuple[str, str]]:
  """Yields (kind, description) of problems of views [H, H, 4], premultiplied, with poses [V, 4, 4] in the cube.

  `poses` are normalised to the input view, so that the object is inside the cube [-1, 1]^3.
  """
  small = np.stack([images.resize(view, _SIZE) for view in views])
  hull = _Hull(poses, intrinsics, views)
  pairs = list(_copies(poses, small, hull))
  if same := [pair for pair, is_mask in pairs if not is_mask]:
    yield 'same image', f'views {_and(same)} have the same image but different cameras: an image is in the wrong place'
  if same := [pair for pair, is_mask in pairs if is_mask]:
    yield 'same mask', f'views {_and(same)} have the same mask but different cameras: a mask belongs to another view'
  if odd := ([] if hull.is_fat else hull.odd_views()):
    yield (
      'odd view',
      f'{"view" if len(odd) == 1 else "views"} {", ".join(map(str, odd))} of {len(views)} do not fit the others, which '
      'do: a mask or an image belongs to another camera, a camera is wrong, or part of the object is cut off',
    )
  elif not hull.is_fat:
    yield from color_consistency.find_problems(poses, intrinsics, views, hull.points[hull.without(())])


def _and(pairs) -> str:
  shown = ', '.join(f'{i} and {j}' for i, j in pairs[:3])
  return shown + (f' and {len(pairs) - 3} more pairs' if len(pairs) > 3 else '')


def one_color(views: list[np.ndarray]) -> Iterator[tuple[str, str]]:
  """Yields (kind, description) of a problem if views [H, H, 4] show the object in one colour.

  A view from the side of one part has one colour, too, but other views then show that colour as well.
  """
  ranges, insides = [], []
  for view in views:
    inside = view[view[..., 3] > 0.99][:, :3]
    low, high = np.percentile(inside, [2, 98], axis=0) if len(inside) > 50 else (0.0, 1.0)
    ranges.append(float(np.max(high - low)))
    insides.append(inside)
  plain = np.array(ranges) < _ONE_COLOR
  others = [inside for inside, one in zip(insides, plain) if not one]
  constant = [
    number for number in np.flatnonzero(plain) if not _shown(np.median(insides[number], axis=0), others) and others
  ]
  if constant:
    yield (
      'one colour',
      f'{len(constant)} of {len(views)} views (the first is {constant[0]}) show the object in one colour, and others '
      'do not: their images are empty or damaged',
    )
  elif max(ranges) < _ALL_ONE_COLOR:
    yield 'one colour', 'all views show the object in one colour: a texture is missing, or the light shows no shape'


def _shown(color: np.ndarray, insides: list[np.ndarray]) -> bool:
  """Returns whether at least 5 % of the object in some view has the colour."""
  return any(np.mean(np.abs(inside - color).max(axis=-1) < _SAME_COLOR) > 0.05 for inside in insides if len(inside))


def _copies(poses, small, hull) -> Iterator[tuple[tuple[int, int], bool]]:
  """Yields ((i, j), whether only their masks are equal) of views that are equal though their cameras are not.

  Views of an object may be equal because it is symmetric: then the motion between the cameras maps its hull to itself.
  """
  difference = np.stack([np.abs(small - view).max(axis=(1, 2)) for view in small])
  turn = np.einsum('aij,bij->ab', poses[:, :3, :3], poses[:, :3, :3])
  angle = np.rad2deg(np.arccos(np.clip((turn - 1) / 2, -1, 1)))
  equal = (difference[..., 3] < _SAME) & (angle > _MOVED) & (small[..., 3].max(axis=(1, 2)) > 0.5)
  for i, j in zip(*np.nonzero(np.triu(equal, 1))):
    if not hull.is_symmetric(poses[j] @ np.linalg.inv(poses[i])):
      yield (int(i), int(j)), bool(difference[i, j].max() >= _SAME)


class _Hull:
  """The points that at most a few views reject, and which views reject them."""

  def __init__(self, poses, intrinsics, views):
    axis = np.linspace(-1, 1, _GRID)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1).reshape(-1, 3)
    coarse, fine = (np.stack([images.resize(v[..., 3:], size)[..., 0] for v in views]) for size in (_SIZE, 2 * _SIZE))
    self._most = min(3, max(1, len(views) // 6))
    rejected = np.zeros(len(points), np.uint8)
    for pose, camera, silhouette in zip(poses, intrinsics, coarse):
      rejected += ~_keeps(points, pose, camera, silhouette)[0]
    candidates = points[rejected <= self._most + 1]
    self.is_fat = len(candidates) > _FATTEST * len(points)
    if self.is_fat:
      candidates = candidates[:0]
    quarter = (axis[1] - axis[0]) / 4
    offsets = quarter * np.stack(np.meshgrid(*3 * [[-1, 1]]), axis=-1).reshape(-1, 3)
    self.points = (candidates[:, None] + offsets).reshape(-1, 3)
    self._views = list(zip(poses, intrinsics, fine))
    tests = [_keeps(self.points, *view) for view in self._views]
    self._rejected = np.stack([~kept for kept, *_ in tests])
    self._rejections = self._rejected.sum(axis=0, dtype=np.uint8)
    self._pixels, self._inside = [pixels for _, *pixels in tests], fine > 0.5

  def without(self, views: Sequence[int]) -> np.ndarray:
    """Returns the mask [P] of the points that all views except some keep."""
    return self._rejections == self._rejected[list(set(views))].sum(axis=0, dtype=np.uint8)

  def odd_views(self) -> list[int]:
    """Returns the few views without which all others fit each other, or nothing if there are no such views."""
    count, odd = len(self._rejected), []
    while True:
      left = [view for view in range(count) if view not in odd]
      fits = {view: self._coverage(view, [*odd, view]) for view in left}
      if min(fits.values()) >= _FITS:
        return sorted(odd)
      if len(odd) == self._most or len(left) - 1 < _FEWEST:
        return []
      # Without the wrong view, the others are covered better. It rejects many points that no other view rejects.
      others = self._rejections - self._rejected[odd].sum(axis=0, dtype=np.uint8)
      suspects = sorted(left, key=lambda v: np.count_nonzero(self._rejected[v] & (others == 1)))[-3:]
      odd.append(
        max(suspects, key=lambda v: np.mean([self._coverage(other, [*odd, v]) for other in left if other != v]))
      )

  def is_symmetric(self, motion: np.ndarray) -> bool:
    """Returns whether a motion [4, 4] maps the hull to points that all views keep."""
    hull = self.points[self.without(())][::4]
    moved = hull @ motion[:3, :3].T + motion[:3, 3]
    kept = [_keeps(moved, *view)[0] for view in self._views]
    return bool(len(hull)) and float(np.mean(np.all(kept, axis=0))) >= _SYMMETRIC

  def _coverage(self, view, without) -> float:
    """Returns the share of the silhouette of a view that the hull of all but some views covers."""
    inside, (seen, rows, columns) = self._inside[view], self._pixels[view]
    if not inside.any():
      return 1.0
    shown = self.without(without) & seen
    drawn = np.zeros_like(inside)
    drawn[rows[shown], columns[shown]] = True
    return float(np.mean(ndimage.binary_dilation(drawn, np.ones((3, 3)))[inside]))


def _keeps(points, pose, camera, silhouette):
  """Returns (mask [P] of the points that a view keeps, mask of those in the image, their rows, their columns)."""
  seen, rows, columns = project_to_pixels(points, pose, camera, len(silhouette))
  near = ndimage.binary_dilation(silhouette > MIN_COVERAGE, np.ones((3, 3)))
  return ~seen | near[rows, columns], seen, rows, columns
