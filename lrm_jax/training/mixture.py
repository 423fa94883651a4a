"""The error of each dataset of a mixture: summed on the devices in each step, averaged over the steps of a log line."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np


def errors(
  color: Float[Array, 'B V h w 3'],
  target: Float[Array, 'B V h w 3'],
  dataset: Int[Array, 'B'],
  count: int,
  weight: Float[Array, 'B V h w'] | None = None,
) -> Float[Array, 'D 2']:
  """Returns, for each of `count` datasets, (the sum of its objects' mean squared errors, the number of its objects).

  `dataset` is the number of each object's dataset, and `weight` that of each pixel's error.
  Legend: B objects, V views, h w window, D datasets.
  """
  squared = jnp.square(color - target)
  error = jnp.mean(squared if weight is None else weight[..., None] * squared, axis=(1, 2, 3, 4))
  mine = jax.nn.one_hot(dataset, count)
  return jnp.stack([error @ mine, jnp.sum(mine, axis=0)], axis=-1)


class DatasetErrors:
  """Sums the errors of datasets with these names between two log lines."""

  def __init__(self, names: Sequence[str]):
    self._names = [name or 'main' for name in names]
    self._sums = np.zeros((len(names), 2))

  def add(self, step: np.ndarray) -> None:
    """Adds the errors of a step."""
    self._sums += step

  def values(self) -> dict[str, float]:
    """Returns {mse_<name>: mean squared error} of the datasets seen since the last call."""
    found = {f'mse_{name}': float(error / n) for name, (error, n) in zip(self._names, self._sums) if n}
    self._sums[:] = 0
    return found
