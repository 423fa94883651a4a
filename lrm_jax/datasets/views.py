"""All views of held-out objects, for evaluation: decoded, resized, with cameras normalised to the input view.

View 0 is the input view, the others are novel. Objects may have different numbers of views: the arrays of several
objects are padded to the largest number, and `valid` tells which views exist.
Legend: O objects, V views, N input views, H W input image, s pixels along the side of a view.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from pathlib import Path

import numpy as np

from lrm_jax.datasets import mixture
from lrm_jax.datasets.records import BrokenRecordError, check_cameras, decode, decode_depth, open_split, uid
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, images


@dataclasses.dataclass(frozen=True)
class ViewRules:
  """How the views of held-out objects are prepared; configs/base.py explains the values.

  `image_size` is the side of the input image and `size` that of the other views, in pixels. `background` and
  `input_background` are the greys, in 0..1, behind the object in the views and in the input image. The input
  view is followed by the object's other views: the first `num_input_views` of this order are the input, N views, and
  those from `first_novel` on are novel.
  """

  image_size: int
  size: int
  background: float = 1.0
  input_background: float = 1.0
  input_position: Sequence[float] = cameras.INPUT_POSITION
  keep_distance: bool = False
  num_input_views: int = 1
  first_novel: int = 1


class HeldOut:
  """The views of the objects of a split. Reading is lazy, so that a few objects at a time bound the memory.

  `indices` selects objects (None: all); indices beyond the end of the split are ignored. Raises InputError if no object
  is left.
  """

  def __init__(self, path: str | Path, split: str, rules: ViewRules, indices: Sequence[int] | None = None):
    self.path, self.split, self.rules = path, split, rules
    self.records = open_split(path, split)
    count = len(self.records)
    self.indices = list(range(count)) if indices is None else [int(i) for i in indices if i < count]
    if not self.indices:
      raise InputError(f'no objects to evaluate: {split!r} of {path} has {count}')
    self.has_depth = bool(len(self.records[self.indices[0]].get('depth', ())))

  def __len__(self) -> int:
    return len(self.indices)

  @functools.cached_property
  def uids(self) -> list[str]:
    """The names of the objects."""
    return [uid(self.record(place)) for place in range(len(self))]

  def record(self, place: int) -> Mapping:
    """Returns the record of the object at this place of the selection."""
    return self.records[self.indices[place]]

  def similarity(self, place: int, input_view: int = 0) -> np.ndarray:
    """Returns the similarity [4, 4] from the world of the dataset to the frame normalised to an input view."""
    rules, poses = self.rules, self.record(place)['camera_to_world']
    return cameras.normalise_to_input_view(poses, input_view, rules.input_position, rules.keep_distance)[1]

  def load(self, places: Sequence[int], input_view: int = 0) -> dict:
    """Returns the views of the objects at these places of the selection; `input_view` becomes view 0.

    Keys, with V the largest number of views of these objects:
      uid: a list of O names.
      image [O, H, W, 3], float32: the input view, in [0, 1], over the input background.
      rgba [O, V, s, s, 4], uint8: the views, premultiplied.
      camera_to_world [O, V, 4, 4], intrinsics [O, V, 4], float32: the cameras, normalised to the input view.
      number [O, V], int32: the number of each view in its record. valid [O, V], bool: False for padding, which repeats
        the last view.
      to_input [O, 4, 4], float64: the similarity that normalises the scene, x -> to_input @ x.
      depth [O, V, s, s], float32, only if the dataset has depth: distance along the ray in normalised world units, 0
        for background.
    With N > 1 input views: image [O, N, H, W, 3], the input view first; input_camera_to_world [O, N, 4, 4] and
    input_intrinsics [O, N, 4], float32. The V views are the input view and the novel ones.
    Raises BrokenRecordError if an object cannot be used.
    """
    return stack([self._load_object(self.record(place), input_view) for place in places])

  def _load_object(self, record: Mapping, input_view: int) -> dict:
    rules = self.rules
    check_cameras(record)
    count = len(record['views'])
    if count <= input_view:
      raise BrokenRecordError(f'{uid(record)} has {count} views: there is no input view {input_view}')
    if count <= rules.first_novel > 1:
      raise BrokenRecordError(f'{uid(record)} has {count} views: none is novel, because {rules.first_novel} are kept')
    order = [input_view, *(view for view in range(count) if view != input_view)]
    inputs, order = order[: rules.num_input_views], [input_view, *order[rules.first_novel :]]
    views = [decode(record, view) for view in order]
    all_poses, similarity = cameras.normalise_to_input_view(
      record['camera_to_world'], input_view, rules.input_position, rules.keep_distance
    )
    all_poses, all_intrinsics = all_poses.astype(np.float32), np.asarray(record['intrinsics'], np.float32)
    result = {
      'uid': uid(record),
      'image': self._input_image(views[0]),
      'rgba': images.to_bytes(np.stack([images.resize(view, rules.size) for view in views])),
      'camera_to_world': all_poses[order],
      'intrinsics': all_intrinsics[order],
      'number': np.asarray(order, np.int32),
      'valid': np.ones(len(order), bool),
      'to_input': similarity,
    }
    if rules.num_input_views > 1:
      result['image'] = np.stack([result['image'], *(self._input_image(decode(record, view)) for view in inputs[1:])])
      result['input_camera_to_world'], result['input_intrinsics'] = all_poses[inputs], all_intrinsics[inputs]
    if self.has_depth:
      scale = np.cbrt(np.linalg.det(similarity[:3, :3]))
      result['depth'] = np.stack([images.nearest(decode_depth(record, view), rules.size) * scale for view in order])
    return result

  def _input_image(self, view: np.ndarray) -> np.ndarray:
    return images.over(images.resize(view, self.rules.image_size), self.rules.input_background).astype(np.float32)


def evaluated(data: Mapping, *, image_size: int, input_position: Sequence[float]) -> dict[str, HeldOut]:
  """Returns {name: held-out objects} of each dataset of the section `data` of a configuration; the main name is ''.

  An entry of `data.mixture` has its own path and may override values, such as `eval_split` and `keep_distance`. A
  dataset whose `eval_objects` is 0 is left out. Raises InputError, naming the value, if a dataset or split is missing.
  """
  result = {}
  for name, where, values in mixture.datasets(data):
    if not values['eval_objects']:
      continue
    rules = ViewRules(
      image_size=image_size,
      size=values['eval_size'],
      input_background=values['input_background'],
      input_position=tuple(input_position),
      keep_distance=values['keep_distance'],
    )
    try:
      result[name] = HeldOut(values['path'], values['eval_split'], rules, range(values['eval_objects']))
    except InputError as error:
      raise InputError(
        f'{where}.eval_split = {values["eval_split"]!r}: {error}; set {where}.eval_objects = 0 to leave it out'
      ) from error
  return result


def stack(objects: Sequence[Mapping]) -> dict:
  """Returns the arrays of several objects, padded along the views to the largest number of views."""
  num_views = max(len(one['valid']) for one in objects)
  return {
    name: [one[name] for one in objects] if name == 'uid' else np.stack([pad(one, num_views)[name] for one in objects])
    for name in objects[0]
  }


def pad(views: Mapping, num_views: int) -> dict:
  """Returns the arrays of one object [V, ...] padded to `num_views` views; padding repeats the last view."""
  index = np.minimum(np.arange(num_views), len(views['valid']) - 1)
  result = {name: value if name in _WHOLE else value[index] for name, value in views.items()}
  result['valid'] = np.arange(num_views) < np.sum(views['valid'])
  return result


_WHOLE = ('uid', 'image', 'to_input', 'input_camera_to_world', 'input_intrinsics')  # Keys without an axis of views.


def color(views: Mapping, background: float = 1.0) -> np.ndarray:
  """Returns the colours [..., s, s, 3] in 0..1 of views, over a background."""
  return images.over(views['rgba'].astype(np.float32) / 255, background)


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
  """Returns all views of the objects of a split at once: the keys of `HeldOut.load`, and color and opacity.

  color [O, V, s, s, 3] and opacity [O, V, s, s] are in 0..1, over `background`. Raises InputError as HeldOut does.
  """
  rules = ViewRules(image_size, size, background, input_background, input_position, keep_distance)
  held_out = HeldOut(path, split, rules, indices)
  views = held_out.load(range(len(held_out)))
  return views | {'color': color(views, background), 'opacity': views['rgba'][..., 3].astype(np.float32) / 255}
