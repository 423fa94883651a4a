"""Pictures of folders -> encoded, square, with an alpha; their intrinsics with them."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

_DIFFERS = 8  # of 255, at least, in a colour: what is not the background


@dataclasses.dataclass(frozen=True)
class Options:
  """`background`: 'white' or 'black', where pictures have no alpha and everything else is the object.

  `quality` is that of lossy WebP (alpha stays lossless), None for the pictures as they are, or lossless. `num_views`
  takes the first so many, None all. `size` and `fill` are for videos: pixels along a side of a view, and the object's
  share of it.
  """

  background: str | None = None
  quality: int | None = None
  num_views: int | None = None
  size: int = 512
  fill: float = 0.7


def load(path: Path, options: Options) -> np.ndarray:
  """Returns RGBA bytes [H, W, 4]; ValueError with the name of the file where it cannot be."""
  try:
    with Image.open(path) as picture:
      has_alpha = picture.mode in ('RGBA', 'LA', 'PA') or 'transparency' in picture.info
      pixels = np.array(picture.convert('RGBA'))
  except FileNotFoundError:
    raise ValueError(f'{path.name} is missing') from None
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    raise ValueError(f'{path.name} is no whole picture ({error})') from error
  if 0 in pixels.shape:
    raise ValueError(f'{path.name} has no pixels')
  if not has_alpha:
    if options.background not in ('white', 'black'):
      raise ValueError(
        f'{path.name} has no alpha: give pictures whose background is cut out, or say what it is, '
        '--background=white or black'
      )
    ground = 255 if options.background == 'white' else 0
    pixels[..., 3] = 255 * (np.abs(pixels[..., :3].astype(int) - ground).max(axis=-1) > _DIFFERS)
  return pixels


def encoded(path: Path, intrinsics: np.ndarray, options: Options) -> tuple[bytes, np.ndarray]:
  """Returns (a square picture with alpha, its intrinsics [4]) of a file with `intrinsics` [4] divided by width, height.

  What is higher than wide, or wider than high, gets transparent borders; a file that is right already stays as it is.
  """
  pixels = load(path, options)
  height, width = pixels.shape[:2]
  if (
    height == width
    and options.quality is None
    and path.suffix.lower() in ('.png', '.webp')
    and options.background is None
  ):
    return path.read_bytes(), intrinsics
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  square = np.zeros((side, side, 4), np.uint8)
  square[top : top + height, left : left + width] = pixels
  scale = np.array([width, height, width, height]) / side
  return encode(square, options.quality), intrinsics * scale + np.array([0, 0, left, top]) / side


def encode(pixels: np.ndarray, quality: int | None) -> bytes:
  """Returns the WebP of RGBA bytes: lossless, or with lossy colour of this quality."""
  stream = io.BytesIO()
  how = dict(lossless=True, exact=True) if quality is None else dict(quality=quality, alpha_quality=100)
  Image.fromarray(pixels).save(stream, 'WEBP', method=4, **how)
  return stream.getvalue()


def array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the float64 array of a .npy file; ValueError where it is damaged or of another shape."""
  try:
    values = np.load(path)
  except FileNotFoundError:
    raise ValueError(f'{path.name} is missing') from None
  except (ValueError, OSError, EOFError) as error:
    raise ValueError(f'{path.name} is no array that can be read ({error})') from error
  if values.shape != shape or not np.issubdtype(values.dtype, np.number):
    raise ValueError(f'{path.name} has the shape {list(values.shape)} ({values.dtype}), not {list(shape)}')
  return values.astype(np.float64)
