"""What a configuration costs before it runs: parameters, memory, operations.

Operations are counted from the sizes, a multiply-add as two: XLA's own count takes the body of a scan once.
Legend: N triplane tokens, M image tokens, D width.
"""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict


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
      + 8 * tokens * width**2 + attention(tokens, tokens, width) + 16 * tokens * width**2
      + 3 * 4 * model.camera_width * width)
  decoder += 2 * tokens * width * model.triplane_upsample**2 * model.triplane_channels
  texels = tokens * model.triplane_upsample**2
  fold = 2 * texels * model.triplane_channels * model.nerf_width
  sample = 2 * 12 * model.nerf_width + 2 * (model.nerf_depth - 2) * model.nerf_width**2 + 2 * 4 * model.nerf_width
  return {'encoder': encoder, 'decoder': decoder, 'renderer': fold + num_rays * model.num_samples * sample}


def step_operations(config: ConfigDict) -> float:
  """Returns the operations of a training step: forward, twice that backward, and what is computed again."""
  rays = (1 + config.data.num_side_views) * config.data.window**2
  parts = forward_operations(config.model, rays)
  again = parts['renderer'] + (parts['encoder'] + parts['decoder'] if config.model.remat else 0)
  return config.batch_size * (3 * sum(parts.values()) + again)


def report(config: ConfigDict, abstract_state: dict, memory) -> str:
  """Returns the lines that --dry_run prints; `memory` is the compiled step's memory_analysis, of one device."""
  params = abstract_state['params']
  parts = forward_operations(config.model, (1 + config.data.num_side_views) * config.data.window**2)
  lines = [
      f'parameters: {count(params):,}  (' + ', '.join(f'{name} {count(tree):,}' for name, tree in params.items()) + ')',
      f'triplane tokens: {3 * config.model.triplane_resolution**2:,}; image tokens: '
      f'{1 + (config.model.image_size // config.model.patch_size)**2:,}; planes: 3 x '
      f'{config.model.triplane_resolution * config.model.triplane_upsample} x '
      f'{config.model.triplane_resolution * config.model.triplane_upsample} x {config.model.triplane_channels}',
      'operations of a forward pass, per object: '
      + ', '.join(f'{name} {value / 1e9:,.1f} GFLOP' for name, value in parts.items()),
      f'operations of a step of {config.batch_size} objects: {step_operations(config) / 1e12:,.3f} TFLOP',
      f'memory of a step, per device ({jax.device_count()} x {jax.devices()[0].device_kind}): state '
      f'{memory.argument_size_in_bytes / 2**30:,.2f} GiB with its batch, temporary '
      f'{memory.temp_size_in_bytes / 2**30:,.2f} GiB',
  ]
  return '\n'.join(lines)
