"""Makes a training example from a record: samples views, decodes only those, normalises the cameras, crops windows.

A record has `uid`, `views` (V encoded RGBA images), `camera_to_world` [V, 4, 4], `intrinsics` [V, 4]; its other
features are not used here. Images are uint8 in 0..255, over their background, channels last; all other values are
float32. The device converts images to float32 in 0..1 (lrm_jax/training/step.py), so that the host holds and sends a
quarter of the bytes. Augmentations compute with float32 and round once, at the end.
With rays='foreground', w x w single pixels of each view supervise in place of a window. A share of them, s, is drawn
from the object's F pixels, and the others from all N pixels of the view. Their errors are weighted by 1 / (1 - s) off
the object and 1 / (s N / F + 1 - s) on it, the inverse of how often they are drawn, so that the expected mean is that
of the whole view.
Legend: V = 1 + side views (view 0 is the first input view), N input views, H W input image, w window.
Source: LRM (arXiv 2311.04400), section 4.1: views are resized to a random size, and a random window of each supervises.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from lrm_jax.datasets.records import BrokenRecordError, check_cameras, decode, decode_depth, uid
from lrm_jax.geometry import cameras, images


@dataclasses.dataclass(frozen=True)
class MakeExample:
  """How records of one dataset become examples; configs/base.py explains each value.

  With `normalise_cameras`, the scene is transformed so that the input camera is at `input_position`. With
  `keep_distance` as well, only the direction of `input_position` is used and the input camera keeps its own distance,
  as for videos of real objects.

  With `num_input_views` = N > 1, an example has 1 to N different input views, each number with the same probability,
  or with probabilities proportional to the N values of `input_view_shares`. They fill N places: if there are fewer than
  N, they are repeated in turn. Attention to tokens that are all repeated equally often is the same as to the tokens
  themselves, so that no mask is needed; only where N is not a multiple of their number do the first views count more
  than the others.
  """

  image_size: int
  window: int
  resize_min: int
  resize_max: int
  num_side_views: int
  num_input_views: int = 1
  input_view_shares: tuple[float, ...] = ()
  with_depth: bool = False
  background: tuple[float, ...] = (1.0,)  # Grey levels; one is drawn for each target view.
  input_background: float = 1.0
  normalise_cameras: bool = True
  keep_distance: bool = False
  input_position: tuple[float, float, float] = cameras.INPUT_POSITION
  mirror: bool = False
  permute_colors: bool = False
  frontal_input_probability: float = 0.0
  foreground_bias: float = 0.0
  rays: str = 'window'  # or 'foreground'
  foreground_share: float = 0.5

  def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns an example; raises BrokenRecordError if none can be made from the record.

    Keys: image [H, W, 3], camera_to_world [4, 4], intrinsics [4]; target_color [V, w, w, 3], target_opacity [V, w, w],
    target_camera_to_world [V, 4, 4], target_intrinsics [V, 4], background [V, 3] in 0..1, a multiple of 1/255.
    With rays='foreground', also target_position [V, w, w, 2], the centres (x, y) of the pixels in 0..1 of their view,
    and target_weight [V, w, w]. With `num_input_views` = N > 1: image [N, H, W, 3], camera_to_world [N, 4, 4],
    intrinsics [N, 4]. With `with_depth`: target_depth [V, w, w], distances along the rays, 0 for background.
    """
    check_cameras(record)
    picked = self._pick(record, rng)
    mirrored = self.mirror and rng.random() < 0.5
    channels = [*rng.permutation(3), 3] if self.permute_colors else None
    inputs = self._pick_inputs(record, picked[0], rng)
    poses, intrinsics = self._cameras(record, [*picked, *inputs[1:]], mirrored)
    input_images, targets = {}, []
    # One at a time, each once: a decoded view is 16 times as large as its window.
    for view in dict.fromkeys([*picked, *inputs]):
      pixels = decode(record, view)
      if mirrored:
        pixels = pixels[:, ::-1]
      if channels:
        pixels = pixels[..., channels]
      if view in inputs:
        input_images[view] = _to_bytes(images.over(images.resize(pixels, self.image_size), self.input_background))
      if view in picked:
        depth = decode_depth(record, view) if self.with_depth else None
        if depth is not None and mirrored:
          depth = depth[:, ::-1]
        targets.append(self._target(pixels, depth, intrinsics[picked.index(view)], rng))
    windows, depths, window_intrinsics, positions, weights = zip(*targets)
    # Rounded like the targets, so that a render of the background has no error.
    greys = np.round(rng.choice(self.background, len(picked)) * 255).astype(np.float32) / np.float32(255)
    places = [0, *range(len(picked), len(poses))]  # of the input views in `poses`
    example = {
      'image': np.stack([input_images[view] for view in inputs]),
      'camera_to_world': poses[places].astype(np.float32),
      'intrinsics': intrinsics[places].astype(np.float32),
    }
    if self.num_input_views == 1:
      example = {name: array[0] for name, array in example.items()}
    example |= {
      'target_color': np.stack([_to_bytes(images.over(window, grey)) for window, grey in zip(windows, greys)]),
      'target_opacity': np.stack([_to_bytes(window[..., 3]) for window in windows]),
      'target_camera_to_world': poses[: len(picked)].astype(np.float32),
      'target_intrinsics': np.stack(window_intrinsics).astype(np.float32),
      'background': np.tile(greys[:, None], (1, 3)),
    }
    if self.with_depth:
      source = np.asarray(record['camera_to_world'], np.float64)[picked[0], :3, 3]
      scale = np.linalg.norm(poses[0, :3, 3]) / np.linalg.norm(source)
      example['target_depth'] = np.stack(depths) * np.float32(scale)
    if self.rays == 'foreground':
      example |= {'target_position': np.stack(positions), 'target_weight': np.stack(weights)}
    return example

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

  def _pick_inputs(self, record, first, rng) -> list[int]:
    """Returns the indices of the N input views, of which some may be repeated; the first is `first`."""
    if self.num_input_views == 1:
      return [first]
    others = np.delete(np.arange(len(record['views'])), first)
    if len(others) < self.num_input_views - 1:
      raise BrokenRecordError(
        f'{uid(record)} has {len(record["views"])} views, fewer than config.model.num_input_views = '
        f'{self.num_input_views}'
      )
    if self.input_view_shares:
      shares = np.asarray(self.input_view_shares, np.float64)
      count = int(rng.choice(self.num_input_views, p=shares / shares.sum()))
    else:
      count = int(rng.integers(self.num_input_views))
    views = [first, *map(int, rng.choice(others, count, replace=False))]
    return [views[place % len(views)] for place in range(self.num_input_views)]

  def _cameras(self, record, views, mirrored) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cameras ([n, 4, 4], [n, 4]) of views, in the frame of the first of them."""
    poses = np.asarray(record['camera_to_world'], np.float64)[views]
    intrinsics = np.asarray(record['intrinsics'], np.float64)[views]
    if mirrored:
      poses = cameras.mirror(poses)
      intrinsics[:, 2] = 1 - intrinsics[:, 2]
    if self.normalise_cameras:
      poses, _ = cameras.normalise_to_input_view(poses, position=self.input_position, keep_distance=self.keep_distance)
    return poses, intrinsics

  def _target(self, view, depth, intrinsics, rng):
    """Returns what supervises a view: pixels [w, w, 4], premultiplied, their depth [w, w], their intrinsics [4].

    Single pixels also have positions [w, w, 2] and weights [w, w]; these are None for a window. The depth [S, S] of the
    view may be None.
    """
    size = int(rng.integers(self.resize_min, self.resize_max + 1))
    view = images.resize(view, size)
    if depth is not None:
      depth = images.nearest(depth, size)
    if self.rays == 'foreground':
      drawn, positions, weights = self._single_pixels(view, rng)
      shape = self.window, self.window
      if depth is not None:
        depth = depth.reshape(-1)[drawn].reshape(shape)
      return view.reshape(-1, 4)[drawn].reshape(*shape, 4), depth, intrinsics, positions, weights
    top, left = self._corner(view, rng)
    part = slice(top, top + self.window), slice(left, left + self.window)
    if depth is not None:
      depth = depth[part].copy()
    intrinsics = cameras.window_intrinsics(intrinsics, size, left, top, self.window)
    return view[part].copy(), depth, intrinsics, None, None

  def _corner(self, view, rng) -> tuple[int, int]:
    """Returns the top row and the left column of a random window of the view [S, S, 4]."""
    size = len(view)
    corner = rng.integers(0, size - self.window + 1, 2)
    if rng.random() < self.foreground_bias:
      inside = np.argwhere(view[..., 3] > 0.5)
      if len(inside):
        corner = np.clip(inside[rng.integers(len(inside))] - self.window // 2, 0, size - self.window)
    top, left = map(int, corner)
    return top, left

  def _single_pixels(self, view, rng):
    """Returns (indices [w w] of the pixels drawn from a view [S, S, 4], positions [w, w, 2], weights [w, w])."""
    size, count = len(view), self.window**2
    opacity = view[..., 3].reshape(-1)
    inside = np.flatnonzero(opacity > 0.5)
    on_object = round(self.foreground_share * count) if len(inside) else 0
    drawn = rng.choice(inside, on_object) if on_object else np.empty(0, int)
    # In the order of the image: neighbouring rays read neighbouring texels.
    drawn = np.sort(np.concatenate([drawn, rng.integers(0, len(opacity), count - on_object)]))
    share = on_object / count
    weights = np.full(count, 1 / (1 - share), np.float32)
    weights[opacity[drawn] > 0.5] = 1 / (share * len(opacity) / max(len(inside), 1) + 1 - share)
    positions = (np.stack([drawn % size, drawn // size], axis=-1) + 0.5) / size
    shape = self.window, self.window
    return drawn, positions.astype(np.float32).reshape(*shape, 2), weights.reshape(shape)


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
  """Returns float32 pixels, at least 0, as uint8: rounded multiples of 1/255, clipped at 1."""
  import cv2  # Takes 0.1 s to import. It rounds in one pass, several times as fast as NumPy.

  return cv2.convertScaleAbs(pixels, alpha=255.0)
