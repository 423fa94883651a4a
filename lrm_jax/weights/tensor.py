"""A tensor whose data stays on disk until NumPy needs it, because a weight file may be as large as memory."""

from collections.abc import Callable
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor in a file, with known shape and dtype; `numpy.asarray(tensor)` reads the data."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  def __array__(self, dtype=None, copy=None):
    array = self.read()
    return array if dtype is None else array.astype(dtype)
