"""Reads OpenLRM's layout: rgba/000.png ..., pose/000.npy ... (camera_to_world [3, 4], Blender axes), intrinsics.npy.

intrinsics.npy is [[fx, fy], [cx, cy], [width, height]], in pixels. Source: SPEC.md.
"""

from pathlib import Path

import numpy as np

from lrm_jax.datasets.folders import files, images
from lrm_jax.errors import InputError


def holds(folder: Path) -> bool:
  """Returns whether the folder is an object in this layout."""
  return (folder / 'intrinsics.npy').is_file() and (folder / 'pose').is_dir()


def read(folder: Path, options: images.Options) -> dict:
  """Returns the record of the folder, without its uid; InputError if a file is missing or damaged."""
  focal, centre, size = images.array(folder / 'intrinsics.npy', (3, 2))
  if not np.all(size > 0):
    raise InputError(f'intrinsics.npy has an image size of {size[0]:g} x {size[1]:g} pixels: it must be positive')
  views_of = {path.stem: path for path in files.images(folder / 'rgba')}
  names = set(views_of)
  if unpaired := names ^ {path.stem for path in (folder / 'pose').glob('*.npy')}:
    raise InputError(f'rgba/ and pose/ must have the same names: {min(unpaired)} is only in one of them')
  paths = list(views_of.values())[: options.num_views]
  intrinsics = np.concatenate([focal / size, centre / size])
  views = [images.encoded(path, intrinsics, options) for path in paths]
  poses = np.tile(np.eye(4), (len(paths), 1, 1))
  for pose, path in zip(poses, paths):
    pose[:3] = images.array(folder / 'pose' / f'{path.stem}.npy', (3, 4))
  return {
    'views': [view for view, _ in views],
    'camera_to_world': poses,
    'intrinsics': np.reshape([camera for _, camera in views], (-1, 4)),
    'object_to_world': np.full((4, 4), np.nan),
  }
