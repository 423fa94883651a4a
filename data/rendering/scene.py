"""The interface of the rendering engines, and functions of the scene that both share.

Scenes have z up. Engines keep the object as it is in its file; the cameras are transformed into the scene instead.
"""

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np

from lrm_jax.geometry import cameras

from .presets import OBJECT_RADIUS, Light

Y_UP_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


@dataclasses.dataclass(frozen=True)
class Geometry:
  """`distance` [S, S] along the ray in scene units, 0 for background; unit `normals` [S, S, 3] that face the camera."""

  distance: np.ndarray
  normals: np.ndarray


class Engine(Protocol):
  """A renderer that holds one scene at a time."""

  name: str
  kinds: tuple[str, ...]  # Suffixes of the files that the engine reads.
  z_up: tuple[str, ...]  # Those of them that it loads with z up in the object's own axes, not y.

  def load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Loads a file and returns (vertices [K, 3], triangles [T, 3]); ValueError if the file cannot be used."""

  def light(self, light: Light) -> None:
    """Sets the light; must be called after each `load`."""

  def render(self, pose: np.ndarray, fov: float, size: int) -> np.ndarray:
    """Returns RGBA bytes [size, size, 4], sRGB, straight alpha.

    `pose` is camera_to_world [4, 4] in the scene, `fov` is in degrees.
    """

  def geometry(self, pose: np.ndarray, fov: float, size: int) -> Geometry:
    """Returns the distance and the normal of the first hit of the ray through the centre of each pixel."""

  def describe(self) -> dict:
    """Returns the version and settings of the engine, which are written to object.json."""


def normalisation(vertices: np.ndarray) -> tuple[np.ndarray, float]:
  """Returns (centre [3], scale) of the map from the scene to the world: world = scale * (scene - centre).

  The bounding box of the vertices [K, 3] is then centred at the origin, and the farthest vertex is at OBJECT_RADIUS.
  Raises ValueError if there are no vertices, if they have NaN or infinite values, or if they all coincide.
  """
  if not len(vertices):
    raise ValueError('the file has no mesh')
  if not np.all(np.isfinite(vertices)):
    raise ValueError('the mesh has vertices with NaN or infinite values')
  centre = (vertices.min(0) + vertices.max(0)) / 2
  radius = np.linalg.norm(vertices - centre, axis=-1).max()
  if radius <= 0:
    raise ValueError('all vertices of the mesh are at one point')
  return centre.astype(np.float64), float(OBJECT_RADIUS / radius)


def surface_points(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
  """Returns points [count, 3] drawn uniformly from the surface of the triangles; [0, 3] if their area is zero."""
  a, b, c = (vertices[triangles[:, i]] for i in range(3))
  areas = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
  if not areas.sum() > 0:
    return np.zeros((0, 3))
  chosen = rng.choice(len(triangles), count, p=areas / areas.sum())
  u, v = rng.uniform(size=(2, count, 1))
  beyond = u + v > 1
  u, v = np.where(beyond, 1 - u, u), np.where(beyond, 1 - v, v)
  return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]


def check_views(views: list[np.ndarray], vertices: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray) -> None:
  """Raises ValueError if a view [S, S, 4] is empty or cuts the object off; presets are made to see the whole object.

  Vertices [K, 3] and cameras are in the world. A tolerance of one pixel beyond the border is allowed.
  """
  for number, view in enumerate(views):
    if view[..., 3].max() < 16:
      if all(v[..., 3].max() < 16 for v in views):
        raise ValueError('the object is transparent in all views')
      raise ValueError(f'view {number} is empty (materials that are not double-sided are invisible from behind)')
    pixels, distance = cameras.project(vertices, poses[number], intrinsics[number])
    if distance.min() <= 0 or np.abs(pixels - 0.5).max() > 0.5 + 1 / len(view):
      raise ValueError(
        f'view {number} cuts the object off: it extends {np.abs(pixels - 0.5).max() - 0.5:.0%} beyond the border'
      )
