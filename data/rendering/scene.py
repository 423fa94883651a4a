"""What both engines give: a scene of one object, and pictures of it.

Scenes have z up. Engines see the object as it is in its file; cameras are moved around it instead.
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
  """`distance` [S, S] along the ray, in the scene's units, 0 where nothing is; unit `normals` [S, S, 3] towards the camera."""

  distance: np.ndarray
  normals: np.ndarray


class Engine(Protocol):
  """A renderer that holds one scene at a time."""

  name: str
  kinds: tuple[str, ...]  # Endings of files that it reads.

  def load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Loads a file; returns (vertices [K, 3], triangles [T, 3]). Raises ValueError where it cannot be used."""

  def light(self, light: Light) -> None:
    """Sets the light."""

  def render(self, pose: np.ndarray, fov: float, size: int) -> np.ndarray:
    """Returns RGBA bytes [size, size, 4], sRGB, straight alpha, from camera_to_world [4, 4] in the scene."""

  def geometry(self, pose: np.ndarray, fov: float, size: int) -> Geometry:
    """Returns what the rays through the middles of the pixels hit first."""

  def describe(self) -> dict:
    """Returns what to write down of the engine: version, samples."""


def normalisation(vertices: np.ndarray) -> tuple[np.ndarray, float]:
  """Returns (centre [3], scale): world = scale * (scene - centre). ValueError where there is nothing to see."""
  if not len(vertices):
    raise ValueError('there is no mesh in it')
  if not np.all(np.isfinite(vertices)):
    raise ValueError('vertices of its mesh are no finite numbers')
  centre = (vertices.min(0) + vertices.max(0)) / 2
  radius = np.linalg.norm(vertices - centre, axis=-1).max()
  if radius <= 0:
    raise ValueError('all its vertices lie in one point')
  return centre.astype(np.float64), float(OBJECT_RADIUS / radius)


def surface_points(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
  """Returns points [count, 3] spread evenly over the triangles; none where these have no area."""
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
  """Raises ValueError where a view [S, S, 4] shows nothing, or cuts the object off: presets see all of it.

  Vertices [K, 3] and cameras are those of the world; a pixel beyond the border is forgiven.
  """
  for number, view in enumerate(views):
    if view[..., 3].max() < 16:
      raise ValueError(
        'all of it is transparent' if all(v[..., 3].max() < 16 for v in views) else f'view {number} is empty'
      )
    pixels, distance = cameras.project(vertices, poses[number], intrinsics[number])
    if distance.min() <= 0 or np.abs(pixels - 0.5).max() > 0.5 + 1 / len(view):
      raise ValueError(
        f'view {number} cuts the object off: it leaves the picture by {np.abs(pixels - 0.5).max() - 0.5:.0%}'
      )
