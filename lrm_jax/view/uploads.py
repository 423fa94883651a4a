"""Uploaded images: checked by their content, stored for a while, with the mask of their object.

The type of a file is what Pillow finds in it, never its name. Files that claim more pixels than the limit are refused
before they are decoded. Legend: H W image.
"""

from collections import OrderedDict
from collections.abc import Sequence
import dataclasses
import io
from pathlib import Path
import re
import secrets
import shutil
import threading
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from lrm_jax.errors import InputError, one_line
from lrm_jax.geometry import image_files, images
from lrm_jax.reconstruction import masks, preprocess, segmenters
from lrm_jax.reconstruction.preprocess import Prepared
from lrm_jax.reconstruction.reconstructor import Reconstructor
from lrm_jax.view.request_error import RequestError

_FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'AVIF')
_WORDS = 'a PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF file'
_LARGEST = 2048  # pixels along the longer side of a stored image, as in preprocess.py
_KEPT = 64  # images, at most; the oldest are removed
_RATIOS = 0.1, 1.0  # of the image's side that the object's longer side may cover

Mask = np.ndarray | Literal['auto', 'none']  # [H, W] in 0..1; the stored mask; the whole image


@dataclasses.dataclass(frozen=True)
class Upload:
  """A stored image; `folder` has image.png (RGB) and mask.png (grey), both `width` x `height`.

  `name` is the stem of the uploaded file, `found` says whether the mask shows an object, and `notes` are sentences
  for the user.
  """

  id: str
  name: str
  folder: Path
  width: int
  height: int
  found: bool
  notes: tuple[str, ...]


class Uploads:
  """The stored images, in a directory of their own. All methods may be called from any thread."""

  def __init__(self, directory: Path, max_pixels: int, segmenter: segmenters.Segmenter | None = None):
    self._directory, self._max_pixels = directory, max_pixels
    self._segmenter = segmenter or segmenters.GrabCut()
    self._uploads: OrderedDict[str, Upload] = OrderedDict()
    self._lock = threading.Lock()

  def get(self, identifier: str) -> Upload:
    """Returns a stored image; RequestError with 404 if there is none."""
    with self._lock:
      if identifier not in self._uploads:
        raise RequestError(404, f'there is no image {identifier[:40]!r}: upload it again, old ones are removed')
      self._uploads.move_to_end(identifier)
      return self._uploads[identifier]

  def add(self, data: bytes, file_name: str) -> Upload:
    """Stores an image and the mask of its object: its transparency, or what the segmenter finds.

    Raises RequestError: 415 if the data are not an image, 413 if it has too many pixels, and 422 if it cannot be read.
    """
    name = stem(file_name)
    check(data, shown(file_name), self._max_pixels)
    identifier = secrets.token_hex(8)
    folder = self._directory / identifier
    folder.mkdir(parents=True)
    try:
      rgba, notes = _read(data, folder / 'upload', shown(file_name))
      rgba, found, more = _masked(rgba, shown(file_name), self._segmenter)
      _save(rgba[..., :3], folder / 'image.png')
      _save(rgba[..., 3], folder / 'mask.png')
    except BaseException:
      shutil.rmtree(folder, ignore_errors=True)
      raise
    height, width = rgba.shape[:2]
    upload = Upload(identifier, name, folder, width, height, found, (*notes, *more))
    with self._lock:
      self._uploads[identifier] = upload
      old = [self._uploads.popitem(last=False)[1] for _ in range(len(self._uploads) - _KEPT)]
    for one in old:
      shutil.rmtree(one.folder, ignore_errors=True)
    return upload

  def segment(self, identifier: str, box: Sequence[float]) -> Upload:
    """Replaces the mask by the object inside of a box (left, top, right, bottom) in 0..1; returns the image.

    Raises RequestError with 422 if the box has no object.
    """
    upload = self.get(identifier)
    rgb = _load(upload.folder / 'image.png')
    try:
      opaque = np.dstack([rgb, np.ones(rgb.shape[:2], np.float32)])
      alpha = segmenters.cut_out(opaque, self._segmenter, box)[0][..., 3]
    except InputError as error:
      raise RequestError(400, str(error)) from error
    if not np.any(alpha > 0.5):
      raise RequestError(422, 'no object was found in the box: draw a larger one, or paint the mask')
    _save(alpha, upload.folder / 'mask.png')
    upload = dataclasses.replace(upload, found=True)
    with self._lock:
      self._uploads[identifier] = upload
    return upload

  def prepare(self, upload: Upload, model: Reconstructor, mask: Mask = 'auto', ratio: float | None = None) -> Prepared:
    """Returns the image [S, S, 3] that the network sees, S = `model.image_size`, and notes about it.

    `ratio` is the fraction of the image that the longer side of the object covers (default: that of the training).
    Raises RequestError with 422 if nothing is left of the object, and with 400 if the ratio is out of range.
    """
    if ratio is not None and not _RATIOS[0] <= ratio <= _RATIOS[1]:
      raise RequestError(400, f'foreground_ratio={ratio:g} must be in {_RATIOS[0]:g} to {_RATIOS[1]:g}')
    rgb = _load(upload.folder / 'image.png')
    if isinstance(mask, str) and mask == 'auto':
      mask = _load(upload.folder / 'mask.png')
    try:
      if isinstance(mask, str):
        opaque = np.dstack([rgb, np.ones(rgb.shape[:2], np.float32)])
        return Prepared(preprocess.whole(opaque, model.image_size), False)
      rgba = np.dstack([rgb, _resized(mask, upload.width, upload.height)])
      fill = model.fill if ratio is None else ratio
      image, notes = preprocess.centre(rgba, model.image_size, fill=fill, background=model.input_background)
    except InputError as error:
      raise RequestError(422, str(error)) from error
    return Prepared(image, True, tuple(f'The image {note}' for note in notes))


def check(data: bytes, name: str, max_pixels: int) -> tuple[int, int]:
  """Returns the (width, height) of an image file; raises RequestError if it is not an image, damaged or too large."""
  try:
    with image_files.without_pillows_limit(), Image.open(io.BytesIO(data), formats=_formats()) as image:
      width, height = image.size
      if width * height > max_pixels:
        raise RequestError(
          413, f'{name} has {width} x {height} pixels, more than the limit of {max_pixels:,}: make it smaller'
        )
      image.verify()
  except RequestError:
    raise
  except UnidentifiedImageError:
    raise RequestError(415, f'{name} is not an image: give {_WORDS}') from None
  except Exception as error:  # Decoders of damaged files raise anything.
    raise RequestError(422, f'{name} is damaged ({one_line(error)[:120]}): give {_WORDS}') from error
  return width, height


def read_mask(data: bytes, max_pixels: int) -> np.ndarray:
  """Returns a mask [H, W] in 0..1: the opacity of an image file or, if it is opaque, its brightness."""
  check(data, 'the mask', max_pixels)
  with image_files.without_pillows_limit(), Image.open(io.BytesIO(data), formats=_formats()) as image:
    mask = masks.of_image(image)
  mask.thumbnail((_LARGEST, _LARGEST))
  return np.asarray(mask, np.float32) / 255


def _formats() -> list[str]:
  """Returns the formats that are accepted and that this version of Pillow reads."""
  Image.init()
  return [name for name in _FORMATS if name in Image.OPEN]


def stem(file_name: str) -> str:
  """Returns the stem of an uploaded file's name, of letters, digits, '-' and '_' only: 'image' if none are left."""
  last = re.split(r'[/\\]', file_name)[-1]
  name = last.rpartition('.')[0] or last
  return re.sub(r'[^0-9A-Za-z_-]+', '_', name).strip('_-')[:48] or 'image'


def shown(file_name: str) -> str:
  """Returns an uploaded file's name for messages."""
  printable = ''.join(letter for letter in file_name if letter.isprintable())
  return re.split(r'[/\\]', printable)[-1][-60:] or 'the file'


def _read(data: bytes, path: Path, name: str) -> tuple[np.ndarray, list[str]]:
  """Returns (RGBA [H, W, 4] in 0..1 with straight alpha, upright, in sRGB, notes) of an image file."""
  path.write_bytes(data)
  try:
    pixels, notes = image_files.read(path, largest=_LARGEST)
  except InputError as error:
    raise RequestError(422, str(error).replace(str(path), name)) from error
  finally:
    path.unlink()
  return pixels.astype(np.float32) / 255, [f'{name} {note}' for note in notes]


def _masked(rgba: np.ndarray, name: str, segmenter: segmenters.Segmenter) -> tuple[np.ndarray, bool, list[str]]:
  """Returns (image whose alpha [H, W] is the object, whether there is one, notes)."""
  cut_out, doubt = preprocess.is_cut_out(rgba), None
  if cut_out:  # What programs leave behind full transparency is not part of the image.
    rgba[rgba[..., 3] == 0, :3] = 1
  else:
    rgba = preprocess.over(rgba, 1.0)
  try:
    rgba, _, doubt = preprocess.without_background(rgba, name=name, segmenter=segmenter)
  except InputError:
    rgba[..., 3] = 0
  if not np.any(rgba[..., 3] > 0.5):
    return rgba, False, ['No object was found: draw a box around it, paint it, or use the whole image']
  if cut_out:
    return rgba, True, []
  unsure = doubt is not None and doubt > segmenters.DOUBTFUL
  more = f' It is unsure: a second start changes {doubt:.0%} of the object.' if unsure else ''
  return rgba, True, [f'The background was removed by {segmenter.name}: check the mask.{more}']


def _save(values: np.ndarray, path: Path) -> None:
  """Writes [H, W] or [H, W, 3] in 0..1 as a PNG; a reader sees the old file or the new one."""
  fresh = path.with_suffix('.tmp')
  Image.fromarray(images.to_bytes(values)).save(fresh, 'PNG', compress_level=1)
  fresh.replace(path)


def _load(path: Path) -> np.ndarray:
  with Image.open(path) as image:
    return np.asarray(image, np.float32) / 255


def _resized(mask: np.ndarray, width: int, height: int) -> np.ndarray:
  """Returns a mask [H, W] at the size of the image."""
  if mask.shape == (height, width):
    return mask
  return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR))
