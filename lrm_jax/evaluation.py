"""How good a model is on objects it has never seen: novel views against the truth, beside trivial predictors.

View 0 of an object is the input; all its other views are novel. A figure is the mean over objects and views of the
figure of one picture. `views` is what lrm_jax/input_pipeline.load_views returns.
Legend: O objects, V views, s pixels along a side.
"""

from collections.abc import Callable
import functools

import jax
from jaxtyping import Array, Float
import numpy as np

from lrm_jax import images, input_pipeline, sharding
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.sharding import whole
from lrm_jax.volume import Pixels

_OBJECTS_PER_CALL = 4
_OBJECTS_PER_READ = 64


def predict(model: TriplaneModel, views: dict) -> Pixels:
  """Returns what the model makes of the inputs, seen from every view: NumPy, color [O, V, s, s, 3] and so on.

  Where a mesh is set, its devices share the objects; every process gets all.
  """
  size = views['color'].shape[-2]
  keys = ('image', 'camera_to_world', 'intrinsics')
  return _by_objects(functools.partial(_render, model, size=size), *(views[name] for name in keys))


@functools.partial(jax.jit, static_argnames='size')
def _render(model, image, camera_to_world, intrinsics, size) -> Pixels:
  return whole(model(image, camera_to_world[:, 0], intrinsics[:, 0], camera_to_world, intrinsics, size))


@jax.jit
def _distances(lpips, color, reference) -> Float[Array, 'O V']:
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  return whole(lpips(flat(color), flat(reference)).reshape(color.shape[:2]))


def _by_objects(function: Callable, *arrays: np.ndarray):
  """Returns function(*arrays), arrays [O, ...], a few objects at a time on the devices of the mesh; a tree of NumPy arrays."""
  mesh = jax.sharding.get_mesh()
  devices = max(1, mesh.size)
  per_call = -(-_OBJECTS_PER_CALL // devices) * devices
  put = (lambda x: x) if mesh.empty else lambda x: sharding.place(x, sharding.batch_sharding(mesh))
  parts = []
  for first in range(0, len(arrays[0]), per_call):
    chunk = [x[first:first + per_call] for x in arrays]
    count = len(chunk[0])
    # The last call is filled up, so that one program serves all.
    chunk = [put(np.concatenate([x, np.repeat(x[-1:], per_call - count, axis=0)])) for x in chunk]
    parts.append(jax.tree.map(lambda x: np.asarray(x)[:count], function(*chunk)))
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def evaluate(pixels: Pixels, views: dict, lpips=None) -> dict:
  """Returns psnr and ssim of the novel views (lpips where it is given), their means per object, and of view 0."""
  scores = compare(pixels.color[:, 1:], views['color'][:, 1:], lpips)
  result = {name: float(np.mean(values)) for name, values in scores.items()}
  result['psnr_seen'] = float(np.mean(images.psnr(pixels.color[:, 0], views['color'][:, 0])))
  per_object = {name: np.mean(values, axis=1) for name, values in scores.items()}
  result['per_object'] = {
      uid: {name: float(values[i]) for name, values in per_object.items()} for i, uid in enumerate(views['uid'])}
  return result


def compare(color, reference, lpips=None) -> dict[str, Float[Array, 'O V']]:
  """Returns the figures [O, V] of pictures [O, V, s, s, 3]: psnr (dB), ssim and, with a network, lpips."""
  scores = {'psnr': images.psnr(color, reference), 'ssim': images.ssim(color, reference)}
  if lpips is not None:
    scores['lpips'] = _by_objects(functools.partial(_distances, lpips), *(np.asarray(x, np.float32) for x in (color, reference)))
  return scores


def mean_training_view(path, split: str, size: int, background: float = 1.0) -> np.ndarray:
  """Returns [s, s, 3], the mean of all views of a split: the best single picture for all of them."""
  total, count = 0.0, 0
  size_of_split = len(input_pipeline.open_split(path, split))
  for first in range(0, size_of_split, _OBJECTS_PER_READ):
    views = input_pipeline.load_views(
        path, split, image_size=size, size=size, indices=range(first, first + _OBJECTS_PER_READ),
        background=background)['color']
    total = total + views.sum(axis=(0, 1), dtype=np.float64)
    count += views.shape[0] * views.shape[1]
  return (total / count).astype(np.float32)


def trivial(views: dict, mean_view: np.ndarray, lpips=None) -> dict[str, dict[str, float]]:
  """Returns the figures of predictors that learn nothing: white, the mean training view, the input repeated."""
  novel = views['color'][:, 1:]
  predictions = {'white': np.ones_like(novel), 'mean_view': np.broadcast_to(mean_view, novel.shape),
                 'input_view': np.broadcast_to(views['color'][:, :1], novel.shape)}
  return {
      name: {metric: float(np.mean(values)) for metric, values in compare(prediction, novel, lpips).items()}
      for name, prediction in predictions.items()}


def comparison(pixels: Pixels, views: dict, objects: int = 4, novel: int = 3) -> np.ndarray:
  """Returns one picture: a row an object: input, then target, render and depth of its novel views."""
  rows = []
  for o in range(min(objects, len(views['uid']))):
    row = [views['color'][o, 0]]
    for v in range(1, min(1 + novel, views['color'].shape[1])):
      row += [views['color'][o, v], pixels.color[o, v], images.depth_to_color(pixels.depth[o, v], pixels.opacity[o, v])]
    rows.append(row)
  return images.grid(rows)
