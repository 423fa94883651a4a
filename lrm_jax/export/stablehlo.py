"""Exports the two programs of a model as StableHLO, for serving without this library: `jax.export` alone runs them.

The directory has these files; S is the side of the input image and s that of the rendered view, in pixels:
  weights.safetensors  {parameter path: array}
  encode.bin           (weights, image [1, S, S, 3] in 0..1, camera_to_world [1, 4, 4], intrinsics [1, 4])
                       -> planes [1, 3, P, P, C]
  render.bin           (weights, planes, camera_to_world [1, 1, 4, 4], intrinsics [1, 1, 4]), over white
                       -> {'color': [1, 1, s, s, 3], 'depth': [1, 1, s, s], 'opacity': [1, 1, s, s]}
  model.json           S, s, the default camera, and the platforms for which the programs were lowered
The weights are arguments, so that the programs are small and a device holds the weights once. All arrays are float32.

  from jax import export  # needs flatbuffers
  from safetensors.numpy import load_file
  encode = export.deserialize(bytearray(open('encode.bin', 'rb').read()))
  planes = encode.call(load_file('weights.safetensors'), image, camera_to_world, intrinsics)
"""

import json
from pathlib import Path

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from lrm_jax.geometry import cameras
from lrm_jax.models import registry
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.weights import pretrained

SIZE = 128  # pixels along a side of the rendered view


def write(directory: Path, model: TriplaneModel, fov: float, size: int = SIZE) -> None:
  """Writes the programs and weights of a model to a new directory; `fov` is that of its default camera, in degrees."""
  weights = {path: np.asarray(array, np.float32) for path, array in pretrained.flat_parameters(model).items()}
  shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in weights.items()}

  def with_weights(weights):
    return registry.with_parameters(model, traverse_util.unflatten_dict(weights, sep='/'))

  def encode(weights, image, camera_to_world, intrinsics):
    return with_weights(weights).encode(image, camera_to_world, intrinsics)

  def render(weights, planes, camera_to_world, intrinsics):
    rays = min(4096, size * size)
    return with_weights(weights).render(planes, camera_to_world, intrinsics, size, rays_per_chunk=rays)._asdict()

  def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  image = array(1, model.image_size, model.image_size, 3), array(1, 4, 4), array(1, 4)
  planes = jax.eval_shape(encode, shapes, *image)
  directory.mkdir(parents=True)
  for name, function, arguments in (
    ('encode', encode, image),
    ('render', render, (planes, array(1, 1, 4, 4), array(1, 1, 4))),
  ):
    exported = jax.export.export(jax.jit(function))(shapes, *arguments)
    (directory / f'{name}.bin').write_bytes(exported.serialize())
  save_file(weights, directory / 'weights.safetensors')
  description = {
    'image_size': model.image_size,
    'size': size,
    'camera_to_world': cameras.input_camera(model.input_position).tolist(),
    'intrinsics': cameras.intrinsics_from_fov(fov).tolist(),
    'platforms': list(exported.platforms),
    'jax': jax.__version__,
  }
  (directory / 'model.json').write_text(json.dumps(description, indent=2) + '\n')
