"""Reads and writes OpenLRM checkpoints (1.1 and 1.0; small, base, large): `config.json` + `model.safetensors`.

OpenLRM's training writes `model.safetensors` to a folder per step, such as PARENT/CHILD/001000, and no configuration:
that is the YAML file it was started with, which has to be copied into one of these folders.

The encoder is either DINO with Hugging Face's names or DINOv2 with the official names. If encoder and decoder have the
same width, PyTorch stores the three matrices of cross-attention as one, `in_proj_weight`, with rows q, k, v.
Source: OpenLRM's code, whose conventions are listed in tests/golden/README.md. See docs/weights.md for where to get the
weights, and their licence.
"""

from collections.abc import Mapping
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lrm_jax.errors import InputError
from lrm_jax.weights import dino, files, tables
from lrm_jax.weights.tables import LINEAR, UPSAMPLER, Row, linear, norm

ANCHOR = 'camera_embedder.mlp.0.weight'
TENSORS = ('model.safetensors', 'pytorch_model.bin', 'model.pth')
FOV = math.degrees(2 * math.atan(0.5 / 0.75))  # degrees; the focal length is 0.75 of the image width.
FILL = 0.85  # Size of the object relative to the image side; from memory, not verified.
_IMAGE_SIZES = {512: 224, 768: 336, 1024: 448}  # Pixels, by decoder width; not stored in any file.
_PACKED = 'decoder/blocks/cross_attention/qkv/kernel'
_ENCODER = 'encoder.model.'


def rows(encoder: tuple[Row, ...], *, version: str = '1.1') -> tuple[Row, ...]:
  """Returns the table of the whole model, given the encoder's table; version 1.0 uses two different names.

  It has rows for packed and for separate cross-attention matrices; `pack` and `unpack` convert between the two.
  """
  version_names = {'1.1': ('pos_embed', 'upsampler'), '1.0': ('transformer.pos_embed', 'transformer.deconv')}
  tokens, upsampler = version_names[version]
  block, cross = 'transformer.layers.{}', 'transformer.layers.{}.cross_attn'
  result = [
    *tables.under(encoder, 'encoder/', _ENCODER),
    *linear('decoder/camera_embedding/expand', 'camera_embedder.mlp.0'),
    *linear('decoder/camera_embedding/contract', 'camera_embedder.mlp.2'),
    Row('decoder/tokens', (tokens,)),
    Row(_PACKED, (f'{cross}.in_proj_weight',), LINEAR),
    Row('decoder/blocks/cross_attention/q/kernel', (f'{cross}.q_proj_weight',), LINEAR),
    Row('decoder/blocks/cross_attention/kv/kernel', (f'{cross}.k_proj_weight', f'{cross}.v_proj_weight'), LINEAR),
    *linear('decoder/blocks/cross_attention/out', f'{cross}.out_proj', bias=False),
    Row('decoder/blocks/self_attention/qkv/kernel', (f'{block}.self_attn.in_proj_weight',), LINEAR),
    *linear('decoder/blocks/self_attention/out', f'{block}.self_attn.out_proj', bias=False),
    *linear('decoder/blocks/mlp/expand', f'{block}.mlp.0'),
    *linear('decoder/blocks/mlp/contract', f'{block}.mlp.3'),
    *norm('decoder/norm', 'transformer.norm'),
    Row('decoder/upsampler/kernel', (f'{upsampler}.weight',), UPSAMPLER),
    Row('decoder/upsampler_bias', (f'{upsampler}.bias',)),
    *linear('nerf/first', 'synthesizer.decoder.net.0'),
    *linear('nerf/hidden', 'synthesizer.decoder.net.{}', first=2, step=2),
    *linear('nerf/last', 'synthesizer.decoder.net.6'),
  ]
  for i in (1, 2, 3):
    result += norm(f'decoder/blocks/norm{i}/norm', f'{block}.norm{i}.norm')
    result += linear(f'decoder/blocks/norm{i}/modulation', f'{block}.norm{i}.mlp.1')
  return tuple(result)


def pack(parameters: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters, or their shapes, with q, k and v of cross-attention packed into one matrix."""
  result = dict(parameters)
  q, kv = (result.pop(f'decoder/blocks/cross_attention/{name}/kernel') for name in ('q', 'kv'))
  if isinstance(q, tuple):
    packed = (*q[:-1], q[-1] + kv[-1])
  else:
    packed = np.concatenate([q, kv], axis=-1)
  return result | {_PACKED: packed}


def unpack(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the parameters with q separate from k and v; the inverse of `pack`."""
  result = dict(parameters)
  packed = result.pop(_PACKED)
  q, kv = np.split(packed, [packed.shape[-1] // 3], axis=-1)
  return result | {'decoder/blocks/cross_attention/q/kernel': q, 'decoder/blocks/cross_attention/kv/kernel': kv}


def load(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, np.ndarray]:
  """Returns {parameter path: array} from OpenLRM's tensors; raises InputError if they do not match the shapes."""
  encoder, _ = dino.recognise(tensors, where)
  table = rows(encoder, version='1.0' if 'transformer.pos_embed' in tensors else '1.1')
  packed = any(name.endswith('cross_attn.in_proj_weight') for name in tensors)
  unused = tuple(_ENCODER + name for name in dino.UNUSED)
  if not packed:
    return tables.load(table, tensors, shapes, unused=unused, where=where)
  return unpack(tables.load(table, tensors, pack(shapes), unused=unused, where=where))


def read_config(directory: Path, tensors: Mapping[str, np.ndarray]) -> dict:
  """Returns the sections `model` and `data` of an lrm_jax configuration, from config.json and the tensor shapes.

  Raises InputError if either is not in OpenLRM's format.
  """
  path = directory / 'config.json'
  try:
    if path.is_file():
      config = json.loads(path.read_text())
    else:
      path, config = training_config(directory) or (path, {})
    heads, num_samples = config['transformer_heads'], config['rendering_samples_per_ray']
  except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is not an OpenLRM configuration: {error} (it must have transformer_heads and rendering_samples_per_ray)'
    ) from error
  where = str(directory)
  encoder = dino.sizes(tensors, where)
  prefix = 'transformer.' if 'transformer.pos_embed' in tensors else ''
  tokens, upsampler, camera, nerf = tables.need(
    tensors,
    where,
    f'{prefix}pos_embed',
    'transformer.deconv.weight' if prefix else 'upsampler.weight',
    'camera_embedder.mlp.0.weight',
    'synthesizer.decoder.net.0.weight',
  )

  def count(end):
    return sum(name.startswith('transformer.layers.') and name.endswith(end) for name in tensors)

  patch, width = encoder['patch_size'], tokens[-1]
  size = config.get('source_image_res') or _IMAGE_SIZES.get(width, encoder['encoder_table_size'] * patch)
  model = encoder | dict(
    architecture='openlrm',
    image_size=size // patch * patch,
    encoder_num_heads=dino.num_heads(config, encoder['encoder_width']),
    camera_width=camera[0],
    decoder_width=width,
    decoder_depth=count('.norm1.norm.weight'),
    decoder_num_heads=heads,
    triplane_resolution=math.isqrt(tokens[1] // 3),
    triplane_upsample=upsampler[-1],
    triplane_channels=upsampler[1],
    nerf_width=nerf[0],
    nerf_depth=sum(name.startswith('synthesizer.decoder.net.') for name in tensors) // 2,
    num_samples=num_samples,
    dtype='float32',
  )
  if model['encoder'] == 'dino':  # Values of the transformers version that OpenLRM was trained with.
    model |= dict(encoder_interpolate_offset=0.1, encoder_norm_epsilon=1e-12)
  return {'model': model, 'data': dict(fov=FOV, fill=FILL, input_background=1.0)}


def training_config(directory: Path) -> tuple[Path, dict] | None:
  """Returns (YAML file of OpenLRM's training in a folder or the two above it, its values for the model), or None.

  Raises InputError if a folder has several such files.
  """
  for folder in (directory, directory.parent, directory.parent.parent):
    found = [(path, values) for path in sorted(folder.glob('*.y*ml')) if (values := training_values(path)) is not None]
    if len(found) > 1:
      raise InputError(
        f'{folder} has several configurations of OpenLRM ({", ".join(p.name for p, _ in found)}): keep one'
      )
    if found:
      return found[0]
  return None


def training_values(path: Path) -> dict | None:
  """Returns the values for the model in a YAML file of OpenLRM's training, or None if it is not one."""
  try:
    config = yaml.safe_load(path.read_text())
    model, dataset = config['model'], config.get('dataset') or {}
    _ = model['transformer_heads']
    return dict(model) | {'source_image_res': dataset.get('source_image_res')}
  except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError):
    return None


def step_folder(directory: Path) -> Path:
  """Returns the folder of the latest step of OpenLRM's training in a directory, or the directory if it has none."""
  if files.locate(directory, TENSORS):
    return directory
  steps = [path for path in directory.glob('*/') if path.name.isdigit() and files.locate(path, TENSORS)]
  return max(steps, key=lambda path: int(path.name), default=directory)


def write(directory: Path, config: Mapping, parameters: Mapping[str, np.ndarray]) -> None:
  """Writes `config.json` and `model.safetensors` for a model for which `refusal` returns an empty list."""
  model, parameters = config['model'], dict(parameters)
  widths = model['encoder_width'], model['decoder_width']
  kind = model.get('encoder', 'dino')
  published = {
    ('dinov2', 384): 'vits14',
    ('dinov2', 768): 'vitb14',
    ('dinov2', 1024): 'vitl14',
    ('dino', 384): 'vits',
    ('dino', 768): 'vitb',
  }.get((kind, widths[0]), f'vit_{widths[0]}')
  registers = '_reg' if model.get('encoder_registers', 0) else ''
  name = f'dinov2_{published}{registers}' if kind == 'dinov2' else f'facebook/dino-{published}{model["patch_size"]}'
  config_file = dict(
    camera_embed_dim=model['camera_width'],
    rendering_samples_per_ray=model['num_samples'],
    transformer_dim=widths[1],
    transformer_layers=model['decoder_depth'],
    transformer_heads=model['decoder_num_heads'],
    triplane_low_res=model['triplane_resolution'],
    triplane_high_res=model['triplane_resolution'] * model['triplane_upsample'],
    triplane_dim=model['triplane_channels'],
    encoder_freeze=False,
    encoder_type=kind,
    encoder_model_name=name,
    encoder_feat_dim=widths[0],
  )
  if model['encoder_num_heads'] * 64 != widths[0]:
    config_file['encoder_num_heads'] = model['encoder_num_heads']
  directory.mkdir(parents=True, exist_ok=True)
  (directory / 'config.json').write_text(json.dumps(config_file, indent=2) + '\n')
  if widths[0] == widths[1]:
    parameters = pack(parameters)
  table = rows(dino.OFFICIAL if kind == 'dinov2' else dino.HUGGING_FACE)
  files.write(directory / 'model.safetensors', tables.save(table, fold_camera(parameters)))


def fold_camera(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the parameters with a camera feature of 16 values instead of 20, without the last row of the pose.

  That row is always 0, 0, 0, 1, so the first linear layer maps it to a constant, which is added to its bias. The result
  is exact up to rounding.
  """
  kernel, bias = (f'decoder/camera_embedding/expand/{name}' for name in ('kernel', 'bias'))
  weights = np.asarray(parameters[kernel])
  if len(weights) == 16:
    return dict(parameters)
  return dict(parameters) | {
    kernel: np.concatenate([weights[:12], weights[16:]]),
    bias: np.asarray(parameters[bias]) + weights[15],
  }


def refusal(config: Mapping) -> list[str]:
  """Returns the reasons why OpenLRM's architecture cannot express a model, each naming a configuration value."""
  model = config['model']

  def value(name, default):
    return model.get(name, default)

  wanted: dict[str, tuple[Any, Any]] = {
    'triplane_upsample': (model['triplane_upsample'], 2),
    'nerf_depth': (model['nerf_depth'], 4),
    'nerf_width': (model['nerf_width'], 64),
  }
  if value('architecture', 'lrm') != 'openlrm':
    wanted |= {
      'architecture': (value('architecture', 'lrm'), 'lrm'),
      'plane_axes': (tuple(value('plane_axes', ('xy', 'xz', 'yz'))), ('xy', 'xz', 'zy')),
      'density_scale': (value('density_scale', 1.0), 1.0),
      'half_size': (value('half_size', 1.0), 1.0),
      'num_input_views': (value('num_input_views', 1), 1),
      'color_padding': (value('color_padding', 0.0), 0.001),
    }
  stretched = model['encoder_table_size'] * model['patch_size'] != model['image_size']
  if value('encoder', 'dino') == 'dino' and stretched:
    wanted['encoder_interpolate_offset'] = (value('encoder_interpolate_offset', 0.0), 0.1)
  problems = [
    f'config.model.{name} is {actual!r}, but OpenLRM requires {required!r}'
    for name, (actual, required) in wanted.items()
    if actual != required
  ]
  if value('encoder', 'dino') == 'dinov2' and value('encoder_registers', 0) not in (0, 4):
    problems.append(f'config.model.encoder_registers is {model["encoder_registers"]}, but OpenLRM requires 0 or 4')
  if model['num_samples'] % 2:
    problems.append(f'config.model.num_samples is {model["num_samples"]}, but OpenLRM requires an even number')
  return problems
