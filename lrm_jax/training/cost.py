"""Cost of a configuration before it runs: parameters, memory, operations.

Operations are floating-point operations, computed from the sizes of the model; a multiply-add counts as two. XLA's own
count is not used, because it counts the body of a scan only once.
"""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lrm_jax.models import layers, lpips
from lrm_jax.training import losses


def abstract_batch(config: ConfigDict, placement, *, num_datasets: int = 1) -> dict:
  """Returns the shapes of a global batch of lrm_jax.datasets.pipeline.make_dataset, with the sharding `placement`.

  With several datasets, it has the number of each object's `dataset`, which lrm_jax/training/trainer.py adds.
  """
  objects, views = config.batch_size, 1 + config.data.num_side_views
  size, window = config.model.image_size, config.data.window
  images = ('image', 'target_color', 'target_opacity')
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
  if (inputs := config.model.get('num_input_views', 1)) > 1:
    shapes |= {name: (inputs, *shapes[name]) for name in ('image', 'camera_to_world', 'intrinsics')}
  if losses.needs_depth(config.loss.to_dict()):
    shapes['target_depth'] = (views, window, window)
  if config.data.rays == 'foreground':
    shapes |= {'target_position': (views, window, window, 2), 'target_weight': (views, window, window)}
  batch = {
    name: jax.ShapeDtypeStruct((objects, *shape), jnp.uint8 if name in images else jnp.float32, sharding=placement)
    for name, shape in shapes.items()
  }
  if num_datasets > 1:
    batch['dataset'] = jax.ShapeDtypeStruct((objects,), jnp.int32, sharding=placement)
  return batch


def count(params) -> int:
  """Returns the number of parameters in a tree of arrays or shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def attention_operations(model: ConfigDict) -> dict[str, float]:
  """Returns the operations of attention, q k^T and the weighted sums of v, in encoder and decoder, for one object."""
  views, per_view, tokens = _tokens(model)
  return {
    'encoder': model.encoder_depth * 4 * views * per_view**2 * model.encoder_width,
    'decoder': model.decoder_depth * 4 * tokens * (views * per_view + tokens) * model.decoder_width,
  }


def _tokens(model: ConfigDict) -> tuple[int, int, int]:
  """Returns the numbers of (input views, image tokens per view, triplane tokens)."""
  per_view = 1 + (model.image_size // model.patch_size) ** 2
  return model.get('num_input_views', 1), per_view, 3 * model.triplane_resolution**2


def forward_operations(model: ConfigDict, num_rays: int) -> dict[str, float]:
  """Returns the operations of a forward pass for one object: encoder, decoder, and renderer for `num_rays` rays."""
  views, per_view, tokens = _tokens(model)
  image_tokens = views * per_view
  encoder_width, width = model.encoder_width, model.decoder_width
  attention = attention_operations(model)
  encoder = model.encoder_depth * 24 * image_tokens * encoder_width**2 + attention['encoder']
  encoder += 2 * image_tokens * 3 * model.patch_size**2 * encoder_width
  decoder = (
    model.decoder_depth * (4 * tokens * width**2 + 4 * image_tokens * encoder_width * width + 8 * tokens * width**2)
    + attention['decoder']
  )
  if model.get('architecture') == 'triposr':
    # A GEGLU in each layer, and linear maps before the first and after the last layer.
    decoder += model.decoder_depth * 24 * tokens * width**2 + 4 * tokens * width**2
  else:
    decoder += model.decoder_depth * (16 * tokens * width**2 + 3 * 4 * model.camera_width * width)
  decoder += 2 * tokens * width * model.triplane_upsample**2 * model.triplane_channels
  texels = tokens * model.triplane_upsample**2
  fold = 2 * texels * model.triplane_channels * model.nerf_width
  sample = 2 * 12 * model.nerf_width + 2 * (model.nerf_depth - 2) * model.nerf_width**2 + 2 * 4 * model.nerf_width
  return {'encoder': encoder, 'decoder': decoder, 'renderer': fold + num_rays * model.num_samples * sample}


def lpips_operations(size: int) -> float:
  """Returns the operations of VGG16's convolutions for one image of `size` x `size` pixels."""
  total, inputs = 0, 3
  for k, (stage, width) in enumerate(zip(lpips.STAGES, lpips.WIDTHS)):
    for _ in stage:
      total += 2 * 9 * inputs * width * (size // 2**k) ** 2
      inputs = width
  return total


def step_operations(config: ConfigDict) -> float:
  """Returns the operations of a training step, including those that rematerialisation repeats."""
  return useful_operations(config) + config.batch_size * _recomputed_operations(config)


def useful_operations(config: ConfigDict) -> float:
  """Returns the operations of a training step without rematerialisation, which are those that MFU counts.

  The backward pass takes twice the operations of the forward pass. LPIPS runs forward on the render and the target, and
  backward only to the render.
  """
  views = 1 + config.data.num_side_views
  parts = forward_operations(config.model, views * config.data.window**2)
  perceptual = 3 * views * lpips_operations(config.data.window) if config.loss.lpips_weight > 0 else 0
  return config.batch_size * (3 * sum(parts.values()) + perceptual)


def _recomputed_operations(config: ConfigDict) -> float:
  """Returns the operations that the backward pass repeats for one object, to save memory.

  The renderer is always recomputed; which parts of the transformer layers are depends on config.model.remat.
  """
  model = config.model
  parts = forward_operations(model, (1 + config.data.num_side_views) * config.data.window**2)
  policy = layers.remat_policy(model.remat)
  if policy == 'none':
    return parts['renderer']
  if policy == 'full':
    return sum(parts.values())
  return parts['renderer'] + sum(attention_operations(model).values())


def report(config: ConfigDict, params: dict) -> str:
  """Returns the lines of --dry_run that follow from the sizes of the model. `params` are arrays or shapes."""
  model = config.model
  inputs, per_view, tokens = _tokens(model)
  texels, views = model.triplane_resolution * model.triplane_upsample, 1 + config.data.num_side_views
  parts = forward_operations(model, views * config.data.window**2)
  if config.loss.lpips_weight > 0:
    parts['LPIPS'] = 2 * views * lpips_operations(config.data.window)
  return '\n'.join(
    [
      f'parameters: {count(params):,}  (' + ', '.join(f'{name} {count(tree):,}' for name, tree in params.items()) + ')',
      f'triplane tokens: {tokens:,}; image tokens: {inputs * per_view:,}; planes: 3 x {texels} x {texels} x '
      f'{model.triplane_channels}',
      'operations of a forward pass, per object: '
      + ', '.join(f'{name} {value / 1e9:,.1f} GFLOP' for name, value in parts.items()),
      f'operations of a training step with {config.batch_size} objects: {step_operations(config) / 1e12:,.3f} TFLOP',
    ]
  )


def estimate(config: ConfigDict, num_devices: int, peak: float, utilisation: float) -> str:
  """Returns the line of --dry_run that estimates the training time.

  Assumes that each device reaches a fraction `utilisation` of its `peak`, in FLOP/s.
  """
  seconds = step_operations(config) / (num_devices * peak * utilisation)
  days = seconds * config.num_train_steps / 86400
  return (
    f'estimate for {num_devices} devices at {utilisation:.0%} of {peak / 1e12:g} TFLOP/s: {seconds:.2f} s per step, '
    f'{days:,.1f} days for {config.num_train_steps:,} steps, {24 * days * num_devices:,.0f} device-hours'
  )


def compiled_report(config: ConfigDict, num_devices: int, step) -> str:
  """Returns the lines of --dry_run about a compiled step, a `lrm_jax.training.dry_run.CompiledStep`."""

  def gib(size):
    return f'{size / 2**30:,.2f} GiB'

  traffic = ', '.join(
    f'{number:,} {kind} with {gib(size)} in total' for kind, (number, size) in sorted(step.collectives.items())
  )
  return '\n'.join(
    [
      f'memory of a step on each of {num_devices} x {step.kind}, for {config.batch_size // num_devices} objects in '
      f'{step.accumulation} micro-batches: {gib(step.input_bytes + step.temporary_bytes)} (parameters and '
      f'optimizer {gib(step.state_bytes)}, batch and frozen networks {gib(step.input_bytes - step.state_bytes)}, '
      f'temporary {gib(step.temporary_bytes)}); compiled in {step.seconds:.0f} s',
      f'communication between devices per step: {traffic or "none"}',
    ]
  )
