"""Reads transforms.json, the format of NeRF's synthetic scenes, Instant-NGP and nerfstudio: z up, OpenGL camera axes.

The views of transforms_train.json, transforms_val.json and transforms_test.json are joined. Intrinsics are either
camera_angle_x (radians), or fl_x, fl_y, cx, cy, w, h in pixels; they are given for the whole file or for each frame.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lrm_jax.datasets.folders import images
from lrm_jax.errors import InputError, passes

_FILES = ('transforms.json', 'transforms_train.json', 'transforms_val.json', 'transforms_test.json')
_DISTORTION = ('k1', 'k2', 'k3', 'k4', 'p1', 'p2')


def holds(folder: Path) -> bool:
  """Returns whether the folder is an object in this layout."""
  return any((folder / name).is_file() for name in _FILES[:2])


def read(folder: Path, options: images.Options) -> dict:
  """Returns the record of the folder, without its uid; InputError if a file is missing or damaged."""
  views, poses, intrinsics = [], [], []
  for name in _FILES:
    if not (folder / name).is_file():
      continue
    try:
      scene = json.loads((folder / name).read_text())
      frames = scene['frames']
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
      raise InputError(f'{name} cannot be read ({error}): it must be JSON with a list `frames`') from error
    for frame in frames[: None if options.num_views is None else options.num_views - len(views)]:
      path = _image_path(folder, str(frame['file_path']))
      view, camera = images.encoded(path, _intrinsics(scene | frame, path, name), options)
      pose = np.asarray(frame['transform_matrix'], np.float64)
      if pose.shape != (4, 4):
        raise InputError(f'{name}: transform_matrix of {path.name} has the shape {list(pose.shape)}, expected [4, 4]')
      views.append(view)
      poses.append(pose)
      intrinsics.append(camera)
  return {
    'views': views,
    'camera_to_world': np.reshape(poses, (-1, 4, 4)),
    'intrinsics': np.reshape(intrinsics, (-1, 4)),
    'object_to_world': np.full((4, 4), np.nan),
  }


def _image_path(folder: Path, name: str) -> Path:
  """Returns the image file of a frame; `file_path` may omit the suffix, as in NeRF's synthetic scenes."""
  path = folder / name
  for suffix in ('', '.png', '.webp', '.jpg'):
    candidate = path.with_name(path.name + suffix)
    if candidate.is_file():
      return candidate
  return path


def _intrinsics(camera: dict, path: Path, name: str) -> np.ndarray:
  """Returns (fx, fy, cx, cy), divided by the width and height of the image at `path`."""
  if any(camera.get(key, 0) for key in _DISTORTION):
    raise InputError(f'{name}: lens distortion ({", ".join(_DISTORTION)}) is not supported: undistort the images')
  try:
    with Image.open(path) as image:
      width, height = image.size
  except OSError as error:
    if passes(error):
      raise
    raise InputError(f'{path.name} is missing or not an image ({error})') from error
  if 'fl_x' in camera:
    size = np.array([camera.get('w', width), camera.get('h', height)], float)
    focal = np.array([camera['fl_x'], camera.get('fl_y', camera['fl_x'])], float)
    centre = np.array([camera.get('cx', size[0] / 2), camera.get('cy', size[1] / 2)], float)
    return np.concatenate([focal / size, centre / size])
  if 'camera_angle_x' not in camera:
    raise InputError(f'{name} has no intrinsics: it needs camera_angle_x or fl_x')
  focal = 0.5 / np.tan(camera['camera_angle_x'] / 2)
  return np.array([focal, focal * width / height, 0.5, 0.5])
