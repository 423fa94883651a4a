"""Reads weight files (safetensors, and PyTorch through lrm_jax/weights/pytorch.py) and writes safetensors.

Tensors are read lazily, one at a time, when NumPy needs their data. Large models are split into shards, such as
model-00001-of-00002.safetensors, with model.safetensors.index.json, which has the shard of each tensor in `weight_map`.
"""

from collections.abc import Iterable, Mapping
import functools
import json
import os
from pathlib import Path
import re
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


_INDEX = '.index.json'
_SHARD = re.compile(r'(?P<start>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)')
_LFS_POINTER = b'version https://git-lfs'


def locate(directory: Path, names: Iterable[str]) -> Path | None:
  """Returns the first of the files in a directory, whole, as an index of shards, or as the first shard, or None."""
  for name in names:
    start, dot, suffix = name.rpartition('.')
    for path in (directory / name, directory / f'{name}{_INDEX}'):
      if path.is_file():
        return path
    if shards := sorted(directory.glob(f'{start}-?????-of-?????{dot}{suffix}')):
      return shards[0]
  return None


def read(path: str | Path) -> dict[str, Tensor]:
  """Returns {name: tensor} of a file, or of all shards of an index or of the model that a shard belongs to.

  Names of nested dictionaries are joined by dots; other values are skipped. A file on gs:// or s3:// is copied to the
  local cache; shards have to be local. Raises InputError if there is no file, or if its format is unknown, it is
  damaged, a shard is missing, or it contains objects other than tensors and plain values. Damaged tensor data raises
  InputError later, when the tensor is read.
  """
  given, path = path, paths.local_file(path)
  if not path.is_file():
    raise InputError(f'Weight file {given} does not exist')
  shard = _SHARD.fullmatch(path.name)
  if '://' in str(given) and (shard or path.name.endswith(_INDEX)):
    raise InputError(f'{given} is one of several files: copy all of them to a local directory, and give this one there')
  if path.name.endswith(_INDEX):
    return _read_index(path)
  if shard:
    count = int(shard['count'])
    names = [f'{shard["start"]}-{i:05d}-of-{count:05d}{shard["suffix"]}' for i in range(1, count + 1)]
    shards = _read_shards(path.parent, names, path.name)
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}
  return _read_one(path)


def _read_index(path: Path) -> dict[str, Tensor]:
  try:
    shard_of = json.loads(path.read_text())['weight_map']
    if not isinstance(shard_of, Mapping) or not all(Path(str(name)).name == name for name in shard_of.values()):
      raise TypeError('weight_map must have the names of files beside it')
  except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
    raise InputError(f'{path} is not an index of shards ({error}): download it again') from error
  shards = _read_shards(path.parent, sorted(set(shard_of.values())), path.name)
  if missing := [name for name, shard in shard_of.items() if name not in shards[shard]]:
    raise InputError(
      f'{path} lists tensors that their shards do not have ({len(missing)}, the first is {missing[0]} of '
      f'{shard_of[missing[0]]}): download the files again'
    )
  return {name: shards[shard][name] for name, shard in shard_of.items()}


def _read_shards(directory: Path, names: list[str], source: str) -> dict[str, dict[str, Tensor]]:
  """Returns {name of the shard: its tensors}."""
  if missing := [name for name in names if not (directory / name).is_file()]:
    raise InputError(
      f'{directory}: {source} needs {len(names)} files, of which {", ".join(missing)} '
      f'{"is" if len(missing) == 1 else "are"} missing: copy all of them'
    )
  return {name: _read_one(directory / name) for name in names}


def _read_one(path: Path) -> dict[str, Tensor]:
  with open(path, 'rb') as file:
    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
      raise InputError(f'{path} is a pointer of Git LFS, not the weights: get them with `git lfs pull`')
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
