"""Tensors in the files of others: safetensors, and PyTorch's .pth / .pt / .bin / .ckpt without running what is in them.

A PyTorch file is a zip of a pickle and of raw storages. A pickle is a program; this reader knows the few words that
tensors are made of, and refuses every other before anything of it runs. PyTorch is not needed.
"""

import collections
from collections.abc import Mapping
import io
import math
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


def read(path: str | Path) -> dict[str, np.ndarray]:
  """Returns {name: tensor} of a file; names within names are joined by dots, what is no tensor is left out.

  Raises FileNotFoundError, and ValueError where the file is of no kind that is known, is damaged, or holds more than
  tensors and plain values.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such file of weights')
  if path.suffix == '.safetensors':
    return _read_safetensors(path)
  if not zipfile.is_zipfile(path):
    raise ValueError(
        f'{path} is neither .safetensors nor a PyTorch file of version 1.6 or later: load it with PyTorch and save it '
        'again, best as safetensors')
  return _read_pytorch(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
  try:
    with safe_open(path, 'np') as file:
      return {name: file.get_tensor(name) for name in file.keys()}
  except (SafetensorError, OSError) as error:
    raise ValueError(f'{path} is damaged, or no safetensors file: {error}') from error


def _read_pytorch(path: Path) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive:
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
  if isinstance(content, np.ndarray):
    yield prefix.removesuffix('.'), content
  elif isinstance(content, Mapping):
    for name, value in content.items():
      yield from _flat(value, f'{prefix}{name}.')


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
    data = np.frombuffer(self._archive.read(f'{self._folder}data/{key}'), _DTYPES[storage])
    if len(data) < count:
      raise ValueError(f'{self._path} is damaged: storage {key} holds {len(data)} of {count} numbers')
    return data


def _tensor(storage, offset, shape, strides, *_):
  """Returns the array of a view into a storage; strides count numbers, as PyTorch's do."""
  last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
  # Nothing outside of the storage may be read, whatever the file says: PyTorch has no negative strides.
  inside = 0 <= offset and min((*shape, *strides), default=0) >= 0 and (not math.prod(shape) or last < len(storage))
  if len(shape) != len(strides) or not inside:
    raise pickle.UnpicklingError(f'a tensor of {shape}, strides {strides}, reaches beyond its {len(storage)} numbers')
  strides = [stride * storage.itemsize for stride in strides]
  return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()
