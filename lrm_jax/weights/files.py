"""Tensors in files: safetensors in and out, PyTorch's in (lrm_jax/weights/pytorch.py).

Tensors stay in their files until NumPy asks for them, one at a time.
"""

from collections.abc import Iterable
import json
import os
from pathlib import Path
import zipfile

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from lrm_jax.weights import pytorch
from lrm_jax.weights.tensor import Tensor

# Names of types in safetensors files.
_SAFETENSORS = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': ml_dtypes.bfloat16,
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}


def read(path: str | Path) -> dict[str, Tensor]:
  """Returns {name: tensor} of a file; names within names are joined by dots, what is no tensor is left out.

  Raises FileNotFoundError, and ValueError where the file is of no kind that is known, is damaged, or holds more than
  tensors and plain values. Damage inside of a tensor is a ValueError when it is read.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such file of weights')
  if path.suffix == '.safetensors':
    return _open_safetensors(path)
  if not zipfile.is_zipfile(path) and not pytorch.is_legacy(path):
    raise ValueError(
      f'{path} is neither .safetensors nor a file of PyTorch: load it with what wrote it, and save it as safetensors'
    )
  return pytorch.read(path)


def write(path: str | Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
  """Writes (name, tensor) as safetensors, one after another: whole or not at all. In memory is one at a time."""
  path = Path(path)
  partial = path.with_name(f'.{path.name}.partial')
  kinds = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
  header, room = {'__metadata__': {'format': 'pt'}}, 2**20  # It comes first, and is known last: spaces fill it up.
  try:
    with open(partial, 'wb') as file:
      file.seek(8 + room)
      for name, tensor in tensors:
        start = file.tell() - 8 - room
        file.write(tensor.tobytes())
        header[name] = {
          'dtype': kinds[tensor.dtype],
          'shape': list(tensor.shape),
          'data_offsets': [start, file.tell() - 8 - room],
        }
      text = json.dumps(header, separators=(',', ':')).encode()
      if len(text) > room:
        raise ValueError(f'{path}: {len(header) - 1} tensors have more to tell than {room} bytes of header hold')
      file.seek(0)
      file.write(room.to_bytes(8, 'little') + text.ljust(room))
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
  def read_one(name):
    # Opened anew for each: what has been read of a file that is mapped into memory stays there until it is closed.
    with safe_open(path, 'np') as file:
      return file.get_tensor(name)

  try:
    with safe_open(path, 'np') as file:
      slices = {name: file.get_slice(name) for name in file.keys()}
      return {
        name: Tensor(
          tuple(part.get_shape()), np.dtype(_SAFETENSORS[part.get_dtype()]), lambda name=name: read_one(name)
        )
        for name, part in slices.items()
      }
  except (SafetensorError, OSError) as error:
    raise ValueError(f'{path} is damaged, or no safetensors file: {error}') from error
  except KeyError as error:
    raise ValueError(f'{path} holds tensors of type {error}, which is not known') from error
