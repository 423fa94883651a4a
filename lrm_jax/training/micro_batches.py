"""How many micro-batches a step needs: from config.gradient_accumulation, config.objects_per_device, or the memory.

The batch size is part of the experiment, and the number of micro-batches of the hardware, so that it is derived.
The estimate of the memory was adjusted to programs compiled ahead of time for accelerators (docs/scale.md);
`python -m lrm_jax.train --dry_run --topology=...` compiles the step and says what it really needs.
"""

from ml_collections import ConfigDict

from lrm_jax.errors import InputError
from lrm_jax.models import layers

# Of a device's memory, for the state, its gradients and the activations of the transformers. The renderer's chunks take
# another fifth, and the rest is for the allocator, LPIPS and the batch.
_SHARE = 0.5
# Activations kept per layer, in arrays of [tokens, width] in the compute dtype. With 'dots', compiled programs have 1.3
# to 1.4 GiB per object of configs/base.py on GPUs, and 2.4 GiB on TPUs, which pad arrays.
_ARRAYS = {'none': 35, 'dots': 12, 'full': 1}
_PADDING = {'tpu': 1.75}
_WORKING = 60  # Arrays of one layer while its backward pass runs.


def number(config: ConfigDict, num_devices: int, state_bytes: int, memory: float | None, platform: str) -> int:
  """Returns the number of micro-batches per step.

  `memory` of a device and `state_bytes`, the parameters and optimizer on each device, are in bytes; memory is None if
  it is unknown, as on CPUs. `platform` is 'cpu', 'gpu' or 'tpu'. Raises InputError if the batch cannot be split evenly.
  """
  if config.gradient_accumulation:
    return config.gradient_accumulation
  per_device = config.batch_size // num_devices
  limit = config.objects_per_device or objects_that_fit(config.model, state_bytes, memory, platform)
  if limit is None or limit >= per_device:
    return 1
  return next(count for count in range(1, per_device + 1) if per_device % count == 0 and per_device // count <= limit)


def objects_that_fit(model: ConfigDict, state_bytes: int, memory: float | None, platform: str) -> int | None:
  """Returns how many objects fit on a device at once, at least 1; None if its memory is unknown."""
  if memory is None:
    return None
  left = _SHARE * memory - 1.5 * state_bytes  # Gradients, and parameters in the compute dtype.
  return max(1, int(left / bytes_per_object(model) / _PADDING.get(platform, 1.0)))


def bytes_per_object(model: ConfigDict) -> int:
  """Returns an estimate of the bytes of the transformers' activations for one object in a training step."""
  item = 2 if model.dtype == 'bfloat16' else 4
  encoder = item * (1 + (model.image_size // model.patch_size) ** 2) * model.encoder_width
  decoder = item * 3 * model.triplane_resolution**2 * model.decoder_width
  kept = _ARRAYS[layers.remat_policy(model.remat)]
  return kept * (model.encoder_depth * encoder + model.decoder_depth * decoder) + _WORKING * max(encoder, decoder)


def check(config: ConfigDict, num_devices: int) -> None:
  """Raises InputError if the batch cannot be split evenly over micro-batches and devices."""
  for name in ('gradient_accumulation', 'objects_per_device'):
    if config[name] < 0:
      raise InputError(f'config.{name} = {config[name]} must be at least 0 (0: derived from the memory of the devices)')
  if config.gradient_accumulation and config.objects_per_device:
    raise InputError(
      f'config.gradient_accumulation = {config.gradient_accumulation} and config.objects_per_device = '
      f'{config.objects_per_device} exclude each other: set one of them to 0'
    )
  count = max(config.gradient_accumulation, 1)
  if config.batch_size % (count * num_devices):
    raise InputError(
      f'config.batch_size = {config.batch_size} must be a multiple of config.gradient_accumulation x devices = '
      f'{count} x {num_devices}'
    )
