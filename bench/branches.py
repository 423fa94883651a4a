"""Compares training steps of every kind on this backend with the same steps on a CPU: losses and gradient norms.

Both sides run the programs of a training (lrm_jax/training/trainer.py). They differ where a backend has its own form
(lrm_jax/distributed/backend.py): attention, gradients of planes, chunks of rays, sharding. On a machine without an
accelerator, CPU devices that claim to be GPUs take its place (lrm_jax/distributed/simulation.py).
"""

from collections.abc import Iterator, Sequence
import contextlib
import os

import jax
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.configs import base
from lrm_jax.distributed import sharding, simulation
from lrm_jax.models import lpips
from lrm_jax.training.trainer import Trainer

_STEPS = 3
# Heads of 64 channels, as in configs/base.py, which cuDNN's attention needs; so wide that kernels are sharded.
_MODEL = dict(
  image_size=64,
  patch_size=16,
  encoder_width=128,
  encoder_depth=2,
  encoder_num_heads=2,
  encoder_table_size=4,
  camera_width=32,
  decoder_width=256,
  decoder_depth=2,
  decoder_num_heads=4,
  triplane_resolution=4,
  nerf_depth=4,
  num_samples=16,
)
# Every loss and option that adds its own operations to the step is in one of them. They are few, because each is
# compiled twice.
KINDS: dict[str, dict] = {
  'with LPIPS, a moving average, remat full': {
    'loss.lpips_weight': 2.0,
    'ema_decay': 0.99,
    'model.remat': 'full',
    'data.window': 32,
  },
  'of 2 input views, with LoRA, micro-batches and all other losses': {
    'model.num_input_views': 2,
    'model.lora_rank': 4,
    'gradient_accumulation': 2,
    'loss.mask_weight': 1.0,
    'loss.mask_entropy_weight': 0.1,
    'loss.opacity_entropy_weight': 0.1,
    'loss.total_variation_weight': 0.1,
    'loss.depth_weight': 1.0,
    'loss.surface_weight': 1.0,
    'loss.normal_weight': 0.1,
  },
  'of single pixels, with depth, frozen encoder, remat none': {
    'data.rays': 'foreground',
    'loss.depth_weight': 1.0,
    'optimizer.freeze': ('encoder/*',),
    'optimizer.multipliers': ('nerf/*=0.5',),
    'model.remat': 'none',
  },
}


def training_steps(dtype: str) -> dict[str, float]:
  """Returns {kind of step: largest relative difference of the backend, computing in `dtype`, to the CPU in float32}."""
  result = {}
  for kind, changes in KINDS.items():
    count = jax.local_device_count()
    expected, first = _curve(_config(changes, 'float32', count), jax.local_devices(backend='cpu')[:1], None)
    with _as_accelerator():
      found, _ = _curve(_config(changes, dtype, count), jax.local_devices(), first)
    result[f'training step {kind}'] = float(np.max(np.abs(found - expected) / np.abs(expected)))
  return result


def _config(changes: dict, dtype: str, num_devices: int) -> ConfigDict:
  config = base.get_config()
  config.model.update(_MODEL | dict(dtype=dtype))
  config.data.update(dict(window=16, resize_min=32, resize_max=32))
  config.batch_size = 2 * num_devices
  config.loss.lpips_weight, config.optimizer.warmup_steps = 0.0, 1
  config.update_from_flattened_dict(changes)
  return config


def _curve(config: ConfigDict, devices: Sequence[jax.Device], first: dict | None) -> tuple[np.ndarray, dict]:
  """Returns ([steps, 2], loss and gradient norm of a few steps on the same batch; the first state, on the host).

  Starts from the state `first`, or from a random one.
  """
  jax.clear_caches()  # Inner functions are traced again: the platform may have changed.
  network = lpips.LPIPS(_random_lpips()) if config.loss.lpips_weight > 0 else None
  trainer = Trainer(config, lpips=network, devices=devices, synthetic_data=True)
  with jax.set_mesh(trainer.mesh):
    state = trainer.first_state() if first is None else jax.tree.map(sharding.place, first, trainer.shardings)
    first = jax.tree.map(np.array, state)  # A copy: the step donates the state.
    step, (batch, _), rows = trainer.compile(), next(trainer.batches(0)), []
    for _ in range(_STEPS):
      state, metrics = step(state, batch, np.float32(5), trainer.lpips)
      rows.append([float(metrics['loss']), float(metrics['grad_norm'])])
  return np.array(rows), first


@contextlib.contextmanager
def _as_accelerator() -> Iterator[None]:
  """On a machine without an accelerator, lets CPU devices claim to be GPUs."""
  before = os.environ.get(simulation.VARIABLE)
  if jax.default_backend() == 'cpu' and before is None:
    os.environ[simulation.VARIABLE] = 'gpu:1e9'
  try:
    yield
  finally:
    if before is None:
      os.environ.pop(simulation.VARIABLE, None)


def _random_lpips() -> dict[str, np.ndarray]:
  """Returns random weights of LPIPS, scaled so that activations neither vanish nor grow."""
  rng, result = np.random.default_rng(0), {}
  for name, shape in lpips.shapes().items():
    if name.startswith('lin'):
      result[name] = rng.uniform(0, 1, shape).astype(np.float32)
    else:
      scale = np.sqrt(2 / np.prod(shape[1:])) if name.endswith('weight') else 0.1
      result[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
  return result
