"""All views of held-out objects, for evaluation: decoded, resized, with cameras normalised to the input view.

Legend: O objects, V views (view 0 is the input view), H W input image, s pixels along the side of a view.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrm_jax.datasets.records import check_cameras, decode, open_split, uid
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, images


def load_views(
  path: str | Path,
  split: str,
  *,
  image_size: int,
  size: int,
  indices: Sequence[int] | None = None,
  background: float = 1.0,
  input_background: float = 1.0,
  input_position: Sequence[float] = cameras.INPUT_POSITION,
  keep_distance: bool = False,
) -> dict:
  """Returns all views of the objects of a split, with the cameras normalised so that view 0 is the input view.

  Keys: uid, a list of O; image [O, H, W, 3], view 0 at `image_size`; color [O, V, s, s, 3] and opacity [O, V, s, s] at
  `size`; camera_to_world [O, V, 4, 4], intrinsics [O, V, 4]. Colours are in [0, 1], over the given backgrounds.
  `indices` selects objects (None: all); indices beyond the end of the split are ignored. Raises InputError if no object
  is left, or if objects differ in their number of views.
  """
  records = open_split(path, split)
  indices = range(len(records)) if indices is None else [i for i in indices if i < len(records)]
  if not len(indices):
    raise InputError(f'no objects to evaluate: {split!r} of {path} has {len(records)}')
  uids, inputs, targets, poses, intrinsics = [], [], [], [], []
  for index in indices:
    record = records[index]
    uids.append(uid(record))
    check_cameras(record)
    views = [decode(record, view) for view in range(len(record['views']))]
    inputs.append(images.over(images.resize(views[0], image_size), input_background))
    targets.append(np.stack([images.resize(view, size) for view in views]))
    normalised, _ = cameras.normalise_to_input_view(
      record['camera_to_world'], position=input_position, keep_distance=keep_distance
    )
    poses.append(normalised)
    intrinsics.append(record['intrinsics'])
  if len(counts := {len(views) for views in targets}) > 1:
    raise InputError(
      f'objects of {split!r} of {path} have different numbers of views ({sorted(counts)}): evaluation needs the same '
      'number for each object'
    )
  targets = np.stack(targets)
  return {
    'uid': uids,
    'image': np.stack(inputs),
    'color': images.over(targets, background),
    'opacity': targets[..., 3],
    'camera_to_world': np.stack(poses).astype(np.float32),
    'intrinsics': np.stack(intrinsics).astype(np.float32),
  }
