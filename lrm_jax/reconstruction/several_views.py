"""Several input views of an object: their cameras, by name or from a file, and images that have a common scale.

Legend: N views, S pixels along a side of a prepared image.
"""

from collections.abc import Sequence
import json
from pathlib import Path

import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, image_files
from lrm_jax.reconstruction import preprocess, segmenters

# Quarter turns from the first view, as the camera moves: to the right of the object as seen in the first view, and on.
SIDES = {'front': 0, 'right': 1, 'back': 2, 'left': 3}
LAYOUT = tuple(SIDES)


def parse_layout(text: str | None, count: int) -> tuple[str, ...]:
  """Returns the names of the sides of `count` views, such as 'front,back'; by default the first ones of LAYOUT.

  Raises InputError if a name is unknown or repeated, if there are not `count`, or if the first is not 'front'.
  """
  names = LAYOUT[:count] if text is None else tuple(text.split(','))
  if unknown := [name for name in names if name not in SIDES]:
    raise InputError(f'--layout={text}: {unknown[0]!r} is not a side; use {", ".join(SIDES)}')
  if len(set(names)) != len(names) or names[0] != 'front':
    raise InputError(f'--layout={text} must begin with front, and have each side once')
  if len(names) != count:
    given = f'--layout={text} has {len(names)} sides' if text else f'the default layout has {len(LAYOUT)} sides'
    raise InputError(f'{given}, and there are {count} views: give a side for each, or --cameras=FILE')
  return names


def layout_cameras(
  names: Sequence[str], position: Sequence[float], intrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (camera_to_world [N, 4, 4], intrinsics [N, 4]) of views of these sides, at the height of the first.

  `position` is that of the first camera.
  """
  poses = cameras.orbit(len(SIDES), position)
  return np.stack([poses[SIDES[name]] for name in names]), np.tile(intrinsics, (len(names), 1))


def prepare(
  paths: Sequence[Path],
  size: int,
  *,
  whole: bool,
  fill: float,
  background: float,
  remove_background: bool = False,
  segmenter: segmenters.Segmenter | None = None,
  max_pixels: int = image_files.MAX_PIXELS,
) -> list[preprocess.Prepared]:
  """Returns the images [S, S, 3] in files, S = `size`, for views that were taken by the same camera.

  With `whole`, they are used as they are. Otherwise each object is centred, and all are scaled by one factor, so that
  the longer side of the largest covers the fraction `fill`. Raises InputError if an image cannot be used.
  """
  views = [
    preprocess.read_object(
      path, remove_background=remove_background, segmenter=segmenter, background=background, max_pixels=max_pixels
    )
    for path in paths
  ]
  largest = max(preprocess.extent(view.rgba) if view.has_mask else 0 for view in views)
  prepared = []
  for path, view in zip(paths, views):
    notes = view.notes
    if whole:
      image = preprocess.uncropped(view.rgba, size, background)
    elif view.has_mask:
      share = preprocess.extent(view.rgba) / max(largest, 1)
      image, found = preprocess.centre(view.rgba, size, name=str(path), fill=fill * share, background=background)
      notes += tuple(f'{path} {note}' for note in found)
    else:
      image = preprocess.whole(view.rgba, size, name=str(path))
    prepared.append(preprocess.Prepared(image, view.has_mask, notes, view.doubt))
  return prepared


def read_cameras(path: Path, count: int, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (camera_to_world [N, 4, 4], intrinsics [N, 4]) of the `count` views, in the order of a JSON file.

  The file is a list with an object per view: `camera_to_world` [4, 4] (or [3, 4]) with OpenGL axes and z up, the object
  at the origin, and optionally `fov`, the full field of view in degrees, or `intrinsics` [4] divided by the image size;
  the default is that of the training. Raises InputError if it is not such a file.
  """
  try:
    views = json.loads(path.read_text(encoding='utf-8-sig'))
  except OSError as error:
    raise InputError(f'--cameras={path} cannot be read: {error.strerror}') from error
  except ValueError as error:
    raise InputError(f'--cameras={path} is not a JSON file: {error}') from error
  if not isinstance(views, list) or len(views) != count:
    found = f'a list of {len(views)}' if isinstance(views, list) else f'a {type(views).__name__}'
    raise InputError(f'--cameras={path} must be a list of {count} cameras, one per view in their order; it is {found}')
  poses, found_intrinsics = zip(
    *(_camera(view, f'--cameras={path}, view {n}', intrinsics) for n, view in enumerate(views))
  )
  return np.stack(poses), np.stack(found_intrinsics)


def _camera(view, where: str, default: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  if not isinstance(view, dict) or 'camera_to_world' not in view:
    raise InputError(f'{where} has no camera_to_world: give the pose as 4 rows of 4 numbers')
  pose = _numbers(view['camera_to_world'], f'{where}: camera_to_world')
  if pose.shape == (3, 4):
    pose = np.concatenate([pose, [[0, 0, 0, 1]]])
  if pose.shape != (4, 4):
    raise InputError(f'{where}: camera_to_world has the shape {list(pose.shape)}; it must be [4, 4]')
  rotation = pose[:3, :3]
  if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
    raise InputError(f'{where}: the first three columns of camera_to_world are not a rotation')
  if not np.linalg.norm(pose[:3, 3]) > 0.1:
    raise InputError(f'{where}: the camera is at the origin, where the object has to be')
  if 'intrinsics' in view:
    intrinsics = _numbers(view['intrinsics'], f'{where}: intrinsics')
    if intrinsics.shape != (4,) or not 0.1 < intrinsics[0] < 20:
      raise InputError(f'{where}: intrinsics must be fx, fy, cx, cy, divided by the image size')
  elif 'fov' in view:
    fov = _numbers(view['fov'], f'{where}: fov')
    if fov.ndim or not 1 <= fov <= 150:
      raise InputError(f'{where}: fov = {view["fov"]} must be between 1 and 150 degrees')
    intrinsics = cameras.intrinsics_from_fov(float(fov))
  else:
    intrinsics = default
  return pose, np.asarray(intrinsics, np.float64)


def _numbers(value, where: str) -> np.ndarray:
  try:
    array = np.asarray(value, np.float64)
  except (TypeError, ValueError):
    raise InputError(f'{where} must be numbers') from None
  if not np.all(np.isfinite(array)):
    raise InputError(f'{where} must be finite')
  return array
