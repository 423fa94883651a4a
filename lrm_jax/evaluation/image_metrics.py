"""Image metrics: PSNR and SSIM. Images are NumPy arrays in 0..1 with channels last."""

import numpy as np

from lrm_jax.errors import InputError


def psnr(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Returns the peak signal-to-noise ratio [...] in dB, at most 100, of images [..., H, W, 3] in 0..1."""
  error = np.mean(np.square(np.asarray(image, np.float64) - reference), axis=(-3, -2, -1))
  return -10 * np.log10(np.maximum(error, 1e-10))


def ssim(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Returns the structural similarity [...] of images [..., H, W, 3] in 0..1.

  Uses a Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01 and K2 = 0.03. The result is the mean over all pixels
  whose window lies inside the image. Raises InputError for images smaller than 11 x 11 pixels.
  Source: Wang et al. 2004.
  """
  if min(image.shape[-3:-1]) < 11:
    raise InputError(f'SSIM needs images of at least 11 x 11 pixels, not {image.shape[-3]} x {image.shape[-2]}')
  x, y = np.asarray(image, np.float64), np.asarray(reference, np.float64)
  mean_x, mean_y = _blur(x), _blur(y)
  var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
  covariance = _blur(x * y) - mean_x * mean_y
  c1, c2 = 0.01**2, 0.03**2
  numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
  denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
  return np.mean(numerator / denominator, axis=(-3, -2, -1))


def _blur(x: np.ndarray) -> np.ndarray:
  """Convolves H and W with a Gaussian of 11 pixels, sigma 1.5, without padding."""
  window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  window /= window.sum()
  for axis in (-3, -2):
    x = np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, 11, axis=axis) @ window, axis, axis)
  return x
