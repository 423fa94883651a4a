"""Cleans a closed surface: removes debris, reduces the number of triangles, and reports what is left.

All functions take and return (vertices [K, 3], triangles [T, 3]) whose vertices are shared between triangles.
Decimation is quadric edge collapse (Garland and Heckbert 1997) by fast-simplification. It pairs up some edges of
different sheets; manifold3d separates them again, so a closed surface stays closed.
Legend: K vertices, T triangles.
"""

import dataclasses

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from lrm_jax.errors import InputError

KEEP = 0.01  # By default, parts with less than this share of the volume of the largest part are removed.
_APART = 0.01  # Share of the way to its neighbours by which a vertex is moved away from another at the same place.


@dataclasses.dataclass(frozen=True)
class Report:
  """What a mesh consists of.

  `parts` counts connected pieces, hollows included, `removed` the pieces that were removed as debris, and `holes` the
  loops of edges with a triangle on one side only. A mesh is `watertight` if manifold3d accepts it as the boundary of a
  solid: every edge has a triangle on both sides, and these agree on what is outside.
  """

  vertices: int
  faces: int
  parts: int
  removed: int
  holes: int
  watertight: bool

  def __str__(self):
    pieces = f'{self.parts} part' + 's' * (self.parts != 1) + (f' ({self.removed} removed)' if self.removed else '')
    closed = 'watertight' if self.watertight else f'not watertight, {self.holes} hole{"s" * (self.holes != 1)}'
    return f'{self.vertices:,} vertices, {self.faces:,} faces, {pieces}, {closed}'


def parse_keep(text: str) -> str | float:
  """Returns 'largest', 'all' or a share in 0..1, from the value of --keep. Raises InputError for anything else."""
  if text in ('largest', 'all'):
    return text
  try:
    return check_keep(float(text))
  except ValueError:
    raise InputError(f"--keep={text}: use 'largest', 'all' or a share of the largest part in 0..1") from None


def check_keep(keep: str | float) -> str | float:
  """Returns `keep`, which must be 'largest', 'all' or a share in 0..1; raises InputError otherwise."""
  if keep in ('largest', 'all') or (not isinstance(keep, str) and 0 <= keep <= 1):
    return keep
  raise InputError(f"{keep=} must be 'largest', 'all' or a share of the largest part in 0..1")


def without_debris(
  vertices: np.ndarray, triangles: np.ndarray, keep: str | float = KEEP
) -> tuple[np.ndarray, np.ndarray, int]:
  """Returns (vertices, triangles, number of removed parts) without the small connected parts of a closed surface.

  Debris lies in space that no view has shown. A share in 0..1 keeps the parts, and the hollows, with at least this
  share of the volume of the largest part. 'largest' keeps only that part, without its hollows, and 'all' every part.
  """
  check_keep(keep)
  part = parts_of(vertices, triangles)
  part_of = part[triangles[:, 0]]
  if keep == 'all' or not len(triangles):
    return vertices, triangles, 0
  a, b, c = (vertices[triangles[:, i]].astype(np.float64) for i in range(3))
  volume = np.abs(np.bincount(part_of, np.einsum('ti,ti->t', a, np.cross(b, c)) / 6, minlength=part.max() + 1))
  if keep == 'largest':
    large = np.arange(len(volume)) == volume.argmax()
  else:
    large = volume >= float(keep) * volume.max()
  kept = large[part]
  numbers = np.cumsum(kept) - 1
  return vertices[kept], numbers[triangles[large[part_of]]], int(np.count_nonzero(~large))


def decimate(vertices: np.ndarray, triangles: np.ndarray, faces: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the surface with at most `faces` triangles, or a few more if it cannot be reduced further.

  Vertices move to where the sum of squared distances to the planes of the replaced triangles is least. Raises
  InputError if `faces` is below 4, the number that a closed surface needs.
  """
  if faces < 4:
    raise InputError(f'{faces=} must be at least 4')
  if len(triangles) <= faces:
    return vertices, triangles
  import fast_simplification  # Only needed here.

  fewer = fast_simplification.simplify(
    np.asarray(vertices, np.float32), np.asarray(triangles, np.int32), target_count=faces
  )
  return _apart(*_manifold_edges(*fewer))


def report(vertices: np.ndarray, triangles: np.ndarray, removed: int = 0) -> Report:
  """Returns the report of a mesh; `removed` is the number of parts that were removed from it before."""
  parts = parts_of(vertices, triangles)
  used = np.unique(parts[triangles[:, 0]])
  return Report(
    len(vertices), len(triangles), len(used), removed, holes(triangles), _solid(vertices, triangles) is not None
  )


def parts_of(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Returns the number [K] of the connected part of each vertex."""
  edges = np.concatenate([triangles[:, :2], triangles[:, 1:]])
  graph = sparse.coo_matrix((np.ones(len(edges), bool), edges.T), shape=(len(vertices),) * 2)
  return csgraph.connected_components(graph, directed=False)[1]


def holes(triangles: np.ndarray) -> int:
  """Returns the number of holes: groups of connected edges that have a triangle on one side only."""
  edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
  _, place, count = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
  rim = edges[count[place] == 1]
  if not len(rim):
    return 0
  names, ends = np.unique(rim, return_inverse=True)
  ends = ends.reshape(rim.shape)
  graph = sparse.coo_matrix((np.ones(len(ends), bool), ends.T), shape=(len(names),) * 2)
  return int(csgraph.connected_components(graph, directed=False)[0])


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Returns unit vertex normals [K, 3], float32: the area-weighted mean of the adjacent triangles."""
  a, b, c = (vertices[triangles[:, i]] for i in range(3))
  areas = np.cross(b - a, c - a)
  total = np.stack(
    [sum(np.bincount(triangles[:, corner], areas[:, i], len(vertices)) for corner in range(3)) for i in range(3)],
    axis=-1,
  )
  return (total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-30)).astype(np.float32)


def _solid(vertices, triangles):
  """Returns manifold3d's solid with this boundary, or None if it has none."""
  import manifold3d  # Takes a tenth of a second to import.

  mesh = manifold3d.Mesh64(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(triangles, np.uint64))
  solid = manifold3d.Manifold(mesh)
  return solid if solid.status() == manifold3d.Error.NoError and solid.num_tri() else None


def _manifold_edges(vertices, triangles) -> tuple[np.ndarray, np.ndarray]:
  """Returns the surface with two triangles at each edge, not four; unchanged if it is not closed."""
  solid = _solid(vertices, triangles)
  if solid is None:
    return vertices, triangles
  mesh = solid.to_mesh64()
  return np.asarray(mesh.vert_properties)[:, :3].astype(np.float32), np.asarray(mesh.tri_verts).astype(np.int64)


def _apart(vertices, triangles) -> tuple[np.ndarray, np.ndarray]:
  """Returns the surface with vertices at the same place moved apart, so that programs that merge them find no hole."""
  _, place, count = np.unique(vertices, axis=0, return_inverse=True, return_counts=True)
  same = count[place.reshape(-1)] > 1
  if not same.any():
    return vertices, triangles
  total, degree = np.zeros(vertices.shape), np.zeros(len(vertices))
  for corner in range(3):
    np.add.at(total, triangles[:, corner], vertices[triangles[:, corner - 1]])
    np.add.at(degree, triangles[:, corner], 1)
  mean = total[same] / degree[same, None]
  moved = vertices.copy()
  moved[same] += (_APART * (mean - vertices[same])).astype(moved.dtype)
  return moved, triangles
