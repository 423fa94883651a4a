"""What a configuration costs before it runs: parameters, memory, operations.

Operations are counted from the sizes, a multiply-add as two: XLA's own count takes the body of a scan once.
Legend: N triplane tokens, M image tokens, D width.
"""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lrm_jax.models import lpips


def abstract_batch(config: ConfigDict, placement) -> dict:
  """Returns the shapes of a batch of input_pipeline.make_dataset, placed on devices."""
  objects, views = config.batch_size, 1 + config.data.num_side_views
  size, window = config.model.image_size, config.data.window
  shapes = {
      'image': (size, size, 3), 'camera_to_world': (4, 4), 'intrinsics': (4,),
      'target_color': (views, window, window, 3), 'target_opacity': (views, window, window),
      'target_camera_to_world': (views, 4, 4), 'target_intrinsics': (views, 4), 'background': (views, 3)}
  return {name: jax.ShapeDtypeStruct((objects, *shape), jnp.float32, sharding=placement)
          for name, shape in shapes.items()}


def count(params) -> int:
  """Returns the number of parameters in a tree of arrays or shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def forward_operations(model: ConfigDict, num_rays: int) -> dict[str, float]:
  """Returns the operations of one object's forward pass: encoder, decoder, and the renderer of `num_rays` rays."""
  image_tokens = 1 + (model.image_size // model.patch_size) ** 2
  tokens = 3 * model.triplane_resolution**2
  encoder_width, width = model.encoder_width, model.decoder_width
  attention = lambda queries, keys, width: 4 * queries * keys * width  # q k^T and the weighted sum of v.
  encoder = model.encoder_depth * (
      24 * image_tokens * encoder_width**2 + attention(image_tokens, image_tokens, encoder_width))
  encoder += 2 * image_tokens * 3 * model.patch_size**2 * encoder_width
  decoder = model.decoder_depth * (
      4 * tokens * width**2 + 4 * image_tokens * encoder_width * width + attention(tokens, image_tokens, width)
      + 8 * tokens * width**2 + attention(tokens, tokens, width))
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
  views = 1 + config.data.num_side_views
  parts = forward_operations(config.model, views * config.data.window**2)
  again = parts['renderer'] + (parts['encoder'] + parts['decoder'] if config.model.remat else 0)
  perceptual = 3 * views * lpips_operations(config.data.window) if config.loss.lpips_weight > 0 else 0
  return config.batch_size * (3 * sum(parts.values()) + again + perceptual)


def report(config: ConfigDict, abstract_state: dict, memory) -> str:
  """Returns the lines that --dry_run prints; `memory` is the compiled step's memory_analysis, of one device."""
  params, model = abstract_state['params'], config.model
  texels, views = model.triplane_resolution * model.triplane_upsample, 1 + config.data.num_side_views
  parts = forward_operations(model, views * config.data.window**2)
  if config.loss.lpips_weight > 0:
    parts['LPIPS'] = 2 * views * lpips_operations(config.data.window)
  share = config.batch_size // jax.device_count()
  gib = lambda size: f'{size / 2**30:,.2f} GiB'
  lines = [
      f'parameters: {count(params):,}  (' + ', '.join(f'{name} {count(tree):,}' for name, tree in params.items()) + ')',
      f'triplane tokens: {3 * model.triplane_resolution**2:,}; image tokens: '
      f'{1 + (model.image_size // model.patch_size)**2:,}; planes: 3 x {texels} x {texels} x {model.triplane_channels}',
      'operations of a forward pass, per object: '
      + ', '.join(f'{name} {value / 1e9:,.1f} GFLOP' for name, value in parts.items()),
      f'operations of a step of {config.batch_size} objects: {step_operations(config) / 1e12:,.3f} TFLOP',
      f'memory of a step on each of {jax.device_count()} x {jax.devices()[0].device_kind}, as compiled, for {share} objects '
      f'in {config.gradient_accumulation} micro-batches: parameters, optimizer and batch '
      f'{gib(memory.argument_size_in_bytes)}, temporary {gib(memory.temp_size_in_bytes)}',
  ]
  return '\n'.join(lines)
