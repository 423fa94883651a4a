"""Tensors in PyTorch files of before version 1.6, without running what is in them: torchvision's and lpips' are such.

The layout: four pickles (a magic number, a version, facts about the machine, the tensors), a pickled list of the keys
of storages, then of each storage its length, 8 bytes, and its numbers. lrm_jax/weights/files.py has the words that the
pickle of tensors may use.
"""

from pathlib import Path
import pickle

import numpy as np

from lrm_jax.weights import files

# pylint: disable=protected-access,super-init-not-called,non-parent-init-called  (One reader of pickles, not two.)
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_VERSION = 1001
_DAMAGE = (EOFError, KeyError, pickle.UnpicklingError, IndexError, TypeError, AttributeError, UnicodeDecodeError)


def is_legacy(path: Path) -> bool:
  """Returns whether a file begins as one of those."""
  with open(path, 'rb') as file:
    return file.read(len(_MAGIC)) == _MAGIC


def read(path: Path) -> dict[str, files.Tensor]:
  """Returns {name: tensor} of such a file, as files.read does; ValueError where it is damaged or holds more."""
  with open(path, 'rb') as file:
    try:
      file.seek(len(_MAGIC))
      version, machine = (_Unpickler(file, path).load() for _ in range(2))
      if version != _VERSION or not machine['little_endian']:
        raise pickle.UnpicklingError(f'version {version} on a machine {machine}')
      unpickler = _Unpickler(file, path)
      content = unpickler.load()
      for key in _Unpickler(file, path).load():
        unpickler.place(key)
    except _DAMAGE as error:
      raise ValueError(f'{path} is damaged, or no file of PyTorch tensors: {error}') from error
  if missing := unpickler.lengths.keys() - unpickler.places.keys():
    raise ValueError(f'{path} is damaged: it ends before the numbers of storage {sorted(missing)[0]}')
  tensors = dict(files._flat(content))
  if not tensors:
    raise ValueError(f'{path} holds no tensors')
  return tensors


class _Unpickler(files._Unpickler):
  """Knows the same words; storages lie behind the pickle, where `place` finds them."""

  def __init__(self, file, path: Path):
    pickle.Unpickler.__init__(self, file, encoding='utf-8')
    self._file, self._path = file, path
    self._types, self.lengths, self.places = {}, {}, {}

  def find_class(self, module, name):
    # Of the first versions; its arguments are those of the second, less what is not read of them.
    return super().find_class(module, '_rebuild_tensor_v2' if name == '_rebuild_tensor' else name)

  def persistent_load(self, pid):
    kind, storage, key, _, count, view = pid
    if kind != 'storage' or storage not in files._DTYPES:
      raise ValueError(f'{self._path} holds a {kind} of {storage}, which is no tensor that is known')
    self._types[key], self.lengths[key] = np.dtype(files._DTYPES[storage]), count
    start, length = (0, count) if view is None else view[1:]
    if not 0 <= start <= start + length <= count:
      raise pickle.UnpicklingError(f'a view of storage {key} reaches beyond its {count} numbers')
    read = lambda: np.fromfile(self._path, self._types[key], count, offset=self.places[key])[start:start + length]
    return files._Storage(length, self._types[key], read)

  def place(self, key: str) -> None:
    """Notes where the numbers of the next storage begin, and passes over them."""
    length, start = int.from_bytes(self._file.read(8), 'little', signed=True), self._file.tell()
    end = start + self.lengths[key] * self._types[key].itemsize
    if length != self.lengths[key] or end > self._path.stat().st_size:
      raise pickle.UnpicklingError(f'storage {key} has not its {self.lengths[key]} numbers')
    self.places[key] = start
    self._file.seek(end)
