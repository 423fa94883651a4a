"""Reads weight files (safetensors, and PyTorch through lrm_jax/weights/pytorch.py) and writes safetensors.

Tensors are read lazily, one at a time, when NumPy needs their data.
"""

from collections.abc import Iterable
import functools
import json
import os
from pathlib import Path
import zipfile

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from lrm_jax.errors import InputError, passes
from lrm_jax.storage import paths
from lrm_jax.weights import pytorch
from lrm_jax.weights.tensor import Tensor

# Names of dtypes in safetensors files.
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
  """Returns {name: tensor} of a file. Names of nested dictionaries are joined by dots; other values are skipped.

  A file on gs:// or s3:// is copied to the local cache. Raises InputError if there is no file, or if its format is
  unknown, it is damaged, or it contains objects other than tensors and plain values. Damaged tensor data raises
  InputError later, when the tensor is read.
  """
  given, path = path, paths.local_file(path)
  if not path.is_file():
    raise InputError(f'Weight file {given} does not exist')
  if path.suffix == '.safetensors':
    return _open_safetensors(path)
  if not zipfile.is_zipfile(path) and not pytorch.is_legacy(path):
    raise InputError(
      f'{path} is neither a .safetensors nor a PyTorch file: convert it to safetensors with the library that wrote it'
    )
  return pytorch.read(path)


def write(path: str | Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
  """Writes (name, tensor) pairs to a safetensors file, atomically and with only one tensor in memory at a time."""
  path = Path(path)
  partial = path.with_name(f'.{path.name}.partial')
  dtype_names = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
  # The header precedes the data but is complete only after it, so reserve space; the format allows trailing spaces.
  header, header_size = {'__metadata__': {'format': 'pt'}}, 2**20
  try:
    with open(partial, 'wb') as file:
      file.seek(8 + header_size)
      for name, tensor in tensors:
        start = file.tell() - 8 - header_size
        file.write(tensor.tobytes())
        header[name] = {
          'dtype': dtype_names[tensor.dtype],
          'shape': list(tensor.shape),  # type: ignore[dict-item]
          'data_offsets': [start, file.tell() - 8 - header_size],  # type: ignore[dict-item]
        }
      text = json.dumps(header, separators=(',', ':')).encode()
      if len(text) > header_size:
        raise InputError(
          f'{path}: the header of {len(header) - 1} tensors needs {len(text)} bytes, but the limit is {header_size}'
        )
      file.seek(0)
      file.write(header_size.to_bytes(8, 'little') + text.ljust(header_size))
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
  def read_one(name):
    # Reopen the file for each tensor: pages of a memory-mapped file stay resident until it is closed.
    with safe_open(path, 'np') as file:
      return file.get_tensor(name)

  try:
    with safe_open(path, 'np') as file:
      names = file.keys()
      slices = {name: file.get_slice(name) for name in names}
      return {
        name: Tensor(
          tuple(part.get_shape()), np.dtype(_SAFETENSORS[part.get_dtype()]), functools.partial(read_one, name)
        )
        for name, part in slices.items()
      }
  except (SafetensorError, OSError) as error:
    if passes(error):
      raise
    raise InputError(f'{path} is damaged or not a safetensors file: {error}') from error
  except KeyError as error:
    raise InputError(f'{path} contains tensors of the unsupported dtype {error}') from error
