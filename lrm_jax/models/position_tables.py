"""Learned tables of position embeddings: resizing to another number of patches, and sinusoidal initial values.

Resizing is bicubic and written as a matrix, because pretrained weights depend on the exact interpolation rule.
Output i of `size` is read at (i + 0.5) / scale - 0.5 of `length` samples. Without antialiasing, four taps are read;
taps beyond an end read the end sample. With antialiasing, the kernel is stretched if the table shrinks, and it is cut
off and normalised at the ends.
Source: Keys 1981; PyTorch uses a = -0.75 without and a = -0.5 with antialiasing.
Legend: N = 1 + T^2 rows of a table (class token, then T x T patches row by row), D width.
"""

from einops import rearrange
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np


def resized(table: Float[Array, '1 N D'], matrix: np.ndarray) -> Float[Array, '1 M D']:
  """Returns the position table with its patches interpolated by `matrix` [n, T] along both sides, M = 1 + n^2.

  The first row, which belongs to the class token, is unchanged.
  """
  grid = rearrange(table[:, 1:], '1 (h w) d -> h w d', h=matrix.shape[1])
  grid = jnp.einsum('ih,jw,hwd->ijd', matrix, matrix, grid, precision=jax.lax.Precision.HIGHEST)
  return jnp.concatenate([table[:, :1], rearrange(grid, 'h w d -> 1 (h w) d')], axis=1)


def cubic_matrix(length: int, size: int, *, scale: float | None = None, a: float = -0.75) -> np.ndarray:
  """Returns the matrix [size, length] that interpolates `length` samples at `size` positions, without antialiasing.

  `scale` defaults to size / length (DINO uses (size + 0.1) / length). `a` is the parameter of Keys' kernel.
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
  """Returns the interpolation matrix [size, length] with antialiasing: Keys' kernel with a = -0.5.

  If the table shrinks, the kernel is stretched by length / size.
  """
  stretch = max(length / size, 1.0)
  centre = (np.arange(size)[:, None] + 0.5) * length / size
  weight = _keys(np.abs(np.arange(length) + 0.5 - centre) / stretch, -0.5)
  return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def sinusoidal_table(size: int, width: int) -> np.ndarray:
  """Returns a position table [1, 1 + size^2, width] of 2D sinusoids; the row of the class token is zero."""
  centre = (np.arange(size) + 0.5) / size * 2 - 1
  row, column = np.meshgrid(centre, centre, indexing='ij')
  waves = sinusoids(np.stack([column, row], axis=-1).reshape(-1, 2), width)
  return np.concatenate([np.zeros((1, width)), waves])[None].astype(np.float32)


def sinusoids(positions: np.ndarray, width: int) -> np.ndarray:
  """Returns sines and cosines [..., width] of `positions` [..., A] in -1..1, padded with zeros; `width` >= 2 A.

  Frequencies are spaced geometrically over four octaves; the lowest makes half a turn over -1..1. Learned position
  tables that start at these values encode positions from the first step.
  """
  axes = positions.shape[-1]
  octaves = width // (2 * axes)
  angle = positions[..., None] * np.pi / 2 * 2.0 ** np.linspace(0, 4, octaves)
  waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).reshape(positions.shape[:-1] + (-1,))
  return np.pad(waves, [(0, 0)] * (waves.ndim - 1) + [(0, width - waves.shape[-1])]).astype(np.float32)  # type: ignore[misc]


def _keys(x: np.ndarray, a: float) -> np.ndarray:
  """Returns Keys' cubic convolution kernel at distances x >= 0."""
  inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
  outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
  return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
