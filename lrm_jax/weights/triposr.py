"""Reads TripoSR checkpoints (`config.yaml` + `model.ckpt` or `model.safetensors`) and writes them as safetensors.

Source: TripoSR's code, whose conventions are listed in tests/golden/README.md. See docs/weights.md for where to get the
weights, and their licence.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from lrm_jax.errors import InputError
from lrm_jax.weights import dino, files, tables
from lrm_jax.weights.tables import PLANES, UPSAMPLER, Row, linear, norm

TENSORS = ('model.ckpt', 'model.safetensors')
ANCHOR = 'tokenizer.embeddings'
FILL = 0.85  # Size of the object relative to the image side.
INPUT_BACKGROUND = 0.5  # Grey.
FOV = 40.0  # degrees, of the turntables that TripoSR's own code renders; from memory, not verified.
_ENCODER = 'image_tokenizer.model.'


def rows(nerf_depth: int) -> tuple[Row, ...]:
  """Returns the table of a model whose NeRF has `nerf_depth` linear layers."""
  block = 'backbone.transformer_blocks.{}'
  result = [
    *tables.under(dino.HUGGING_FACE, 'encoder/', _ENCODER),
    *linear('pooler', f'{_ENCODER}pooler.dense'),
    Row('decoder/tokens', ('tokenizer.embeddings',), PLANES),
    *norm('decoder/norm', 'backbone.norm'),
    *linear('decoder/first', 'backbone.proj_in'),
    *linear('decoder/blocks/self_attention/qkv', *(f'{block}.attn1.to_{x}' for x in 'qkv'), bias=False),
    *linear('decoder/blocks/self_attention/out', f'{block}.attn1.to_out.0'),
    *linear('decoder/blocks/cross_attention/q', f'{block}.attn2.to_q', bias=False),
    *linear('decoder/blocks/cross_attention/kv', *(f'{block}.attn2.to_{x}' for x in 'kv'), bias=False),
    *linear('decoder/blocks/cross_attention/out', f'{block}.attn2.to_out.0'),
    *linear('decoder/blocks/mlp/expand', f'{block}.ff.net.0.proj'),
    *linear('decoder/blocks/mlp/contract', f'{block}.ff.net.2'),
    *linear('decoder/last', 'backbone.proj_out'),
    Row('decoder/upsampler/kernel', ('post_processor.upsample.weight',), UPSAMPLER),
    Row('decoder/upsampler_bias', ('post_processor.upsample.bias',)),
    *linear('nerf/first', 'decoder.layers.0'),
    *linear('nerf/hidden', 'decoder.layers.{}', first=2, step=2),
    *linear('nerf/last', f'decoder.layers.{2 * (nerf_depth - 1)}'),
  ]
  for i in (1, 2, 3):
    result += norm(f'decoder/blocks/norm{i}', f'{block}.norm{i}')
  return tuple(result)


def load(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, np.ndarray]:
  """Returns {parameter path: array} from TripoSR's tensors; raises InputError if they do not match the shapes."""
  return tables.load(rows(2 + shapes['nerf/hidden/bias'][0]), tensors, shapes, where=where)


def read_config(directory: Path, tensors: Mapping[str, np.ndarray]) -> dict:
  """Returns the sections `model` and `data` of an lrm_jax configuration, from config.yaml and the tensor shapes.

  Raises InputError if either is not in TripoSR's format, or if config.yaml has a value that is not supported here.
  """
  path, where = directory / 'config.yaml', str(directory)
  try:
    config = yaml.safe_load(path.read_text())
    renderer, image_size = config['renderer'], config['cond_image_size']
    heads = config['backbone']['num_attention_heads']
    num_samples, radius = renderer['num_samples_per_ray'], renderer['radius']
  except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is not a TripoSR configuration: {" ".join(str(error).split())} (it must have cond_image_size, '
      'backbone.num_attention_heads, renderer.num_samples_per_ray and renderer.radius)'
    ) from error
  supported = {
    'renderer.density_activation': (renderer.get('density_activation', 'trunc_exp'), ('exp', 'trunc_exp')),
    'renderer.density_bias': (renderer.get('density_bias', -1.0), (-1.0,)),
    'renderer.feature_reduction': (renderer.get('feature_reduction', 'concat'), ('concat',)),
    'decoder.activation': (config.get('decoder', {}).get('activation', 'silu'), ('silu',)),
  }
  for name, (actual, allowed) in supported.items():
    if actual not in allowed:
      raise InputError(f'{path} has {name} = {actual!r}, but only {" or ".join(map(repr, allowed))} is supported')
  encoder = dino.sizes(tensors, where)
  encoder.pop('encoder')
  tokens, upsampler, nerf = tables.need(
    tensors, where, 'tokenizer.embeddings', 'post_processor.upsample.weight', 'decoder.layers.0.weight'
  )
  model = encoder | dict(
    architecture='triposr',
    image_size=image_size,
    encoder_num_heads=dino.num_heads(config, encoder['encoder_width']),
    decoder_width=tokens[1],
    decoder_num_heads=heads,
    decoder_depth=sum(name.startswith('backbone.') and name.endswith('.norm1.weight') for name in tensors),
    triplane_resolution=tokens[-1],
    triplane_upsample=upsampler[-1],
    triplane_channels=upsampler[1],
    nerf_width=nerf[0],
    nerf_depth=sum(name.startswith('decoder.layers.') for name in tensors) // 2,
    num_samples=num_samples,
    radius=radius,
    dtype='float32',
  )
  return {'model': model, 'data': dict(fov=FOV, fill=FILL, input_background=INPUT_BACKGROUND)}


def write(directory: Path, config: Mapping, parameters: Mapping[str, np.ndarray]) -> None:
  """Writes `config.yaml` and `model.safetensors` for a model for which `refusal` returns an empty list."""
  model = config['model']
  width, channels, tsr = model['decoder_width'], model['triplane_channels'], 'tsr.models.'
  config_file = dict(
    cond_image_size=model['image_size'],
    image_tokenizer_cls=tsr + 'tokenizers.image.DINOSingleImageTokenizer',
    image_tokenizer={'pretrained_model_name_or_path': f'facebook/dino-vitb{model["patch_size"]}'},
    tokenizer_cls=tsr + 'tokenizers.triplane.Triplane1DTokenizer',
    tokenizer={'plane_size': model['triplane_resolution'], 'num_channels': width},
    backbone_cls=tsr + 'transformer.transformer_1d.Transformer1D',
    backbone={
      'in_channels': width,
      'num_attention_heads': model['decoder_num_heads'],
      'attention_head_dim': width // model['decoder_num_heads'],
      'num_layers': model['decoder_depth'],
      'cross_attention_dim': model['encoder_width'],
    },
    post_processor_cls=tsr + 'network_utils.TriplaneUpsampleNetwork',
    post_processor={'in_channels': width, 'out_channels': channels},
    decoder_cls=tsr + 'network_utils.NeRFMLP',
    decoder={
      'in_channels': 3 * channels,
      'n_neurons': model['nerf_width'],
      'n_hidden_layers': model['nerf_depth'] - 1,
      'activation': 'silu',
    },
    renderer_cls=tsr + 'nerf_renderer.TriplaneNeRFRenderer',
    renderer={
      'radius': model.get('radius', 0.87),
      'feature_reduction': 'concat',
      'density_activation': 'exp',
      'density_bias': -1.0,
      'num_samples_per_ray': model['num_samples'],
    },
  )
  if model['encoder_num_heads'] * 64 != model['encoder_width']:
    config_file['encoder_num_heads'] = model['encoder_num_heads']
  directory.mkdir(parents=True, exist_ok=True)
  (directory / 'config.yaml').write_text(yaml.safe_dump(config_file, sort_keys=False))
  files.write(directory / 'model.safetensors', tables.save(rows(model['nerf_depth']), parameters))


def refusal(config: Mapping) -> list[str]:
  """Returns the reasons why TripoSR's architecture cannot express a model, each naming a configuration value."""
  architecture, upsample = config['model'].get('architecture', 'lrm'), config['model']['triplane_upsample']
  problems = []
  if architecture != 'triposr':
    problems.append(
      f"config.model.architecture is {architecture!r}, whose decoder, NeRF and renderer differ from TripoSR's"
    )
  if upsample != 2:
    problems.append(f'config.model.triplane_upsample is {upsample}, but TripoSR requires 2')
  return problems
