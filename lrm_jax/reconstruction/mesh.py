"""Extracts a coloured triangle mesh from a density field.

The steps: the surface where the density passes a threshold (threshold.py, surface.py), without debris and with fewer
triangles (cleanup.py), with colours (colors.py) at the vertices or in a texture (texture.py).

Grid: N^3 points at the corners of (N - 1)^3 cells that fill the cube [-1, 1]^3; vertices in world units, z up.
Legend: N grid points along a side, Q points, K vertices, T triangles.
"""

from collections.abc import Callable
import dataclasses
from typing import Literal

import numpy as np
import trimesh

from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.reconstruction import cleanup, colors, surface, texture
from lrm_jax.reconstruction.threshold import rendered_threshold

_THRESHOLD_GRID = 96  # Points along a side of the grid on which the threshold is found, at most.


@dataclasses.dataclass(frozen=True)
class Field:
  """Density and colour at points of the cube, and density on grids, in blocks (lrm_jax/reconstruction/surface.py).

  The density counts as 0 outside the cube.
  """

  query: colors.Query
  grid: surface.Grid

  def query_inside(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (density [Q], colour [Q, 3]) at points [Q, 3], with density 0 outside the cube."""
    density, color = self.query(np.clip(points, -1, 1))
    outside = np.any(np.abs(points) > 1, axis=-1)
    return np.where(outside, 0, density), color


def field_of(query: colors.Query) -> Field:
  """Returns the field of a function of points."""

  def grid(coordinates):
    lines = blocks_of(coordinates)

    def evaluate(places, face):
      x, y, z = (lines[places[:, axis]][:, : 1 if axis == face else None] for axis in range(3))
      points = np.stack(np.broadcast_arrays(x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]), axis=-1)
      density = colors.in_pieces(query, points.reshape(-1, 3))[0].reshape(points.shape[:-1])
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
  field: Field,
  *,
  resolution: int = 128,
  threshold: float | Literal['auto'] | None = None,
  dense: bool = False,
  keep: str | float = cleanup.KEEP,
  faces: int | None = None,
  texture_size: int | None = None,
  done: Callable[[str], object] = lambda phase: None,
) -> trimesh.Trimesh:
  """Returns the surface where the density passes `threshold`, with the colours that are visible from outside.

  The default threshold, None or 'auto', is that of `rendered_threshold`, because no fixed value fits all models:
  blurred models have low densities, sharp models high ones. Normals point outwards, towards lower density. The density
  is zero outside of the field's border, so the surface is closed. With `dense`, all grid points are evaluated,
  otherwise those near the surface (surface.py). `keep` says which parts remain and `faces` how many triangles
  (cleanup.py).
  With `texture_size`, the colours are in a texture of so many pixels along a side, otherwise at the vertices; a mesh
  with a texture has at most texture.FACES triangles unless `faces` is given.

  The mesh has its vertex normals; its `metadata` has the threshold and the cleanup.Report. `done` is called with
  the name of each phase when it ends. Raises InputError if an argument is out of range or no density reaches the
  threshold.
  """
  if resolution < 8:
    raise InputError(f'{resolution=} must be at least 8 grid points')
  threshold = None if threshold == 'auto' else threshold
  if threshold is not None and not threshold > 0:
    raise InputError(f'{threshold=} must be above 0')
  if faces is not None and faces < 4:
    raise InputError(f'{faces=} must be at least 4')
  if texture_size is not None:
    texture.check(texture_size)
    faces = faces or texture.FACES
  cleanup.check_keep(keep)

  def small(size):
    return surface.small_grid(surface.closed(field.grid, -1, 1), _axis(min(size, _THRESHOLD_GRID)))

  if threshold is None:
    threshold = rendered_threshold(small(resolution))
  vertices, triangles = surface.extract(field.grid, _axis(resolution), threshold, dense=dense)
  if not len(triangles):
    raise InputError(
      f'no surface: the greatest density found is {small(resolution).max():.3g}, {threshold=:g}; lower the threshold, '
      'or give an image of one whole object on a plain background'
    )
  done('surface')
  vertices, triangles, removed = cleanup.without_debris(vertices, triangles, keep)
  if faces is not None and len(triangles) > faces:
    vertices, triangles = cleanup.decimate(vertices, triangles, faces)
    vertices, triangles, more = cleanup.without_debris(vertices, triangles, keep)  # Slivers that came loose.
    removed += more
  report = cleanup.report(vertices, triangles, removed)
  normals = cleanup.vertex_normals(vertices, triangles)
  done('clean-up')

  color = colors.surface_color(field.query_inside, vertices, normals, threshold)
  if texture_size is not None:

    def inward(points, normals):
      return colors.inward_color(field.query_inside, points, normals, threshold)

    # What the other views of a hazy volume add varies slowly over the surface, so that it is computed at the vertices:
    # this takes a seventh of the samples, and the result is as close to rendered views.
    added = color - inward(vertices, normals)
    mesh = texture.bake(inward, vertices, triangles, normals, texture_size, added)
  else:
    values = images.to_bytes(color)
    values = np.concatenate([values, np.full((len(values), 1), 255, np.uint8)], axis=-1)
    mesh = trimesh.Trimesh(vertices, triangles, vertex_normals=normals, vertex_colors=values, process=False)
  mesh.metadata |= {'threshold': threshold, 'report': report}
  done('texture' if texture_size is not None else 'colours')
  return mesh


def _axis(size: int) -> np.ndarray:
  return np.linspace(-1, 1, size, dtype=np.float32)
