"""transforms.json, as NeRF's synthetic scenes, Instant-NGP and nerfstudio have it: one object, z up, OpenGL cameras.

Of transforms_train.json, transforms_val.json and transforms_test.json all views are taken. Intrinsics are
camera_angle_x (radians), or fl_x, fl_y, cx, cy, w, h in pixels, of all frames or of each.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lrm_jax.datasets.folders import pictures

_FILES = ('transforms.json', 'transforms_train.json', 'transforms_val.json', 'transforms_test.json')
_DISTORTION = ('k1', 'k2', 'k3', 'k4', 'p1', 'p2')


def holds(folder: Path) -> bool:
  """Returns whether a folder is an object of this layout."""
  return any((folder / name).is_file() for name in _FILES[:2])


def read(folder: Path, options: pictures.Options) -> dict:
  """Returns the record of a folder, without its uid."""
  views, poses, intrinsics = [], [], []
  for name in _FILES:
    if not (folder / name).is_file():
      continue
    try:
      scene = json.loads((folder / name).read_text())
      frames = scene['frames']
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
      raise ValueError(f'{name} cannot be read ({error}): it must have frames') from error
    for frame in frames[: None if options.num_views is None else options.num_views - len(views)]:
      path = _picture(folder, str(frame['file_path']))
      view, camera = pictures.encoded(path, _intrinsics(scene | frame, path, name), options)
      pose = np.asarray(frame['transform_matrix'], np.float64)
      if pose.shape != (4, 4):
        raise ValueError(f'{name}: the transform_matrix of {path.name} has the shape {list(pose.shape)}, not [4, 4]')
      views.append(view)
      poses.append(pose)
      intrinsics.append(camera)
  return {
    'views': views,
    'camera_to_world': np.reshape(poses, (-1, 4, 4)),
    'intrinsics': np.reshape(intrinsics, (-1, 4)),
    'object_to_world': np.full((4, 4), np.nan),
  }


def _picture(folder: Path, name: str) -> Path:
  """The file of a frame, which may be told without its ending."""
  path = folder / name
  endings = ('', '.png', '.webp', '.jpg')
  return next((found for end in endings if (found := path.with_name(path.name + end)).is_file()), path)


def _intrinsics(camera: dict, path: Path, name: str) -> np.ndarray:
  if any(camera.get(key, 0) for key in _DISTORTION):
    raise ValueError(
      f'{name}: cameras with distortion ({", ".join(_DISTORTION)}) are not taken: undistort the pictures'
    )
  try:
    with Image.open(path) as picture:
      width, height = picture.size
  except OSError as error:
    raise ValueError(f'{path.name} is missing or no picture ({error})') from error
  if 'fl_x' in camera:
    size = np.array([camera.get('w', width), camera.get('h', height)], float)
    focal = np.array([camera['fl_x'], camera.get('fl_y', camera['fl_x'])], float)
    centre = np.array([camera.get('cx', size[0] / 2), camera.get('cy', size[1] / 2)], float)
    return np.concatenate([focal / size, centre / size])
  if 'camera_angle_x' not in camera:
    raise ValueError(f'{name} has neither camera_angle_x nor fl_x')
  focal = 0.5 / np.tan(camera['camera_angle_x'] / 2)
  return np.array([focal, focal * width / height, 0.5, 0.5])
