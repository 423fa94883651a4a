"""Reads images of folders, adds alpha, pads them to squares, adapts their intrinsics, and encodes them."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lrm_jax.errors import InputError, passes

_MIN_DIFFERENCE = 8  # of 255, in any colour channel, between a pixel of the object and the background


@dataclasses.dataclass(frozen=True)
class Options:
  """Options for reading folders of views.

  `background` ('white' or 'black') is the background colour of images without alpha; all other pixels are the object.
  `quality` re-encodes images as lossy WebP of this quality, with lossless alpha; None keeps images as they are, or
  encodes them losslessly if they have to be changed. `num_views` reads only the first views; None reads all. `size` and
  `fill` are for videos: the pixels along a side of a view, and the share of that side that the object fills.
  """

  background: str | None = None
  quality: int | None = None
  num_views: int | None = None
  size: int = 512
  fill: float = 0.7


def load(path: Path, options: Options) -> np.ndarray:
  """Returns RGBA bytes [H, W, 4]; InputError, with the name of the file, if it is missing, damaged or has no alpha."""
  try:
    with Image.open(path) as image:
      has_alpha = image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info
      pixels = np.array(image.convert('RGBA'))
  except FileNotFoundError:
    raise InputError(f'{path.name} is missing') from None
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    if passes(error):
      raise
    raise InputError(f'{path.name} is not an image, or is truncated ({error})') from error
  if 0 in pixels.shape:
    raise InputError(f'{path.name} has no pixels')
  if not has_alpha:
    if options.background not in ('white', 'black'):
      raise InputError(
        f'{path.name} has no alpha channel: remove the background, or pass --background=white or '
        '--background=black if it has a plain one'
      )
    level = 255 if options.background == 'white' else 0
    pixels[..., 3] = 255 * (np.abs(pixels[..., :3].astype(int) - level).max(axis=-1) > _MIN_DIFFERENCE)
  return pixels


def encoded(path: Path, intrinsics: np.ndarray, options: Options) -> tuple[bytes, np.ndarray]:
  """Returns (encoded square image with alpha, its intrinsics [4]) of an image file.

  `intrinsics` [4] are (fx, fy, cx, cy) of the file, divided by its width and height. Images that are not square are
  padded with transparent borders. A square PNG or WebP that needs no change is returned as it is.
  """
  pixels = load(path, options)
  height, width = pixels.shape[:2]
  unchanged = height == width and options.quality is None and options.background is None
  if unchanged and path.suffix.lower() in ('.png', '.webp'):
    return path.read_bytes(), intrinsics
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  square = np.zeros((side, side, 4), np.uint8)
  square[top : top + height, left : left + width] = pixels
  scale = np.array([width, height, width, height]) / side
  return encode(square, options.quality), intrinsics * scale + np.array([0, 0, left, top]) / side


def encode(pixels: np.ndarray, quality: int | None) -> bytes:
  """Returns RGBA bytes [H, W, 4] encoded as WebP: lossless if `quality` is None, else with lossy colour."""
  stream = io.BytesIO()
  image = Image.fromarray(pixels)
  if quality is None:
    image.save(stream, 'WEBP', method=4, lossless=True, exact=True)
  else:
    image.save(stream, 'WEBP', method=4, quality=quality, alpha_quality=100)
  return stream.getvalue()


def array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the array of a .npy file as float64; InputError if it is missing, damaged or has another shape."""
  try:
    values = np.load(path)
  except FileNotFoundError:
    raise InputError(f'{path.name} is missing') from None
  except (ValueError, OSError, EOFError) as error:
    if passes(error):
      raise
    raise InputError(f'{path.name} cannot be read as an array ({error})') from error
  if values.shape != shape or not np.issubdtype(values.dtype, np.number):
    raise InputError(
      f'{path.name} has the shape {list(values.shape)} ({values.dtype}), expected numbers of shape {list(shape)}'
    )
  return values.astype(np.float64)
