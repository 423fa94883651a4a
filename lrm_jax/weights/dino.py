"""Loads DINO and DINOv2 encoders from third-party checkpoints.

The name tables cover lrm_jax/models/encoder.py (DINO ViT-S/16, S/8, B/16, B/8) and lrm_jax/models/dinov2.py (DINOv2
ViT-S/14, B/14, L/14, with and without registers). Two naming schemes are supported for each: the official checkpoints
(timm uses the same names for DINO) and Hugging Face (`facebook/dino-vitb16`, `facebook/dinov2-with-registers-base`).
A common prefix of the names, such as `module.backbone.` or `encoder.model.`, is detected and removed.
"""

from collections.abc import Mapping
import math
from pathlib import Path

import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import PATCHES, Row, linear, norm


def _rows(*, class_token, table, registers, patches, last_norm, block, qkv, scales, parts) -> tuple[Row, ...]:
  """Returns the table of a ViT from the names that a naming scheme uses for its parts."""
  norm1, norm2, attention_out, mlp_expand, mlp_contract = parts
  return (
    Row('class_token', (class_token,)),
    Row('position_embedding', (table,)),
    Row('registers', (registers,)),
    Row('patch_embedding/kernel', (f'{patches}.weight',), PATCHES),
    Row('patch_embedding/bias', (f'{patches}.bias',)),
    *norm('norm', last_norm),
    *linear('blocks/attention/qkv', *(f'{block}.{name}' for name in qkv)),
    *(Row(f'blocks/scale{i}', (f'{block}.{scale}',)) for i, scale in enumerate(scales, start=1)),
    *norm('blocks/norm1', f'{block}.{norm1}'),
    *norm('blocks/norm2', f'{block}.{norm2}'),
    *linear('blocks/attention/out', f'{block}.{attention_out}'),
    *linear('blocks/mlp/expand', f'{block}.{mlp_expand}'),
    *linear('blocks/mlp/contract', f'{block}.{mlp_contract}'),
  )


# DINO and DINOv2 share one table: rows for registers and LayerScale are skipped for DINO, which has neither.
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

# Parameters of classifiers, poolers and masked training. The output tokens do not depend on them, so they are ignored.
UNUSED = ('head.', 'fc_norm.', 'pooler.', 'mask_token', 'embeddings.mask_token')


def load(
  path: str | Path, shapes: Mapping[str, tuple[int, ...]], *, first_blocks: bool = False
) -> dict[str, np.ndarray]:
  """Returns {parameter path: array} of the encoder in a checkpoint file, for parameters of the given shapes.

  If the file is a full training state with a student and a teacher, the teacher is loaded, as DINO's own code does.
  With `first_blocks`, a model with fewer transformer blocks than the file has the first of them.
  Raises InputError if the file has no such encoder or if its sizes differ.
  """
  tensors = files.read(path)
  rows, prefix = recognise(tensors, str(path))  # type: ignore[arg-type]
  tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
  found = 'dinov2' if _has_scales(tensors) else 'dino'  # type: ignore[arg-type]
  expected = 'dinov2' if 'blocks/scale1' in shapes else 'dino'
  if found != expected:
    raise InputError(f"{path} contains a '{found}' encoder, but config.model.encoder is '{expected}'")
  before, after = _names(rows)['blocks/norm1/scale'].split('{}')
  blocks = [name.removeprefix(before).removesuffix(after) for name in tensors if name.startswith(before)]
  numbers, depth = {int(x) for x in blocks if x.isdecimal()}, shapes['blocks/norm1/scale'][0]
  if len(numbers) > depth:
    if not first_blocks:
      raise InputError(
        f'{path} has {len(numbers)} blocks, but config.model.encoder_depth is {depth}: set it to {len(numbers)}, or '
        f'add --config.init_partial=True to start from the first {depth}'
      )
    later = tuple(f'{before}{number}.' for number in numbers if number >= depth)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(later)}
  return tables.load(rows, tensors, shapes, unused=UNUSED, where=str(path))  # type: ignore[arg-type]


def recognise(tensors: Mapping[str, np.ndarray], where: str = 'the file') -> tuple[tuple[Row, ...], str]:
  """Returns (name table, name prefix) that match the tensors; raises InputError if they do not contain a ViT."""
  found = []
  for rows in (HUGGING_FACE_DINOV2 if _has_scales(tensors) else HUGGING_FACE, OFFICIAL):
    (token,) = rows[0].theirs
    found += [(rows, name.removesuffix(token)) for name in tensors if name == token or name.endswith('.' + token)]
  # Hugging Face's name of the class token ends with the official name, so prefer the longer match.
  found = [(rows, prefix) for rows, prefix in found if rows is not OFFICIAL or not prefix.endswith('embeddings.')]
  if not found:
    raise InputError(
      f'{where} does not contain a ViT: its {len(tensors)} tensors include neither cls_token (official names, timm) '
      f'nor embeddings.cls_token (Hugging Face). {tables.names_in(tensors)}'
    )
  return next((match for match in found if 'teacher' in match[1]), found[0])


def sizes(tensors: Mapping[str, np.ndarray], where: str) -> dict:
  """Returns the encoder's values of config.model, inferred from tensor shapes: all except the number of heads.

  Raises InputError if the tensors do not contain a ViT, or if its position or patch embedding is missing.
  """
  rows, prefix = recognise(tensors, where)
  names = {ours: prefix + name for ours, name in _names(rows).items()}
  for ours in ('position_embedding', 'patch_embedding/kernel'):
    tables.need(tensors, where, names[ours])
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
  """Returns the encoder's number of heads: `encoder_num_heads` of the configuration if present, otherwise width / 64.

  It cannot be inferred from tensor shapes. The key may be at the top level of the configuration or in a section.
  """
  sections = [config, *(section for section in config.values() if isinstance(section, Mapping))]
  for section in sections:
    if 'encoder_num_heads' in section:
      return section['encoder_num_heads']
  return max(1, width // 64)


def _names(rows: tuple[Row, ...]) -> dict[str, str]:
  """Returns {parameter path: name of its tensor, or of the first of them}, without a prefix."""
  return {row.ours: row.theirs[0] for row in rows}


def _has_scales(tensors: Mapping[str, np.ndarray]) -> bool:
  """Returns whether the tensors include LayerScale, which DINOv2 has and DINO does not."""
  return any(name.endswith(('.ls1.gamma', '.layer_scale1.lambda1')) for name in tensors)
