"""Bicubic interpolation as a matrix, for position tables whose weights fix the exact rule.

Source: Keys 1981, with a = -0.75 as PyTorch has it; DINO's tables are interpolated without antialiasing.
"""

import numpy as np


def cubic_matrix(length: int, size: int, *, scale: float | None = None, a: float = -0.75) -> np.ndarray:
  """Returns [size, length], the weights by which `size` samples are read off `length` of them.

  Output i reads at (i + 0.5) / scale - 0.5, where scale is size / length unless given (old versions of DINO
  divided by (size + 0.1) / length); taps beyond the ends read the end.
  """
  scale = scale or size / length
  centre = (np.arange(size) + 0.5) / scale - 0.5
  first = np.floor(centre).astype(int)
  matrix = np.zeros((size, length))
  for tap in range(-1, 3):
    weight = _keys(np.abs(centre - (first + tap)), a)
    np.add.at(matrix, (np.arange(size), np.clip(first + tap, 0, length - 1)), weight)
  return matrix.astype(np.float32)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
  inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
  outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
  return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
