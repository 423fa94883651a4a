"""OpenLRM's checkpoints (1.1 and 1.0, small, base, large): `config.json` + `model.safetensors`, in and out.

Its encoder is DINO by Hugging Face's names, or DINOv2 by the official ones. Where encoder and decoder are of the same
width, PyTorch keeps the three matrices of cross-attention in one: `in_proj_weight`, rows q, k, v.
Source: SPEC.md; docs/weights.md tells where the weights are, and their licence.
"""

from collections.abc import Mapping
import json
import math
from pathlib import Path

import numpy as np

from lrm_jax.weights import dino, files, tables
from lrm_jax.weights.tables import LINEAR, UPSAMPLER, Row, linear, norm

TENSORS = ('model.safetensors', 'pytorch_model.bin', 'model.pth')
FOV = math.degrees(2 * math.atan(0.5 / 0.75))  # degrees: the focal length is 0.75 of the width
FILL = 0.85  # of the picture's side, by the object; recalled [M]
_IMAGE_SIZES = {512: 224, 768: 336, 1024: 448}  # px, by the width of the decoder: no file tells it
_PACKED = 'decoder/blocks/cross_attention/qkv/kernel'
_ENCODER = 'encoder.model.'


def rows(encoder: tuple[Row, ...], *, version: str = '1.1') -> tuple[Row, ...]:
  """Returns the table of a whole model with this encoder's. That of 1.0 has two other names.

  It has rows for both forms of cross-attention: `pack` and `unpack` go from one to the other.
  """
  tokens, upsampler = {'1.1': ('pos_embed', 'upsampler'), '1.0': ('transformer.pos_embed', 'transformer.deconv')}[
    version
  ]
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


def pack(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the parameters, or their shapes, with q, k and v of cross-attention in one matrix."""
  result = dict(parameters)
  q, kv = (result.pop(f'decoder/blocks/cross_attention/{name}/kernel') for name in ('q', 'kv'))
  packed = (*q[:-1], q[-1] + kv[-1]) if isinstance(q, tuple) else np.concatenate([q, kv], axis=-1)
  return result | {_PACKED: packed}


def unpack(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the parameters with q apart from k and v: the inverse of `pack`."""
  result = dict(parameters)
  q, kv = np.split(packed := result.pop(_PACKED), [packed.shape[-1] // 3], axis=-1)
  return result | {f'decoder/blocks/cross_attention/{name}/kernel': part for name, part in (('q', q), ('kv', kv))}


def load(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, np.ndarray]:
  """Returns {our path: array} of a model of these shapes from their tensors; ValueError where they do not fit."""
  encoder, _ = dino.recognise(tensors, where)
  table = rows(encoder, version='1.0' if 'transformer.pos_embed' in tensors else '1.1')
  packed = any(name.endswith('cross_attn.in_proj_weight') for name in tensors)
  unused = tuple(_ENCODER + name for name in dino.UNUSED)
  if not packed:
    return tables.load(table, tensors, shapes, unused=unused, where=where)
  return unpack(tables.load(table, tensors, pack(shapes), unused=unused, where=where))


def read_config(directory: Path, tensors: Mapping[str, np.ndarray]) -> dict:
  """Returns the sections `model` and `data` of our configuration: what config.json says, and the tensors' sizes.

  Raises ValueError where either is not OpenLRM's.
  """
  path = directory / 'config.json'
  try:
    config = json.loads(path.read_text())
    heads, num_samples = config['transformer_heads'], config['rendering_samples_per_ray']
  except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no configuration of OpenLRM: {error} (transformer_heads and rendering_samples_per_ray must be in it)'
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
  if model['encoder'] == 'dino':  # The Hugging Face library of its time.
    model |= dict(encoder_interpolate_offset=0.1, encoder_norm_epsilon=1e-12)
  return {'model': model, 'data': dict(fov=FOV, fill=FILL, input_background=1.0)}


def write(directory: Path, config: Mapping, parameters: Mapping[str, np.ndarray]) -> None:
  """Writes `config.json` and `model.safetensors` of a model of ours; `refusal` must have nothing to say against it."""
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
  theirs = dict(
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
    theirs['encoder_num_heads'] = model['encoder_num_heads']
  directory.mkdir(parents=True, exist_ok=True)
  (directory / 'config.json').write_text(json.dumps(theirs, indent=2) + '\n')
  if widths[0] == widths[1]:
    parameters = pack(parameters)
  table = rows(dino.OFFICIAL if kind == 'dinov2' else dino.HUGGING_FACE)
  files.write(directory / 'model.safetensors', tables.save(table, fold_camera(parameters)))


def fold_camera(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the parameters with a camera of 16 numbers in place of 20: the last row of a pose is always 0, 0, 0, 1.

  What the first linear map makes of that row is constant: it goes into the bias, exactly up to rounding.
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
  """Returns what OpenLRM's architecture cannot express of a model of ours, by the names of its configuration."""
  model = config['model']

  def value(name, default):
    return model.get(name, default)

  wanted = {
    'triplane_upsample': (model['triplane_upsample'], 2),
    'nerf_depth': (model['nerf_depth'], 4),
    'nerf_width': (model['nerf_width'], 64),
  }
  if value('architecture', 'lrm') != 'openlrm':
    wanted |= {
      'architecture': (value('architecture', 'lrm'), 'lrm'),
      'plane_axes': (tuple(value('plane_axes', ('xy', 'xz', 'yz'))), ('xy', 'xz', 'zy')),
      'density_scale': (value('density_scale', 1.0), 1.0),
      'color_padding': (value('color_padding', 0.0), 0.001),
    }
  stretched = model['encoder_table_size'] * model['patch_size'] != model['image_size']
  if value('encoder', 'dino') == 'dino' and stretched:
    wanted['encoder_interpolate_offset'] = (value('encoder_interpolate_offset', 0.0), 0.1)
  problems = [
    f'config.model.{name} is {is_!r}, and it has {must!r}' for name, (is_, must) in wanted.items() if is_ != must
  ]
  if value('encoder', 'dino') == 'dinov2' and value('encoder_registers', 0) not in (0, 4):
    problems.append(f'config.model.encoder_registers is {model["encoder_registers"]}, and it has 0 or 4')
  if model['num_samples'] % 2:
    problems.append(f'config.model.num_samples is {model["num_samples"]}, and it halves them')
  return problems
