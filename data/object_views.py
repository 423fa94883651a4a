"""Builders of the datasets of views: one record per object, with encoded images and their cameras.

They pack folders of views, in the layouts of lrm_jax/datasets/folders, into ArrayRecord shards, without TensorFlow.
Images stay encoded, so that a reader decodes only the views it uses. The format is described in data/README.md.
"""

from collections.abc import Mapping
import functools
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from lrm_jax.datasets import folders
from lrm_jax.datasets.folders.images import Options
from lrm_jax.datasets.records import BrokenRecordError


class ObjectViews(tfds.core.GeneratorBasedBuilder):
  """Views of 3D objects from known cameras.

  `splits` maps the name of a split to {uid: folder}. `options` are passed to the readers of
  lrm_jax/datasets/folders. Objects that cannot be read are left out, and recorded in `skipped` {uid: reason}. With
  `by_beam`, objects are read by an Apache Beam pipeline, whose options are given to `download_and_prepare`.
  """

  name = 'object_views'
  layout = 'rendered'
  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES = {
    '1.0.0': 'Views, cameras, and the transform from the object to the world.',
    '1.1.0': 'Optional depth of the views and points on the surface.',
  }

  def __init__(
    self,
    *,
    splits: Mapping[str, Mapping[str, Path]] | None = None,
    options: Options = Options(),
    by_beam: bool = False,
    **kwargs,
  ):
    self._folders, self._options, self._by_beam, self.skipped = splits or {}, options, by_beam, {}
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    encoded = tfds.features.Sequence(tfds.features.Text())
    return tfds.core.DatasetInfo(
      builder=self,
      description='Views of 3D objects, with cameras. World: z up, the object is at the origin.',
      metadata=tfds.core.MetadataDict({'format_version': str(self.VERSION), 'layout': self.layout}),
      features=tfds.features.FeaturesDict(
        {
          'uid': tfds.features.Text(),
          'views': encoded,  # RGBA images, straight alpha.
          'camera_to_world': tfds.features.Tensor(shape=(None, 4, 4), dtype=np.float32),
          'intrinsics': tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
          'object_to_world': tfds.features.Tensor(shape=(4, 4), dtype=np.float32),
          'depth': encoded,  # 16-bit PNG; empty if there is no depth.
          'surface_points': tfds.features.Tensor(shape=(None, 3), dtype=np.float32),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(found) for split, found in self._folders.items()}

  def _generate_examples(self, found):
    if self._by_beam:
      return self._pipeline(found)
    return self._read_in_sequence(found)

  def _read_in_sequence(self, found):
    for uid, folder in found.items():
      try:
        yield uid, example_of(folders.read(self.layout, uid, folder, self._options))
      except BrokenRecordError as error:
        self.skipped[uid] = str(error)

  def _pipeline(self, found):
    import apache_beam as beam

    work = [(uid, str(Path(folder).absolute())) for uid, folder in found.items()]
    read = functools.partial(_read_in_beam, self.layout, self._options, str(self.notes.absolute()))
    return beam.Create(work) | beam.Reshuffle() | beam.FlatMap(read)

  @property
  def notes(self) -> Path:
    """The folder where Beam workers write the reason for each object they skip, one file per object.

    Workers run in other processes, so they cannot write to `skipped`.
    """
    return Path(self.data_dir).parent / '.skipped'


class ObjaverseViews(ObjectViews):
  """Rendered objects: the output of data/render.py."""

  name = 'objaverse_views'


class MVImgNet(ObjectViews):
  """Videos of real objects with COLMAP cameras and masks, as in MVImgNet."""

  name = 'mvimgnet'
  layout = 'video'


class OpenLRMFolders(ObjectViews):
  """Objects in OpenLRM's layout."""

  name = 'openlrm_folders'
  layout = 'openlrm'


class NeRFFolders(ObjectViews):
  """Objects with one transforms.json each, as in NeRF."""

  name = 'nerf_folders'
  layout = 'nerf'


BUILDERS = {builder.layout: builder for builder in (ObjaverseViews, MVImgNet, OpenLRMFolders, NeRFFolders)}


def _read_in_beam(layout, options, notes, work):
  """Yields (uid, example) of an object, or writes the reason why it is skipped to `notes`."""
  uid, folder = work
  try:
    yield uid, example_of(folders.read(layout, uid, Path(folder), options))
  except BrokenRecordError as error:
    Path(notes).mkdir(parents=True, exist_ok=True)
    (Path(notes) / f'{uid}.txt').write_text(str(error))


def example_of(record: Mapping) -> dict:
  """Returns the features of a record as they are stored: arrays as float32, optional features empty if missing."""

  def float32(name):
    return np.asarray(record[name], np.float32)

  return {
    'uid': record['uid'],
    'views': record['views'],
    'camera_to_world': float32('camera_to_world'),
    'intrinsics': float32('intrinsics'),
    'object_to_world': float32('object_to_world'),
    'depth': record.get('depth', []),
    'surface_points': np.asarray(record.get('surface_points', np.zeros((0, 3))), np.float32),
  }
