"""Cameras: poses, intrinsics, projection, and normalisation to the input view.

World: right-handed, z up; the object lies inside the cube [-1, 1]^3.
Camera: `camera_to_world` [..., 4, 4] with Blender / OpenGL axes (x right, y up, looking along -z).
Intrinsics: (fx, fy, cx, cy) [..., 4], divided by the image size, with the image's v axis pointing down.
The centre of pixel i is at (i + 0.5) / size.

This module uses only NumPy, because it runs in data workers, which must not import JAX.
Source: LRM (arXiv 2311.04400), section 3.2 (camera normalisation).
"""

import numpy as np

from lrm_jax.errors import InputError

INPUT_POSITION = (0.0, -2.0, 0.0)  # LRM's input camera. Third-party weights may expect another position.


def look_at(position, target=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0)):
  """Returns the poses camera_to_world [..., 4, 4] of cameras at `position` [..., 3] that look at `target`.

  Raises InputError if the viewing direction is parallel to `up` or the position equals the target.
  """
  position = np.asarray(position, np.float64)
  backward = position - np.asarray(target, np.float64)
  right = np.cross(np.broadcast_to(np.asarray(up, np.float64), backward.shape), backward)
  length = np.linalg.norm(right, axis=-1, keepdims=True)
  if np.any(length < 1e-9):
    raise InputError(f'the camera at {position.tolist()} looks along {up=} or is at its target: move it')
  right = right / length
  backward = backward / np.linalg.norm(backward, axis=-1, keepdims=True)
  pose = np.zeros(position.shape[:-1] + (4, 4))
  pose[..., :3, 0] = right
  pose[..., :3, 1] = np.cross(backward, right)
  pose[..., :3, 2] = backward
  pose[..., :3, 3] = position
  pose[..., 3, 3] = 1.0
  return pose


def orbit(num_views, position=INPUT_POSITION, elevation=0.0):
  """Returns the poses camera_to_world [V, 4, 4] of a full orbit that starts at the azimuth of `position`.

  Viewed from above, the camera moves counter-clockwise (from -y towards +x). Its distance to the origin is that of
  `position`. `elevation` is in degrees, in (-90, 90).
  """
  distance, start = np.linalg.norm(position), np.arctan2(position[1], position[0])
  angle = 2 * np.pi * np.arange(num_views) / num_views + start
  height = np.deg2rad(elevation)
  direction = np.stack(
    [np.cos(height) * np.cos(angle), np.cos(height) * np.sin(angle), np.full(num_views, np.sin(height))], axis=-1
  )
  return look_at(distance * direction)


def input_camera(position=INPUT_POSITION):
  """Returns the pose camera_to_world [4, 4] of normalised input views: at `position`, facing the origin, z up."""
  return look_at(position)


def intrinsics_from_fov(degrees):
  """Returns (fx, fy, cx, cy) [4] of a square image with this full field of view, in degrees."""
  focal = 0.5 / np.tan(np.deg2rad(degrees) / 2)
  return np.array([focal, focal, 0.5, 0.5])


def normalise_to_input_view(camera_to_world, input_view=0, position=INPUT_POSITION, keep_distance=False):
  """Returns (camera_to_world [V, 4, 4], similarity [4, 4]) with the input view moved to `position`.

  One similarity (a rotation, then a scale) is applied to the whole scene: x -> similarity @ x. It leaves the origin
  in place, so the views must look at the origin. Only positions are scaled; the rotation parts of the poses remain
  rotations. With `keep_distance`, nothing is scaled: the input view is moved in the direction of `position` but keeps
  its distance to the origin, which varies in videos of real objects.
  """
  camera_to_world = np.asarray(camera_to_world, np.float64)
  source = camera_to_world[input_view]
  rotation = input_camera(position)[:3, :3] @ source[:3, :3].T
  scale = 1.0 if keep_distance else np.linalg.norm(position) / np.linalg.norm(source[:3, 3])
  moved = camera_to_world.copy()
  moved[:, :3, :3] = rotation @ camera_to_world[:, :3, :3]
  moved[:, :3, 3] = scale * camera_to_world[:, :3, 3] @ rotation.T
  similarity = np.eye(4)
  similarity[:3, :3] = scale * rotation
  return moved, similarity


def window_intrinsics(intrinsics, size, left, top, window):
  """Returns the intrinsics [..., 4] of a window cropped from an image that was resized to `size` x `size`.

  The window is `window` pixels wide and high; its first pixel is at column `left`, row `top`.
  """
  intrinsics = np.asarray(intrinsics, np.float64)
  corner = np.stack(np.broadcast_arrays(0.0, 0.0, left, top), axis=-1)
  return (intrinsics * size - corner) / window


def project(points, camera_to_world, intrinsics):
  """Returns (pixels [..., P, 2], distance [..., P]) of world `points` [..., P, 3].

  Pixels are (column, row) divided by the image size: in [0, 1] inside the image. Distance is measured along the
  viewing direction and is negative behind the camera.
  """
  points, camera_to_world = np.asarray(points), np.asarray(camera_to_world)
  intrinsics = np.asarray(intrinsics)[..., None, :]
  local = (points - camera_to_world[..., None, :3, 3]) @ camera_to_world[..., :3, :3]
  distance = -local[..., 2]
  pixels = np.stack([local[..., 0], -local[..., 1]], axis=-1) / distance[..., None]
  return pixels * intrinsics[..., :2] + intrinsics[..., 2:], distance


def mirror(camera_to_world):
  """Returns the poses [..., 4, 4] of the scene mirrored at x = 0, whose images are flipped left to right."""
  flip = np.diag([-1.0, 1.0, 1.0, 1.0])
  return flip @ camera_to_world @ flip
