"""All views of held-out objects, for evaluation: decoded, resized, their cameras normalised to the input view.

Legend: O objects, V views (view 0 is the input view), H W input image, s pixels along the side of a view.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrm_jax.datasets.records import check_cameras, decode, open_split, uid
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
  """Returns every view of objects, for evaluation, the cameras moved so that view 0 is the input view.

  Keys: uid, a list of O; image [O, H, W, 3], view 0 at `image_size`; color [O, V, s, s, 3], opacity [O, V, s, s],
  camera_to_world [O, V, 4, 4], intrinsics [O, V, 4]. Indices beyond the split are left out; ValueError where none
  is left, or where objects differ in their number of views.
  """
  records = open_split(path, split)
  indices = range(len(records)) if indices is None else [i for i in indices if i < len(records)]
  if not len(indices):
    raise ValueError(f'no objects to evaluate: {split!r} of {path} has {len(records)}')
  uids, inputs, pictures, poses, intrinsics = [], [], [], [], []
  for index in indices:
    record = records[index]
    uids.append(uid(record))
    check_cameras(record)
    views = [decode(record, view) for view in range(len(record['views']))]
    inputs.append(images.over(images.resize(views[0], image_size), input_background))
    pictures.append(np.stack([images.resize(view, size) for view in views]))
    poses.append(
      cameras.normalise_to_input_view(record['camera_to_world'], position=input_position, keep_distance=keep_distance)[
        0
      ]
    )
    intrinsics.append(record['intrinsics'])
  if len(counts := {len(views) for views in pictures}) > 1:
    raise ValueError(
      f'objects of {split!r} of {path} have {sorted(counts)} views: evaluation takes equally many of each'
    )
  pictures = np.stack(pictures)
  return {
    'uid': uids,
    'image': np.stack(inputs),
    'color': images.over(pictures, background),
    'opacity': pictures[..., 3],
    'camera_to_world': np.stack(poses).astype(np.float32),
    'intrinsics': np.stack(intrinsics).astype(np.float32),
  }
