"""Baselines that learn nothing, which a model has to beat: white, the mean training view, the input view repeated, and
the true views of the training object that looks most like the input.

Training views are sampled: a large training split has millions.
Legend: O objects, V views, s pixels along a side.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lrm_jax.datasets.records import check_cameras, decode, open_split, uid
from lrm_jax.datasets.views import HeldOut, ViewRules
from lrm_jax.evaluation.finished import Finished
from lrm_jax.evaluation.image_metrics import NO_NETWORKS, Networks
from lrm_jax.evaluation.novel_views import Batches, Prediction, Scores, evaluate
from lrm_jax.geometry import cameras, images

NUM_VIEWS = 1000  # training views of the mean, at most
NUM_OBJECTS = 1000  # training objects among which the nearest is searched, at most
_THUMBNAIL = 16  # pixels along a side, for the similarity of images


def sample_views(path: str | Path, split: str, num_views: int, seed: int = 0) -> Iterator[tuple[Mapping, list[int]]]:
  """Yields (record, views) of about `num_views` views, drawn at random and spread over as many objects as possible."""
  records = open_split(path, split)
  rng = np.random.default_rng(seed)
  objects = rng.permutation(len(records))[:num_views]
  share, more = divmod(num_views, len(objects))
  for place, index in enumerate(objects):
    record = records[int(index)]
    count = len(record['views'])
    yield record, sorted(map(int, rng.permutation(count)[: share + (place < more)]))


def mean_training_view(
  path: str | Path, split: str, size: int, *, background: float = 1.0, num_views: int = NUM_VIEWS, seed: int = 0
) -> np.ndarray:
  """Returns the mean [s, s, 3] of a sample of a split's views: by squared error, the best single image for all."""
  total, count = np.zeros((size, size, 3)), 0
  for record, views in sample_views(path, split, num_views, seed):
    for view in views:
      total += images.over(images.resize(decode(record, view), size), background)
      count += 1
  return (total / count).astype(np.float32)


def white(state: Any, batch: Mapping, rays_per_chunk: int) -> Prediction:
  """Predicts white images."""
  del state, rays_per_chunk
  return Prediction(jnp.ones_like(batch['color']))


def same_image(state: Any, batch: Mapping, rays_per_chunk: int) -> Prediction:
  """Predicts the image `state` [s, s, 3] for all views."""
  del rays_per_chunk
  return Prediction(jnp.broadcast_to(state, batch['color'].shape))


def input_view(state: Any, batch: Mapping, rays_per_chunk: int) -> Prediction:
  """Predicts the input view for all views."""
  del state, rays_per_chunk
  color, opacity = (jnp.broadcast_to(batch[name][:, :1], batch[name].shape) for name in ('color', 'opacity'))
  return Prediction(color, opacity=opacity)


def given_colors(state: Any, batch: Mapping, rays_per_chunk: int) -> Prediction:
  """Predicts the colours of the views that the batch has as `predicted`; their opacity is not known."""
  return given_views(state, batch, rays_per_chunk)._replace(opacity=None)


def given_views(state: Any, batch: Mapping, rays_per_chunk: int) -> Prediction:
  """Predicts the views that the batch has as `predicted`, RGBA bytes, premultiplied; `state` is the background."""
  del rays_per_chunk
  rgba = batch['predicted'].astype(jnp.float32) / 255
  return Prediction(rgba[..., :3] + (1 - rgba[..., 3:]) * state, opacity=rgba[..., 3])


@dataclasses.dataclass(frozen=True)
class Neighbour:
  """A training object and its view that looks most like an input image."""

  index: int  # in the split
  view: int


class Nearest:
  """The training objects that look most like given images: by the mean squared error of small images, of all views.

  A sample of `num_objects` objects of the split is searched.
  """

  def __init__(self, path: str | Path, split: str, rules: ViewRules, *, num_objects: int = NUM_OBJECTS, seed: int = 0):
    self.records, self._rules = open_split(path, split), rules
    chosen = np.sort(np.random.default_rng(seed).permutation(len(self.records))[:num_objects])
    thumbnails, self._places = [], []
    for index in map(int, chosen):
      record = self.records[index]
      check_cameras(record)
      for view in range(len(record['views'])):
        thumbnails.append(images.to_bytes(images.over(images.resize(decode(record, view), _THUMBNAIL), 1.0)))
        self._places.append(Neighbour(index, view))
    self._thumbnails = np.stack(thumbnails).reshape(len(thumbnails), -1)
    self._of = functools.lru_cache(maxsize=None)(self._search)

  def of(self, views: Mapping) -> Neighbour:
    """Returns the training view nearest to the input view of one object, which has `rgba` [V, s, s, 4]."""
    image = images.over(views['rgba'][0].astype(np.float32) / 255, 1.0)
    return self._of(images.to_bytes(images.resize(image, _THUMBNAIL)).tobytes())

  def _search(self, thumbnail: bytes) -> Neighbour:
    wanted = np.frombuffer(thumbnail, np.uint8).astype(np.float32)
    return self._places[int(np.argmin(np.mean((self._thumbnails - wanted) ** 2, axis=-1)))]

  def record(self, neighbour: Neighbour) -> Mapping:
    """Returns the record of a neighbour."""
    return self.records[neighbour.index]

  def similarity(self, neighbour: Neighbour) -> np.ndarray:
    """Returns the similarity [4, 4] that moves a neighbour's world to the normalised frame of its view."""
    rules, poses = self._rules, self.record(neighbour)['camera_to_world']
    return cameras.normalise_to_input_view(poses, neighbour.view, rules.input_position, rules.keep_distance)[1]

  def views(self, place: int, views: dict) -> dict[str, np.ndarray]:
    """Returns {predicted: rgba [V, s, s, 4]} for an object's views: the neighbour's views from nearest directions.

    The scene of the neighbour is normalised to its own similar view, as that of the object is to its input view.
    """
    del place
    found = self.of(views)
    record, rules = self.record(found), self._rules
    poses, _ = cameras.normalise_to_input_view(
      record['camera_to_world'], found.view, rules.input_position, rules.keep_distance
    )
    alike = _directions(views['camera_to_world']) @ _directions(poses).T
    used = np.argmax(alike, axis=-1)
    decoded = {
      view: images.to_bytes(images.resize(decode(record, view), rules.size)) for view in map(int, np.unique(used))
    }
    return {'predicted': np.stack([decoded[int(view)] for view in used])}

  def name(self, neighbour: Neighbour) -> str:
    """Returns the name of a neighbour, with its view."""
    return f'{uid(self.record(neighbour))}, view {neighbour.view}'


def trivial(
  held_out: HeldOut,
  mean_view: np.ndarray,
  networks: Networks = NO_NETWORKS,
  *,
  input_number: int = 0,
  nearest: Nearest | None = None,
  finished: Finished | None = None,
) -> dict[str, Scores]:
  """Returns {baseline: scores} of white, mean_view, input_view and, if given, nearest_training_object.

  `mean_view` [s, s, 3] is the mean training view, and `input_number` the number of the input view.
  """
  finished = Finished(None, {}) if finished is None else finished
  batches = Batches(held_out, input_view=input_number)
  systems: dict[str, tuple] = {
    'white': (batches, white, None),
    'mean_view': (batches, same_image, mean_view),
    'input_view': (batches, input_view, None),
  }
  if nearest is not None:
    batches = Batches(held_out, input_view=input_number, extra=nearest.views)
    systems['nearest_training_object'] = (batches, given_views, np.float32(held_out.rules.background))
  return {
    name: evaluate(batches, predict, state, networks, finished=finished.part(f'{name}, input view {input_number}'))[0]
    for name, (batches, predict, state) in systems.items()
  }


def _directions(poses: np.ndarray) -> np.ndarray:
  """Returns the unit directions [V, 3] from the origin to the cameras."""
  positions = np.asarray(poses)[..., :3, 3]
  return positions / np.linalg.norm(positions, axis=-1, keepdims=True)
