"""Evaluates a model on held-out objects, by comparing rendered novel views with the true ones.

View 0 of an object is the input view; all its other views are novel. A metric is computed per image, then averaged over
objects and views. `views` is the result of lrm_jax.datasets.views.load_views.
Legend: O objects, V views, s pixels along a side.
"""

from collections.abc import Callable
import functools

import jax
from jaxtyping import Array, Float
import numpy as np

from lrm_jax.distributed import accelerators, sharding
from lrm_jax.distributed.sharding import replicate
from lrm_jax.evaluation import image_metrics
from lrm_jax.geometry import images
from lrm_jax.geometry.volume import Pixels
from lrm_jax.models.triplane_model import TriplaneModel

_OBJECTS_PER_CALL = 4  # Bounds the memory.


def predict(model: TriplaneModel, views: dict) -> Pixels:
  """Returns the renders of all views, given the input images: color [O, V, s, s, 3], depth and opacity [O, V, s, s].

  The arrays are NumPy. If a mesh is set, the objects are sharded over its devices, and every process gets all renders.
  """
  mesh = jax.sharding.get_mesh()
  memory = accelerators.memory(jax.local_devices()[0]) if mesh.empty else accelerators.mesh_memory(mesh)
  rays_per_chunk = model.rays_that_fit(memory, _objects_per_device(mesh))
  render = functools.partial(_render, model, size=views['color'].shape[-2], rays_per_chunk=rays_per_chunk)
  return _by_objects(render, *(views[name] for name in ('image', 'camera_to_world', 'intrinsics')))


@functools.partial(jax.jit, static_argnames=('size', 'rays_per_chunk'))
def _render(model, image, camera_to_world, intrinsics, size, rays_per_chunk) -> Pixels:
  return replicate(
    model(
      image, camera_to_world[:, 0], intrinsics[:, 0], camera_to_world, intrinsics, size, rays_per_chunk=rays_per_chunk
    )
  )


@jax.jit
def _distances(lpips, color, reference) -> Float[Array, 'O V']:
  """Returns the LPIPS distance of each view."""

  def flat(x):
    return x.reshape(-1, *x.shape[2:])

  return replicate(lpips(flat(color), flat(reference)).reshape(color.shape[:2]))


def _by_objects(function: Callable, *arrays: np.ndarray):
  """Returns function(*arrays) for arrays [O, ...], as a tree of NumPy arrays.

  The function is called with a few objects at a time, sharded over the devices of the mesh.
  """
  mesh = jax.sharding.get_mesh()
  per_call = _objects_per_device(mesh) * max(1, mesh.size)

  def place(x):
    return x if mesh.empty else sharding.place(x, sharding.batch_sharding(mesh))

  results = []
  for first in range(0, len(arrays[0]), per_call):
    chunk = [x[first : first + per_call] for x in arrays]
    count = len(chunk[0])
    # The last chunk is padded, so that all chunks use the same compiled program.
    chunk = [place(np.concatenate([x, np.repeat(x[-1:], per_call - count, axis=0)])) for x in chunk]
    results.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], function(*chunk)))
  return jax.tree.map(lambda *x: np.concatenate(x), *results)


def _objects_per_device(mesh: jax.sharding.Mesh) -> int:
  """Returns how many objects each device of the mesh (without a mesh: the only device) gets in one call."""
  return -(-_OBJECTS_PER_CALL // max(1, mesh.size))


def score(pixels: Pixels, views: dict, lpips=None) -> dict:
  """Returns the metrics of renders: psnr (dB), ssim and, with a network, lpips, means over the novel views.

  `psnr_seen` is the PSNR of view 0, and `per_object` is {uid: {metric: mean over the object's novel views}}.
  """
  scores = compare(pixels.color[:, 1:], views['color'][:, 1:], lpips)
  result = {name: float(np.mean(values)) for name, values in scores.items()}
  result['psnr_seen'] = float(np.mean(image_metrics.psnr(pixels.color[:, 0], views['color'][:, 0])))  # type: ignore[arg-type]
  per_object = {name: np.mean(values, axis=1) for name, values in scores.items()}
  result['per_object'] = {  # type: ignore[assignment]
    uid: {name: float(values[i]) for name, values in per_object.items()} for i, uid in enumerate(views['uid'])
  }
  return result


def compare(color, reference, lpips=None) -> dict[str, Float[np.ndarray, 'O V']]:
  """Returns metrics [O, V] of images [O, V, s, s, 3]: psnr (dB), ssim and, with a network, lpips."""
  scores = {'psnr': image_metrics.psnr(color, reference), 'ssim': image_metrics.ssim(color, reference)}
  if lpips is not None:
    scores['lpips'] = _by_objects(
      functools.partial(_distances, lpips), *(np.asarray(x, np.float32) for x in (color, reference))
    )
  return scores


def comparison(pixels: Pixels, views: dict, objects: int = 4, novel: int = 3) -> np.ndarray:
  """Returns an image with a row per object: its input, then target, render and depth of each of its novel views."""
  rows = []
  for o in range(min(objects, len(views['uid']))):
    row = [views['color'][o, 0]]
    for v in range(1, min(1 + novel, views['color'].shape[1])):
      row += [views['color'][o, v], pixels.color[o, v], images.depth_to_color(pixels.depth[o, v], pixels.opacity[o, v])]  # type: ignore[arg-type]
    rows.append(row)
  return images.grid(rows)
