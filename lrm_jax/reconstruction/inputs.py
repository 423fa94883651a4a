"""What users give as images: files, folders and patterns for the command; files, PIL images and arrays in Python."""

from collections.abc import Iterator, Sequence
import contextlib
import glob
from pathlib import Path
import tempfile

import numpy as np
from PIL import Image

from lrm_jax.errors import InputError
from lrm_jax.geometry import images

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.avif', '.jp2')

ImageLike = str | Path | Image.Image | np.ndarray


def find_images(sources: Sequence[str | Path]) -> list[Path]:
  """Returns the image files of paths, folders and glob patterns, each once, in this order and sorted within each.

  Of a folder, all files with the suffix of an image are taken, without subfolders. A path without wildcards is taken as
  it is, so that a missing file is reported where it is read. Raises InputError if a folder or a pattern has no image.
  """
  found: list[Path] = []
  for source in sources:
    path = Path(source)
    if path.is_dir():
      part = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
      if not part:
        raise InputError(f'{path} contains no image: expected files with the suffix {", ".join(SUFFIXES)}')
    elif not path.exists() and glob.has_magic(str(source)):
      part = [Path(name) for name in sorted(glob.glob(str(source), recursive=True)) if Path(name).is_file()]
      if not part:
        raise InputError(f'no file matches the pattern {source}')
    else:
      part = [path]
    found += part
  return list(dict.fromkeys(found))


@contextlib.contextmanager
def as_file(image: ImageLike) -> Iterator[Path]:
  """Yields the path of an image: its own, or that of a temporary PNG.

  Arrays are [H, W], [H, W, 3] or [H, W, 4], bytes or floats in 0..1, with straight alpha. Raises InputError for others.
  InputErrors of the block that name the temporary file are changed to name the image instead.
  """
  if isinstance(image, (str, Path)):
    yield Path(image)
    return
  if not isinstance(image, Image.Image):
    image = Image.fromarray(_bytes(image))
  with tempfile.TemporaryDirectory(prefix='lrm_jax_') as folder:
    path = Path(folder) / 'image.png'
    if image.mode not in ('1', 'L', 'LA', 'I', 'I;16', 'P', 'RGB', 'RGBA'):
      image = image.convert('RGB')
    image.save(path, compress_level=1)
    try:
      yield path
    except InputError as error:
      raise InputError(str(error).replace(str(path), 'the image')) from error


def _bytes(image) -> np.ndarray:
  array = np.asarray(image)
  if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)) or not array.size:
    raise InputError(f'an array of shape {array.shape} is no image: use [H, W, 3] or [H, W, 4], or [H, W] for grey')
  if array.dtype == bool:  # A mask.
    return array.astype(np.uint8) * 255
  if array.dtype == np.uint8:
    return array
  if not np.issubdtype(array.dtype, np.floating):
    raise InputError(f'an image array of {array.dtype} is not supported: use uint8, or floats in 0..1')
  if not (np.all(np.isfinite(array)) and array.min() >= 0 and array.max() <= 1):
    raise InputError(
      f'an image array of floats must be in 0..1, but its values are {array.min():g}..{array.max():g}: scale it'
    )
  return images.to_bytes(array)
