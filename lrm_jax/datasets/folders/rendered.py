"""Reads the output of data/render.py: views/000.webp ..., cameras.npz, surface.npy and optional depth/000.png ...."""

from pathlib import Path
import zipfile

import numpy as np

from lrm_jax.datasets.folders import images
from lrm_jax.errors import InputError, passes


def holds(folder: Path) -> bool:
  """Returns whether the folder is an object in this layout."""
  return (folder / 'cameras.npz').is_file()


def read(folder: Path, options: images.Options) -> dict:
  """Returns the record of the folder, without its uid; InputError if a file is missing or damaged."""
  try:
    with np.load(folder / 'cameras.npz') as cameras:
      poses, intrinsics, object_to_world = (
        cameras[name] for name in ('camera_to_world', 'intrinsics', 'object_to_world')
      )
  except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    if passes(error):
      raise
    raise InputError(f'cameras.npz cannot be read ({error}): render the object again') from error
  if poses.ndim != 3 or len(poses) != len(intrinsics):
    raise InputError(
      f'cameras.npz has inconsistent shapes: camera_to_world {list(poses.shape)}, intrinsics {list(intrinsics.shape)}'
    )
  files = sorted((folder / 'views').glob('*.webp'))
  if len(files) != len(poses):
    raise InputError(
      f'views/ has {len(files)} images, but cameras.npz has {len(poses)} cameras: render the object again'
    )
  poses, intrinsics = poses[: options.num_views], intrinsics[: options.num_views]
  views = [
    images.encoded(folder / 'views' / f'{view:03d}.webp', intrinsics[view], options) for view in range(len(poses))
  ]
  record = {
    'views': [view for view, _ in views],
    'camera_to_world': poses,
    'intrinsics': np.stack([camera for _, camera in views]),
    'object_to_world': object_to_world,
  }
  if (folder / 'surface.npy').is_file():
    record['surface_points'] = np.load(folder / 'surface.npy')
    if record['surface_points'].ndim != 2 or not np.all(np.isfinite(record['surface_points'])):
      raise InputError('surface.npy has the wrong shape or NaN or infinite values: render the object again')
  if (folder / 'depth').is_dir():
    record['depth'] = [(folder / 'depth' / f'{view:03d}.png').read_bytes() for view in range(len(poses))]
  return record
