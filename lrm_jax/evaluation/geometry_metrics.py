"""Distances between surfaces: Chamfer distance, F-score, normal consistency and volumetric IoU.

Each function states its convention, because papers differ. Distances are in the unit of the points.
Legend: P Q points of the prediction and of the truth.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from lrm_jax.evaluation.surfaces import Surface
from lrm_jax.geometry import rasterise

Distances = tuple[np.ndarray, np.ndarray]  # prediction -> truth [P], truth -> prediction [Q]


def nearest(prediction: np.ndarray, truth: np.ndarray) -> tuple[Distances, tuple[np.ndarray, np.ndarray]]:
  """Returns (distances to the nearest point of the other set, its index), for both directions."""
  forward, there = cKDTree(truth).query(prediction, workers=-1)
  backward, here = cKDTree(prediction).query(truth, workers=-1)
  return (forward, backward), (there, here)


def chamfer_half(distances: Distances) -> float:
  """Returns half the mean distance of the prediction to the truth plus half that of the truth to the prediction."""
  return float(0.5 * np.mean(distances[0]) + 0.5 * np.mean(distances[1]))


def chamfer_squared(distances: Distances) -> float:
  """Returns the mean squared distance of the prediction to the truth plus that of the truth to the prediction."""
  return float(np.mean(np.square(distances[0])) + np.mean(np.square(distances[1])))


def f_score(distances: Distances, threshold: float) -> float:
  """Returns the harmonic mean of precision and recall: the shares of points within `threshold` of the other set."""
  precision, recall = (float(np.mean(x < threshold)) for x in distances)
  return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def normal_consistency(normals: tuple[np.ndarray, np.ndarray], indices: tuple[np.ndarray, np.ndarray]) -> float:
  """Returns the mean |cosine| between the normals of each point and of its nearest point, half for each direction.

  `normals` are unit normals of the prediction [P, 3] and of the truth [Q, 3]. Their sign does not count, because the
  triangles of many meshes are not oriented.
  """
  predicted, true = normals
  forward = np.abs(np.sum(predicted * true[indices[0]], axis=-1))
  backward = np.abs(np.sum(true * predicted[indices[1]], axis=-1))
  return float(0.5 * np.mean(forward) + 0.5 * np.mean(backward))


def volume_iou(prediction: Surface, truth: Surface, resolution: int = 96) -> float:
  """Returns the intersection over union of two solids, on a grid of resolution^3 points over their common box.

  NaN if the truth is not watertight; 0 if only the prediction is not. A point is inside if the winding number of the
  mesh around it is not 0.
  """
  if not truth.is_watertight:
    return float('nan')
  if not prediction.is_watertight:
    return 0.0
  vertices = [surface.vertices for surface in (prediction, truth) if surface.vertices is not None]
  low = np.min([v.min(axis=0) for v in vertices], axis=0)
  high = np.max([v.max(axis=0) for v in vertices], axis=0)
  scale = (resolution - 2) / np.max(high - low)

  def inside(surface):
    return rasterise.crossings((surface.vertices - low) * scale + 1, surface.triangles, resolution) != 0

  a, b = inside(prediction), inside(truth)
  either = np.count_nonzero(a | b)
  return np.count_nonzero(a & b) / either if either else float('nan')


ChamferDistance = Callable[[Distances], float]
