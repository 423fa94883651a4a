"""Images are prepared as in training: a single object, centred, at the training size, on white."""

import numpy as np
from PIL import Image
import pytest

from lrm_jax.datasets.records import open_split
from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.reconstruction import preprocess
from lrm_jax.reconstruction.segmenters import cut_out

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
  pixels, _ = preprocess.read(path)
  assert pixels.shape == (90, 160, 4) and pixels.min() >= 0 and pixels.max() <= 1
  assert (pixels[..., 3].min() < 0.5) == (mode in ('LA', 'RGBA', 'PA'))
  if mode == 'I;16':
    np.testing.assert_allclose(pixels[40, 110, 0], np.asarray(rgba.convert('L'))[40, 110] / 255, atol=0.01)
  assert np.isfinite(preprocess.prepare(path, 32).image).all()


def test_exif_orientation_is_applied(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # Orientation: rotated by 90 degrees.
  save(scene()[..., :3], tmp_path / 'a.jpg', exif=exif)
  assert preprocess.read(tmp_path / 'a.jpg')[0].shape == (160, 90, 4)


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
  alpha = cut_out(preprocess.read(path)[0])[0][..., 3] > 0.5
  assert (alpha & disc).sum() / (alpha | disc).sum() > 0.9
  prepared = preprocess.prepare(path, 64, remove_background=True)
  assert prepared.has_mask
  np.testing.assert_allclose(extent_of(prepared.image)[0], preprocess.FILL, atol=0.06)
  np.testing.assert_array_equal(prepared.image[0], 1.0)


def test_background_removal_keeps_existing_alpha(tmp_path):
  path = save(scene(), tmp_path / 'a.png')
  for remove in (False, True):
    prepared = preprocess.prepare(path, 32, remove_background=remove)
    np.testing.assert_array_equal(prepared.image, preprocess.prepare(path, 32).image)
    assert any('already cut out' in note for note in prepared.notes) == remove


def test_large_image_needs_little_memory(tmp_path):
  pixels = np.full((40, 6000, 3), 255, np.uint8)
  pixels[10:30, 1000:5000] = RED
  prepared = preprocess.prepare(save(pixels, tmp_path / 'a.png'), 32)
  assert prepared.image.shape == (32, 32, 3)
  assert max(preprocess.read(tmp_path / 'a.png')[0].shape) == 2048


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda path: path.write_bytes(b'no image'), 'is not a readable image'),
    (lambda path: path.write_bytes(b''), 'is not a readable image'),
    (lambda path: path.mkdir(), 'is not a readable image'),
    (lambda path: save(np.zeros((20, 20, 4), np.uint8), path), 'completely transparent'),
    (lambda path: save(scene(box=(4, 6, 4, 7)), path), 'only 3 pixels'),
    (lambda path: save(np.full((1, 1, 3), 200, np.uint8), path), 'is 1 x 1 pixels: a side must have at least 8'),
    (lambda path: save(np.full((1, 1, 4), 255, np.uint8), path), 'is 1 x 1 pixels: a side must have at least 8'),
    (lambda path: save(np.full((7, 300, 3), 200, np.uint8), path), 'is 300 x 7 pixels'),
    (lambda path: save(np.full((40, 40, 3), 200, np.uint8), path), 'has the same colour everywhere'),
    (lambda path: save(np.full((40, 40, 4), 10, np.uint8), path), 'completely transparent .its largest opacity is 4%'),
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


def disc(size=120, centre=(60, 60), radius=40, alpha=255):
  """Returns RGBA bytes of a red disc, at (column, row), on a transparent background."""
  rgba = np.zeros((size, size, 4), np.uint8)
  y, x = np.mgrid[:size, :size]
  rgba[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = [*RED, alpha]
  return rgba


def photo(inside, rng, noise=6):
  """Returns RGB bytes of a red object, given by a mask, in front of a grey wall."""
  pixels = np.clip(rng.normal([150, 160, 170], noise, (*inside.shape, 3)), 0, 255).astype(np.uint8)
  pixels[inside] = np.clip(rng.normal(RED, noise, (inside.sum(), 3)), 0, 255)
  return pixels


@pytest.mark.parametrize('alpha', [30, 120, 200])
def test_partly_transparent_objects_are_objects(tmp_path, alpha):
  prepared = preprocess.prepare(save(disc(alpha=alpha), tmp_path / 'a.png'), 64)
  assert prepared.has_mask and not prepared.notes
  expected = 1 - alpha / 255 * (1 - RED / 255)
  np.testing.assert_allclose(prepared.image[32, 32], expected, atol=0.01)
  assert abs((np.ptp(np.flatnonzero((prepared.image.min(-1) < 0.97).any(0))) + 1) / 64 - preprocess.FILL) < 0.05


def test_object_with_a_glass_part_is_centred_with_it(tmp_path):
  rgba = scene(90, 160, (30, 60, 20, 60))
  rgba[30:60, 60:140] = [*RED, 60]
  prepared = preprocess.prepare(save(rgba, tmp_path / 'a.png'), 64)
  seen = np.flatnonzero((prepared.image.min(-1) < 0.95).any(0))
  np.testing.assert_allclose((seen.mean(), np.ptp(seen)), (31.5, 64 * preprocess.FILL), atol=2)


@pytest.mark.parametrize('stray', ['pixel', 'column', 'round corners', 'everywhere'])
def test_transparency_that_is_nearly_absent_is_no_outline(tmp_path, rng, stray):
  inside = disc()[..., 3] > 0
  rgba = np.dstack([photo(inside, rng), np.full(inside.shape, 255, np.uint8)])
  if stray == 'pixel':
    rgba[5, 7, 3] = 0
  elif stray == 'column':
    rgba[:, -1, 3] = 200
  elif stray == 'everywhere':
    rgba[..., 3] = 240
  else:
    rgba[[0, 0, -1, -1], [0, -1, 0, -1], 3] = 0
  path = save(rgba, tmp_path / 'a.png')
  prepared = preprocess.prepare(path, 64)
  assert not prepared.has_mask and 'too few transparent pixels' in prepared.notes[0]
  removed = preprocess.prepare(path, 64, remove_background=True)
  assert removed.has_mask
  np.testing.assert_allclose(extent_of(removed.image)[0], preprocess.FILL, atol=0.05)
  np.testing.assert_array_equal(removed.image[0], 1.0)


def test_background_of_a_photo_with_a_transparent_border_is_removed(tmp_path, rng):
  inside = disc(radius=30)[..., 3] > 0
  rgba = np.dstack([photo(inside, rng), np.zeros(inside.shape, np.uint8)])
  rgba[10:110, 10:110, 3] = 255
  prepared = preprocess.prepare(save(rgba, tmp_path / 'a.png'), 64, remove_background=True)
  np.testing.assert_allclose(prepared.image[18:46, 18:46].mean((0, 1))[2], RED[2] / 255, atol=0.2)
  np.testing.assert_array_equal(prepared.image[16, 16], 1.0)  # In the corner of the box around the disc.


SPECKS = {
  'a pixel': lambda rgba: rgba.__setitem__((2, 3), [9, 9, 9, 255]),
  'a dot': lambda rgba: rgba.__setitem__((slice(2, 6), slice(110, 114)), [9, 9, 9, 255]),
  'a line at the border': lambda rgba: rgba.__setitem__((slice(None), 119), [9, 9, 9, 255]),
  'dust': lambda rgba: rgba.__setitem__((slice(0, 16, 8), slice(0, 120, 8)), [9, 9, 9, 255]),
  'faint haze': lambda rgba: rgba.__setitem__((slice(0, 12), slice(0, 120)), [9, 9, 9, 20]),
}


@pytest.mark.parametrize('kind', SPECKS)
def test_specks_do_not_set_the_crop(tmp_path, kind):
  clean = preprocess.prepare(save(disc(), tmp_path / 'clean.png'), 64)
  rgba = disc()
  SPECKS[kind](rgba)
  prepared = preprocess.prepare(save(rgba, tmp_path / 'a.png'), 64)
  np.testing.assert_array_equal(prepared.image, clean.image)
  assert any('apart from the object' in note for note in prepared.notes) == (kind != 'faint haze')


def test_parts_of_an_object_are_no_specks(tmp_path):
  rgba = np.zeros((120, 120, 4), np.uint8)
  for column in range(10, 110, 10):  # A chain of beads of equal size.
    rgba[50:56, column : column + 6] = [*RED, 255]
  prepared = preprocess.prepare(save(rgba, tmp_path / 'a.png'), 64)
  np.testing.assert_allclose(extent_of(prepared.image)[0], preprocess.FILL, atol=0.05)
  assert not prepared.notes


# Outlines (centre, radius) of a disc in an image of 120 pixels, and the borders that cut it off.
CUTS = {
  'free': ((60, 60), 40, ''),
  'left': ((30, 60), 40, 'left'),
  'half of it at the bottom': ((60, 115), 40, 'bottom'),
  'a corner': ((20, 20), 45, 'top and the left'),
  'all sides': ((60, 60), 68, 'top and the bottom and the left and the right'),
}


@pytest.mark.parametrize('kind', CUTS)
def test_objects_at_a_border_are_kept_and_said_to_be_cut_off(tmp_path, rng, kind):
  centre, radius, borders = CUTS[kind]
  rgba = disc(120, centre, radius)
  inside = rgba[..., 3] > 0
  pixels = photo(inside, rng)
  found = cut_out(np.dstack([pixels, np.full(inside.shape, 255, np.uint8)]).astype(np.float32) / 255)[0][..., 3] > 0.5
  assert (found & inside).sum() / (found | inside).sum() > 0.97
  for path, remove in ((save(pixels, tmp_path / 'a.png'), True), (save(rgba, tmp_path / 'b.png'), False)):
    notes = preprocess.prepare(path, 64, remove_background=remove).notes
    assert [note for note in notes if f'reaches the {borders} border' in note] if borders else not notes, notes


@pytest.mark.parametrize('shape, is_said', [('disc', False), ('box', True)])
def test_trimmed_images_are_cut_off_only_if_much_of_the_object_is_at_the_border(tmp_path, shape, is_said):
  rgba = disc(81, (40, 40), 40.7) if shape == 'disc' else np.full((81, 81, 4), 255, np.uint8)
  rgba[:6, :6] = 0
  assert rgba[..., 3].any(1).all() and rgba[..., 3].any(0).all()
  notes = preprocess.prepare(save(rgba, tmp_path / 'a.png'), 64).notes
  assert any('reaches the' in note for note in notes) == is_said


def test_small_objects_are_said_to_be_small(tmp_path):
  (note,) = preprocess.prepare(save(disc(radius=6), tmp_path / 'a.png'), 64).notes
  assert 'only 11 pixels: the result will lack detail' in note
