"""OpenLRM's layout: rgba/000.png ..., pose/000.npy ... (3 x 4 camera-to-world, Blender's axes), intrinsics.npy.

intrinsics.npy is [[fx, fy], [cx, cy], [width, height]], in pixels. Source: SPEC.md.
"""

from pathlib import Path

import numpy as np

from lrm_jax.datasets.folders import pictures


def holds(folder: Path) -> bool:
  """Returns whether a folder is an object of this layout."""
  return (folder / 'intrinsics.npy').is_file() and (folder / 'pose').is_dir()


def read(folder: Path, options: pictures.Options) -> dict:
  """Returns the record of a folder, without its uid."""
  focal, centre, size = pictures.array(folder / 'intrinsics.npy', (3, 2))
  if not np.all(size > 0):
    raise ValueError(f'intrinsics.npy has a picture of {size[0]:g} x {size[1]:g} pixels')
  files = sorted((folder / 'rgba').glob('*.png'))
  names = {path.stem for path in files}
  if alone := names ^ {path.stem for path in (folder / 'pose').glob('*.npy')}:
    raise ValueError(f'rgba/ and pose/ must have the same names: {min(alone)} is in one of them alone')
  files = files[: options.num_views]
  intrinsics = np.concatenate([focal / size, centre / size])
  views = [pictures.encoded(path, intrinsics, options) for path in files]
  poses = np.tile(np.eye(4), (len(files), 1, 1))
  for pose, path in zip(poses, files):
    pose[:3] = pictures.array(folder / 'pose' / f'{path.stem}.npy', (3, 4))
  return {
    'views': [view for view, _ in views],
    'camera_to_world': poses,
    'intrinsics': np.reshape([camera for _, camera in views], (-1, 4)),
    'object_to_world': np.full((4, 4), np.nan),
  }
