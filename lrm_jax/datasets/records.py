"""Records of a dataset: random access to a split, decoding of views, and validation of cameras.

A record has `uid`, `views` (V encoded RGBA images), `camera_to_world` [V, 4, 4] and `intrinsics` [V, 4].
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.storage import paths


def open_split(path: str | Path, split: str):
  """Returns the records of a split, with random access.

  `path` is the directory of a dataset (the one with dataset_info.json), or 'embedded' for the dataset that ships with
  the package. Raises InputError if there is no dataset at `path`, or if it has no such split.
  """
  if not (paths.dataset(path) / 'dataset_info.json').is_file():
    raise InputError(
      f'{path} is not a dataset: it contains no dataset_info.json. Pass the directory that data/build.py printed'
    )
  builder = tfds.builder_from_directory(paths.dataset(path))
  if split.split('[', maxsplit=1)[0] not in builder.info.splits:
    raise InputError(
      f'{path} has no split {split!r}; it has {", ".join(sorted(builder.info.splits))}: choose one with --split (in '
      'training --config.data.eval_split), or build the dataset again with another --test_share, --validation_share or '
      '--test_list'
    )
  return builder.as_data_source(split=split)


class BrokenRecordError(InputError):
  """A record from which no example can be made; the message has its uid and the reason."""


def decode(record: Mapping, view: int) -> np.ndarray:
  """Returns a view [H, H, 4], premultiplied, in [0, 1].

  Raises BrokenRecordError if the image is damaged or not square.
  """
  try:
    image = images.decode(record['views'][view])
  except ValueError as error:
    raise BrokenRecordError(
      f'view {view} of {uid(record)} cannot be decoded ({error}): build the dataset again'
    ) from error
  if image.shape[0] != image.shape[1]:
    raise BrokenRecordError(
      f'view {view} of {uid(record)} is {image.shape[1]} x {image.shape[0]} pixels: views must be square'
    )
  return image


def uid(record: Mapping) -> str:
  """Returns the uid of the record's object."""
  name = record['uid']
  return name.decode() if isinstance(name, bytes) else str(name)


def check_cameras(record: Mapping) -> None:
  """Raises BrokenRecordError if the cameras of a record are invalid.

  Checked are the number of cameras, NaN and infinite values, rotations, focal lengths, and cameras at the origin.
  """
  poses, intrinsics = np.asarray(record['camera_to_world']), np.asarray(record['intrinsics'])
  count, name = len(record['views']), uid(record)
  if poses.shape != (count, 4, 4) or intrinsics.shape != (count, 4):
    raise BrokenRecordError(
      f'{name} has {count} views, but camera_to_world has shape {list(poses.shape)} and intrinsics '
      f'{list(intrinsics.shape)}: they must be [{count}, 4, 4] and [{count}, 4]'
    )
  if not (np.all(np.isfinite(poses)) and np.all(np.isfinite(intrinsics))):
    raise BrokenRecordError(f'a camera of {name} has NaN or infinite values')
  rotation = poses[:, :3, :3].astype(np.float64)
  off = np.abs(rotation.swapaxes(1, 2) @ rotation - np.eye(3)).max(axis=(1, 2), initial=0)
  bad = np.flatnonzero(
    (off > 1e-2) | (np.linalg.det(rotation) < 0) | np.any(np.abs(poses[:, 3] - [0, 0, 0, 1]) > 1e-4, axis=1)
  )
  if len(bad):
    raise BrokenRecordError(
      f'camera_to_world of view {bad[0]} of {name} is not a rotation and a translation: it is mirrored, scaled or '
      'sheared'
    )
  if np.any(intrinsics[:, :2] <= 0):
    raise BrokenRecordError(
      f'a camera of {name} has a focal length of {intrinsics[:, :2].min():g}: it must be positive'
    )
  if np.any(np.linalg.norm(poses[:, :3, 3], axis=1) < 1e-6):
    raise BrokenRecordError(f'a camera of {name} is at the origin, which is the centre of the object')
