"""Images are prepared as in training: a single object, centred, at the training size, on white."""

import numpy as np
from PIL import Image
import pytest

from lrm_jax.datasets.records import open_split
from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.reconstruction import preprocess

EMBEDDED = 'data/embedded/object_views/1.0.0'
RED = np.array([200, 30, 40], np.uint8)


def extent_of(image):
  """Returns (longer side / image's side, centre (x, y) in 0..1) of the pixels that are not white."""
  rows, columns = (np.flatnonzero((image.min(-1) < 0.9).any(axis)) for axis in (1, 0))
  size = len(image)
  return (max(np.ptp(rows), np.ptp(columns)) + 1) / size, ((columns.mean() + 0.5) / size, (rows.mean() + 0.5) / size)


def scene(height=90, width=160, box=(20, 60, 100, 130)):
  """Returns RGBA bytes of a red box (top, bottom, left, right) on a transparent background."""
  rgba = np.zeros((height, width, 4), np.uint8)
  top, bottom, left, right = box
  rgba[top:bottom, left:right] = [*RED, 255]
  return rgba


def save(pixels, path, **kwargs):
  Image.fromarray(pixels).save(path, **kwargs)
  return path


def test_object_is_centred_at_the_size_of_training(tmp_path):
  for box in ((20, 60, 100, 130), (0, 90, 0, 20), (50, 60, 10, 150)):
    prepared = preprocess.prepare(save(scene(box=box), tmp_path / 'a.png'), 64)
    extent, centre = extent_of(prepared.image)
    assert prepared.has_mask and prepared.image.shape == (64, 64, 3) and prepared.image.dtype == np.float32
    np.testing.assert_allclose(extent, preprocess.FILL, atol=2.5 / 64)
    np.testing.assert_allclose(centre, 0.5, atol=1.5 / 64)
    np.testing.assert_allclose(prepared.image[32, 32], RED / 255, atol=0.01)
    np.testing.assert_array_equal(prepared.image[0], 1.0)


def test_fill_equals_that_of_the_training_objects():
  source = open_split(EMBEDDED, 'train')
  extents = []
  for index in range(0, len(source), 8):
    alpha = images.decode(source[index]['views'][0])[..., 3:]
    extents.append(extent_of(1 - np.repeat(alpha > 0.5, 3, axis=-1).astype(np.float32))[0])
  assert abs(np.median(extents) - preprocess.FILL) < 0.05


def test_frontal_training_view_is_almost_unchanged(tmp_path):
  source = open_split(EMBEDDED, 'test')
  encoded = source[3]['views'][0]
  (tmp_path / 'view.webp').write_bytes(encoded)
  prepared = preprocess.prepare(tmp_path / 'view.webp', 64).image
  seen = images.over(images.resize(images.decode(encoded), 64), 1.0)
  assert abs(extent_of(prepared)[0] - preprocess.FILL) < 0.05
  assert abs(extent_of(prepared)[0] - extent_of(seen)[0]) < 0.3


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', '1', 'I;16', 'CMYK', 'LA', 'RGBA', 'PA'])
def test_every_image_mode_is_read(tmp_path, mode):
  rgba = Image.fromarray(scene())
  if mode == 'I;16':
    image = Image.fromarray(np.asarray(rgba.convert('L'), np.uint16) * 257)
  elif mode == 'PA':  # A palette with a transparent colour, as in GIF files.
    image = rgba.convert('RGB').convert('P')
    image.info['transparency'] = image.getpixel((0, 0))
  else:
    image = (rgba if 'A' in mode else rgba.convert('RGB')).convert(mode)
  path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
  image.save(path)
  pixels = preprocess.read(path)
  assert pixels.shape == (90, 160, 4) and pixels.min() >= 0 and pixels.max() <= 1
  assert (pixels[..., 3].min() < 0.5) == (mode in ('LA', 'RGBA', 'PA'))
  if mode == 'I;16':
    np.testing.assert_allclose(pixels[40, 110, 0], np.asarray(rgba.convert('L'))[40, 110] / 255, atol=0.01)
  assert np.isfinite(preprocess.prepare(path, 32).image).all()


def test_exif_orientation_is_applied(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # Orientation: rotated by 90 degrees.
  save(scene()[..., :3], tmp_path / 'a.jpg', exif=exif)
  assert preprocess.read(tmp_path / 'a.jpg').shape == (160, 90, 4)


def test_image_without_mask_is_used_whole(tmp_path):
  pixels = np.full((60, 120, 3), 255, np.uint8)
  pixels[20:40, 20:100] = RED
  prepared = preprocess.prepare(save(pixels, tmp_path / 'a.png'), 60)
  assert not prepared.has_mask
  extent, centre = extent_of(prepared.image)
  np.testing.assert_allclose((extent, *centre), (80 / 120, 0.5, 0.5), atol=0.02)
  np.testing.assert_allclose(prepared.image[0, 0], 1)


def test_background_is_removed(tmp_path, rng):
  y, x = np.mgrid[:120, :160]
  pixels = np.clip(rng.normal([70, 150, 90], 6, (120, 160, 3)), 0, 255).astype(np.uint8)
  disc = (x - 90) ** 2 + (y - 60) ** 2 < 30**2
  pixels[disc] = RED
  path = save(pixels, tmp_path / 'a.png')
  alpha = preprocess.cut_out(preprocess.read(path))[..., 3] > 0.5
  assert (alpha & disc).sum() / (alpha | disc).sum() > 0.9
  prepared = preprocess.prepare(path, 64, remove_background=True)
  assert prepared.has_mask
  np.testing.assert_allclose(extent_of(prepared.image)[0], preprocess.FILL, atol=0.06)
  np.testing.assert_array_equal(prepared.image[0], 1.0)


def test_background_removal_keeps_existing_alpha(tmp_path):
  path = save(scene(), tmp_path / 'a.png')
  for remove in (False, True):
    image = preprocess.prepare(path, 32, remove_background=remove).image
    np.testing.assert_array_equal(image, preprocess.prepare(path, 32).image)


def test_large_image_needs_little_memory(tmp_path):
  prepared = preprocess.prepare(save(np.full((40, 6000, 3), 255, np.uint8), tmp_path / 'a.png'), 32)
  assert prepared.image.shape == (32, 32, 3)
  assert max(preprocess.read(tmp_path / 'a.png').shape) == 2048


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda path: path.write_bytes(b'no image'), 'is not a readable image'),
    (lambda path: path.write_bytes(b''), 'is not a readable image'),
    (lambda path: path.mkdir(), 'is not a readable image'),
    (lambda path: save(np.zeros((20, 20, 4), np.uint8), path), 'completely transparent'),
    (lambda path: save(scene(box=(4, 6, 4, 7)), path), 'only 3 pixels'),
  ],
)
def test_unusable_images_raise(tmp_path, make, message):
  make(tmp_path / 'a.png')
  with pytest.raises(ValueError, match=message):
    preprocess.prepare(tmp_path / 'a.png', 32)


def test_truncated_image_raises(tmp_path, rng):
  path = save(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), tmp_path / 'a.png')
  path.write_bytes(path.read_bytes()[:2000])
  with pytest.raises(ValueError, match='a.png is not a readable image'):
    preprocess.prepare(path, 32)


def test_missing_image_raises(tmp_path):
  with pytest.raises(InputError, match='no such file'):
    preprocess.prepare(tmp_path / 'a.png', 32)
