"""Loads CLIP's image encoder from files of the user's for lrm_jax/models/clip.py.

Two naming schemes are supported: Hugging Face (`CLIPModel`, `CLIPVisionModelWithProjection`) and OpenAI, as safetensors
or PyTorch state dicts. Only the image encoder is read. Sizes are inferred from the tensors; the number of heads and the
activation come from config.json beside the file, or are those of the published models: width / 64 heads, quick GELU.
"""

from collections.abc import Mapping
import hashlib
import json
import math
from pathlib import Path

from flax import nnx, traverse_util
import jax.numpy as jnp
import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.models import clip
from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import LINEAR, PATCHES, Row, linear, norm

TENSORS = ('model.safetensors', 'pytorch_model.bin', 'open_clip_model.safetensors', 'model.pt')
_HEAD_WIDTH = 64

HUGGING_FACE = (
  Row('class_token', ('vision_model.embeddings.class_embedding',)),
  Row('position_embedding', ('vision_model.embeddings.position_embedding.weight',)),
  Row('patch_embedding/kernel', ('vision_model.embeddings.patch_embedding.weight',), PATCHES),
  *norm('norm_before', 'vision_model.pre_layrnorm'),
  *norm('blocks/norm1', 'vision_model.encoder.layers.{}.layer_norm1'),
  *linear(
    'blocks/attention/qkv', *(f'vision_model.encoder.layers.{{}}.self_attn.{part}_proj' for part in ('q', 'k', 'v'))
  ),
  *linear('blocks/attention/out', 'vision_model.encoder.layers.{}.self_attn.out_proj'),
  *norm('blocks/norm2', 'vision_model.encoder.layers.{}.layer_norm2'),
  *linear('blocks/mlp/expand', 'vision_model.encoder.layers.{}.mlp.fc1'),
  *linear('blocks/mlp/contract', 'vision_model.encoder.layers.{}.mlp.fc2'),
  *norm('norm_after', 'vision_model.post_layernorm'),
  Row('projection/kernel', ('visual_projection.weight',), LINEAR),
)
OPENAI = (
  Row('class_token', ('visual.class_embedding',)),
  Row('position_embedding', ('visual.positional_embedding',)),
  Row('patch_embedding/kernel', ('visual.conv1.weight',), PATCHES),
  *norm('norm_before', 'visual.ln_pre'),
  *norm('blocks/norm1', 'visual.transformer.resblocks.{}.ln_1'),
  Row('blocks/attention/qkv/kernel', ('visual.transformer.resblocks.{}.attn.in_proj_weight',), LINEAR),
  Row('blocks/attention/qkv/bias', ('visual.transformer.resblocks.{}.attn.in_proj_bias',)),
  *linear('blocks/attention/out', 'visual.transformer.resblocks.{}.attn.out_proj'),
  *norm('blocks/norm2', 'visual.transformer.resblocks.{}.ln_2'),
  *linear('blocks/mlp/expand', 'visual.transformer.resblocks.{}.mlp.c_fc'),
  *linear('blocks/mlp/contract', 'visual.transformer.resblocks.{}.mlp.c_proj'),
  *norm('norm_after', 'visual.ln_post'),
  Row('projection/kernel', ('visual.proj',)),  # OpenAI multiplies by it from the right, as we do.
)
# The text encoder, and values that the image encoder does not need.
_UNUSED = (
  'text_model.',
  'text_projection',
  'logit_',
  'vision_model.embeddings.position_ids',
  'transformer.',
  'token_embedding.',
  'positional_embedding',
  'ln_final.',
  'input_resolution',
  'context_length',
  'vocab_size',
  'attn_mask',
)


def load_clip(source: str | Path) -> clip.CLIP:
  """Returns the image encoder of a file, or of a directory with one of TENSORS.

  Raises InputError if there is no such file, if it has no image encoder of CLIP, or if its sizes do not fit together.
  """
  path = Path(source)
  if path.is_dir():
    found = files.locate(path, TENSORS)
    if found is None:
      raise InputError(f'{source} has none of {", ".join(TENSORS)}: give the file with the weights of CLIP')
    path = found
  tensors: Mapping = files.read(path)
  rows = _recognise(tensors, str(source))
  sizes = _sizes(rows, tensors, str(source)) | _config(path.parent / 'config.json')
  sizes.setdefault('num_heads', max(1, sizes['width'] // _HEAD_WIDTH))
  if sizes['width'] % sizes['num_heads']:
    raise InputError(f'{source}: {sizes["num_heads"]} heads do not divide the width {sizes["width"]}')
  model = nnx.eval_shape(lambda: clip.CLIP(**sizes, rngs=nnx.Rngs(0)))
  graph, state = nnx.split(model)
  expected = traverse_util.flatten_dict(nnx.to_pure_dict(state), sep='/')
  shapes = {name: tuple(leaf.shape) for name, leaf in expected.items()}
  arrays = tables.load(rows, tensors, shapes, unused=_UNUSED, where=str(source))
  pure = traverse_util.unflatten_dict({name: jnp.asarray(x) for name, x in arrays.items()}, sep='/')
  nnx.replace_by_pure_dict(state, pure)
  model = nnx.merge(graph, state)
  model.source = (
    f'{Path(source).name}: ViT of {sizes["depth"]} x {sizes["width"]}, patches of {sizes["patch_size"]} px, '
    f'{sizes["image_size"]} px; SHA-256 of the parameters {_hash(arrays)[:16]}'
  )
  return model


def _recognise(tensors: Mapping, where: str) -> tuple[Row, ...]:
  for rows in (HUGGING_FACE, OPENAI):
    if rows[0].theirs[0] in tensors:
      return rows
  raise InputError(
    f'{where} has no image encoder of CLIP: neither {HUGGING_FACE[0].theirs[0]} (Hugging Face) nor '
    f'{OPENAI[0].theirs[0]} (OpenAI). {tables.names_in(tensors)}'
  )


def _sizes(rows: tuple[Row, ...], tensors: Mapping, where: str) -> dict:
  """Returns the sizes of CLIP that tensors determine."""
  names = {row.ours: row.theirs[0] for row in rows}
  first = names['blocks/mlp/expand/kernel']
  needed = ('position_embedding', 'patch_embedding/kernel', 'projection/kernel')
  shapes = tables.need(tensors, where, *(names[ours] for ours in needed), first.format(0))
  (tokens, width), patch, projection, expand = shapes
  side = math.isqrt(tokens - 1)
  if side**2 != tokens - 1:
    raise InputError(f'{where}: {names["position_embedding"]} has {tokens} positions, which are not a square and one')
  before, after = first.split('{}')
  return dict(
    image_size=side * patch[-1],
    patch_size=patch[-1],
    width=width,
    depth=sum(name.startswith(before) and name.endswith(after) for name in tensors),
    hidden=expand[0],
    embedding=projection[1] if rows is OPENAI else projection[0],
  )


def _config(path: Path) -> dict:
  """Returns the number of heads and the activation that config.json of Hugging Face states; {} without the file."""
  if not path.is_file():
    return {}
  try:
    config = json.loads(path.read_text())
    section = config.get('vision_config', config)
    heads, activation = section.get('num_attention_heads', 12), section.get('hidden_act', 'quick_gelu')
  except (json.JSONDecodeError, AttributeError) as error:
    raise InputError(f'{path} is not the configuration of CLIP: {error}') from error
  if 'vision_config' not in config and 'clip' not in str(config.get('model_type', '')):
    return {}  # The file belongs to something else.
  if activation not in clip.ACTIVATIONS:
    raise InputError(f'{path}: hidden_act = {activation!r} must be one of {", ".join(clip.ACTIVATIONS)}')
  return dict(num_heads=heads, activation=activation)


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in sorted(arrays):
    digest.update(np.ascontiguousarray(arrays[name]).tobytes())
  return digest.hexdigest()
