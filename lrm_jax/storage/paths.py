"""Directories on this machine or in a cloud's store: gs://bucket/... and s3://bucket/..., by the libraries that etils and Orbax use."""

import importlib.resources
import os
from pathlib import Path

from etils import epath

from lrm_jax import extras

EMBEDDED = 'embedded'  # the name of the dataset that is part of the package
_LOCAL = 'file://'
# scheme: modules that read and write it, and what brings them
_BACKENDS = {
  'gs': (('gcsfs', 'google.cloud.storage'), "'.[gs]' (gcsfs, google-cloud-storage)"),
  's3': (('s3fs', 'boto3'), "'.[s3]' (s3fs, boto3)"),
}


def directory(path: str | os.PathLike) -> epath.Path:
  """Returns the absolute path of a directory: local, file:///..., gs://... or s3://....

  Raises ValueError for another scheme, and for one whose libraries are not installed, with what to install.
  """
  text = os.fspath(path)
  if text.startswith(_LOCAL):
    text = text.removeprefix(_LOCAL)
    if not text.startswith('/'):
      raise ValueError(f'{path}: write file:///path, with three slashes')
  scheme, found, _ = text.partition('://')
  if not found:
    return epath.Path(Path(text).absolute())
  if scheme not in _BACKENDS:
    raise ValueError(f'{path}: directories are local, or begin with {", ".join(f"{name}://" for name in _BACKENDS)}')
  modules, packages = _BACKENDS[scheme]
  if not all(extras.installed(module) for module in modules):
    raise ValueError(f'{path}: {scheme}:// needs pip install {packages}; they are not here')
  return epath.Path(text)


def dataset(path: str | os.PathLike) -> epath.Path:
  """Returns the path of a dataset: as `directory`, or the dataset that is part of the package where `path` is 'embedded'.

  Raises ValueError for s3://, which ArrayRecord cannot read.
  """
  if os.fspath(path) == EMBEDDED:
    return epath.Path(str(importlib.resources.files('lrm_jax.data') / 'embedded' / 'object_views' / '1.0.0'))
  if os.fspath(path).startswith('s3://'):
    raise ValueError(f'{path}: ArrayRecord reads datasets that are local or on gs://; copy it, or mount the bucket')
  return directory(path)


def is_local(path: epath.Path) -> bool:
  """Returns whether files in it can be appended to and locked."""
  return '://' not in os.fspath(path)
