"""Random batches with the shapes and types of real ones, which measure the model without reading data."""

from ml_collections import ConfigDict
import numpy as np

from lrm_jax.geometry import cameras
from lrm_jax.training import cost


def batch(config: ConfigDict, objects: int, seed: int = 0) -> dict[str, np.ndarray]:
  """Returns a batch of `objects` random objects, with cameras that look at the origin, and their `record` numbers."""
  rng, found = np.random.default_rng(seed), {}
  for name, shape in cost.abstract_batch(config, None).items():
    size = (objects, *shape.shape[1:])
    if shape.dtype == np.uint8:
      found[name] = rng.integers(0, 256, size, np.uint8)
    elif shape.dtype == np.int32:
      found[name] = np.zeros(size, np.int32)
    elif name.endswith('camera_to_world'):
      positions = rng.normal(size=(*size[:-2], 3))
      found[name] = cameras.look_at(2 * positions / np.linalg.norm(positions, axis=-1, keepdims=True))
    elif name.endswith('intrinsics'):
      found[name] = np.broadcast_to(cameras.intrinsics_from_fov(50), size)
    elif name == 'target_position':
      found[name] = rng.uniform(size=size)
    else:
      found[name] = np.ones(size)
  floats = {name: x.astype(np.float32) for name, x in found.items() if x.dtype == np.float64}
  return found | floats | {'record': np.zeros(objects, np.int32)}
