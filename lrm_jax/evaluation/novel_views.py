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

from lrm_jax.distributed import accelerators, sharding
from lrm_jax.distributed.sharding import whole
from lrm_jax.evaluation import image_metrics
from lrm_jax.geometry import images
from lrm_jax.geometry.volume import Pixels
from lrm_jax.models.triplane_model import TriplaneModel

_OBJECTS_PER_CALL = 4


def predict(model: TriplaneModel, views: dict) -> Pixels:
  """Returns what the model makes of the inputs, seen from every view: NumPy, color [O, V, s, s, 3] and so on.

  Where a mesh is set, its devices share the objects; every process gets all.
  """
  mesh = jax.sharding.get_mesh()
  memory = accelerators.memory(jax.local_devices()[0]) if mesh.empty else accelerators.mesh_memory(mesh)
  rays_per_chunk = model.rays_that_fit(memory, _objects_per_device(mesh))
  render = functools.partial(_render, model, size=views['color'].shape[-2], rays_per_chunk=rays_per_chunk)
  return _by_objects(render, *(views[name] for name in ('image', 'camera_to_world', 'intrinsics')))


@functools.partial(jax.jit, static_argnames=('size', 'rays_per_chunk'))
def _render(model, image, camera_to_world, intrinsics, size, rays_per_chunk) -> Pixels:
  return whole(
    model(
      image, camera_to_world[:, 0], intrinsics[:, 0], camera_to_world, intrinsics, size, rays_per_chunk=rays_per_chunk
    )
  )


@jax.jit
def _distances(lpips, color, reference) -> Float[Array, 'O V']:
  def flat(x):
    return x.reshape(-1, *x.shape[2:])

  return whole(lpips(flat(color), flat(reference)).reshape(color.shape[:2]))


def _by_objects(function: Callable, *arrays: np.ndarray):
  """Returns function(*arrays), arrays [O, ...], a few objects at a time on the devices of the mesh; a tree of NumPy arrays."""
  mesh = jax.sharding.get_mesh()
  per_call = _objects_per_device(mesh) * max(1, mesh.size)
  put = (lambda x: x) if mesh.empty else lambda x: sharding.place(x, sharding.batch_sharding(mesh))
  parts = []
  for first in range(0, len(arrays[0]), per_call):
    chunk = [x[first : first + per_call] for x in arrays]
    count = len(chunk[0])
    # The last call is filled up, so that one program serves all.
    chunk = [put(np.concatenate([x, np.repeat(x[-1:], per_call - count, axis=0)])) for x in chunk]
    parts.append(jax.tree.map(lambda x: np.asarray(x)[:count], function(*chunk)))
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _objects_per_device(mesh: jax.sharding.Mesh) -> int:
  """Returns how many objects each device of a mesh, or a single device, gets in one call."""
  return -(-_OBJECTS_PER_CALL // max(1, mesh.size))


def score(pixels: Pixels, views: dict, lpips=None) -> dict:
  """Returns psnr and ssim of the novel views (lpips where it is given), their means per object, and of view 0."""
  scores = compare(pixels.color[:, 1:], views['color'][:, 1:], lpips)
  result = {name: float(np.mean(values)) for name, values in scores.items()}
  result['psnr_seen'] = float(np.mean(image_metrics.psnr(pixels.color[:, 0], views['color'][:, 0])))
  per_object = {name: np.mean(values, axis=1) for name, values in scores.items()}
  result['per_object'] = {
    uid: {name: float(values[i]) for name, values in per_object.items()} for i, uid in enumerate(views['uid'])
  }
  return result


def compare(color, reference, lpips=None) -> dict[str, Float[Array, 'O V']]:
  """Returns the figures [O, V] of pictures [O, V, s, s, 3]: psnr (dB), ssim and, with a network, lpips."""
  scores = {'psnr': image_metrics.psnr(color, reference), 'ssim': image_metrics.ssim(color, reference)}
  if lpips is not None:
    scores['lpips'] = _by_objects(
      functools.partial(_distances, lpips), *(np.asarray(x, np.float32) for x in (color, reference))
    )
  return scores


def comparison(pixels: Pixels, views: dict, objects: int = 4, novel: int = 3) -> np.ndarray:
  """Returns one picture: a row an object: input, then target, render and depth of its novel views."""
  rows = []
  for o in range(min(objects, len(views['uid']))):
    row = [views['color'][o, 0]]
    for v in range(1, min(1 + novel, views['color'].shape[1])):
      row += [views['color'][o, v], pixels.color[o, v], images.depth_to_color(pixels.depth[o, v], pixels.opacity[o, v])]
    rows.append(row)
  return images.grid(rows)
