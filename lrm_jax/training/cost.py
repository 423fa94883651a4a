"""What a configuration costs before it runs: parameters, memory, operations.

Operations are counted from the sizes, a multiply-add as two: XLA's own count takes the body of a scan once.
Legend: N triplane tokens, M image tokens, D width.
"""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lrm_jax.models import layers, lpips


def abstract_batch(config: ConfigDict, placement) -> dict:
  """Returns the shapes of a batch of input_pipeline.make_dataset, placed on devices."""
  objects, views = config.batch_size, 1 + config.data.num_side_views
  size, window = config.model.image_size, config.data.window
  shapes = {
    'image': (size, size, 3),
    'camera_to_world': (4, 4),
    'intrinsics': (4,),
    'target_color': (views, window, window, 3),
    'target_opacity': (views, window, window),
    'target_camera_to_world': (views, 4, 4),
    'target_intrinsics': (views, 4),
    'background': (views, 3),
  }
  return {
    name: jax.ShapeDtypeStruct((objects, *shape), jnp.float32, sharding=placement) for name, shape in shapes.items()
  }


def count(params) -> int:
  """Returns the number of parameters in a tree of arrays or shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def attention_operations(model: ConfigDict) -> dict[str, float]:
  """Returns the operations of one object's attention, q k^T and the weighted sums of v, in encoder and decoder."""
  image_tokens, tokens = _tokens(model)
  return {
    'encoder': model.encoder_depth * 4 * image_tokens**2 * model.encoder_width,
    'decoder': model.decoder_depth * 4 * tokens * (image_tokens + tokens) * model.decoder_width,
  }


def _tokens(model: ConfigDict) -> tuple[int, int]:
  return 1 + (model.image_size // model.patch_size) ** 2, 3 * model.triplane_resolution**2


def forward_operations(model: ConfigDict, num_rays: int) -> dict[str, float]:
  """Returns the operations of one object's forward pass: encoder, decoder, and the renderer of `num_rays` rays."""
  image_tokens, tokens = _tokens(model)
  encoder_width, width = model.encoder_width, model.decoder_width
  attention = attention_operations(model)
  encoder = model.encoder_depth * 24 * image_tokens * encoder_width**2 + attention['encoder']
  encoder += 2 * image_tokens * 3 * model.patch_size**2 * encoder_width
  decoder = (
    model.decoder_depth * (4 * tokens * width**2 + 4 * image_tokens * encoder_width * width + 8 * tokens * width**2)
    + attention['decoder']
  )
  if model.get('architecture') == 'triposr':
    decoder += model.decoder_depth * 24 * tokens * width**2 + 4 * tokens * width**2  # GEGLU; a linear map at both ends.
  else:
    decoder += model.decoder_depth * (16 * tokens * width**2 + 3 * 4 * model.camera_width * width)
  decoder += 2 * tokens * width * model.triplane_upsample**2 * model.triplane_channels
  texels = tokens * model.triplane_upsample**2
  fold = 2 * texels * model.triplane_channels * model.nerf_width
  sample = 2 * 12 * model.nerf_width + 2 * (model.nerf_depth - 2) * model.nerf_width**2 + 2 * 4 * model.nerf_width
  return {'encoder': encoder, 'decoder': decoder, 'renderer': fold + num_rays * model.num_samples * sample}


def lpips_operations(size: int) -> float:
  """Returns the operations of VGG16's convolutions for one picture of `size` pixels along a side."""
  total, inputs = 0, 3
  for k, (stage, width) in enumerate(zip(lpips.STAGES, lpips.WIDTHS)):
    for _ in stage:
      total += 2 * 9 * inputs * width * (size // 2**k) ** 2
      inputs = width
  return total


def step_operations(config: ConfigDict) -> float:
  """Returns the operations of a training step: forward, twice that backward, and what is computed again.

  LPIPS: forward for render and target, backward to the render alone.
  """
  return useful_operations(config) + config.batch_size * _again(config)


def useful_operations(config: ConfigDict) -> float:
  """Returns the operations of a training step without what is computed again to save memory: MFU counts these."""
  views = 1 + config.data.num_side_views
  parts = forward_operations(config.model, views * config.data.window**2)
  perceptual = 3 * views * lpips_operations(config.data.window) if config.loss.lpips_weight > 0 else 0
  return config.batch_size * (3 * sum(parts.values()) + perceptual)


def _again(config: ConfigDict) -> float:
  """Operations of one object that the backward pass repeats: the renderer's, and those of layers by config.model.remat."""
  model = config.model
  parts = forward_operations(model, (1 + config.data.num_side_views) * config.data.window**2)
  rule = layers.remat_policy(model.remat)
  if rule == 'none':
    return parts['renderer']
  if rule == 'full':
    return sum(parts.values())
  return parts['renderer'] + sum(attention_operations(model).values())


def report(config: ConfigDict, params: dict) -> str:
  """Returns the lines of --dry_run that follow from the sizes; `params` are arrays or shapes."""
  model = config.model
  image_tokens, tokens = _tokens(model)
  texels, views = model.triplane_resolution * model.triplane_upsample, 1 + config.data.num_side_views
  parts = forward_operations(model, views * config.data.window**2)
  if config.loss.lpips_weight > 0:
    parts['LPIPS'] = 2 * views * lpips_operations(config.data.window)
  return '\n'.join(
    [
      f'parameters: {count(params):,}  (' + ', '.join(f'{name} {count(tree):,}' for name, tree in params.items()) + ')',
      f'triplane tokens: {tokens:,}; image tokens: {image_tokens:,}; planes: 3 x {texels} x {texels} x '
      f'{model.triplane_channels}',
      'operations of a forward pass, per object: '
      + ', '.join(f'{name} {value / 1e9:,.1f} GFLOP' for name, value in parts.items()),
      f'operations of a step of {config.batch_size} objects: {step_operations(config) / 1e12:,.3f} TFLOP',
    ]
  )


def estimate(config: ConfigDict, num_devices: int, peak: float, utilisation: float) -> str:
  """Returns the line of --dry_run that says how long a training takes at a share of the peak, in FLOP/s a device."""
  seconds = step_operations(config) / (num_devices * peak * utilisation)
  days = seconds * config.num_train_steps / 86400
  return (
    f'estimate for {num_devices} devices of {peak / 1e12:g} TFLOP/s at {utilisation:.0%} of it: {seconds:.2f} s a step, '
    f'{days:,.1f} days for {config.num_train_steps:,} steps, {24 * days * num_devices:,.0f} device-hours'
  )


def compiled_report(config: ConfigDict, num_devices: int, step) -> str:
  """Returns the lines of --dry_run that were read off a compiled step (`lrm_jax.training.dry_run.CompiledStep`)."""

  def gib(size):
    return f'{size / 2**30:,.2f} GiB'

  told = ', '.join(f'{kind} {number:,} times {gib(size)}' for kind, (number, size) in sorted(step.collectives.items()))
  return '\n'.join(
    [
      f'memory of a step on each of {num_devices} x {step.kind}, as compiled in {step.seconds:.0f} s, for '
      f'{config.batch_size // num_devices} objects in {config.gradient_accumulation} micro-batches: '
      f'{gib(step.input_bytes + step.temporary_bytes)}: parameters and optimizer {gib(step.state_bytes)}, batch and frozen '
      f'networks {gib(step.input_bytes - step.state_bytes)}, temporary {gib(step.temporary_bytes)}',
      f'between devices, a step: {told or "nothing"}',
    ]
  )
