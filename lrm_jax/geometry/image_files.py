"""Reads image files of every kind as 8-bit sRGB with straight alpha: colour profiles, palettes, CMYK, 16 bits, floats.

Pillow decodes the files; OpenCV decodes colour images with 16 bits or floats per channel, which Pillow would truncate.
An assumption about a file is never silent: it is returned as a note, one sentence for the user.
Legend: H W image.
"""

from collections.abc import Iterator
import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lrm_jax.errors import InputError, passes

MAX_PIXELS = 2**28  # pixels of an image, 1 GiB as RGBA: a small file can claim a size that does not fit into memory
_TIFF_BITS = 258  # tag BitsPerSample
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError)


def read(
  path: str | Path, *, max_pixels: int = MAX_PIXELS, largest: int | None = None, upright: bool = True
) -> tuple[np.ndarray, list[str]]:
  """Returns (RGBA bytes [H, W, 4] in sRGB, notes about what was assumed or ignored).

  The first frame of an animation is read. `upright` applies the EXIF orientation. If a side is longer than `largest`
  pixels, the image is reduced to it. Raises InputError if the file is missing, is not an image, is damaged, has more
  than `max_pixels` pixels, or has values that are not numbers.
  """
  try:
    with without_pillows_limit(), Image.open(path) as file:
      width, height = file.size
      if width * height > max_pixels:
        raise InputError(
          f'{path} has {width} x {height} = {width * height:,} pixels, more than the limit of {max_pixels:,}: make it '
          f'smaller, or pass --max_pixels={width * height}'
        )
      if not width * height:
        raise InputError(f'{path} has no pixels')
      notes = list(_frame_notes(file))
      image, assumed = _eight_bits(file, path)
      notes += assumed
      if upright:
        ImageOps.exif_transpose(image, in_place=True)  # Otherwise, images without an orientation are copied.
      if largest is not None and max(image.size) > largest:
        image = image.convert('RGBA' if image.mode in ('P', 'PA') or 'transparency' in image.info else image.mode)
        image.thumbnail((largest, largest), Image.Resampling.BOX)
      image, assumed = _srgb(image)
      return np.array(image), notes + assumed
  except InputError:
    raise
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except UnidentifiedImageError as error:
    image = _from_opencv(path)
    if image is None:
      raise InputError(f'{path} is not a readable image ({error}): give a PNG, JPEG or WebP') from error
    image, notes = _from_numbers(image, path, None)
    return np.array(image.convert('RGBA')), notes
  except _UNREADABLE as error:
    if passes(error):
      raise
    raise InputError(f'{path} is not a readable image ({error}): give a PNG, JPEG or WebP') from error


def has_alpha(path: Path) -> bool:
  """Returns whether an image file has an alpha channel or a transparent colour; OSError if it is not an image."""
  with without_pillows_limit(), Image.open(path) as image:
    return _has_alpha(image)


def is_plain(path: Path) -> bool:
  """Returns whether an image is 8-bit sRGB with alpha, so that any decoder returns what `read` does."""
  with without_pillows_limit(), Image.open(path) as image:
    profile = image.info.get('icc_profile')
    frames = getattr(image, 'n_frames', 1)
    return image.mode == 'RGBA' and not _has_wide_channels(image) and (not profile or _is_srgb(profile)) and frames == 1


@contextlib.contextmanager
def without_pillows_limit() -> Iterator[None]:
  """Switches off Pillow's limit, whose message does not name the remedy: `read` checks the size itself."""
  limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
  try:
    yield
  finally:
    Image.MAX_IMAGE_PIXELS = limit


def _frame_notes(file) -> Iterator[str]:
  frames = getattr(file, 'n_frames', 1)
  if frames > 1 and file.format != 'MPO':  # Phones write the photo first, then previews or depth.
    yield f'has {frames} {"pages" if file.format == "TIFF" else "frames"}: only the first is used'


def _has_alpha(image) -> bool:
  return image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info


def _has_wide_channels(image) -> bool:
  """Returns whether a colour image has more than 8 bits per channel, which Pillow drops."""
  return image.mode in ('RGB', 'RGBA') and any(';16' in str(tile[3]) for tile in getattr(image, 'tile', ()))


def _eight_bits(file, path):
  """Returns (image with 8 bits per channel, notes)."""
  profile = file.info.get('icc_profile')
  if file.mode.startswith('I') or file.mode == 'F':
    bits = getattr(file, 'tag_v2', {}).get(_TIFF_BITS, (None,))
    image, notes = _from_numbers(np.asarray(file), path, bits[0])
  elif _has_wide_channels(file):
    pixels = _from_opencv(path)
    if pixels is None:
      return file, []
    image, notes = _from_numbers(pixels, path, None)
  else:
    return file, []
  exif = file.getexif()
  image.info.update({'exif': exif.tobytes()} if exif else {})
  image.info.update({'icc_profile': profile} if profile else {})
  image._exif = exif  # exif_transpose reads the orientation from here.
  return image, notes


def _from_opencv(path) -> np.ndarray | None:
  """Returns the numbers of an image [H, W] or [H, W, C], in RGB(A) order, or None if OpenCV cannot read it."""
  import cv2  # Takes 0.1 s to import, and most images do not need it.

  try:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
  except cv2.error:
    return None
  if pixels is None or pixels.ndim == 2:
    return pixels
  return pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]]


def _from_numbers(values: np.ndarray, path, bits: int | None):
  """Returns (8-bit image, notes) of integers with more than 8 bits, or floats; the notes state the assumed range."""
  integers = np.issubdtype(values.dtype, np.integer)
  if not integers and not np.all(np.isfinite(values)):
    raise InputError(f'{path} has pixels that are NaN or infinite: replace them, or give a PNG')
  low, high = float(values.min()), float(values.max())
  whole = integers or (high > 2 and np.all(values == np.round(values)))
  if whole and bits not in (None, 32):
    top = 2**bits - 1 if high < 2**bits else 65535
    known = bits != 16 or high > 4095
  elif whole:
    top, known = 65535, high > 4095
  else:
    top, known = (1 if high <= 2 else 255 if high <= 255 else 65535), False
  if whole and not known:
    top = next(top for top in (255, 1023, 4095) if high <= top)
  if high > 65535:
    raise InputError(f'{path} has values up to {high:g}: convert it to 8 or 16 bits per channel')
  notes = []
  if not known:
    notes.append(
      f'has {"whole-number" if integers else "float"} values from {low:.4g} to {high:.4g}: read as sRGB in 0..{top}'
    )
  if integers:  # Look values up, because images with 16 bits may be large.
    table = np.round(np.clip(np.arange(2**16) / top, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(table[np.maximum(values, 0)]), notes
  return Image.fromarray(np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8)), notes


def _srgb(image):
  """Returns (RGBA image in sRGB, notes)."""
  profile, notes = image.info.get('icc_profile'), []
  if image.mode == 'RGBA' and not profile:
    return image, notes
  alpha = image.convert('RGBA').getchannel('A') if _has_alpha(image) else None
  if image.mode == 'LAB' and not profile:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
  if profile and not _is_srgb(profile):
    try:
      color = _convert(image, profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
      if image.mode == 'LAB':
        raise
      color = image.convert('RGBA').convert('RGB')
      notes.append(f'has a colour profile that cannot be applied ({error}): its colours are read as sRGB')
  else:
    if image.mode == 'CMYK':
      notes.append('is CMYK without a colour profile: its colours are approximate')
    color = image.convert('RGBA').convert('RGB')
  result = color.convert('RGBA')
  if alpha is not None:
    result.putalpha(alpha)
  return result, notes


def _convert(image, profile: bytes):
  """Returns an image converted from the colour profile to sRGB; PyCMSError if the profile does not fit the image."""
  source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
  space = source.profile.xcolor_space.strip()
  if space == 'RGB' and image.mode not in ('CMYK', 'LAB'):
    image = image.convert('RGBA').convert('RGB')
  elif space == 'GRAY' and image.mode in ('1', 'L', 'LA'):
    image = image.convert('L')
  elif (space, image.mode) not in (('CMYK', 'CMYK'), ('Lab', 'LAB'), ('LAB', 'LAB')):
    raise ImageCms.PyCMSError(f'a profile for {space} on an image of mode {image.mode}')
  return ImageCms.profileToProfile(
    image,
    source,
    ImageCms.createProfile('sRGB'),
    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    outputMode='RGB',
    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
  )


def _is_srgb(profile: bytes) -> bool:
  try:
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
  except (ImageCms.PyCMSError, OSError, TypeError):
    return False
  return 'sRGB' in name and 'linear' not in name.lower()
