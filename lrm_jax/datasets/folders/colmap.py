"""Reads cameras and poses from COLMAP's sparse models, text or binary.

cameras: id, model, width, height, parameters (in pixels). images: id, quaternion (w, x, y, z) and translation of the
world-to-camera transform, with OpenCV axes (x right, y down, looking along +z), id of the camera, name.
Source: COLMAP's documentation of its output format.
"""

import dataclasses
from pathlib import Path
import struct

import numpy as np

from lrm_jax.datasets.folders import files
from lrm_jax.errors import InputError

# Number of a camera model: its name and its number of parameters.
_MODELS = {
  0: ('SIMPLE_PINHOLE', 3),
  1: ('PINHOLE', 4),
  2: ('SIMPLE_RADIAL', 4),
  3: ('RADIAL', 5),
  4: ('OPENCV', 8),
  5: ('OPENCV_FISHEYE', 8),
  6: ('FULL_OPENCV', 12),
  7: ('FOV', 5),
  8: ('SIMPLE_RADIAL_FISHEYE', 4),
  9: ('RADIAL_FISHEYE', 5),
  10: ('THIN_PRISM_FISHEYE', 12),
}
_SUPPORTED = ('SIMPLE_PINHOLE', 'PINHOLE', 'SIMPLE_RADIAL', 'RADIAL', 'OPENCV')


@dataclasses.dataclass(frozen=True)
class View:
  """An image: camera_to_world [4, 4], OpenGL axes; focal [2] and centre [2] in pixels; distortion (k1, k2, p1, p2)."""

  name: str
  camera_to_world: np.ndarray
  focal: np.ndarray
  centre: np.ndarray
  distortion: np.ndarray
  size: tuple[int, int]  # width, height


def read(directory: Path) -> list[View]:
  """Returns the views of a sparse model, sorted by name.

  Raises InputError if a file is missing or damaged, or if a camera model is not supported.
  """
  binary = (directory / 'cameras.bin').is_file()
  try:
    cameras = (_cameras_binary if binary else _cameras_text)(directory)
    images = (_images_binary if binary else _images_text)(directory)
  except FileNotFoundError as error:
    raise InputError(f'{Path(error.filename).name} is missing in {directory}') from error
  except InputError:
    raise
  except (struct.error, IndexError, ValueError) as error:
    raise InputError(f'{directory} contains a damaged COLMAP model ({error}): export it again') from error
  if unknown := {number for _, _, number, _ in images} - cameras.keys():
    raise InputError(f'{directory}: images refer to camera {min(unknown)}, which is not in cameras')
  return sorted(
    (View(name, _pose(quaternion, translation), *cameras[number]) for quaternion, translation, number, name in images),
    key=lambda view: view.name,
  )


def _pose(quaternion, translation) -> np.ndarray:
  """Returns camera_to_world [4, 4] with OpenGL axes."""
  length = np.linalg.norm(quaternion)
  if not (np.isfinite(length) and length > 0 and np.all(np.isfinite(translation))):
    raise InputError(f'the COLMAP model has an invalid pose: quaternion {quaternion}, translation {translation}')
  w, x, y, z = np.asarray(quaternion) / length
  rotation = np.array(
    [
      [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
      [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
      [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
  )
  pose = np.eye(4)
  pose[:3, :3] = rotation.T * [1, -1, -1]
  pose[:3, 3] = -rotation.T @ translation
  return pose


def _camera(model: str, width: int, height: int, values):
  """Returns (focal [2], centre [2], distortion [4], (width, height)) of a camera."""
  values = np.asarray(values, float)
  if model not in _SUPPORTED:
    raise InputError(
      f'the camera model {model} is not supported; supported are {", ".join(_SUPPORTED)}. Undistort the images '
      '(colmap image_undistorter)'
    )
  if model.startswith(('SIMPLE', 'RADIAL')):
    focal, centre, rest = values[[0, 0]], values[1:3], values[3:]
  else:
    focal, centre, rest = values[:2], values[2:4], values[4:]
  return focal, centre, np.pad(rest, (0, 4 - len(rest))), (width, height)


def _cameras_text(directory):
  cameras = {}
  for line in _lines(directory / 'cameras.txt'):
    if line:
      number, model, width, height, *values = line.split()
      cameras[int(number)] = _camera(model, int(width), int(height), values)
  return cameras


def _images_text(directory):
  """Reads two lines per image: its pose and name, then its 2D points. Some programs leave the second line out."""
  images, is_points_line = [], False
  for line in _lines(directory / 'images.txt'):
    if is_points_line and _is_points(line):
      is_points_line = False
    elif line:
      _, *pose, number, name = line.split(maxsplit=9)
      images.append((np.array(pose[:4], float), np.array(pose[4:], float), int(number), name))
      is_points_line = True
  return images


def _is_points(line: str) -> bool:
  """Returns whether a line is a list of 2D points (x, y, id of the 3D point), which may be empty."""
  words = line.split()
  try:
    return len(words) % 3 == 0 and bool(np.all(np.isfinite(np.array(words, float))))
  except ValueError:
    return False


def _lines(path):
  return [line.strip() for line in files.read_text(path).splitlines() if not line.startswith('#')]


class _Reader:
  """Reads little-endian numbers and strings from a file."""

  def __init__(self, path: Path):
    self.data, self.place = path.read_bytes(), 0

  def take(self, form: str):
    values = struct.unpack_from('<' + form, self.data, self.place)
    self.place += struct.calcsize('<' + form)
    return values

  def skip(self, count: int) -> None:
    self.place += count
    if self.place > len(self.data):
      raise struct.error(f'the file has {len(self.data)} bytes, expected at least {self.place}')

  def text(self) -> str:
    end = self.data.find(b'\0', self.place)
    if end < 0:
      raise struct.error('a name is not terminated')
    text, self.place = self.data[self.place : end].decode(), end + 1
    return text


def _cameras_binary(directory):
  reader, cameras = _Reader(directory / 'cameras.bin'), {}
  for _ in range(*reader.take('Q')):
    number, model, width, height = reader.take('iiQQ')
    if model not in _MODELS:
      raise InputError(f'{directory}/cameras.bin has a camera with the unknown model number {model}')
    name, count = _MODELS[model]
    cameras[number] = _camera(name, width, height, reader.take(f'{count}d'))
  return cameras


def _images_binary(directory):
  reader, images = _Reader(directory / 'images.bin'), []
  for _ in range(*reader.take('Q')):
    values = reader.take('i7di')
    name = reader.text()
    (points,) = reader.take('Q')
    reader.skip(points * 24)  # x, y and the id of the 3D point, 8 bytes each.
    images.append((np.array(values[1:5]), np.array(values[5:8]), values[8], name))
  return images
