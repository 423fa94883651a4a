"""Any of our models for lrm_jax/export/torch_lrm.py, which runs it in plain PyTorch, in and out.

`torch_lrm.json` is the whole configuration; `torch_lrm.safetensors` has our names by PyTorch's custom: dots between
parts, layers one by one, a linear map's `weight` [out, in], a norm's `weight`.
"""

from collections.abc import Mapping
import json
from pathlib import Path

import numpy as np

from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import LINEAR, SAME, Row

CONFIG, TENSORS = 'torch_lrm.json', ('torch_lrm.safetensors',)
_STACKS = ('blocks', 'hidden')
_LEAVES = {'kernel': ('weight', LINEAR), 'scale': ('weight', SAME)}


def rows(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Row, ...]:
  """Returns the table of a model with these parameters: one rule for all of them."""
  result = []
  for path in shapes:
    *parts, leaf = path.split('/')
    leaf, layout = _LEAVES.get(leaf, (leaf, SAME))
    names = [name for part in parts for name in ((part, '{}') if part in _STACKS else (part,))]
    result.append(Row(path, ('.'.join([*names, leaf]),), layout))
  return tuple(result)


def load(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, np.ndarray]:
  """Returns {our path: array} of a model of these shapes; ValueError where the tensors do not fit."""
  return tables.load(rows(shapes), tensors, shapes, where=where)


def read_config(directory: Path, tensors: Mapping[str, np.ndarray]) -> dict:
  """Returns the configuration that was written; ValueError where it is none."""
  del tensors  # The configuration tells everything.
  path = directory / CONFIG
  try:
    config = json.loads(path.read_text())
    config['model'], config['data']['fov']  # pylint: disable=pointless-statement
  except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no configuration of ours: {error} (model and data.fov must be in it): export the model again'
    ) from error
  return config


def write(directory: Path, config: Mapping, parameters: Mapping[str, np.ndarray]) -> None:
  """Writes `torch_lrm.json` and `torch_lrm.safetensors`."""
  directory.mkdir(parents=True, exist_ok=True)
  (directory / CONFIG).write_text(json.dumps(config, indent=2) + '\n')
  shapes = {path: array.shape for path, array in parameters.items()}
  files.write(directory / TENSORS[0], tables.save(rows(shapes), parameters))


def refusal(config: Mapping) -> list[str]:
  """Returns nothing: all our models can be expressed."""
  del config
  return []
