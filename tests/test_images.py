"""Images: decoding, resizing, compositing and grids; PSNR and SSIM equal those of scikit-image."""

import numpy as np
import pytest
from skimage import metrics as reference

from conftest import encode_png
from lrm_jax.evaluation import image_metrics
from lrm_jax.geometry import images


def test_decode_returns_premultiplied_colour(rng):
  pixels = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
  decoded = images.decode(encode_png(pixels))
  straight = pixels / 255.0
  np.testing.assert_allclose(decoded[..., 3], straight[..., 3], atol=1e-6)
  np.testing.assert_allclose(decoded[..., :3], straight[..., :3] * straight[..., 3:], atol=1e-6)
  assert decoded.dtype == np.float32


def test_image_without_alpha_is_opaque(rng):
  pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
  np.testing.assert_allclose(images.decode(encode_png(pixels))[..., 3], 1)


@pytest.mark.parametrize('keep', [0, 20, 0.5, 0.95])
def test_truncated_image_raises_value_error(rng, keep):
  whole = encode_png(rng.integers(0, 256, (32, 32, 4), dtype=np.uint8))
  with pytest.raises(ValueError, match='cannot decode the image'):
    images.decode(whole[: int(keep if keep >= 1 else keep * len(whole))])


@pytest.mark.parametrize('size', [5, 12, 31, 48, 60, 96])
def test_resizing_preserves_constants_and_the_mean(rng, size):
  constant = np.full((48, 48, 4), 0.3, np.float32)
  np.testing.assert_allclose(images.resize(constant, size), 0.3, atol=1e-6)
  if size <= 48:  # All old pixels have the same weight.
    noise = rng.uniform(size=(48, 48, 4)).astype(np.float32)
    np.testing.assert_allclose(images.resize(noise, size).mean((0, 1)), noise.mean((0, 1)), atol=1e-5)


def test_halving_averages_blocks_of_2x2(rng):
  pixels = rng.uniform(size=(8, 8, 4)).astype(np.float32)
  blocks = pixels.reshape(4, 2, 4, 2, 4).mean((1, 3))
  np.testing.assert_allclose(images.resize(pixels, 4), blocks, atol=1e-6)


@pytest.mark.parametrize('size', [9, 24, 32, 64])
def test_resizing_does_not_shift_the_image(size):
  """A linear ramp keeps its position: pixel i is at (i + 0.5) / size for any size."""

  def ramp(n):
    return (np.arange(n) + 0.5) / n

  row, column = np.meshgrid(ramp(32), ramp(32), indexing='ij')
  resized = images.resize(np.stack([row, column], axis=-1).astype(np.float32), size)
  inside = slice(size // 32, size - size // 32)  # At the border, an enlarged image repeats its last pixel.
  for line in (resized[:, 0, 0], resized[0, :, 1]):
    # A new pixel averages constant old pixels, so it may differ by a small fraction of an old pixel. The mean is exact.
    np.testing.assert_allclose(line[inside], ramp(size)[inside], atol=0.15 / 32)
    assert np.mean(line) == pytest.approx(0.5, abs=1e-5)


def test_colour_of_transparent_pixels_does_not_bleed():
  """A red square in fully transparent green surroundings contains no green after shrinking."""
  pixels = np.zeros((16, 16, 4), np.uint8)
  pixels[..., 1] = 255
  pixels[5:11, 5:11] = (255, 0, 0, 255)
  small = images.resize(images.decode(encode_png(pixels)), 7)
  np.testing.assert_allclose(small[..., 1], 0, atol=1e-6)
  white = images.over(small, 1.0)
  np.testing.assert_allclose(white[..., 0], 1, atol=1e-5)
  np.testing.assert_allclose(white[..., 1], 1 - small[..., 3], atol=1e-5)


def test_compositing_and_resizing_commute(rng):
  pixels = rng.uniform(size=(16, 16, 4)).astype(np.float32)
  pixels[..., :3] *= pixels[..., 3:]
  np.testing.assert_allclose(
    images.over(images.resize(pixels, 6), 0.4), images.resize(images.over(pixels, 0.4), 6), atol=1e-5
  )


def test_psnr_and_ssim_equal_scikit_image(rng):
  x = rng.uniform(size=(2, 3, 24, 20, 3)).astype(np.float32)
  y = np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1).astype(np.float32)
  psnr, ssim = image_metrics.psnr(x, y), image_metrics.ssim(x, y)
  assert psnr.shape == ssim.shape == (2, 3)
  for i in np.ndindex(2, 3):
    assert psnr[i] == pytest.approx(reference.peak_signal_noise_ratio(x[i], y[i], data_range=1), abs=1e-4)
    # Like ours, the mean of scikit-image excludes a border of 5 pixels.
    expected = reference.structural_similarity(
      x[i].astype(np.float64),
      y[i].astype(np.float64),
      data_range=1,
      channel_axis=-1,
      gaussian_weights=True,
      sigma=1.5,
      use_sample_covariance=False,
    )
    assert ssim[i] == pytest.approx(expected, abs=1e-6)


def test_psnr_and_ssim_of_equal_images(rng):
  x = rng.uniform(size=(16, 16, 3))
  assert image_metrics.psnr(x, x) == pytest.approx(100)  # PSNR is capped, so that means stay finite.
  assert image_metrics.ssim(x, x) == pytest.approx(1)
  assert image_metrics.psnr(np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)) == pytest.approx(20)


def test_ssim_of_an_image_below_11x11_raises():
  with pytest.raises(ValueError, match='11 x 11 pixels, not 8 x 16'):
    image_metrics.ssim(np.zeros((8, 16, 3)), np.zeros((8, 16, 3)))


def test_depth_colours_are_light_if_near_and_white_in_the_background():
  opacity = np.array([1.0, 1.0, 1.0, 0.0, 0.5])
  colors = images.depth_to_color(opacity * [1.2, 2.0, 2.8, 0, 2.0], opacity)
  assert np.all(colors[0] > colors[1]) and np.all(colors[1] > colors[2])
  np.testing.assert_allclose(colors[3], 1)
  np.testing.assert_allclose(
    colors[4], (colors[1] + 1) / 2, atol=1e-6
  )  # Half opaque: the same depth, blended with white.
  assert colors.dtype == np.float32


def test_grid_arranges_images_in_rows_on_white(rng):
  tiles = rng.uniform(size=(3, 4, 5, 3)).astype(np.float32)
  sheet = images.grid([[tiles[0], tiles[1]], [tiles[2]]], gap=2)
  assert sheet.shape == (4 + 2 + 4, 5 + 2 + 5, 3)
  np.testing.assert_array_equal(sheet[:4, :5], tiles[0])
  np.testing.assert_array_equal(sheet[:4, 7:], tiles[1])
  np.testing.assert_array_equal(sheet[6:, :5], tiles[2])
  np.testing.assert_array_equal(sheet[4:6], 1)
  np.testing.assert_array_equal(sheet[6:, 5:], 1)


def test_to_bytes_rounds_and_clips():
  np.testing.assert_array_equal(images.to_bytes(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])), [0, 0, 128, 255, 255])
