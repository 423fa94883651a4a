"""Reads and writes models in the format of lrm_jax/export/torch_lrm.py, which runs them in plain PyTorch.

`torch_lrm.json` is the whole configuration. `torch_lrm.safetensors` uses the parameter paths of lrm_jax in PyTorch's
conventions: parts joined by dots, numbered layers, linear layers with `weight` [out, in], norms with `weight`.
"""

from collections.abc import Mapping
import json
from pathlib import Path

import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import LINEAR, SAME, Row

CONFIG, TENSORS = 'torch_lrm.json', ('torch_lrm.safetensors',)
ANCHOR = 'decoder.tokens'
_STACKS = ('blocks', 'hidden')
_LEAVES = {'kernel': ('weight', LINEAR), 'scale': ('weight', SAME)}


def rows(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Row, ...]:
  """Returns the table of a model with these parameters; one rule covers all of them."""
  result = []
  for path in shapes:
    *parts, leaf = path.split('/')
    leaf, layout = _LEAVES.get(leaf, (leaf, SAME))
    names = []
    for part in parts:
      names.append(part)
      if part in _STACKS:
        names.append('{}')
    result.append(Row(path, ('.'.join([*names, leaf]),), layout))
  return tuple(result)


def load(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, np.ndarray]:
  """Returns {parameter path: array}; raises InputError if the tensors do not match the shapes."""
  return tables.load(rows(shapes), tensors, shapes, where=where)


def read_config(directory: Path, tensors: Mapping[str, np.ndarray]) -> dict:
  """Returns the exported configuration; raises InputError if the file is not one."""
  del tensors  # The configuration file is complete.
  path = directory / CONFIG
  try:
    config = json.loads(path.read_text())
    _ = config['model'], config['data']['fov']  # Raises KeyError if either is missing.
  except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is not an lrm_jax configuration: {error} (it must have model and data.fov); export the model again'
    ) from error
  return config


def write(directory: Path, config: Mapping, parameters: Mapping[str, np.ndarray]) -> None:
  """Writes `torch_lrm.json` and `torch_lrm.safetensors`."""
  directory.mkdir(parents=True, exist_ok=True)
  (directory / CONFIG).write_text(json.dumps(config, indent=2) + '\n')
  shapes = {path: array.shape for path, array in parameters.items()}
  files.write(directory / TENSORS[0], tables.save(rows(shapes), parameters))


def refusal(config: Mapping) -> list[str]:
  """Returns an empty list: this format can express every model of lrm_jax."""
  del config
  return []
