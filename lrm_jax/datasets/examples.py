"""Makes a training example from a record: samples views, decodes only those, normalises the cameras, crops windows.

A record has `uid`, `views` (V encoded RGBA images), `camera_to_world` [V, 4, 4], `intrinsics` [V, 4]; its other
features are not used here. Examples are NumPy float32; images are in [0, 1], over their background, channels last.
Legend: V = 1 + side views (view 0 is the input view), H W input image, w window.
Source: LRM (arXiv 2311.04400), section 4.1: views are resized to a random size, and a random window of each supervises.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from lrm_jax.datasets.records import BrokenRecordError, check_cameras, decode, uid
from lrm_jax.geometry import cameras, images


@dataclasses.dataclass(frozen=True)
class MakeExample:
  """How records of one dataset become examples; configs/base.py explains each value.

  With `normalise_cameras`, the scene is transformed so that the input camera is at `input_position`. With
  `keep_distance` as well, only the direction of `input_position` is used and the input camera keeps its own distance,
  as for videos of real objects.
  """

  image_size: int
  window: int
  resize_min: int
  resize_max: int
  num_side_views: int
  background: tuple[float, ...] = (1.0,)  # Grey levels; one is drawn for each target view.
  input_background: float = 1.0
  normalise_cameras: bool = True
  keep_distance: bool = False
  input_position: tuple[float, float, float] = cameras.INPUT_POSITION
  mirror: bool = False
  permute_colors: bool = False
  frontal_input_probability: float = 0.0
  foreground_bias: float = 0.0

  def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns an example; raises BrokenRecordError if none can be made from the record.

    Keys: image [H, W, 3], camera_to_world [4, 4], intrinsics [4]; target_color [V, w, w, 3], target_opacity [V, w, w],
    target_camera_to_world [V, 4, 4], target_intrinsics [V, 4], background [V, 3].
    """
    check_cameras(record)
    picked = self._pick(record, rng)
    poses = np.asarray(record['camera_to_world'], np.float64)[picked]
    intrinsics = np.asarray(record['intrinsics'], np.float64)[picked]
    views = [decode(record, view) for view in picked]
    if self.mirror and rng.random() < 0.5:
      poses, views = cameras.mirror(poses), [view[:, ::-1] for view in views]
      intrinsics[:, 2] = 1 - intrinsics[:, 2]
    if self.normalise_cameras:
      poses, _ = cameras.normalise_to_input_view(poses, position=self.input_position, keep_distance=self.keep_distance)
    if self.permute_colors:
      channels = [*rng.permutation(3), 3]
      views = [view[..., channels] for view in views]
    image = images.over(images.resize(views[0], self.image_size), self.input_background)
    windows, window_intrinsics = zip(*(self._window(*view, rng) for view in zip(views, intrinsics)))
    windows = np.stack(windows)
    greys = rng.choice(self.background, len(picked))
    example = {
      'image': image,
      'camera_to_world': poses[0],
      'intrinsics': intrinsics[0],
      'target_color': images.over(windows, greys[:, None, None, None]),
      'target_opacity': windows[..., 3],
      'target_camera_to_world': poses,
      'target_intrinsics': np.stack(window_intrinsics),
      'background': np.tile(greys[:, None], (1, 3)),
    }
    return {name: np.asarray(value, np.float32) for name, value in example.items()}

  def _pick(self, record, rng) -> list[int]:
    """Returns the indices of the input view and of the side views, all different."""
    count = len(record['views'])
    if count <= self.num_side_views:
      raise BrokenRecordError(
        f'{uid(record)} has {count} views, too few for an input view and {self.num_side_views} side views: '
        'lower config.data.num_side_views or render more'
      )
    first = 0 if rng.random() < self.frontal_input_probability else int(rng.integers(count))
    others = rng.choice(np.delete(np.arange(count), first), self.num_side_views, replace=False)
    return [first, *map(int, others)]

  def _window(self, view, intrinsics, rng):
    """Returns (window [w, w, 4], its intrinsics [4]): a random crop of the view at a random size, premultiplied."""
    size = int(rng.integers(self.resize_min, self.resize_max + 1))
    view = images.resize(view, size)
    corner = rng.integers(0, size - self.window + 1, 2)
    if rng.random() < self.foreground_bias:
      inside = np.argwhere(view[..., 3] > 0.5)
      if len(inside):
        corner = np.clip(inside[rng.integers(len(inside))] - self.window // 2, 0, size - self.window)
    top, left = map(int, corner)
    window = view[top : top + self.window, left : left + self.window]
    return window, cameras.window_intrinsics(intrinsics, size, left, top, self.window)
