"""Presets: camera poses, fields of view and light for rendering an object.

World (lrm_jax/geometry/cameras.py): z up, the bounding box of the object is centred at the origin, and its vertices are
within OBJECT_RADIUS of it, so that every camera of every preset sees the whole object. All cameras look at the origin;
view 0 is frontal. Values marked [ours] are our choice, not published.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from lrm_jax.geometry import cameras

OBJECT_RADIUS = 1.5 * np.sin(np.deg2rad(25))
RADIUS, HEIGHT = (1.5, 3.0), (-0.75, 1.60)  # of the paper's cameras, world units
OPENLRM_FOV = 2 * np.rad2deg(np.arctan(0.5 / 0.75))  # degrees [SPEC.md: the focal length is 0.75 image widths]
OPENLRM_RADIUS = (1.9, 2.6)  # world units [second-hand; not checked against a source]
_TRIPOSR_FOV = (35.0, 65.0)  # degrees [ours; TripoSR's report only says that they vary]
_TRIPOSR_FILL = (0.6, 0.95)  # share of the side of the image that the sphere around the object fills [ours]


@dataclasses.dataclass(frozen=True)
class Light:
  """White light: `ambient` from all directions, and suns, each given by (direction towards the sun [3], strength).

  In linear colour, a white surface has the brightness `ambient`, plus `strength` for each sun that it faces.
  """

  ambient: float = 1.0
  suns: tuple[tuple[tuple[float, float, float], float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Setup:
  """Cameras and light of one object: camera_to_world [V, 4, 4], fields of view [V] in degrees, light."""

  poses: np.ndarray
  fovs: np.ndarray
  light: Light

  @property
  def intrinsics(self) -> np.ndarray:
    """(fx, fy, cx, cy) [V, 4] of square images, divided by their size."""
    return np.stack([cameras.intrinsics_from_fov(fov) for fov in self.fovs])


def paper(num_views: int, fov: float, rng: np.random.Generator) -> Setup:
  """LRM: view 0 at [0, -2, 0], the others at radius 1.5..3.0, height -0.75..1.60, any azimuth; even light.

  The default field of view is 50 degrees [C]. Source: LRM, section 4.1 and appendix (SPEC.md).
  """
  radius = rng.uniform(*RADIUS, num_views - 1)
  height = rng.uniform(np.maximum(HEIGHT[0], -0.95 * radius), np.minimum(HEIGHT[1], 0.95 * radius))
  azimuth = rng.uniform(0, 2 * np.pi, num_views - 1)
  across = np.sqrt(radius**2 - height**2)
  position = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], axis=-1)
  poses = np.concatenate([cameras.input_camera()[None], cameras.look_at(position)])
  return Setup(poses, np.full(num_views, fov), Light())


def openlrm(num_views: int, fov: float, rng: np.random.Generator) -> Setup:
  """OpenLRM: radius 1.9..2.6, any direction except within 15 degrees of the vertical [ours]; even light.

  The default field of view is 67.4 degrees.
  """
  radius = rng.uniform(*OPENLRM_RADIUS, num_views)
  limit = np.sin(np.deg2rad(75))
  poses = cameras.look_at(radius[:, None] * _directions(rng.uniform(-limit, limit, num_views), rng))
  poses[0] = cameras.input_camera()
  return Setup(poses, np.full(num_views, fov), Light())


def triposr_like(num_views: int, fov: float | None, rng: np.random.Generator) -> Setup:
  """Varied cameras and light, as in TripoSR.

  Per view, the field of view is 35..65 degrees, and the sphere around the object fills 0.6..0.95 of it.
  Elevations are -15..60 degrees. Per object, the ambient light is 0.5..1.0, and there are up to two suns with a total
  strength of at most 0.5 [ours].
  """
  fovs = rng.uniform(*_TRIPOSR_FOV, num_views) if fov is None else np.full(num_views, fov)
  # The silhouette of the sphere has the radius tan(asin(radius / distance)) in an image of half-width tan(fov / 2).
  fill = rng.uniform(*_TRIPOSR_FILL, num_views)
  distance = OBJECT_RADIUS / np.sin(np.arctan(fill * np.tan(np.deg2rad(fovs) / 2)))
  height = np.sin(np.deg2rad(rng.uniform(-15, 60, num_views)))
  poses = cameras.look_at(distance[:, None] * _directions(height, rng))
  poses[0] = cameras.look_at([0, -distance[0], 0])
  suns = [
    (tuple(_directions(rng.uniform(0.2, 0.9, 1), rng)[0].tolist()), float(rng.uniform(0.1, 0.25)))
    for _ in range(rng.integers(0, 3))
  ]
  return Setup(poses, fovs, Light(float(rng.uniform(0.5, 1.0 - sum(s for _, s in suns))), tuple(suns)))


def sf3d(num_views: int, fov: float, rng: np.random.Generator) -> Setup:
  """SF3D's evaluation: the frontal view, and others at equal steps of azimuth, elevation 20 degrees [ours]; even light.

  The paper states 16 views with the frontal one among them. All at distance 2, with 50 degrees [ours].
  """
  del rng
  azimuth = 2 * np.pi * np.arange(1, num_views) / num_views
  return _orbit(azimuth, np.full(num_views - 1, np.deg2rad(20)), fov)


def meshlrm(num_views: int, fov: float, rng: np.random.Generator) -> Setup:
  """MeshLRM's evaluation: polar angles 60, 90 and 120 degrees at 8 azimuths by 45 degrees; even light.

  View 0, the input, is frontal; it is repeated as the view of azimuth 0 and polar angle 90. All at distance 2, with 50
  degrees [ours]. Raises ValueError unless there are 25 views.
  """
  del rng
  if num_views != 25:
    raise ValueError(f'the preset meshlrm has 25 views: --num_views={num_views} must be 25')
  elevation, azimuth = np.meshgrid(np.deg2rad([30, 0, -30]), np.deg2rad(np.arange(0, 360, 45)), indexing='ij')
  return _orbit(azimuth.ravel(), elevation.ravel(), fov)


def _orbit(azimuth: np.ndarray, elevation: np.ndarray, fov: float) -> Setup:
  """Returns the frontal view, then views from these angles in radians; azimuth 0 is the front, towards -y."""
  across = np.cos(elevation)
  position = 2 * np.stack([across * np.sin(azimuth), -across * np.cos(azimuth), np.sin(elevation)], axis=-1)
  poses = np.concatenate([cameras.input_camera()[None], cameras.look_at(position)])
  return Setup(poses, np.full(len(poses), fov), Light())


# Each preset with its default field of view in degrees; None if the preset draws it.
PRESETS: dict[str, tuple[Callable, float | None]] = {
  'paper': (paper, 50.0),
  'openlrm': (openlrm, OPENLRM_FOV),
  'triposr-like': (triposr_like, None),
  'sf3d': (sf3d, 50.0),
  'meshlrm': (meshlrm, 50.0),
}


def make(name: str, num_views: int, fov: float | None, rng: np.random.Generator) -> Setup:
  """Returns the cameras and the light of a preset; `fov` in degrees overrides its default."""
  preset, default_fov = PRESETS[name]
  return preset(num_views, default_fov if fov is None else fov, rng)


def _directions(height: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns unit vectors [V, 3] with the given z components and random azimuths."""
  azimuth = rng.uniform(0, 2 * np.pi, len(height))
  across = np.sqrt(1 - height**2)
  return np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], axis=-1)
