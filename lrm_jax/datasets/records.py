"""Records of a dataset: random access to a split, decoding of views, and validation of cameras.

A record has `uid`, `views` (V encoded RGBA images), `camera_to_world` [V, 4, 4] and `intrinsics` [V, 4].
"""

from collections.abc import Mapping
import io
from pathlib import Path

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.storage import paths

VALIDATION = 'validation.txt'
DEPTH_RANGE = 8.0  # world units; depth is stored with 16 bits as distance x 65535 / 8


def open_split(path: str | Path, split: str):
  """Returns the records of a split, with random access.

  `path` is the directory of a dataset (the one with dataset_info.json), or 'embedded' for the dataset that ships with
  the package. If the directory has a validation.txt, its objects are the split `validation`, and `train` is the rest of
  the stored split. Raises InputError if there is no dataset at `path`, or if it has no such split.
  """
  if not (paths.dataset(path) / 'dataset_info.json').is_file():
    raise InputError(
      f'{path} is not a dataset: it contains no dataset_info.json. Pass the directory that data/build.py printed'
    )
  builder = tfds.builder_from_directory(paths.dataset(path))
  name, bracket, _ = split.partition('[')
  held_out = _listed_for_validation(path)
  if name not in {*builder.info.splits, *(['validation'] if held_out else [])}:
    raise InputError(
      f'{path} has no split {split!r}; it has {", ".join(sorted(split_sizes(path)))}: choose one with --split (in '
      'training --config.data.eval_split), or build the dataset again with another --test_share, --validation_share or '
      '--test_list'
    )
  if not held_out or name not in ('train', 'validation'):
    return builder.as_data_source(split=split)
  if bracket:
    raise InputError(f'{split!r}: a dataset with a {VALIDATION} has no slices of its splits: use all of {name!r}')
  return _subset(builder.as_data_source(split='train'), held_out, name, f'{path}/{VALIDATION}')


def split_sizes(path: str | Path) -> dict[str, int]:
  """Returns {split: number of objects} of a dataset."""
  splits = tfds.builder_from_directory(paths.dataset(path)).info.splits
  sizes = {name: info.num_examples for name, info in splits.items()}
  if held_out := _listed_for_validation(path):
    sizes |= {'train': sizes['train'] - len(held_out), 'validation': len(held_out)}
  return sizes


class _Subset:
  """Some of the records of a split, with random access."""

  def __init__(self, records, indices: list[int]):
    self._records, self._indices = records, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, place: int) -> Mapping:
    return self._records[self._indices[place]]

  def __iter__(self):
    return (self[place] for place in range(len(self)))


def _listed_for_validation(path: str | Path) -> dict[int, str]:
  """Returns {index in the stored split train: uid} of the objects in validation.txt; {} without such a file.

  Each line has an index and a uid, separated by a space; lines that begin with '#' are comments.
  """
  file = paths.dataset(path) / VALIDATION
  if not file.is_file():
    return {}
  lines = [line.split() for line in file.read_text().splitlines() if line.strip() and not line.startswith('#')]
  if wrong := [line for line in lines if len(line) != 2 or not line[0].isdigit()]:
    raise InputError(f'{file}: {" ".join(wrong[0])!r} must be an index and a uid')
  return {int(number): name for number, name in lines}


def _subset(records, held_out: Mapping[int, str], name: str, file: str) -> _Subset:
  """Returns the split `validation` or `train` of the stored split `train`, after checking the list."""
  for index, expected in held_out.items():
    if index >= len(records) or uid(records[index]) != expected:
      raise InputError(f'{file}: record {index} of the split train is not {expected}: write the list again')
  return _Subset(records, [i for i in range(len(records)) if (i in held_out) == (name == 'validation')])


class BrokenRecordError(InputError):
  """A record from which no example can be made; the message has its uid and the reason."""


def decode(record: Mapping, view: int) -> np.ndarray:
  """Returns a view [H, H, 4], premultiplied, in [0, 1].

  Raises BrokenRecordError if the image is damaged or not square.
  """
  try:
    image = images.decode(record['views'][view])
  except InputError as error:
    raise BrokenRecordError(
      f'view {view} of {uid(record)} cannot be decoded ({error}): build the dataset again'
    ) from error
  if image.shape[0] != image.shape[1]:
    raise BrokenRecordError(
      f'view {view} of {uid(record)} is {image.shape[1]} x {image.shape[0]} pixels: views must be square'
    )
  return image


def decode_depth(record: Mapping, view: int) -> np.ndarray:
  """Returns the depth [H, H] of a view, float32: distance along the ray in world units, 0 for background.

  Raises BrokenRecordError if the record has no depth for the view, or a damaged one.
  """
  encoded = record.get('depth', ())
  if view >= len(encoded):
    raise BrokenRecordError(f'{uid(record)} has no depth for view {view}: build the dataset again')
  try:
    with Image.open(io.BytesIO(encoded[view])) as image:
      return np.asarray(image).astype(np.float32) * (DEPTH_RANGE / 65535)
  except (OSError, SyntaxError) as error:
    raise BrokenRecordError(f'the depth of view {view} of {uid(record)} cannot be decoded ({error})') from error


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
