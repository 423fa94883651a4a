"""Encoders: names for the parameters of lrm_jax/models/encoder.py (DINO ViT-S/16, S/8, B/16, B/8) and of
lrm_jax/models/dinov2.py (DINOv2 ViT-S/14, B/14, L/14, with registers and without).

Two families of names each: the official checkpoints' (timm has the same for DINO), and Hugging Face's
(`facebook/dino-vitb16`, `facebook/dinov2-with-registers-base`). What stands before the names (`module.backbone.`,
`encoder.model.`) is found out and taken off.
"""

from collections.abc import Mapping
import math
from pathlib import Path

import numpy as np

from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import PATCHES, Row, linear, norm


def _rows(*, class_token, table, registers, patches, last_norm, block, qkv, scales, parts) -> tuple[Row, ...]:
  names = zip(('norm1', 'norm2', 'attention/out', 'mlp/expand', 'mlp/contract'), parts)
  rows = [
    Row('class_token', (class_token,)),
    Row('position_embedding', (table,)),
    Row('registers', (registers,)),
    Row('patch_embedding/kernel', (f'{patches}.weight',), PATCHES),
    Row('patch_embedding/bias', (f'{patches}.bias',)),
    *norm('norm', last_norm),
    *linear('blocks/attention/qkv', *(f'{block}.{name}' for name in qkv)),
    *(Row(f'blocks/scale{i}', (f'{block}.{scale}',)) for i, scale in enumerate(scales, start=1)),
  ]
  for ours, theirs in names:
    rows += (norm if 'norm' in ours else linear)(f'blocks/{ours}', f'{block}.{theirs}')
  return tuple(rows)


# One table for DINO and DINOv2: the former has no registers and no scales.
OFFICIAL = _rows(
  class_token='cls_token',
  table='pos_embed',
  registers='register_tokens',
  patches='patch_embed.proj',
  last_norm='norm',
  block='blocks.{}',
  qkv=('attn.qkv',),
  scales=('ls1.gamma', 'ls2.gamma'),
  parts=('norm1', 'norm2', 'attn.proj', 'mlp.fc1', 'mlp.fc2'),
)
_HUGGING_FACE = dict(
  class_token='embeddings.cls_token',
  table='embeddings.position_embeddings',
  registers='embeddings.register_tokens',
  patches='embeddings.patch_embeddings.projection',
  last_norm='layernorm',
  block='encoder.layer.{}',
  qkv=tuple(f'attention.attention.{part}' for part in ('query', 'key', 'value')),
  scales=('layer_scale1.lambda1', 'layer_scale2.lambda1'),
)
HUGGING_FACE = _rows(
  **_HUGGING_FACE,
  parts=('layernorm_before', 'layernorm_after', 'attention.output.dense', 'intermediate.dense', 'output.dense'),
)
HUGGING_FACE_DINOV2 = _rows(**_HUGGING_FACE, parts=('norm1', 'norm2', 'attention.output.dense', 'mlp.fc1', 'mlp.fc2'))

# Of classifiers, poolers and masked training, which the tokens do not pass.
UNUSED = ('head.', 'fc_norm.', 'pooler.', 'mask_token', 'embeddings.mask_token')


def load(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Returns {our path: array} of the encoder's parameters, which have these shapes, from a checkpoint in a file.

  Of a whole training state with a teacher, the teacher is taken, as DINO does. Raises ValueError where the file holds
  no such encoder, or one of other sizes.
  """
  tensors = files.read(path)
  rows, prefix = recognise(tensors, str(path))
  tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
  kinds = {True: 'dinov2', False: 'dino'}
  there, here = (kinds[x] for x in (_has_scales(tensors), 'blocks/scale1' in shapes))
  if there != here:
    raise ValueError(f"{path} holds an encoder of the kind '{there}', and config.model.encoder is '{here}'")
  return tables.load(rows, tensors, shapes, unused=UNUSED, where=str(path))


def recognise(tensors: Mapping[str, np.ndarray], where: str = 'the file') -> tuple[tuple[Row, ...], str]:
  """Returns (the table, what stands before its names) of tensors; ValueError where they are of no ViT."""
  found = []
  for rows in (HUGGING_FACE_DINOV2 if _has_scales(tensors) else HUGGING_FACE, OFFICIAL):
    (token,) = rows[0].theirs
    found += [(rows, name.removesuffix(token)) for name in tensors if name == token or name.endswith('.' + token)]
  # Hugging Face's name of the class token ends with the official one: the longer comes first.
  found = [(rows, prefix) for rows, prefix in found if rows is not OFFICIAL or not prefix.endswith('embeddings.')]
  if not found:
    raise ValueError(
      f'{where} holds no ViT: neither cls_token (the official names, timm) nor embeddings.cls_token (Hugging Face) '
      f'is among its {len(tensors)} tensors'
    )
  return next((match for match in found if 'teacher' in match[1]), found[0])


def sizes(tensors: Mapping[str, np.ndarray], where: str) -> dict:
  """Returns the values of config.model that the tensors of an encoder tell: all but its number of heads.

  Raises ValueError where they are of no ViT, or of one whose first tensors are not there.
  """
  rows, prefix = recognise(tensors, where)
  names = {row.ours: prefix + row.theirs[0] for row in rows}
  for ours in ('position_embedding', 'patch_embedding/kernel'):
    if names[ours] not in tensors:
      raise ValueError(f'{where} does not fit the model: {names[ours]} is missing')
  _, table, width = tensors[names['position_embedding']].shape
  before, after = names['blocks/norm1/scale'].split('{}')
  layers = [name for name in tensors if name.startswith(before) and name.endswith(after)]
  result = dict(
    encoder='dinov2' if _has_scales(tensors) else 'dino',
    patch_size=tensors[names['patch_embedding/kernel']].shape[-1],
    encoder_width=width,
    encoder_depth=len(layers),
    encoder_table_size=math.isqrt(table - 1),
  )
  registers = tensors.get(names['registers'])
  return result | ({} if registers is None else {'encoder_registers': registers.shape[1]})


def num_heads(config: Mapping, width: int) -> int:
  """Returns the encoder's number of heads, which no tensor tells: `encoder_num_heads` of a configuration, or width / 64."""
  sections = [config, *(section for section in config.values() if isinstance(section, Mapping))]
  told = [section['encoder_num_heads'] for section in sections if 'encoder_num_heads' in section]
  return told[0] if told else max(1, width // 64)


def _has_scales(tensors: Mapping[str, np.ndarray]) -> bool:
  return any(name.endswith(('.ls1.gamma', '.layer_scale1.lambda1')) for name in tensors)
