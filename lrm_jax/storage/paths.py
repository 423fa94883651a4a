"""Directories, local or in cloud storage (gs://bucket/..., s3://bucket/...), accessed through etils and Orbax."""

import hashlib
import importlib.resources
import os
from pathlib import Path
import shutil

from etils import epath

from lrm_jax import extras
from lrm_jax.errors import InputError

EMBEDDED = 'embedded'  # the name of the dataset that ships with the package
SECONDS_BETWEEN_UPLOADS = 60.0  # of a file that grows: cloud storage cannot append, so the whole file is written again
_LOCAL = 'file://'
# scheme: (modules that access it, packages that provide them)
_BACKENDS = {
  'gs': (('gcsfs', 'google.cloud.storage'), "'.[gs]' (gcsfs, google-cloud-storage)"),
  's3': (('s3fs', 'boto3'), "'.[s3]' (s3fs, boto3)"),
}


def directory(path: str | os.PathLike) -> epath.Path:
  """Returns the absolute path of a directory: local, file:///..., gs://... or s3://....

  Raises InputError for other schemes, and for a scheme whose libraries are not installed, with what to install.
  """
  text = os.fspath(path)
  if text.startswith(_LOCAL):
    text = text.removeprefix(_LOCAL)
    if not text.startswith('/'):
      raise InputError(f'{path}: a file URL needs three slashes, file:///path')
  scheme, found, _ = text.partition('://')
  if not found:
    return epath.Path(Path(text).absolute())
  if scheme not in _BACKENDS:
    raise InputError(f'{path}: a directory must be local or begin with {", ".join(f"{name}://" for name in _BACKENDS)}')
  modules, packages = _BACKENDS[scheme]
  if not all(extras.installed(module) for module in modules):
    raise InputError(f'{path}: {scheme}:// needs packages that are not installed: pip install {packages}')
  return epath.Path(text)


def dataset(path: str | os.PathLike) -> epath.Path:
  """Returns the path of a dataset: as `directory`; 'embedded' is the dataset that ships with the package.

  Raises InputError for s3://, which ArrayRecord cannot read.
  """
  if os.fspath(path) == EMBEDDED:
    return epath.Path(str(importlib.resources.files('lrm_jax.data') / 'embedded' / 'object_views' / '1.0.0'))
  if os.fspath(path).startswith('s3://'):
    raise InputError(f'{path}: ArrayRecord cannot read s3://; copy the dataset to a local directory or to gs://')
  return directory(path)


def local_file(path: str | os.PathLike) -> Path:
  """Returns a local path of a file: the file itself, or a copy of a gs:// or s3:// file in the user's cache.

  The copy is made once for each version of the file. If there is no such file, returns a path that does not exist.
  """
  where = directory(path)
  if is_local(where) or not where.is_file():
    return Path(os.fspath(path).removeprefix(_LOCAL)) if is_local(where) else Path(os.fspath(path))
  stat = where.stat()
  version = hashlib.sha256(f'{where} {stat.length} {stat.mtime}'.encode()).hexdigest()[:16]
  cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'lrm_jax' / 'inputs'
  copy = cache / version / where.name
  if not copy.is_file():
    copy.parent.mkdir(parents=True, exist_ok=True)
    fresh = copy.with_name(f'.{copy.name}.{os.getpid()}.partial')
    try:
      with where.open('rb') as source, open(fresh, 'wb') as target:
        shutil.copyfileobj(source, target, 2**24)
      fresh.replace(copy)
    finally:
      fresh.unlink(missing_ok=True)
  return copy


def check_writable(path: str | os.PathLike) -> None:
  """Raises InputError if a directory, which need not exist yet, cannot be written. Cloud storage is not tried."""
  where = directory(path)
  if not is_local(where):
    return
  place = Path(os.fspath(where))
  while not place.exists():
    place = place.parent
  if not place.is_dir():
    raise InputError(f'{place} is a file: give a directory')
  if os.statvfs(place).f_flag & os.ST_RDONLY or not os.access(place, os.W_OK):
    raise InputError(f'{place} cannot be written: give another directory, or change its permissions')


def is_local(path: epath.Path) -> bool:
  """Returns whether a path is local, so that its files can be appended to and locked."""
  return '://' not in os.fspath(path)
