"""Reads images of folders, adds alpha, pads them to squares, adapts their intrinsics, and encodes them."""

import dataclasses
import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lrm_jax.datasets.folders import lens
from lrm_jax.errors import InputError, passes
from lrm_jax.geometry import image_files

_LOGGER = logging.getLogger(__name__)
_LARGEST_LABEL = 15  # of a mask of labels; opacities are larger
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


def load(path: Path, options: Options, mask: Path | None = None) -> np.ndarray:
  """Returns RGBA bytes [H, W, 4] in sRGB, whose alpha is the mask if one is given.

  Raises InputError, with the name of the file, if a file is missing or damaged, if there is neither alpha nor a mask,
  or if the mask has another size than the image.
  """
  pixels = _read(path)
  if mask is not None:
    alpha = load_mask(mask)
    if alpha.shape != pixels.shape[:2]:
      raise InputError(
        f'the mask {mask.name} is {alpha.shape[1]} x {alpha.shape[0]} pixels, but {path.name} is {pixels.shape[1]} x '
        f'{pixels.shape[0]}: they must have the same size'
      )
    pixels[..., 3] = alpha
  elif not image_files.has_alpha(path):
    if options.background not in ('white', 'black'):
      raise InputError(
        f'{path.name} has no alpha channel: remove the background, or pass --background=white or '
        '--background=black if it has a plain one'
      )
    level = 255 if options.background == 'white' else 0
    pixels[..., 3] = 255 * (np.abs(pixels[..., :3].astype(int) - level).max(axis=-1) > _MIN_DIFFERENCE)
  return pixels


def load_mask(path: Path) -> np.ndarray:
  """Returns the opacity [H, W], 0..255, that a mask file stands for.

  Masks with two values, such as 0 and 1, and masks of labels up to 15 are read as background (0) and object. If the
  file has an alpha channel and its colours say nothing, alpha is the mask.
  """
  try:
    with Image.open(path) as image:
      if image.mode.startswith('I') or image.mode in ('F', '1'):
        values = np.asarray(image, np.float64)
      else:
        rgba = np.asarray(image.convert('RGBA'), np.float64)
        color, alpha = rgba[..., :3].max(axis=-1), rgba[..., 3]
        values = color * alpha / 255
        if np.ptp(alpha) and (np.ptp(color) == 0 or not values.any()):
          values = alpha
  except FileNotFoundError:
    raise InputError(f'the mask {path.name} is missing') from None
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
    if passes(error):
      raise
    raise InputError(f'the mask {path.name} is not an image, or is truncated ({error})') from error
  if not np.all(np.isfinite(values)):
    raise InputError(f'the mask {path.name} has NaN or infinite values')
  if values.max() <= _LARGEST_LABEL or len(np.unique(values)) <= 2:
    values = 255.0 * (values > 0)
  return np.round(np.clip(values * (255 / max(values.max(), 255)), 0, 255)).astype(np.uint8)


def encoded(
  path: Path,
  intrinsics: np.ndarray,
  options: Options,
  *,
  mask: Path | None = None,
  distortion: np.ndarray | None = None,
) -> tuple[bytes, np.ndarray]:
  """Returns (encoded square image with alpha, its intrinsics [4]) of an image file.

  `intrinsics` [4] are (fx, fy, cx, cy) of the file, divided by its width and height. `mask` is a file with its alpha,
  and `distortion` are the coefficients of its lens (lrm_jax/datasets/folders/lens.py), which are undone. Images that
  are not square are padded with transparent borders. A square PNG or WebP that needs no change is returned as it is.
  """
  pixels = load(path, options, mask)
  height, width = pixels.shape[:2]
  is_bent = distortion is not None and np.any(distortion)
  unchanged = not is_bent and height == width and options.quality is None and options.background is None
  if unchanged and mask is None and path.suffix.lower() in ('.png', '.webp') and image_files.is_plain(path):
    return path.read_bytes(), intrinsics
  if is_bent:
    assert distortion is not None
    size = np.array([width, height])
    pixels = lens.undistort(pixels, intrinsics[:2] * size, intrinsics[2:] * size, distortion)
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  square = np.zeros((side, side, 4), np.uint8)
  square[top : top + height, left : left + width] = pixels
  scale = np.array([width, height, width, height]) / side
  return encode(square, options.quality), intrinsics * scale + np.array([0, 0, left, top]) / side


def _read(path: Path) -> np.ndarray:
  try:
    pixels, notes = image_files.read(path, upright=False)  # COLMAP and nerfstudio ignore the EXIF orientation, too.
  except InputError as error:
    reason = str(error).removeprefix(str(path)).lstrip(': ')
    if reason == 'no such file':
      raise InputError(f'{path.name} is missing') from None
    if reason.startswith('is not a readable image'):
      raise InputError(f'{path.name} is not an image, or is truncated ({reason})') from error
    raise InputError(f'{path.name} {reason}') from error
  for note in notes:
    _LOGGER.warning('%s %s', path, note)
  return pixels


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
    raise InputError(f'{path.name} cannot be read as an array ({error})') from error
  if values.shape != shape or not np.issubdtype(values.dtype, np.number):
    raise InputError(
      f'{path.name} has the shape {list(values.shape)} ({values.dtype}), expected numbers of shape {list(shape)}'
    )
  return values.astype(np.float64)
