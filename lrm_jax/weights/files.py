"""Tensors in the files of others: safetensors, and PyTorch's .pth / .pt / .bin / .ckpt without running what is in them.

A PyTorch file is a zip of a pickle and of raw storages. A pickle is a program; this reader knows the few words that
tensors are made of, and refuses every other before anything of it runs. PyTorch is not needed.

Tensors stay in their files until NumPy asks for them, one at a time: a file may be as large as the memory.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import io
import json
import math
import os
from pathlib import Path
import pickle
import zipfile

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors import SafetensorError

_DTYPES = {
    'DoubleStorage': np.float64, 'FloatStorage': np.float32, 'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16, 'LongStorage': np.int64, 'IntStorage': np.int32, 'ShortStorage': np.int16,
    'CharStorage': np.int8, 'ByteStorage': np.uint8, 'BoolStorage': np.bool_}


# Names of types in safetensors files.
_SAFETENSORS = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'I64': np.int64, 'I32': np.int32,
    'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor in a file: its shape and type are known, `numpy.asarray` reads it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  def __array__(self, dtype=None, copy=None):
    array = self.read()
    return array if dtype is None else array.astype(dtype)


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
  if not zipfile.is_zipfile(path):
    raise ValueError(
        f'{path} is neither .safetensors nor a PyTorch file of version 1.6 or later: load it with PyTorch and save it '
        'again, best as safetensors')
  return _open_pytorch(path)


def write(path: str | Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
  """Writes (name, tensor) as safetensors, one after another: whole or not at all. In memory is one at a time."""
  path = Path(path)
  partial = path.with_name(f'.{path.name}.partial')
  kinds = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
  header, room = {'__metadata__': {'format': 'pt'}}, 2**20  # The header comes first, and is known last: spaces fill it up.
  try:
    with open(partial, 'wb') as file:
      file.seek(8 + room)
      for name, tensor in tensors:
        start = file.tell() - 8 - room
        file.write(memoryview(np.ascontiguousarray(tensor)).cast('B') if tensor.size else b'')
        header[name] = {'dtype': kinds[tensor.dtype], 'shape': list(tensor.shape),
                        'data_offsets': [start, file.tell() - 8 - room]}
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
          name: Tensor(tuple(part.get_shape()), np.dtype(_SAFETENSORS[part.get_dtype()]), lambda name=name: read_one(name))
          for name, part in slices.items()}
  except (SafetensorError, OSError) as error:
    raise ValueError(f'{path} is damaged, or no safetensors file: {error}') from error
  except KeyError as error:
    raise ValueError(f'{path} holds tensors of type {error}, which is not known') from error


def _open_pytorch(path: Path) -> dict[str, Tensor]:
  try:
    archive = zipfile.ZipFile(path)  # It stays open as long as one of its tensors is there.
    pickles = [name for name in archive.namelist() if name.endswith('/data.pkl') or name == 'data.pkl']
    if len(pickles) != 1:
      raise ValueError(f'{path} is a zip file, but none that PyTorch has written: it has {len(pickles)} data.pkl')
    content = _Unpickler(archive, pickles[0].removesuffix('data.pkl'), path).load()
  except (zipfile.BadZipFile, EOFError, KeyError, pickle.UnpicklingError, IndexError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is damaged, or no file of PyTorch tensors: {error}') from error
  tensors = dict(_flat(content))
  if not tensors:
    raise ValueError(f'{path} holds no tensors')
  return tensors


def _flat(content, prefix=''):
  if isinstance(content, Tensor):
    yield prefix.removesuffix('.'), content
  elif isinstance(content, Mapping):
    for name, value in content.items():
      yield from _flat(value, f'{prefix}{name}.')


@dataclasses.dataclass(frozen=True)
class _Storage:
  """Numbers in a row, somewhere in an archive."""

  length: int
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  def __len__(self):
    return self.length


class _Unpickler(pickle.Unpickler):
  """Knows tensors, parameters and ordered dictionaries, and nothing else."""

  def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path):
    super().__init__(io.BytesIO(archive.read(folder + 'data.pkl')))
    self._archive, self._folder, self._path = archive, folder, path

  def find_class(self, module, name):
    known = {('collections', 'OrderedDict'): collections.OrderedDict,
             ('torch._utils', '_rebuild_tensor_v2'): _tensor,
             ('torch._utils', '_rebuild_parameter'): lambda data, requires_grad, hooks: data,
             ('torch', 'Size'): tuple}
    if module == 'torch' and name in _DTYPES:
      return name
    if (module, name) not in known:
      raise ValueError(
          f'{self._path} wants to run {module}.{name}, which is no part of a tensor: it was not opened further; if '
          'you trust it, load it with PyTorch and save its tensors alone, best as safetensors')
    return known[module, name]

  def persistent_load(self, pid):
    kind, storage, key, _, count = pid
    if kind != 'storage' or storage not in _DTYPES:
      raise ValueError(f'{self._path} holds a {kind} of {storage}, which is no tensor that is known')
    dtype, member = np.dtype(_DTYPES[storage]), self._archive.getinfo(f'{self._folder}data/{key}')
    length = member.file_size // dtype.itemsize
    if length < count:
      raise ValueError(f'{self._path} is damaged: storage {key} holds {length} of {count} numbers')

    def read_numbers():
      try:
        return np.frombuffer(self._archive.read(member), dtype)
      except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f'{self._path} is damaged: {error}') from error

    return _Storage(length, dtype, read_numbers)


def _tensor(storage, offset, shape, strides, *_):
  """Returns a view into a storage; strides count numbers, as PyTorch's do."""
  last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
  # Nothing outside of the storage may be read, whatever the file says: PyTorch has no negative strides.
  inside = 0 <= offset and min((*shape, *strides), default=0) >= 0 and (not math.prod(shape) or last < len(storage))
  if len(shape) != len(strides) or not inside:
    raise pickle.UnpicklingError(f'a tensor of {shape}, strides {strides}, reaches beyond its {len(storage)} numbers')
  steps = [stride * storage.dtype.itemsize for stride in strides]
  view = lambda: np.lib.stride_tricks.as_strided(storage.read()[offset:], shape, steps)
  return Tensor(tuple(shape), storage.dtype, view)
