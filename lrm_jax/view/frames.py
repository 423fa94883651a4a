"""Views of a reconstruction from any angle, as image files: colour, depth, opacity or normals.

Axes: lrm_jax/geometry/cameras.py. Legend: H W image.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from lrm_jax.geometry import cameras, images
from lrm_jax.geometry.volume import Pixels
from lrm_jax.reconstruction.result import Reconstruction
from lrm_jax.view.request_error import RequestError

KINDS = ('color', 'depth', 'opacity', 'normals')
SIZES = (64, 128, 192, 256, 384, 512)  # pixels along a side; each size is a program to compile, so there are few
_DISTANCES = 0.6, 2.5  # of the distance of the input camera
_ELEVATION = 85.0  # degrees; straight from above, the camera's up direction is undefined
_SEEN = 0.1  # opacity above which a pixel has a normal
_BLUR = 0.8  # pixels by which distances are smoothed before they are differentiated


def camera(
  reconstruction: Reconstruction, azimuth: float, elevation: float, distance: float
) -> tuple[np.ndarray, float]:
  """Returns (camera_to_world [4, 4] of a camera that looks at the origin, its distance in world units).

  `azimuth` is in degrees from the input camera, counter-clockwise from above; `elevation` in degrees above the horizon.
  `distance` is divided by that of the input camera. Elevation and distance are clipped to the possible range.
  """
  position = np.asarray(reconstruction.model.input_position, np.float64)
  far = float(np.linalg.norm(position) * np.clip(distance, *_DISTANCES))
  turn = np.deg2rad(azimuth) + np.arctan2(position[1], position[0])
  height = np.deg2rad(np.clip(elevation, -_ELEVATION, _ELEVATION))
  direction = np.array([np.cos(height) * np.cos(turn), np.cos(height) * np.sin(turn), np.sin(height)])
  return cameras.look_at(far * direction), far


def render(
  reconstruction: Reconstruction,
  *,
  azimuth: float = 0.0,
  elevation: float = 0.0,
  distance: float = 1.0,
  size: int = 128,
  kind: str = 'color',
) -> np.ndarray:
  """Returns a view [size, size, 3] in 0..1 (`camera` has the arguments); `kind` is one of KINDS.

  Depth is light where the object is near; opacity is white where it is 1. Normals are those of the mean depth, in world
  axes: (normal + 1) / 2. Raises RequestError if an argument is not possible.
  """
  if kind not in KINDS:
    raise RequestError(400, f'kind={kind[:20]} is unknown: use {", ".join(KINDS)}')
  if size not in SIZES:
    raise RequestError(400, f'{size=} is not possible: use {", ".join(map(str, SIZES))}')
  if not np.all(np.isfinite([azimuth, elevation, distance])):
    raise RequestError(400, 'azimuth, elevation and distance must be finite numbers')
  pose, far = camera(reconstruction, azimuth, elevation, distance)
  pixels = reconstruction.render(pose, size=size)
  depth, opacity = np.asarray(pixels.depth), np.asarray(pixels.opacity)
  if kind == 'color':
    return np.asarray(pixels.color)
  if kind == 'depth':
    return images.depth_to_color(depth, opacity, far - 0.9, far + 0.9)
  if kind == 'opacity':
    return np.repeat(opacity[..., None], 3, axis=-1)
  return normals(pixels, pose, reconstruction.model.intrinsics)


def normals(pixels: Pixels, pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
  """Returns the normals of the mean depth as colours [H, W, 3], (normal + 1) / 2, over white.

  `pose` [4, 4] and `intrinsics` [4] are those of the camera. The normals face it; they are differences of neighbouring
  points, slightly smoothed.
  """
  size = len(pixels.depth)
  seen = pixels.opacity > _SEEN
  weight = ndimage.gaussian_filter(np.where(seen, pixels.opacity, 0), _BLUR)
  far = ndimage.gaussian_filter(np.where(seen, pixels.depth, 0), _BLUR) / np.maximum(weight, 1e-6)
  centre = (np.arange(size) + 0.5) / size
  x, y = np.meshgrid((centre - intrinsics[2]) / intrinsics[0], (centre - intrinsics[3]) / intrinsics[1])
  directions = np.stack([x, -y, -np.ones_like(x)], axis=-1) @ pose[:3, :3].T
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  points = pose[:3, 3] + directions * far[..., None]
  normal = np.cross(np.gradient(points, axis=0), np.gradient(points, axis=1))  # Rows go down: this faces the camera.
  normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
  return np.where(seen[..., None], (normal + 1) / 2 * pixels.opacity[..., None] + 1 - pixels.opacity[..., None], 1.0)


def encode(pixels: np.ndarray, kind: str = 'jpeg') -> bytes:
  """Returns an image [H, W, 3] in 0..1 as a JPEG or PNG file."""
  stream = io.BytesIO()
  options = {'quality': 90, 'subsampling': 0} if kind == 'jpeg' else {'compress_level': 1}
  Image.fromarray(images.to_bytes(pixels)).save(stream, kind.upper(), **options)
  return stream.getvalue()
