"""Presets: where cameras stand around an object, what they see, and what light falls on it.

World (lrm_jax/geometry/cameras.py): z up, the object's bounding box centred in the origin, its vertices within OBJECT_RADIUS, so
that every camera of every preset sees all of it. View 0 is frontal. All cameras look at the origin.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from lrm_jax.geometry import cameras

OBJECT_RADIUS = 1.5 * np.sin(np.deg2rad(25))
RADIUS, HEIGHT = (1.5, 3.0), (-0.75, 1.60)  # world units, of the paper's cameras
OPENLRM_FOV = 2 * np.rad2deg(np.arctan(0.5 / 0.75))  # degrees [SPEC.md: the focal length is 0.75 of the width]
OPENLRM_RADIUS = (1.9, 2.6)  # world units [told to us; no source of it was read]
_TRIPOSR_FOV = (35.0, 65.0)  # degrees [ours: it is told that they vary]
_TRIPOSR_FILL = (0.6, 0.95)  # of the picture's side, by the sphere around the object [ours]


@dataclasses.dataclass(frozen=True)
class Light:
  """`ambient` from everywhere, and suns: (direction towards it [3], strength) each; white, linear.

  A white surface looks `ambient` bright in the ambient light alone, and `strength` brighter where it faces a sun.
  """

  ambient: float = 1.0
  suns: tuple[tuple[tuple[float, float, float], float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Setup:
  """Of one object: camera_to_world [V, 4, 4], fields of view [V] in degrees, light."""

  poses: np.ndarray
  fovs: np.ndarray
  light: Light

  @property
  def intrinsics(self) -> np.ndarray:
    """(fx, fy, cx, cy) [V, 4] of square pictures, divided by their size."""
    return np.stack([cameras.intrinsics_from_fov(fov) for fov in self.fovs])


def paper(num_views: int, fov: float, rng: np.random.Generator) -> Setup:
  """LRM: view 0 at [0, -2, 0], the others at radius 1.5..3.0, height -0.75..1.60, any azimuth; 50 degrees [C]; even light.

  Source: LRM, section 4.1 and appendix (SPEC.md).
  """
  radius = rng.uniform(*RADIUS, num_views - 1)
  height = rng.uniform(np.maximum(HEIGHT[0], -0.95 * radius), np.minimum(HEIGHT[1], 0.95 * radius))
  azimuth = rng.uniform(0, 2 * np.pi, num_views - 1)
  across = np.sqrt(radius**2 - height**2)
  position = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], axis=-1)
  poses = np.concatenate([cameras.input_camera()[None], cameras.look_at(position)])
  return Setup(poses, np.full(num_views, fov), Light())


def openlrm(num_views: int, fov: float, rng: np.random.Generator) -> Setup:
  """OpenLRM: radius 1.9..2.6, any direction (not within 15 degrees of straight up or down [ours]), 67.4 degrees; even light."""
  radius = rng.uniform(*OPENLRM_RADIUS, num_views)
  limit = np.sin(np.deg2rad(75))
  poses = cameras.look_at(radius[:, None] * _directions(rng.uniform(-limit, limit, num_views), rng))
  poses[0] = cameras.input_camera()
  return Setup(poses, np.full(num_views, fov), Light())


def triposr_like(num_views: int, fov: float | None, rng: np.random.Generator) -> Setup:
  """Varied as TripoSR's data are told to be: the field of view 35..65 degrees a view, the object's sphere 0.6..0.95 of it.

  Elevations -15..60 degrees; ambient light of 0.5..1.0 and up to two suns a object, of together 0.5 at most [ours].
  """
  fovs = rng.uniform(*_TRIPOSR_FOV, num_views) if fov is None else np.full(num_views, fov)
  # The sphere's outline reaches tan(asin(radius / distance)) from the middle of a picture of half-width tan(fov / 2).
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


# With the field of view where none is asked for; None: it varies.
PRESETS: dict[str, tuple[Callable, float | None]] = {
  'paper': (paper, 50.0),
  'openlrm': (openlrm, OPENLRM_FOV),
  'triposr-like': (triposr_like, None),
}


def make(name: str, num_views: int, fov: float | None, rng: np.random.Generator) -> Setup:
  """Returns the cameras and the light of a preset; `fov` in degrees takes the place of its own."""
  preset, own = PRESETS[name]
  return preset(num_views, own if fov is None else fov, rng)


def _directions(height: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns unit vectors [V, 3] of these heights (z), at any azimuth."""
  azimuth = rng.uniform(0, 2 * np.pi, len(height))
  across = np.sqrt(1 - height**2)
  return np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], axis=-1)
