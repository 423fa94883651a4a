"""What data/render.py writes: views/000.webp ..., cameras.npz, surface.npy, and depth/000.png where it was asked for."""

from pathlib import Path
import zipfile

import numpy as np

from lrm_jax.datasets.folders import pictures


def holds(folder: Path) -> bool:
  """Returns whether a folder is an object of this layout."""
  return (folder / 'cameras.npz').is_file()


def read(folder: Path, options: pictures.Options) -> dict:
  """Returns the record of a folder, without its uid."""
  try:
    with np.load(folder / 'cameras.npz') as cameras:
      poses, intrinsics, object_to_world = (
        cameras[name] for name in ('camera_to_world', 'intrinsics', 'object_to_world')
      )
  except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'cameras.npz cannot be read ({error}): render it again') from error
  if poses.ndim != 3 or len(poses) != len(intrinsics):
    raise ValueError(f'cameras.npz has camera_to_world {list(poses.shape)} and intrinsics {list(intrinsics.shape)}')
  files = sorted((folder / 'views').glob('*.webp'))
  if len(files) != len(poses):
    raise ValueError(f'views has {len(files)} pictures, and cameras.npz {len(poses)} cameras: render it again')
  poses, intrinsics = poses[: options.num_views], intrinsics[: options.num_views]
  views = [
    pictures.encoded(folder / 'views' / f'{view:03d}.webp', intrinsics[view], options) for view in range(len(poses))
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
      raise ValueError('surface.npy holds no points: render it again')
  if (folder / 'depth').is_dir():
    record['depth'] = [(folder / 'depth' / f'{view:03d}.png').read_bytes() for view in range(len(poses))]
  return record
