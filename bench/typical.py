"""A solid object for benchmarks, at the sizes of configs/base.py: as sharp as a trained model's, without training.

The first channels of the planes hold a function f, a ball with waves that fills a fifth of the cube. The first two
hidden units of the NeRF carry f(x, y, z) and -f from layer to layer; all other weights are random. So the density is as
sharp as that of a trained model, and all weights take part in the computation.
"""

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.configs import base
from lrm_jax.models import registry

_SHARPNESS, _LEVEL = 40.0, 0.36


def small_model_config(**changes) -> ConfigDict:
  """Returns configs/base.py with a tiny transformer; planes and NeRF have the paper's sizes."""
  config = base.get_config()
  config.model.update(
    dict(
      encoder_width=64,
      encoder_depth=1,
      encoder_num_heads=1,
      decoder_width=64,
      decoder_depth=1,
      decoder_num_heads=1,
      camera_width=8,
      dtype='float32',
    )
    | changes
  )
  return config


def solid(config: ConfigDict):
  """Returns (model, planes [1, 3, P, P, C]) of the solid."""
  sizes = config.model
  model = registry.build_model(sizes.to_dict(), nnx.Rngs(0))
  resolution = sizes.triplane_resolution * sizes.triplane_upsample
  centre = (np.arange(resolution) + 0.5) / resolution * 2 - 1
  v, u = np.meshgrid(centre, centre, indexing='ij')
  planes = 0.1 * np.random.default_rng(0).normal(size=(1, 3, resolution, resolution, sizes.triplane_channels))
  planes[..., 0] = 0.5 - (u**2 + v**2) + 0.15 * np.sin(7 * u) * np.sin(7 * v)
  params = jax.tree.map(np.array, registry.parameters(model))
  first, hidden, last = (params['nerf'][name] for name in ('first', 'hidden', 'last'))
  first['kernel'][:, :2], first['bias'][:2] = 0, 0
  first['kernel'][:: sizes.triplane_channels, :2] = [1, -1]
  hidden['kernel'][:, :, :2], hidden['bias'][:, :2] = 0, 0
  hidden['kernel'][:, 0, 0] = hidden['kernel'][:, 1, 1] = 1
  last['kernel'][:, 0], last['bias'][0] = 0, 1 - _SHARPNESS * _LEVEL
  last['kernel'][:2, 0] = [_SHARPNESS, -_SHARPNESS]
  return registry.with_parameters(model, jax.tree.map(jnp.asarray, params)), jnp.asarray(planes, jnp.float32)
