"""Extracts a coloured triangle mesh from a density field.

Grid: N^3 points at the corners of (N - 1)^3 cells that fill the cube [-1, 1]^3; vertices in world units, z up.
Legend: N grid points along a side, Q points, K vertices, T triangles.
"""

from collections.abc import Callable
import dataclasses

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
import trimesh

from lrm_jax.errors import InputError
from lrm_jax.reconstruction import surface

Query = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # points [Q, 3] -> (density [Q], colour [Q, 3])

_POINTS_PER_CALL = 2**16
_OUTLINE_GRID = 96  # points along a side of the grid on which the threshold is found, at most
_DEEPEST = 0.5  # world units below the surface up to which colours are sampled
_SEEN = 0.98  # fraction of the light after which samples no longer change a colour
_SAMPLES_AT_ONCE = 3  # samples along each ray per query
_GROWTH = 1.2  # ratio of successive steps


@dataclasses.dataclass(frozen=True)
class Field:
  """Density and colour at points of the cube, and density on grids, in blocks (lrm_jax/reconstruction/surface.py)."""

  query: Query
  grid: surface.Grid


def field_of(query: Query) -> Field:
  """Returns the field of a function of points."""

  def grid(coordinates):
    lines = blocks_of(coordinates)

    def evaluate(places, face):
      x, y, z = (lines[places[:, axis]][:, : 1 if axis == face else None] for axis in range(3))
      points = np.stack(np.broadcast_arrays(x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]), axis=-1)
      density = _in_pieces(query, points.reshape(-1, 3))[0].reshape(points.shape[:-1])
      return density if face is None else density.squeeze(face + 1)

    return evaluate

  return Field(query, grid)


def blocks_of(coordinates: np.ndarray) -> np.ndarray:
  """Returns a grid's coordinates along an axis in blocks [n, B]; the last block repeats the last coordinate."""
  size = len(coordinates)
  return coordinates[np.minimum(np.arange(-(-size // surface.BLOCK) * surface.BLOCK), size - 1)].reshape(
    -1, surface.BLOCK
  )


def extract(
  field: Field, *, resolution: int = 128, threshold: float | None = None, dense: bool = False
) -> trimesh.Trimesh:
  """Returns the surface where the density passes `threshold`, with the colours that are visible from outside.

  The default threshold is that of `outline_threshold`, because no fixed value fits all models: blurred models have low
  densities, sharp models high ones.
  Specks are removed. Normals point outwards, towards lower density. The density is zero outside of the cube, so the
  surface is closed. With `dense`, all grid points are evaluated, otherwise those near the surface (surface.py). Raises
  InputError if the resolution is too small or no density reaches the threshold.
  """
  if resolution < 8:
    raise InputError(f'{resolution=} must be at least 8 grid points')
  if threshold is not None and not threshold > 0:
    raise InputError(f'{threshold=} must be above 0')

  def axis(size):
    return np.linspace(-1, 1, size, dtype=np.float32)

  if threshold is None:
    threshold = outline_threshold(surface.small_grid(field.grid, axis(min(resolution, _OUTLINE_GRID))))
  vertices, triangles = surface.extract(field.grid, axis(resolution), threshold, dense=dense)
  if not len(triangles):
    greatest = surface.small_grid(field.grid, axis(min(resolution, _OUTLINE_GRID))).max()
    raise InputError(
      f'no surface: the greatest density found is {greatest:.3g}, {threshold=:g}; lower the threshold, or give '
      'an image of one whole object on a plain background'
    )
  vertices, triangles = without_specks(vertices, triangles)
  color = surface_color(field.query, vertices, vertex_normals(vertices, triangles), threshold)
  color = np.concatenate([_to_bytes(color), np.full((len(color), 1), 255, np.uint8)], axis=-1)
  return trimesh.Trimesh(vertices, triangles, vertex_colors=color, process=False)


def outline_threshold(density: np.ndarray) -> float:
  """Returns the density whose surface has the same outline as the rendered volume, seen along the three axes.

  A pixel belongs to the volume's outline if parallel rays through the grid [N, N, N] of the cube lose half of their
  light. Thresholds are tried in steps of 20 %; the best intersection over union wins. Raises InputError if the volume
  is invisible.
  """
  step = 2 / (len(density) - 1)
  thickness = [density.sum(axis) * step for axis in range(3)]
  seen = [optical_depth > np.log(2) for optical_depth in thickness]
  if not any(mask.any() for mask in seen):
    raise InputError(
      f'no surface: the volume is empty, no ray through it loses more than {1 - np.exp(-np.max(thickness)):.0%} of its '
      'light; give an image of one whole object on a plain background, or a threshold below the highest density, '
      f'{density.max():.3g}'
    )
  greatest = [density.max(axis) for axis in range(3)]

  def agreement(threshold):
    both, either = zip(*(((m > threshold) & s, (m > threshold) | s) for m, s in zip(greatest, seen)))
    return np.sum(both) / np.sum(either)

  return float(max(density.max() * 1.2 ** -np.arange(1.0, 40.0), key=agreement))


def without_specks(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Removes closed parts (hollows too) with less than 1 % of the volume of the largest part.

  Specks lie in space that no view has shown.
  """
  edges = np.concatenate([triangles[:, :2], triangles[:, 1:]])
  graph = sparse.coo_matrix((np.ones(len(edges), bool), edges.T), shape=(len(vertices),) * 2)
  _, part = csgraph.connected_components(graph, directed=False)
  a, b, c = (vertices[triangles[:, i]].astype(np.float64) for i in range(3))
  part_of = part[triangles[:, 0]]
  volume = np.abs(np.bincount(part_of, np.einsum('ti,ti->t', a, np.cross(b, c)) / 6, minlength=part.max() + 1))
  large = volume >= 0.01 * volume.max()
  kept = large[part]
  numbers = np.cumsum(kept) - 1
  return vertices[kept], numbers[triangles[large[part_of]]]


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Returns unit vertex normals [K, 3], float32: the area-weighted mean of the adjacent triangles."""
  a, b, c = (vertices[triangles[:, i]] for i in range(3))
  areas = np.cross(b - a, c - a)
  total = np.stack(
    [sum(np.bincount(triangles[:, corner], areas[:, i], len(vertices)) for corner in range(3)) for i in range(3)],
    axis=-1,
  )
  return (total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-30)).astype(np.float32)


def surface_color(
  query: Query, vertices: np.ndarray, normals: np.ndarray, threshold: float, num_samples: int = 6
) -> np.ndarray:
  """Returns colours [K, 3] of rays that enter the volume at the vertices, against their outward normals [K, 3].

  If the density is sharp, this is the colour at the vertex. The surface of a blurred volume lies in a haze whose own
  colour no view has shown; its colour is then that of the inside. A ray ends after three mean free paths of the density
  at the surface, or where 98 % of its light is absorbed. Each step is 20 % longer than the previous one: six such steps
  approximate the integral as well as eight equal ones (mean error 0.002 to 0.007, on four objects).
  """
  steps = _GROWTH ** np.arange(num_samples)
  steps = (steps * (min(3 / threshold, _DEEPEST) / steps.sum())).astype(np.float32)
  depths = np.cumsum(steps) - steps / 2
  color, seen = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
  before, going = np.zeros(len(vertices)), np.arange(len(vertices))
  for first in range(0, num_samples, _SAMPLES_AT_ONCE):
    step, depth = (x[first : first + _SAMPLES_AT_ONCE] for x in (steps, depths))
    points = np.clip(vertices[going, None] - normals[going, None] * depth[:, None], -1, 1)
    density, sampled = _in_pieces(query, points.reshape(-1, 3))
    optical_depth = density.reshape(len(going), -1) * step
    weights = np.exp(-before[going, None] - np.cumsum(optical_depth, axis=1) + optical_depth) * -np.expm1(
      -optical_depth
    )
    color[going] += np.einsum('ks,ksc->kc', weights, sampled.reshape(*weights.shape, 3))
    seen[going] += weights.sum(axis=1)
    before[going] += optical_depth.sum(axis=1)
    going = going[before[going] < -np.log1p(-_SEEN)]
    if not len(going):
      break
  return color / np.maximum(seen, 1e-9)[:, None]


def _in_pieces(query: Query, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Queries a field at [Q, 3] points in calls of one fixed size, so that one program serves all calls."""
  densities, colors = [np.zeros(0, np.float32)], [np.zeros((0, 3), np.float32)]
  for first in range(0, len(points), _POINTS_PER_CALL):
    part = points[first : first + _POINTS_PER_CALL]
    filled = np.pad(part, ((0, _POINTS_PER_CALL - len(part)), (0, 0)))
    density, color = query(filled)
    densities.append(np.asarray(density)[: len(part)])
    colors.append(np.asarray(color)[: len(part)])
  return np.concatenate(densities), np.concatenate(colors)


def _to_bytes(color: np.ndarray) -> np.ndarray:
  return np.round(np.clip(color, 0, 1) * 255).astype(np.uint8)
