"""Cameras: where they stand, how pictures are cut, and what projects where.

World: right-handed, z up, the object inside the cube [-1, 1]^3.
Camera: `camera_to_world` [..., 4, 4] with Blender / OpenGL axes (x right, y up, looking along -z).
Intrinsics: (fx, fy, cx, cy) [..., 4], divided by the image size, with v pointing down;
the centre of pixel i lies at (i + 0.5) / size.

Everything here is NumPy: it runs in the data workers, where JAX has no business.
Source: LRM (arXiv 2311.04400), section 3.2 and its camera normalisation.
"""

import numpy as np

INPUT_POSITION = (0.0, -2.0, 0.0)  # Where LRM puts the input camera; weights from elsewhere have other places.


def look_at(position, target=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0)):
  """Returns camera_to_world [..., 4, 4] of cameras at `position` [..., 3] that look at `target`.

  Raises ValueError where the viewing direction is parallel to `up` or the position is the target.
  """
  position = np.asarray(position, np.float64)
  backward = position - np.asarray(target, np.float64)
  right = np.cross(np.broadcast_to(np.asarray(up, np.float64), backward.shape), backward)
  length = np.linalg.norm(right, axis=-1, keepdims=True)
  if np.any(length < 1e-9):
    raise ValueError(f'a camera at {position.tolist()} looks along {up=} or stands in its target: move it')
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
  """Returns camera_to_world [V, 4, 4] of a full turn that starts at the input view's `position`.

  The camera moves counter-clockwise seen from above (from -y towards +x); `elevation` in degrees, in (-90, 90).
  """
  distance, start = np.linalg.norm(position), np.arctan2(position[1], position[0])
  angle = 2 * np.pi * np.arange(num_views) / num_views + start
  height = np.deg2rad(elevation)
  direction = np.stack(
    [np.cos(height) * np.cos(angle), np.cos(height) * np.sin(angle), np.full(num_views, np.sin(height))], axis=-1
  )
  return look_at(distance * direction)


def input_camera(position=INPUT_POSITION):
  """Returns the camera_to_world [4, 4] that every input view is normalised to: at `position`, z up."""
  return look_at(position)


def intrinsics_from_fov(degrees):
  """Returns (fx, fy, cx, cy) [4] of a square picture with this full field of view, in degrees."""
  focal = 0.5 / np.tan(np.deg2rad(degrees) / 2)
  return np.array([focal, focal, 0.5, 0.5])


def normalise_to_input_view(camera_to_world, input_view=0, position=INPUT_POSITION, keep_distance=False):
  """Returns (camera_to_world [V, 4, 4], similarity [4, 4]) with the input view at `position`.

  With `keep_distance` it stands in that direction as far away as it does now: videos of real objects have their own.
  One similarity (rotation, then a scale) is applied to the whole scene: x -> similarity @ x. The origin
  stays where it is, so the views must look at it. Rotations stay rotations: only positions are scaled.
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
  """Returns the intrinsics [..., 4] of a window cut from a picture resized to `size` x `size`.

  The window is `window` pixels wide and high, its first pixel at column `left`, row `top`.
  """
  intrinsics = np.asarray(intrinsics, np.float64)
  corner = np.stack(np.broadcast_arrays(0.0, 0.0, left, top), axis=-1)
  return (intrinsics * size - corner) / window


def project(points, camera_to_world, intrinsics):
  """Returns (pixels [..., P, 2], distance [..., P]) of world `points` [..., P, 3].

  Pixels are (column, row) divided by the image size: inside the picture in [0, 1]. Distance is along the
  viewing direction; negative behind the camera.
  """
  points, camera_to_world = np.asarray(points), np.asarray(camera_to_world)
  intrinsics = np.asarray(intrinsics)[..., None, :]
  local = (points - camera_to_world[..., None, :3, 3]) @ camera_to_world[..., :3, :3]
  distance = -local[..., 2]
  pixels = np.stack([local[..., 0], -local[..., 1]], axis=-1) / distance[..., None]
  return pixels * intrinsics[..., :2] + intrinsics[..., 2:], distance


def mirror(camera_to_world):
  """Returns the poses [..., 4, 4] of the scene reflected in x = 0; their pictures are flipped left to right."""
  flip = np.diag([-1.0, 1.0, 1.0, 1.0])
  return flip @ camera_to_world @ flip
