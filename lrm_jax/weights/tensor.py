"""A tensor that stays in its file until NumPy asks for it: a file of weights may be as large as the memory."""

from collections.abc import Callable
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor in a file: its shape and type are known, `numpy.asarray` reads it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  def __array__(self, dtype=None, copy=None):
    array = self.read()
    return array if dtype is None else array.astype(dtype)
