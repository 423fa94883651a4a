"""The dataset `object_views`: one record an object, its views as encoded pictures with their cameras.

Packs the folders that data/render.py writes into ArrayRecord shards, without TensorFlow. Pictures stay encoded, so
that a reader decodes only the views it picks. See data/README.md for the format.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds


class ObjectViews(tfds.core.GeneratorBasedBuilder):
  """Views of 3D objects from known cameras.

  `splits` maps the name of a split to rendered folders; `quality` is that of lossy WebP (alpha stays lossless), None
  for the pictures as they are; `num_views` takes the first so many views, None all.
  """

  name = 'object_views'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Views, cameras, and the map from the object to the world.'}

  def __init__(self, *, splits: dict[str, list[Path]] | None = None, quality: int | None = None,
               num_views: int | None = None, **kwargs):
    self._folders, self._quality, self._num_views = splits or {}, quality, num_views
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description='Rendered views of 3D objects, with cameras. World: z up, object in the cube [-1, 1]^3.',
        features=tfds.features.FeaturesDict({
            'uid': tfds.features.Text(),
            'views': tfds.features.Sequence(tfds.features.Text()),  # Encoded RGBA pictures, straight alpha.
            'camera_to_world': tfds.features.Tensor(shape=(None, 4, 4), dtype=np.float32),
            'intrinsics': tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            'object_to_world': tfds.features.Tensor(shape=(4, 4), dtype=np.float32),
        }))

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(folders) for split, folders in self._folders.items()}

  def _generate_examples(self, folders):
    for folder in folders:
      yield folder.name, read_folder(folder, quality=self._quality, num_views=self._num_views)


def read_folder(folder: Path, *, quality: int | None = None, num_views: int | None = None) -> dict:
  """Returns the record of a rendered folder; ValueError, with its name, where something in it is wrong."""
  with np.load(folder / 'cameras.npz') as cameras:
    poses, intrinsics = cameras['camera_to_world'][:num_views], cameras['intrinsics'][:num_views]
    object_to_world = cameras['object_to_world']
  if not (np.all(np.isfinite(poses)) and np.all(np.isfinite(intrinsics))):
    raise ValueError(f'{folder}: a camera has values that are no numbers: render it again')
  views = []
  for view in range(len(poses)):
    path = folder / 'views' / f'{view:03d}.webp'
    if not path.is_file():
      raise ValueError(f'{path} is missing, though there are {len(poses)} cameras: render {folder.name} again')
    views.append(_encode(path, quality))
  return {
      'uid': folder.name, 'views': views, 'camera_to_world': poses.astype(np.float32),
      'intrinsics': intrinsics.astype(np.float32), 'object_to_world': object_to_world.astype(np.float32),
  }


def _encode(path: Path, quality: int | None) -> bytes:
  if quality is None:
    return path.read_bytes()
  stream = io.BytesIO()
  with Image.open(path) as picture:
    picture.save(stream, 'WEBP', quality=quality, method=4, alpha_quality=100)
  return stream.getvalue()
