"""Compares predicted views of held-out objects with the true ones, on the devices.

View 0 of an object is its input view; all its other views are novel. A prediction is a function of a batch of views
(the keys of HeldOut.load, with color and opacity instead of rgba) and a state, for example a model. Rendering and
metrics are one compiled program: objects are sharded over the devices of all processes, each process reads only its
own objects, and only numbers [O, V] come back.
Legend: O objects, V views, s pixels along a side.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lrm_jax.datasets import views as views_lib
from lrm_jax.datasets.views import HeldOut
from lrm_jax.distributed import accelerators, sharding
from lrm_jax.distributed.sharding import replicate, shard_by_batch
from lrm_jax.evaluation import image_metrics
from lrm_jax.evaluation.finished import Part
from lrm_jax.evaluation.image_metrics import NO_NETWORKS, Networks
from lrm_jax.geometry import images
from lrm_jax.models.triplane_model import TriplaneModel

_OBJECTS_PER_CALL = 4  # Bounds the memory.
_ORDER = ('psnr', 'ssim', 'lpips', 'clip_similarity', 'mask_iou', 'depth_error')
# What `predict` needs of the views.
_RENDERED = ('image', 'input_camera_to_world', 'input_intrinsics', 'camera_to_world', 'intrinsics', 'rgba')
_SHOWN_VIEWS = 4  # Views of each object whose pixels are kept for an image: the input view and three novel ones.


class Prediction(NamedTuple):
  """Predicted views: color [O, V, s, s, 3] in 0..1; depth (sum_i w_i t_i) and opacity [O, V, s, s], or None."""

  color: Float[Array, 'O V s s 3']
  depth: Float[Array, 'O V s s'] | None = None
  opacity: Float[Array, 'O V s s'] | None = None


Shown = tuple[dict, Prediction]
Predict = Callable[[Any, Mapping, int], Prediction]  # (state, batch, rays_per_chunk) -> prediction


def render(model: TriplaneModel, batch: Mapping, rays_per_chunk: int) -> Prediction:
  """Returns the renders of all views of a batch, given its input images: the prediction of a model."""
  poses, intrinsics = batch['camera_to_world'], batch['intrinsics']
  if 'input_camera_to_world' in batch:  # Several input views.
    inputs = batch['input_camera_to_world'], batch['input_intrinsics']
  else:
    inputs = poses[:, 0], intrinsics[:, 0]
  size = batch['color'].shape[-2]
  pixels = model(batch['image'], *inputs, poses, intrinsics, size, rays_per_chunk=rays_per_chunk)
  return Prediction(pixels.color, pixels.depth, pixels.opacity)


@dataclasses.dataclass
class Scores:
  """Metrics of each view: `values` {name: [O, V]}, NaN where a view does not exist or a metric is not defined.

  Column 0 is the input view. `number` [O, V] are the numbers of the views in their records, -1 for padding.
  """

  number: np.ndarray
  values: dict[str, np.ndarray]

  def per_object(self) -> dict[str, np.ndarray]:
    """Returns {metric: [O]}: means over the novel views of each object; NaN if there is none."""
    return {name: mean(values[:, 1:], axis=1) for name, values in self.values.items()}

  def means(self) -> dict[str, float]:
    """Returns {metric: mean over objects of the mean over the novel views}, and `psnr_seen`, that of the input view."""
    result = {name: float(mean(values)) for name, values in self.per_object().items()}
    return result | {'psnr_seen': float(mean(self.values['psnr'][:, 0]))}


def mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
  """Returns the mean of the values that are not NaN; NaN, without a warning, if there is none."""
  values = np.asarray(values, np.float64)
  known = ~np.isnan(values)
  with np.errstate(invalid='ignore'):
    return np.sum(values, axis=axis, where=known) / np.sum(known, axis=axis)


class Batches:
  """The held-out objects in batches of equal shape, sharded over the devices of the mesh in use, if there is one.

  Each process reads only the objects of its own devices. With `keep`, batches are read at once and kept in memory
  (4 bytes a pixel); otherwise they are read in each iteration. `extra` adds arrays to the views of an object. The last
  batch is padded by repeating an object, so that one compiled program serves all batches.
  """

  def __init__(
    self,
    held_out: HeldOut,
    *,
    input_view: int = 0,
    keep: bool = False,
    extra: Callable[[int, dict], dict] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
  ):
    self.held_out, self._input_view, self._extra, self._progress = held_out, input_view, extra, progress
    self.mesh = jax.sharding.get_mesh()
    self.per_device = -(-_OBJECTS_PER_CALL // max(1, self.mesh.size))
    self.per_batch = self.per_device * max(1, self.mesh.size)
    rows = range(self.per_batch) if self.mesh.empty else sharding.batch_rows(self.mesh, self.per_batch)
    last = len(held_out) - 1
    self._places = [[min(first + row, last) for row in rows] for first in range(0, len(held_out), self.per_batch)]
    local = max(len(held_out.record(place)['views']) for place in {p for some in self._places for p in some})
    # All processes must run the same program.
    self.num_views = int(np.max(multihost_utils.process_allgather(np.int32(local)))) if _several(self.mesh) else local
    self._kept = [self._read(places) for places in self._places] if keep else None

  def __iter__(self) -> Iterator[dict]:
    """Yields batches of device arrays."""
    return (arrays for _, arrays in self.without(()))

  def without(self, finished: Container[int]) -> Iterator[tuple[range, dict]]:
    """Yields (places, device arrays) of each batch that has an object whose place is not in `finished`."""
    for number in self._progress(range(len(self._places))):
      first = number * self.per_batch
      places = range(first, min(first + self.per_batch, len(self.held_out)))
      if all(place in finished for place in places):
        continue
      arrays = self._kept[number] if self._kept is not None else self._read(self._places[number])
      if not self.mesh.empty:
        where = sharding.batch_sharding(self.mesh)
        arrays = {name: jax.make_array_from_process_local_data(where, x) for name, x in arrays.items()}
      yield places, arrays

  def _read(self, places: Sequence[int]) -> dict:
    objects = []
    for place in places:
      views = self.held_out.load([place], self._input_view)
      views = {name: value[0] for name, value in views.items()}
      if self._extra is not None:
        views |= self._extra(place, views)
      objects.append(views_lib.pad(views, self.num_views))
    return {name: value for name, value in views_lib.stack(objects).items() if name not in ('uid', 'to_input')}


def evaluate(
  batches: Batches,
  predict: Predict,
  state: Any,
  networks: Networks = NO_NETWORKS,
  *,
  rays_per_chunk: int = 0,
  finished: Part | None = None,
) -> tuple[Scores, Shown | None]:
  """Returns (scores, shown): `shown` is (views, prediction) of the first views of this process's first objects.

  `predict` must be a function at the top of a module, because programs are compiled once for each. Every process gets
  all scores. Batches whose objects are all in `finished` are not computed again, and the others are added to it;
  `shown` is None if none is left. Raises InputError if the views are too small for a metric.
  """
  background = batches.held_out.rules.background
  finished = Part() if finished is None else finished
  shown = None
  for places, batch in batches.without(finished):
    values, number, few = _evaluate(predict, state, dict(networks), batch, rays_per_chunk, background)
    arrays = {name: np.asarray(x, np.float64) for name, x in values.items()}
    number = np.asarray(number)
    finished.add(
      {
        place: {'number': number[row].tolist(), 'values': {name: x[row].tolist() for name, x in arrays.items()}}
        for row, place in enumerate(places)
      }
    )
    shown = jax.tree.map(_local_rows, few) if shown is None else shown
  return _scores([finished[place] for place in range(len(batches.held_out))]), shown


def _scores(objects: Sequence[Mapping]) -> Scores:
  """Returns the scores of finished objects."""
  number = np.array([one['number'] for one in objects], np.int32)
  names = sorted(objects[0]['values'], key=_ORDER.index)  # Programs return dictionaries in alphabetical order.
  return Scores(
    number, {name: np.where(number >= 0, np.array([one['values'][name] for one in objects]), np.nan) for name in names}
  )


def metrics_of(
  predict: Predict, state: Any, batch: Mapping, networks: Networks = NO_NETWORKS, background: float = 1.0
) -> dict[str, jax.Array]:
  """Returns the metrics {name: [O, V]} of one batch, as device arrays."""
  return _evaluate(predict, state, dict(networks), batch, 0, background)[0]


def evaluate_model(
  batches: Batches, model: TriplaneModel, networks: Networks = NO_NETWORKS, finished: Part | None = None
) -> tuple[Scores, Shown | None]:
  """Returns `evaluate` of a model, with as many rays at once as fit into the memory of the devices."""
  rays_per_chunk = _rays_that_fit(model, batches.per_device)
  return evaluate(batches, render, model, networks, rays_per_chunk=rays_per_chunk, finished=finished)


def predict(model: TriplaneModel, views: Mapping) -> Prediction:
  """Returns the renders, as NumPy arrays, of all views of a few objects, the result of HeldOut.load. Needs no mesh."""
  parts = []
  for place in range(len(views['uid'])):  # Object by object, because the whole result has to fit only on the host.
    batch = {name: value[place : place + 1] for name, value in views.items() if name not in ('uid', 'to_input')}
    batch = {name: value for name, value in batch.items() if name in _RENDERED}
    parts.append(jax.tree.map(np.asarray, _predict(model, batch, _rays_that_fit(model, 1))))
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@functools.partial(jax.jit, static_argnums=2)
def _predict(model, batch, rays_per_chunk):
  return render(model, _with_colors(batch, 1.0), rays_per_chunk)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _evaluate(predict, state, networks, batch, rays_per_chunk, background):
  batch = _with_colors(batch, background)
  prediction = predict(state, batch, rays_per_chunk)
  reference = {name: batch[name] for name in ('color', 'opacity', 'depth') if name in batch}

  def one_view(both):
    predicted, true = both
    return image_metrics.compare(predicted, true, networks)

  # View by view, which bounds the memory of LPIPS. Objects stay sharded.
  by_view = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (prediction, reference))
  values = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), jax.lax.map(one_view, by_view))
  number = jnp.where(batch['valid'], batch['number'], -1)
  shown = jax.tree.map(lambda x: shard_by_batch(x[:, :_SHOWN_VIEWS]), (reference, prediction))
  return replicate(values), replicate(number), shown


def _with_colors(batch: Mapping, background: float) -> dict:
  """Returns the batch with color and opacity in 0..1, over the background, in place of rgba."""
  rgba = batch['rgba'].astype(jnp.float32) / 255
  result = {name: value for name, value in batch.items() if name != 'rgba'}
  return result | {'color': rgba[..., :3] + (1 - rgba[..., 3:]) * background, 'opacity': rgba[..., 3]}


def _rays_that_fit(model: TriplaneModel, num_objects: int) -> int:
  mesh = jax.sharding.get_mesh()
  memory = accelerators.memory(jax.local_devices()[0]) if mesh.empty else accelerators.mesh_memory(mesh)
  return model.rays_that_fit(memory, num_objects)


def _several(mesh: jax.sharding.Mesh) -> bool:
  return not mesh.empty and jax.process_count() > 1


def _local_rows(x: jax.Array) -> np.ndarray:
  """Returns the rows of an array, sharded by rows, that this process's devices hold."""
  shards = {shard.index[0].start or 0: shard for shard in x.addressable_shards}
  return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])


def comparison(shown: Shown, objects: int = 4) -> np.ndarray:
  """Returns an image with a row per object: its input, then target, render and depth of some of its novel views."""
  reference, prediction = shown
  depth, opacity = prediction.depth, prediction.opacity
  assert depth is not None and opacity is not None
  rows = []
  for o in range(min(objects, len(reference['color']))):
    row = [reference['color'][o, 0]]
    for v in range(1, reference['color'].shape[1]):
      depth_image = images.depth_to_color(np.asarray(depth[o, v]), np.asarray(opacity[o, v]))
      row += [reference['color'][o, v], prediction.color[o, v], depth_image]
    rows.append(row)
  return images.grid(rows)
