"""Image files of every kind become 8-bit sRGB, and what is assumed about them is said."""

import io
import struct

import cv2
import numpy as np
from PIL import Image, ImageCms
import pytest

from lrm_jax.errors import InputError
from lrm_jax.geometry import image_files

RED = (200, 30, 40)


def swapped_profile() -> bytes:
  """Returns the sRGB profile with red and blue exchanged, under another name."""
  data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
  (count,) = struct.unpack_from('>I', data, 128)
  entries = {bytes(data[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
  red, blue = entries[b'rXYZ'], entries[b'bXYZ']
  data[red : red + 8], data[blue : blue + 8] = data[blue : blue + 8], data[red : red + 8]
  return bytes(data).replace('sRGB'.encode('utf-16-be'), 'swap'.encode('utf-16-be'))


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
SWAPPED = swapped_profile()


def gradient(channels=3, height=20, width=32):
  """Returns smooth values [H, W, channels] in 0..1, from 0 to 1."""
  y, x = np.mgrid[:height, :width]
  return np.stack([(x / (width - 1) + channel * y / height) % 1.0000001 for channel in range(channels)], axis=-1)


@pytest.mark.parametrize('kind', ['RGB', 'RGBA', 'P', 'JPEG', 'TIFF', 'WebP'])
def test_colour_profiles_are_converted_to_srgb(kind, tmp_path):
  mode = kind if kind in ('RGBA', 'P') else 'RGB'
  image = Image.new('RGB', (16, 16), RED).convert(mode, palette=Image.Palette.ADAPTIVE)
  path = tmp_path / f'a.{dict(JPEG="jpg", TIFF="tif", WebP="webp").get(kind, "png")}'
  image.save(path, icc_profile=SWAPPED, **({'lossless': True} if kind == 'WebP' else {}))
  pixels, notes = image_files.read(path)
  assert np.abs(pixels[8, 8].astype(int) - [40, 30, 200, 255]).max() <= 4 and not notes


def test_alpha_survives_a_colour_profile(tmp_path):
  rgba = np.dstack([np.full((16, 16, 3), RED, np.uint8), np.arange(256, dtype=np.uint8).reshape(16, 16)])
  Image.fromarray(rgba).save(tmp_path / 'a.png', icc_profile=SWAPPED)
  np.testing.assert_array_equal(image_files.read(tmp_path / 'a.png')[0][..., 3], rgba[..., 3])


def test_srgb_profile_changes_nothing(tmp_path):
  pixels = np.round(gradient() * 255).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png', icc_profile=SRGB)
  found, notes = image_files.read(tmp_path / 'a.png')
  np.testing.assert_array_equal(found[..., :3], pixels)
  assert not notes


@pytest.mark.parametrize('mode, profile', [('RGB', b'no profile'), ('CMYK', SWAPPED), ('L', b'')])
def test_profiles_that_do_not_fit_are_said_and_ignored(mode, profile, tmp_path):
  image = Image.new('RGB', (16, 16), RED).convert(mode)
  image.save(tmp_path / 'a.tif', icc_profile=profile)
  pixels, notes = image_files.read(tmp_path / 'a.tif')
  np.testing.assert_array_equal(pixels[0, 0, :3], image.convert('RGB').getpixel((0, 0)))
  assert any('colour profile' in note for note in notes) == (mode != 'L')


def test_cmyk_without_a_profile_is_said_to_be_approximate(tmp_path):
  Image.new('RGB', (16, 16), RED).convert('CMYK').save(tmp_path / 'a.jpg', quality=95)
  pixels, (note,) = image_files.read(tmp_path / 'a.jpg')
  assert np.abs(pixels[8, 8, :3].astype(int) - RED).max() < 8 and 'CMYK without a colour profile' in note


def test_lab_is_converted(tmp_path):
  profiles = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')
  lab = ImageCms.profileToProfile(Image.new('RGB', (16, 16), RED), *profiles, outputMode='LAB')
  lab.save(tmp_path / 'a.tif')
  assert np.abs(image_files.read(tmp_path / 'a.tif')[0][0, 0, :3].astype(int) - RED).max() <= 8


# Values of an image, the range that is assumed, and whether that is said.
RANGES = {
  'float 0..1': (np.float32, 1, True),
  'float 0..255': (np.float32, 255, True),
  'float 0..65535': (np.float32, 65535, True),
  '8 bits in 16': (np.uint16, 255, True),
  '10 bits in 16': (np.uint16, 1023, True),
  '12 bits in 16': (np.uint16, 4095, True),
  '16 bits': (np.uint16, 65535, False),
}


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('kind', RANGES)
def test_ranges_are_recognised_and_said_where_they_are_assumed(kind, channels, tmp_path):
  dtype, top, is_said = RANGES[kind]
  values = gradient(channels)
  numbers = (values * top).astype(dtype)
  path = tmp_path / 'a.tif'
  cv2.imwrite(str(path), numbers[..., ::-1] if channels == 3 else numbers)
  pixels, notes = image_files.read(path)
  np.testing.assert_allclose(pixels[..., :channels] / 255, values, atol=0.006)
  assert [note for note in notes if f'read as sRGB in 0..{top}' in note] if is_said else not notes


def test_dark_floats_are_not_mistaken_for_bytes(tmp_path):
  Image.fromarray(np.full((9, 9), 0.3, np.float32)).save(tmp_path / 'a.tif')
  assert image_files.read(tmp_path / 'a.tif')[0][0, 0, 0] == 76  # 0.3 x 255


@pytest.mark.parametrize('channels', [3, 4])
def test_png_with_16_bits_keeps_colour_and_alpha(channels, tmp_path):
  values = gradient(channels)
  order = [2, 1, 0, 3][:channels]
  cv2.imwrite(str(tmp_path / 'a.png'), (values * 65535).astype(np.uint16)[..., order])
  pixels, notes = image_files.read(tmp_path / 'a.png')
  np.testing.assert_allclose(pixels[..., :channels] / 255, values, atol=0.006)
  assert not notes


@pytest.mark.parametrize('suffix, word', [('gif', 'frames'), ('png', 'frames'), ('webp', 'frames'), ('tif', 'pages')])
def test_the_first_frame_is_used_and_that_is_said(suffix, word, tmp_path):
  frames = [Image.new('RGB', (16, 16), color) for color in ('red', 'green', 'blue')]
  frames[0].save(tmp_path / f'a.{suffix}', save_all=True, append_images=frames[1:])
  pixels, notes = image_files.read(tmp_path / f'a.{suffix}')
  assert np.abs(pixels[0, 0, :3].astype(int) - [255, 0, 0]).max() < 12
  assert notes == [f'has 3 {word}: only the first is used']


def test_orientation_is_kept_with_16_bits(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray((gradient(1)[..., 0] * 65535).astype(np.uint16)).save(tmp_path / 'a.png', exif=exif)
  assert image_files.read(tmp_path / 'a.png')[0].shape == (32, 20, 4)
  assert image_files.read(tmp_path / 'a.png', upright=False)[0].shape == (20, 32, 4)


def bomb(width, height) -> bytes:
  """Returns the start of a PNG that claims a size; only the header has to be right."""
  stream = io.BytesIO()
  Image.new('L', (1, 1)).save(stream, 'PNG')
  data = bytearray(stream.getvalue())
  data[16:24] = struct.pack('>II', width, height)
  import zlib

  data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
  return bytes(data)


def test_too_many_pixels_are_refused_with_the_remedy(tmp_path):
  (tmp_path / 'a.png').write_bytes(bomb(100_000, 80_000))
  with pytest.raises(
    InputError, match='100000 x 80000 = 8,000,000,000 pixels, more than the limit .*max_pixels=8000000000'
  ):
    image_files.read(tmp_path / 'a.png')
  Image.new('RGB', (40, 30)).save(tmp_path / 'b.png')
  with pytest.raises(
    InputError, match='40 x 30 = 1,200 pixels, more than the limit of 1,199: make it smaller, or pass --max_pixels=1200'
  ):
    image_files.read(tmp_path / 'b.png', max_pixels=1199)
  assert image_files.read(tmp_path / 'b.png', max_pixels=1200)[0].shape == (30, 40, 4)


@pytest.mark.parametrize(
  'values, message',
  [
    (np.full((9, 9), np.nan, np.float32), 'NaN or infinite'),
    (np.full((9, 9), np.inf, np.float32), 'NaN or infinite'),
    (np.full((9, 9), 10**6, np.int32), 'values up to 1e.06: convert it'),
  ],
)
def test_values_that_are_no_colours_are_refused(values, message, tmp_path):
  Image.fromarray(values).save(tmp_path / 'a.tif')
  with pytest.raises(InputError, match=message):
    image_files.read(tmp_path / 'a.tif')
