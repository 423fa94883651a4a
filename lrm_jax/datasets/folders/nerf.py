"""Reads transforms.json, the format of NeRF's synthetic scenes, Instant-NGP and nerfstudio: z up, OpenGL camera axes.

The views of transforms_train.json, transforms_val.json and transforms_test.json are joined. Intrinsics are either
camera_angle_x (radians), or fl_x, fl_y, cx, cy, w, h in pixels; they are given for the whole file or for each frame, as
are the lens coefficients k1 .. k4, p1, p2, whose distortion is undone (lrm_jax/datasets/folders/lens.py). A frame may
name its mask in mask_path: white is the object.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lrm_jax.datasets.folders import files, images, lens
from lrm_jax.errors import InputError, passes
from lrm_jax.geometry import image_files

_FILES = ('transforms.json', 'transforms_train.json', 'transforms_val.json', 'transforms_test.json')
_SUFFIXES = ('', *files.IMAGE_SUFFIXES)  # NeRF's synthetic scenes omit it.
_MODELS = ('SIMPLE_PINHOLE', 'PINHOLE', 'SIMPLE_RADIAL', 'RADIAL', 'OPENCV', 'PERSPECTIVE')
_UNSUPPORTED = ('k5', 'k6', 'is_fisheye')


def holds(folder: Path) -> bool:
  """Returns whether the folder is an object in this layout."""
  return any((folder / name).is_file() for name in _FILES[:2])


def read(folder: Path, options: images.Options) -> dict:
  """Returns the record of the folder, without its uid; InputError if a file is missing or damaged."""
  views, poses, intrinsics = [], [], []
  seen: dict[Path, np.ndarray] = {}
  for name in _FILES:
    if not (folder / name).is_file():
      continue
    scene, frames = _scene(folder / name)
    for frame in frames[: None if options.num_views is None else options.num_views - len(views)]:
      path = _file(folder, name, frame, 'file_path')
      mask = _file(folder, name, frame, 'mask_path') if frame.get('mask_path') else None
      if mask is None and (folder / 'masks').is_dir() and not image_files.has_alpha(path):
        raise InputError(f'{path.name} has no alpha channel, and {name} does not name its mask of masks/ in mask_path')
      camera, pose = scene | frame, _pose(frame, path, name)
      if not np.allclose(seen.setdefault(path, pose), pose):
        raise InputError(f'{name}: two frames with different poses have the same image, {frame["file_path"]}')
      view, camera = images.encoded(
        path, _intrinsics(camera, path, name), options, mask=mask, distortion=_distortion(camera, name)
      )
      views.append(view)
      poses.append(pose)
      intrinsics.append(camera)
  return {
    'views': views,
    'camera_to_world': np.reshape(poses, (-1, 4, 4)),
    'intrinsics': np.reshape(intrinsics, (-1, 4)),
    'object_to_world': np.full((4, 4), np.nan),
  }


def _scene(path: Path) -> tuple[dict, list[dict]]:
  """Returns (values for all frames, frames) of a file."""
  try:
    scene = json.loads(files.read_text(path))
    frames = scene['frames']
    if not all(isinstance(frame, dict) for frame in frames):
      raise TypeError('a frame is not an object')
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise InputError(f'{path.name} cannot be read ({error}): it must be JSON with a list `frames`') from error
  return scene, frames


def _file(folder: Path, name: str, frame: dict, key: str) -> Path:
  """Returns the file of a frame that `key` names."""
  if key not in frame:
    raise InputError(f'{name}: a frame has no {key}')
  path = files.find(folder, str(frame[key]), _SUFFIXES)
  if path is None:
    raise InputError(f'{name}: {key} {frame[key]} is missing in {folder}')
  return path


def _pose(frame: dict, path: Path, name: str) -> np.ndarray:
  """Returns camera_to_world [4, 4]; the last row may be omitted."""
  pose = np.asarray(frame['transform_matrix'], np.float64)
  if pose.shape == (3, 4):
    pose = np.concatenate([pose, [[0, 0, 0, 1]]])
  if pose.shape != (4, 4):
    raise InputError(
      f'{name}: transform_matrix of {path.name} has the shape {list(pose.shape)}, expected [4, 4] or [3, 4]'
    )
  return pose


def _distortion(camera: dict, name: str) -> np.ndarray:
  """Returns the lens coefficients in the order of lens.NAMES."""
  model = str(camera.get('camera_model') or 'OPENCV').upper()
  unsupported = [key for key in _UNSUPPORTED if camera.get(key)]
  if model not in _MODELS or unsupported:
    raise InputError(
      f'{name}: the camera model {model}{" with " + ", ".join(unsupported) if unsupported else ""} is not supported; '
      f'supported are {", ".join(_MODELS)}. Undistort the images'
    )
  return np.array([camera.get(key) or 0 for key in lens.NAMES], float)


def _intrinsics(camera: dict, path: Path, name: str) -> np.ndarray:
  """Returns (fx, fy, cx, cy), divided by the width and height of the image at `path`."""
  try:
    with Image.open(path) as image:
      width, height = image.size
  except OSError as error:
    if passes(error):
      raise
    raise InputError(f'{path.name} is missing or not an image ({error})') from error
  if 'fl_x' in camera:
    size = np.array([camera.get('w', width), camera.get('h', height)], float)
    # Images may have been reduced after the file was written, but not cropped or turned.
    if abs(size[0] * height / (size[1] * width) - 1) > 0.02:
      raise InputError(
        f'{path.name} is {width} x {height} pixels, but w and h are {size[0]:g} and {size[1]:g} in {name}: they must '
        'have the same proportions'
      )
    focal = np.array([camera['fl_x'], camera.get('fl_y', camera['fl_x'])], float)
    centre = np.array([camera.get('cx', size[0] / 2), camera.get('cy', size[1] / 2)], float)
    return np.concatenate([focal / size, centre / size])
  if 'camera_angle_x' not in camera:
    raise InputError(f'{name} has no intrinsics: it needs camera_angle_x or fl_x')
  focal = 0.5 / np.tan(camera['camera_angle_x'] / 2)
  return np.array([focal, focal * width / height, 0.5, 0.5])
