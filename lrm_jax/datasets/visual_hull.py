"""The visual hull of an object: the points that lie behind its silhouettes in all views (space carving).

Source: Laurentini 1994. Legend: V views, P points, S pixels along a side.
"""

import numpy as np
from scipy import ndimage

from lrm_jax.geometry import cameras

MIN_COVERAGE = 0.02  # of a pixel by the object; low, because a blade seen edge-on is thinner than a pixel


def visual_hull(poses: np.ndarray, intrinsics: np.ndarray, silhouettes: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Returns a mask [P] of the points [P, 3] that lie behind the silhouette (opacity [V, S, S]) of every view.

  A view keeps the points that it does not see, because they are outside of its image.
  """
  kept = np.ones(len(points), bool)
  for pose, camera, silhouette in zip(poses, intrinsics, silhouettes):
    seen, rows, columns = project_to_pixels(points, pose, camera, len(silhouette))
    # Tolerate one pixel: silhouettes are coarse, and so is the grid of points.
    kept &= ~seen | ndimage.binary_dilation(silhouette > MIN_COVERAGE, np.ones((3, 3)))[rows, columns]
  return kept


def coverage(points, pose, intrinsics, silhouette) -> float:
  """Returns the share of a silhouette [S, S] that the projections of the points cover, each 3 x 3 pixels large."""
  seen, rows, columns = project_to_pixels(points, pose, intrinsics, len(silhouette))
  drawn = np.zeros_like(silhouette)
  drawn[rows[seen], columns[seen]] = True
  return float(np.mean(ndimage.binary_dilation(drawn, np.ones((3, 3)))[silhouette]))


def project_to_pixels(points, pose, intrinsics, size):
  """Returns (mask of the points that are inside the image, their rows, their columns)."""
  pixels, distance = cameras.project(points, pose, intrinsics)
  with np.errstate(invalid='ignore'):
    seen = (distance > 1e-6) & np.all((pixels >= 0) & (pixels < 1), axis=-1)
  columns, rows = (np.where(seen[:, None], pixels, 0) * size).astype(int).T
  return seen, rows, columns
