"""Bicubic interpolation as a matrix, for position tables whose weights fix the exact rule.

Output i of `size` reads at (i + 0.5) / scale - 0.5 of `length` samples. Without antialiasing four taps are read,
whose positions beyond the ends read the end; with it the kernel is stretched where the table shrinks, and cut off
and normalised at the ends. Source: Keys 1981; a = -0.75 and a = -0.5 are PyTorch's choices for the two.
"""

import numpy as np


def cubic_matrix(length: int, size: int, *, scale: float | None = None, a: float = -0.75) -> np.ndarray:
  """Returns [size, length], the weights by which `size` samples are read off `length` of them, without antialiasing.

  `scale` is size / length unless given (DINO divides by (size + 0.1) / length).
  """
  scale = scale or size / length
  centre = (np.arange(size) + 0.5) / scale - 0.5
  first = np.floor(centre).astype(int)
  matrix = np.zeros((size, length))
  for tap in range(-1, 3):
    weight = _keys(np.abs(centre - (first + tap)), a)
    np.add.at(matrix, (np.arange(size), np.clip(first + tap, 0, length - 1)), weight)
  return matrix.astype(np.float32)


def antialiased_cubic_matrix(length: int, size: int) -> np.ndarray:
  """Returns [size, length]: Keys' kernel with a = -0.5, as wide as the pixels it is read for."""
  stretch = max(length / size, 1.0)
  centre = (np.arange(size)[:, None] + 0.5) * length / size
  weight = _keys(np.abs(np.arange(length) + 0.5 - centre) / stretch, -0.5)
  return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
  inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
  outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
  return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
