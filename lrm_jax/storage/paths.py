"""Directories, local or in cloud storage (gs://bucket/..., s3://bucket/...), accessed through etils and Orbax."""

import importlib.resources
import os
from pathlib import Path

from etils import epath

from lrm_jax import extras
from lrm_jax.errors import InputError

EMBEDDED = 'embedded'  # the name of the dataset that ships with the package
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


def is_local(path: epath.Path) -> bool:
  """Returns whether a path is local, so that its files can be appended to and locked."""
  return '://' not in os.fspath(path)
