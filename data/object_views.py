"""The datasets of views: one record an object, its views as encoded pictures with their cameras.

Packs folders of views, in the layouts that lrm_jax/folders knows, into ArrayRecord shards, without TensorFlow. Pictures
stay encoded, so that a reader decodes only the views it picks. See data/README.md for the format.
"""

from collections.abc import Mapping
import functools
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from lrm_jax.datasets import folders
from lrm_jax.datasets.folders.pictures import Options
from lrm_jax.datasets.records import BrokenRecordError


class ObjectViews(tfds.core.GeneratorBasedBuilder):
  """Views of 3D objects from known cameras.

  `splits` maps the name of a split to {uid: folder}; `options` are those of lrm_jax/datasets/folders/pictures.py. An object that
  cannot be read is left out, and `skipped` says why: {uid: reason}. With `by_beam` objects are read by a pipeline of
  Apache Beam, whose options go with `download_and_prepare`.
  """

  name = 'object_views'
  layout = 'rendered'
  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES = {
    '1.0.0': 'Views, cameras, and the map from the object to the world.',
    '1.1.0': 'Depth of the views, and points on the surface, where there are any.',
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
      description='Views of 3D objects, with cameras. World: z up, the object around the origin.',
      metadata=tfds.core.MetadataDict({'format_version': str(self.VERSION), 'layout': self.layout}),
      features=tfds.features.FeaturesDict(
        {
          'uid': tfds.features.Text(),
          'views': encoded,  # RGBA pictures, straight alpha.
          'camera_to_world': tfds.features.Tensor(shape=(None, 4, 4), dtype=np.float32),
          'intrinsics': tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
          'object_to_world': tfds.features.Tensor(shape=(4, 4), dtype=np.float32),
          'depth': encoded,  # 16-bit PNG; empty where there is none.
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
    return self._one_after_another(found)

  def _one_after_another(self, found):
    for uid, folder in found.items():
      try:
        yield uid, example_of(folders.read(self.layout, uid, folder, self._options))
      except BrokenRecordError as error:
        self.skipped[uid] = str(error)

  def _pipeline(self, found):
    import apache_beam as beam  # pylint: disable=import-outside-toplevel

    work = [(uid, str(Path(folder).absolute())) for uid, folder in found.items()]
    read = functools.partial(_read_or_note, self.layout, self._options, str(self.notes.absolute()))
    return beam.Create(work) | beam.Reshuffle() | beam.FlatMap(read)

  @property
  def notes(self) -> Path:
    """Where the workers of a pipeline note what they leave out, a file an object: what they remember, nobody reads."""
    return Path(self.data_dir).parent / '.skipped'


class ObjaverseViews(ObjectViews):
  """Rendered objects: what data/render.py writes."""

  name = 'objaverse_views'


class MVImgNet(ObjectViews):
  """Videos of real objects: COLMAP cameras and masks, as MVImgNet has them."""

  name = 'mvimgnet'
  layout = 'video'


class OpenLRMFolders(ObjectViews):
  """Objects in OpenLRM's layout."""

  name = 'openlrm_folders'
  layout = 'openlrm'


class NeRFFolders(ObjectViews):
  """Objects with a transforms.json each."""

  name = 'nerf_folders'
  layout = 'nerf'


BUILDERS = {builder.layout: builder for builder in (ObjaverseViews, MVImgNet, OpenLRMFolders, NeRFFolders)}


def _read_or_note(layout, options, notes, work):
  """Yields (uid, example) of an object, or notes why there is none."""
  uid, folder = work
  try:
    yield uid, example_of(folders.read(layout, uid, Path(folder), options))
  except BrokenRecordError as error:
    Path(notes).mkdir(parents=True, exist_ok=True)
    (Path(notes) / f'{uid}.txt').write_text(str(error))


def example_of(record: Mapping) -> dict:
  """Returns the features of a record as they are stored."""

  def single(name):
    return np.asarray(record[name], np.float32)

  return {
    'uid': record['uid'],
    'views': record['views'],
    'camera_to_world': single('camera_to_world'),
    'intrinsics': single('intrinsics'),
    'object_to_world': single('object_to_world'),
    'depth': record.get('depth', []),
    'surface_points': np.asarray(record.get('surface_points', np.zeros((0, 3))), np.float32),
  }
