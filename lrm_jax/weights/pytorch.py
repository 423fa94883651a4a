"""PyTorch's files (.pth, .pt, .bin, .ckpt), read without PyTorch and without running what is in them.

A pickle is a program; this reader knows the few words that tensors are made of, and refuses every other before anything
of it runs. Since version 1.6 a file is a zip of a pickle and of raw storages. Before, it was four pickles (a magic
number, a version, facts about the machine, the tensors), a pickled list of the keys of storages, then of each storage
its length, 8 bytes, and its numbers: torchvision's and lpips' are such.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import io
import math
from pathlib import Path
import pickle
import zipfile

import ml_dtypes
import numpy as np

from lrm_jax.weights.tensor import Tensor

_DTYPES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_VERSION = 1001
_DAMAGE = (
  zipfile.BadZipFile,
  EOFError,
  KeyError,
  pickle.UnpicklingError,
  IndexError,
  TypeError,
  AttributeError,
  UnicodeDecodeError,
)


def is_legacy(path: Path) -> bool:
  """Returns whether a file begins as those of before version 1.6."""
  with open(path, 'rb') as file:
    return file.read(len(_MAGIC)) == _MAGIC


def read(path: Path) -> dict[str, Tensor]:
  """Returns {name: tensor} of a file; names within names are joined by dots, what is no tensor is left out.

  Raises ValueError where it is damaged or holds more than tensors and plain values.
  """
  try:
    content = _legacy_content(path) if is_legacy(path) else _zip_content(path)
  except _DAMAGE as error:
    raise ValueError(f'{path} is damaged, or no file of PyTorch tensors: {error}') from error
  tensors = dict(_flat(content))
  if not tensors:
    raise ValueError(f'{path} holds no tensors')
  return tensors


def _zip_content(path: Path):
  archive = zipfile.ZipFile(path)  # It stays open as long as one of its tensors is there.
  pickles = [name for name in archive.namelist() if name.endswith('/data.pkl') or name == 'data.pkl']
  if len(pickles) != 1:
    raise ValueError(f'{path} is a zip file, but none that PyTorch has written: it has {len(pickles)} data.pkl')
  return _ZipUnpickler(archive, pickles[0].removesuffix('data.pkl'), path).load()


def _legacy_content(path: Path):
  with open(path, 'rb') as file:
    file.seek(len(_MAGIC))
    version, machine = (_LegacyUnpickler(file, path).load() for _ in range(2))
    if version != _LEGACY_VERSION or not machine['little_endian']:
      raise pickle.UnpicklingError(f'version {version} on a machine {machine}')
    unpickler = _LegacyUnpickler(file, path)
    content = unpickler.load()
    for key in _LegacyUnpickler(file, path).load():
      unpickler.place(key)
  if missing := unpickler.lengths.keys() - unpickler.places.keys():
    raise pickle.UnpicklingError(f'it ends before the numbers of storage {sorted(missing)[0]}')
  return content


def _flat(content, prefix='') -> Iterator[tuple[str, Tensor]]:
  if isinstance(content, Tensor):
    yield prefix.removesuffix('.'), content
  elif isinstance(content, Mapping):
    for name, value in content.items():
      yield from _flat(value, f'{prefix}{name}.')


@dataclasses.dataclass(frozen=True)
class _Storage:
  """Numbers in a row, somewhere in a file; `read` gives as many as there are."""

  length: int
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  def __len__(self):
    return self.length

  def numbers(self) -> np.ndarray:
    """Returns them all; ValueError where the file told of more than it has."""
    numbers = self.read()
    if len(numbers) < self.length:
      raise ValueError(f'a file of PyTorch is damaged: a storage of {self.length} numbers has {len(numbers)}')
    return numbers


def view(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_) -> Tensor:
  """Returns a view into a storage; strides count numbers, as PyTorch's do."""
  last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
  # Nothing outside of the storage may be read, whatever the file says: PyTorch has no negative strides.
  inside = offset >= 0 and min((*shape, *strides), default=0) >= 0 and (not math.prod(shape) or last < len(storage))
  if len(shape) != len(strides) or not inside:
    raise pickle.UnpicklingError(f'a tensor of {shape}, strides {strides}, reaches beyond its {len(storage)} numbers')
  steps = [stride * storage.dtype.itemsize for stride in strides]

  def read_view():
    return np.lib.stride_tricks.as_strided(storage.numbers()[offset:], shape, steps)

  return Tensor(tuple(shape), storage.dtype, read_view)


class _Unpickler(pickle.Unpickler):
  """Knows tensors, parameters and ordered dictionaries, and nothing else; `_storage` finds the numbers of a storage."""

  def __init__(self, stream, path: Path):
    super().__init__(stream, encoding='utf-8')
    self._path = path

  def find_class(self, module, name):
    known = {
      ('collections', 'OrderedDict'): collections.OrderedDict,
      ('torch._utils', '_rebuild_tensor_v2'): view,
      ('torch._utils', '_rebuild_tensor'): view,
      ('torch._utils', '_rebuild_parameter'): lambda data, requires_grad, hooks: data,
      ('torch', 'Size'): tuple,
    }
    if module == 'torch' and name in _DTYPES:
      return name
    if (module, name) not in known:
      raise ValueError(
        f'{self._path} wants to run {module}.{name}, which is no part of a tensor: it was not opened further; if '
        'you trust it, load it with PyTorch and save its tensors alone, best as safetensors'
      )
    return known[module, name]

  def persistent_load(self, pid):
    kind, storage, key, _, count, *view = pid
    if kind != 'storage' or storage not in _DTYPES:
      raise ValueError(f'{self._path} holds a {kind} of {storage}, which is no tensor that is known')
    return self._storage(key, np.dtype(_DTYPES[storage]), count, *view)


class _ZipUnpickler(_Unpickler):
  """Storages are members of the archive."""

  def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path):
    super().__init__(io.BytesIO(archive.read(folder + 'data.pkl')), path)
    self._archive, self._folder = archive, folder

  def _storage(self, key, dtype, count):
    member = self._archive.getinfo(f'{self._folder}data/{key}')
    length = member.file_size // dtype.itemsize
    if length < count:
      raise ValueError(f'{self._path} is damaged: storage {key} holds {length} of {count} numbers')

    def read_numbers():
      try:
        return np.frombuffer(self._archive.read(member), dtype)
      except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f'{self._path} is damaged: {error}') from error

    return _Storage(length, dtype, read_numbers)


class _LegacyUnpickler(_Unpickler):
  """Storages lie behind the pickle, where `place` finds them."""

  def __init__(self, file, path: Path):
    super().__init__(file, path)
    self._file, self._types, self.lengths, self.places = file, {}, {}, {}

  def _storage(self, key, dtype, count, view):
    self._types[key], self.lengths[key] = dtype, count
    start, length = (0, count) if view is None else view[1:]
    if not 0 <= start <= start + length <= count:
      raise pickle.UnpicklingError(f'a view of storage {key} reaches beyond its {count} numbers')

    def read_numbers():
      return np.fromfile(self._path, dtype, count, offset=self.places[key])[start : start + length]

    return _Storage(length, dtype, read_numbers)

  def place(self, key: str) -> None:
    """Notes where the numbers of the next storage begin, and passes over them."""
    length, start = int.from_bytes(self._file.read(8), 'little', signed=True), self._file.tell()
    end = start + self.lengths[key] * self._types[key].itemsize
    if length != self.lengths[key] or end > self._path.stat().st_size:
      raise pickle.UnpicklingError(f'storage {key} has not its {self.lengths[key]} numbers')
    self.places[key] = start
    self._file.seek(end)
