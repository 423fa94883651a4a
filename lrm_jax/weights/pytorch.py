"""Reads PyTorch files (.pth, .pt, .bin, .ckpt) without PyTorch and without executing code from them.

A pickle is a program. This reader allows only the few functions that build tensors and rejects any other before it is
called. Since PyTorch 1.6 a file is a zip archive of one pickle and the raw storages. The legacy format, which the files
of torchvision and lpips use, is four pickles (a magic number, a version, information about the machine, the tensors),
then a pickled list of storage keys, then for each storage its length in 8 bytes and its elements.
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

from lrm_jax.errors import InputError, passes
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
  """Returns whether a file has the legacy format of PyTorch before 1.6."""
  with open(path, 'rb') as file:
    return file.read(len(_MAGIC)) == _MAGIC


def read(path: Path) -> dict[str, Tensor]:
  """Returns {name: tensor} of a file. Names of nested dictionaries are joined by dots; other values are skipped.

  Raises InputError if the file is damaged, has no tensors, or contains objects other than tensors and plain values.
  """
  try:
    content = _legacy_content(path) if is_legacy(path) else _zip_content(path)
  except _DAMAGE as error:
    if passes(error):
      raise
    raise InputError(f'{path} is damaged or not a file of PyTorch tensors: {error}') from error
  tensors = dict(_flat(content))
  if not tensors:
    raise InputError(f'{path} contains no tensors')
  return tensors


def _zip_content(path: Path):
  archive = zipfile.ZipFile(path)  # Stays open as long as one of its tensors is referenced.
  pickles = [name for name in archive.namelist() if name.endswith('/data.pkl') or name == 'data.pkl']
  if len(pickles) != 1:
    raise InputError(f'{path} is a zip file but not a PyTorch file: expected one data.pkl in it, found {len(pickles)}')
  return _ZipUnpickler(archive, pickles[0].removesuffix('data.pkl'), path).load()


def _legacy_content(path: Path):
  with open(path, 'rb') as file:
    file.seek(len(_MAGIC))
    version, machine = (_LegacyUnpickler(file, path).load() for _ in range(2))
    if version != _LEGACY_VERSION or not machine['little_endian']:
      raise pickle.UnpicklingError(f'unsupported format version {version} or machine {machine}')
    unpickler = _LegacyUnpickler(file, path)
    content = unpickler.load()
    for key in _LegacyUnpickler(file, path).load():
      unpickler.place(key)
  if missing := unpickler.lengths.keys() - unpickler.places.keys():
    raise pickle.UnpicklingError(f'the file ends before the data of storage {sorted(missing)[0]}')
  return content


def _flat(content, prefix='') -> Iterator[tuple[str, Tensor]]:
  if isinstance(content, Tensor):
    yield prefix.removesuffix('.'), content
  elif isinstance(content, Mapping):
    for name, value in content.items():
      yield from _flat(value, f'{prefix}{name}.')


@dataclasses.dataclass(frozen=True)
class _Storage:
  """A flat array in a file; `read` returns the elements that the file has, which may be fewer than `length`."""

  length: int
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  def __len__(self):
    return self.length

  def elements(self) -> np.ndarray:
    """Returns all elements; raises InputError if the file has fewer than it declares."""
    elements = self.read()
    if len(elements) < self.length:
      raise InputError(
        f'PyTorch file is damaged: a storage declares {self.length} elements but contains {len(elements)}'
      )
    return elements


def view(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_) -> Tensor:
  """Returns a view of a storage; offset and strides count elements, as in PyTorch.

  Raises UnpicklingError if the view exceeds the storage.
  """
  last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
  # Never read outside the storage, whatever the file declares. PyTorch has no negative strides.
  inside = offset >= 0 and min((*shape, *strides), default=0) >= 0 and (not math.prod(shape) or last < len(storage))
  if len(shape) != len(strides) or not inside:
    raise pickle.UnpicklingError(
      f'a tensor of shape {shape} and strides {strides} exceeds its storage of {len(storage)} elements'
    )
  steps = [stride * storage.dtype.itemsize for stride in strides]

  def read_view():
    return np.lib.stride_tricks.as_strided(storage.elements()[offset:], shape, steps)

  return Tensor(tuple(shape), storage.dtype, read_view)


class _Unpickler(pickle.Unpickler):
  """Unpickles only tensors, parameters and ordered dictionaries; subclasses locate storages in `_storage`."""

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
      raise InputError(
        f'{self._path} calls {module}.{name}, which is not needed to load tensors and could run arbitrary code: '
        'the file was not loaded. If you trust it, open it with PyTorch and save only its tensors (safetensors is best)'
      )
    return known[module, name]

  def persistent_load(self, pid):
    kind, storage, key, _, count, *view = pid
    if kind != 'storage' or storage not in _DTYPES:
      raise InputError(f'{self._path} contains a {kind} of type {storage}, which is not a supported tensor storage')
    return self._storage(key, np.dtype(_DTYPES[storage]), count, *view)  # type: ignore[attr-defined]


class _ZipUnpickler(_Unpickler):
  """Reads the zip format: storages are members of the archive."""

  def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path):
    super().__init__(io.BytesIO(archive.read(folder + 'data.pkl')), path)
    self._archive, self._folder = archive, folder

  def _storage(self, key, dtype, count):
    member = self._archive.getinfo(f'{self._folder}data/{key}')
    length = member.file_size // dtype.itemsize
    if length < count:
      raise InputError(f'{self._path} is damaged: storage {key} has {length} of {count} elements')

    def read_elements():
      try:
        return np.frombuffer(self._archive.read(member), dtype)
      except (zipfile.BadZipFile, EOFError, OSError) as error:
        if passes(error):
          raise
        raise InputError(f'{self._path} is damaged: {error}') from error

    return _Storage(length, dtype, read_elements)


class _LegacyUnpickler(_Unpickler):
  """Reads the legacy format: storages follow the pickle, and `place` records their offsets."""

  def __init__(self, file, path: Path):
    super().__init__(file, path)
    self._file, self._types, self.lengths, self.places = file, {}, {}, {}

  def _storage(self, key, dtype, count, view):
    self._types[key], self.lengths[key] = dtype, count
    start, length = (0, count) if view is None else view[1:]
    if not 0 <= start <= start + length <= count:
      raise pickle.UnpicklingError(f'a view of storage {key} exceeds its {count} elements')

    def read_elements():
      return np.fromfile(self._path, dtype, count, offset=self.places[key])[start : start + length]

    return _Storage(length, dtype, read_elements)

  def place(self, key: str) -> None:
    """Records the file offset of the next storage and skips its data."""
    length, start = int.from_bytes(self._file.read(8), 'little', signed=True), self._file.tell()
    end = start + self.lengths[key] * self._types[key].itemsize
    if length != self.lengths[key] or end > self._path.stat().st_size:
      raise pickle.UnpicklingError(f'storage {key} does not have its {self.lengths[key]} elements')
    self.places[key] = start
    self._file.seek(end)
