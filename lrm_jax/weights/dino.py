"""DINO's vision transformers (ViT-S/16, S/8, B/16, B/8): their names for the parameters of lrm_jax/models/encoder.py.

Two families of names: the official checkpoints' (timm has the same), and Hugging Face's (`facebook/dino-vitb16`). What
stands before the names (`module.backbone.`, `encoder.model.`) is found out and taken off.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import LINEAR, PATCHES, Row

_NORMS_AND_MLP = ('norm1', 'norm2', 'attention/out', 'mlp/expand', 'mlp/contract')


def _rows(table, patches, norm, qkv, *, class_token, layers) -> tuple[Row, ...]:
  rows = [Row('class_token', (class_token,)), Row('position_embedding', (table,)),
          Row('patch_embedding/kernel', (f'{patches}.weight',), PATCHES), Row('patch_embedding/bias', (f'{patches}.bias',)),
          Row('norm/scale', (f'{norm}.weight',)), Row('norm/bias', (f'{norm}.bias',)),
          Row('blocks/attention/qkv/kernel', tuple(f'{name}.weight' for name in qkv), LINEAR),
          Row('blocks/attention/qkv/bias', tuple(f'{name}.bias' for name in qkv))]
  for ours, theirs in zip(_NORMS_AND_MLP, layers):
    weight = ('scale', tables.SAME) if 'norm' in ours else ('kernel', LINEAR)
    rows += [Row(f'blocks/{ours}/{weight[0]}', (f'{theirs}.weight',), weight[1]),
             Row(f'blocks/{ours}/bias', (f'{theirs}.bias',))]
  return tuple(rows)


OFFICIAL = _rows(
    'pos_embed', 'patch_embed.proj', 'norm', ('blocks.{}.attn.qkv',), class_token='cls_token',
    layers=('blocks.{}.norm1', 'blocks.{}.norm2', 'blocks.{}.attn.proj', 'blocks.{}.mlp.fc1', 'blocks.{}.mlp.fc2'))
HUGGING_FACE = _rows(
    'embeddings.position_embeddings', 'embeddings.patch_embeddings.projection', 'layernorm',
    tuple(f'encoder.layer.{{}}.attention.attention.{part}' for part in ('query', 'key', 'value')),
    class_token='embeddings.cls_token',
    layers=('encoder.layer.{}.layernorm_before', 'encoder.layer.{}.layernorm_after',
            'encoder.layer.{}.attention.output.dense', 'encoder.layer.{}.intermediate.dense',
            'encoder.layer.{}.output.dense'))
_UNUSED = ('head.', 'fc_norm.', 'pooler.')  # Of classifiers and poolers, which the tokens do not pass.


def load(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Returns {our path: array} of the encoder's parameters, which have these shapes, from a checkpoint in a file.

  Of a whole training state with a teacher, the teacher is taken, as DINO does. Raises ValueError where the file holds
  no ViT of DINO's, or one of other sizes.
  """
  tensors = files.read(path)
  rows, prefix = recognise(tensors, str(path))
  tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
  return tables.load(rows, tensors, shapes, unused=_UNUSED, where=str(path))


def recognise(tensors: Mapping[str, np.ndarray], where: str = 'the file') -> tuple[tuple[Row, ...], str]:
  """Returns (the table, what stands before its names) of tensors; ValueError where they are of no ViT."""
  found = []
  for rows in (HUGGING_FACE, OFFICIAL):
    (token,) = rows[0].theirs
    found += [(rows, name.removesuffix(token)) for name in tensors if name == token or name.endswith('.' + token)]
  # Hugging Face's name of the class token ends with the official one: the longer comes first.
  found = [(rows, prefix) for rows, prefix in found if rows is HUGGING_FACE or not prefix.endswith('embeddings.')]
  if not found:
    raise ValueError(
        f'{where} holds no ViT: neither cls_token (the official names, timm) nor embeddings.cls_token (Hugging Face) '
        f'is among its {len(tensors)} tensors')
  return next((match for match in found if 'teacher' in match[1]), found[0])
