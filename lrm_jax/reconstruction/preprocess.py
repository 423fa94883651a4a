"""Prepares an image for a model: one object, centred, at the size it had in training, on a plain grey background.

Training objects fill a sphere of radius 0.634, seen by a camera with a field of view of 50 degrees at distance 2: the
longer side of the object's outline then covers about FILL of the image. Third-party models use other sizes and greys.
Legend: H W image.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lrm_jax.errors import InputError
from lrm_jax.geometry import images

FILL = 0.58  # Median over the frontal views of the embedded dataset; see tests/test_preprocess.py.
_SMALLEST = 8  # pixels along the longer side of an object
_LARGEST = 2048  # pixels along a side; larger images are reduced first, to save memory


@dataclasses.dataclass(frozen=True)
class Prepared:
  """`image` [S, S, 3] in 0..1. `has_mask` says whether the object was cut out."""

  image: np.ndarray
  has_mask: bool


def prepare(
  path: str | Path, size: int, *, remove_background: bool = False, fill: float = FILL, background: float = 1.0
) -> Prepared:
  """Returns the image in a file, of any size and mode, as the network expects it.

  If the image has transparency, or with `remove_background`, the object is cut out, centred, scaled to the fraction
  `fill` of the image and composited over a grey `background` in 0..1. Otherwise the whole image is used, padded to a
  square with the colour of its border.
  Raises InputError if the file is not an image or shows no object.
  """
  rgba = read(path)
  opaque = rgba[..., 3].min() > 0.99
  if opaque and not remove_background:
    return Prepared(_whole(rgba, size), False)
  if opaque:
    rgba = cut_out(rgba)
    if not np.any(rgba[..., 3] > 0.5):
      raise InputError(
        f'{path}: no object could be separated from the background: cut it out by hand and give a PNG with alpha'
      )
  return Prepared(centre(rgba, size, name=str(path), fill=fill, background=background), True)


def read(path: str | Path) -> np.ndarray:
  """Returns any image that Pillow opens as [H, W, 4] in 0..1, upright, with straight alpha."""
  try:
    with Image.open(path) as file:
      image = ImageOps.exif_transpose(file)
      if image.mode.startswith('I') or image.mode == 'F':  # 16 or 32-bit grey, which Pillow would clip.
        grey = np.asarray(image, np.float64)
        image = Image.fromarray(images.to_bytes(grey / (65535 if grey.max() > 255 else 255)))
      image = image.convert('RGBA')
      image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
      return np.asarray(image, np.float32) / 255
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise InputError(f'{path} is not a readable image ({error}): give a PNG, JPEG or WebP') from error


def centre(
  rgba: np.ndarray, size: int, *, name: str = 'the image', fill: float = FILL, background: float = 1.0
) -> np.ndarray:
  """Returns [size, size, 3] over a grey, with the opaque part centred and its longer side `fill` of the image."""
  visible = rgba[..., 3] > 0.5
  if not visible.any():
    raise InputError(f'{name} is completely transparent: it shows no object')
  rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
  top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
  extent = max(bottom - top, right - left)
  if extent < _SMALLEST:
    raise InputError(f'{name} shows an object of only {extent} pixels: it must have at least {_SMALLEST}')
  side = max(round(extent / fill), extent)
  square = np.zeros((side, side, 4), np.float32)
  premultiplied = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
  y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
  square[y : y + bottom - top, x : x + right - left] = premultiplied[top:bottom, left:right]
  return images.over(images.resize(square, size), background).astype(np.float32)


def cut_out(rgba: np.ndarray) -> np.ndarray:
  """Returns the image with an alpha channel that keeps the object in its middle (OpenCV's GrabCut)."""
  import cv2  # It takes half a second to import, and most images do not need it.

  height, width = rgba.shape[:2]
  scale = min(1.0, 512 / max(height, width))
  small = cv2.resize(
    images.to_bytes(rgba[..., :3]),
    (max(8, int(width * scale)), max(8, int(height * scale))),
    interpolation=cv2.INTER_AREA,
  )
  h, w = small.shape[:2]
  margin_y, margin_x = max(1, h // 25), max(1, w // 25)
  mask = np.zeros((h, w), np.uint8)
  cv2.setRNGSeed(0)
  cv2.grabCut(
    small[..., ::-1].copy(),
    mask,
    (margin_x, margin_y, w - 2 * margin_x, h - 2 * margin_y),
    np.zeros((1, 65)),
    np.zeros((1, 65)),
    5,
    cv2.GC_INIT_WITH_RECT,
  )
  alpha = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
  alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR)
  return np.concatenate([rgba[..., :3], (alpha * rgba[..., 3])[..., None]], axis=-1)


def _whole(rgba: np.ndarray, size: int) -> np.ndarray:
  """Returns the image centred on a square of its median border colour."""
  color = rgba[..., :3]
  height, width = color.shape[:2]
  border = np.concatenate([color[0], color[-1], color[:, 0], color[:, -1]])
  side = max(height, width)
  square = np.broadcast_to(np.median(border, axis=0), (side, side, 3)).astype(np.float32).copy()
  top, left = (side - height) // 2, (side - width) // 2
  square[top : top + height, left : left + width] = color
  return np.clip(images.resize(square, size), 0, 1).astype(np.float32)
