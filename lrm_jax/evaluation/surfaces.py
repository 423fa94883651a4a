"""Surfaces to compare: a triangle mesh or a set of points; points sampled on them, and what cameras see of them.

Legend: P points, K vertices, T triangles.
"""

from collections.abc import Sequence
import dataclasses
from pathlib import Path

import numpy as np
import trimesh

from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, rasterise

MESH_SUFFIXES = ('.glb', '.obj', '.ply', '.stl', '.off')


@dataclasses.dataclass(frozen=True)
class Surface:
  """A mesh (vertices [K, 3], triangles [T, 3]), or points [P, 3] on a surface that is not known as a mesh."""

  vertices: np.ndarray | None = None
  triangles: np.ndarray | None = None
  points: np.ndarray | None = None

  @property
  def is_mesh(self) -> bool:
    """Whether the triangles are known."""
    return self.triangles is not None

  @property
  def is_watertight(self) -> bool:
    """Whether it is a mesh in which each edge, after merging equal vertices, belongs to two triangles."""
    if self.triangles is None:
      return False
    _, place = np.unique(np.round(self._of('vertices'), 9), axis=0, return_inverse=True)
    return bool(trimesh.Trimesh(self.vertices, place.reshape(-1)[self.triangles], process=False).is_watertight)

  def transformed(self, similarity: np.ndarray) -> 'Surface':
    """Returns the surface moved by x -> similarity @ x, a matrix [4, 4]."""

    def moved(x):
      return None if x is None else x @ similarity[:3, :3].T + similarity[:3, 3]

    return Surface(moved(self.vertices), self.triangles, moved(self.points))

  def sample(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (points [count, 3], unit normals [count, 3]), uniform on the triangles.

    Equal meshes have equal points for equal seeds. If only points are known, returns at most `count` of them, and no
    normals.
    """
    rng = np.random.default_rng(seed)
    if self.triangles is None:
      points = self._of('points')
      return (points if len(points) <= count else points[rng.permutation(len(points))[:count]]), None
    a, b, c = (self._of('vertices')[self.triangles[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    areas = np.linalg.norm(normals, axis=-1)
    ends = np.cumsum(areas)
    chosen = np.minimum(np.searchsorted(ends, rng.uniform(size=count) * ends[-1], side='right'), len(areas) - 1)
    u, v = rng.uniform(size=(2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return points, normals[chosen] / np.maximum(areas[chosen, None], 1e-30)

  def visible(self, count: int, poses: np.ndarray, fov: float, size: int, seed: int = 0) -> np.ndarray:
    """Returns at most `count` points [P, 3], drawn from those where the rays of the cameras' pixels first hit.

    `poses` are camera_to_world [V, 4, 4], `fov` is in degrees and images have `size` x `size` pixels. Raises InputError
    if the surface is not a mesh, or if no ray hits it.
    """
    if self.triangles is None:
      raise InputError('the visible surface of an object needs its mesh, but only points are known: give --meshes=DIR')
    intrinsics = cameras.intrinsics_from_fov(fov)
    found = []
    for pose in poses:
      pixels, distance = cameras.project(self._of('vertices'), pose, intrinsics)
      depth = rasterise.nearest(pixels * size, distance, self.triangles, size)
      row, column = np.nonzero(np.isfinite(depth))
      place = (np.stack([column, row], axis=-1) + 0.5) / size
      local = np.concatenate([(place - intrinsics[2:]) / intrinsics[:2] * [1, -1], -np.ones((len(row), 1))], axis=-1)
      found.append((local * depth[row, column, None]) @ pose[:3, :3].T + pose[:3, 3])
    points = np.concatenate(found)
    if not len(points):
      raise InputError('no ray hits the mesh: is it outside of the box [-1, 1]^3?')
    return points[np.random.default_rng(seed).permutation(len(points))[:count]]

  def _of(self, name: str) -> np.ndarray:
    value = getattr(self, name)
    assert value is not None
    return value


def of_points(points: np.ndarray) -> Surface:
  """Returns a surface of which only points [P, 3] are known."""
  return Surface(points=np.asarray(points, np.float64))


def of_mesh(mesh: trimesh.Trimesh) -> Surface:
  """Returns the surface of a mesh."""
  return Surface(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def find(directory: Path, name: str) -> Path:
  """Returns the mesh file NAME.* or NAME/*.* of a directory. Raises InputError if there is none, or several."""
  found = [path for suffix in MESH_SUFFIXES for path in (directory / f'{name}{suffix}',) if path.is_file()]
  if not found and (directory / name).is_dir():
    found = sorted(path for path in (directory / name).iterdir() if path.suffix in MESH_SUFFIXES)
  if len(found) != 1:
    raise InputError(
      f'{directory} has {"no mesh" if not found else f"{len(found)} meshes"} of {name}: it must have one of '
      f'{name}{{{",".join(MESH_SUFFIXES)}}} or {name}/*'
    )
  return found[0]


def read(path: Path) -> Surface:
  """Returns the surface in a mesh file. Raises InputError if it cannot be read or has no triangles."""
  try:
    mesh = trimesh.load(path, force='mesh', process=False)
  except Exception as error:  # trimesh's readers raise what their libraries raise.
    raise InputError(f'{path} cannot be read as a mesh: {" ".join(str(error).split())[:200]}') from error
  if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not np.all(np.isfinite(mesh.vertices)):
    raise InputError(f'{path} has no triangles, or vertices with NaN or infinite values')
  return of_mesh(mesh)


def sphere(radius: float, centre: Sequence[float] = (0, 0, 0)) -> Surface:
  """Returns a sphere of 1,280 triangles."""
  mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
  return of_mesh(mesh.apply_translation(centre))
