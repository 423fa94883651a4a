"""Statistics over objects: mean, median and bootstrap intervals, of one run and of the difference of two.

Values that are not defined are NaN: they are left out and counted, never replaced.
"""

from collections.abc import Mapping

import numpy as np

RESAMPLES = 10_000
_LEVEL = 0.95
_SEED = 0


def summary(values: np.ndarray) -> dict[str, float | int | list[float] | None]:
  """Returns {mean, median, interval, objects, undefined} of the values of objects [O].

  The interval is the 95 % percentile interval of the mean under a bootstrap over objects (10,000 resamples, seeded).
  """
  values = np.asarray(values, np.float64)
  known = values[~np.isnan(values)]
  if not len(known):
    return {'mean': None, 'median': None, 'interval': None, 'objects': 0, 'undefined': len(values)}
  return {
    'mean': float(np.mean(known)),
    'median': float(np.median(known)),
    'interval': interval(known),
    'objects': len(known),
    'undefined': len(values) - len(known),
  }


def interval(values: np.ndarray) -> list[float]:
  """Returns the ends of the 95 % bootstrap interval of the mean of values [O]."""
  rng = np.random.default_rng(_SEED)
  means = np.empty(RESAMPLES)
  step = max(1, 2**22 // len(values))  # Bounds the memory.
  for first in range(0, RESAMPLES, step):
    count = min(step, RESAMPLES - first)
    means[first : first + count] = values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1)
  tail = 50 * (1 - _LEVEL)
  return [float(x) for x in np.percentile(means, [tail, 100 - tail])]


def crossed_interval(values: np.ndarray, reference: np.ndarray | None = None) -> list[float]:
  """Returns the ends of the 95 % bootstrap interval of the mean of values [S, O] of S seeds and O objects.

  With `reference` [T, O], of the same objects, that of the mean of `values` minus that of `reference`. Each of the
  10,000 seeded resamples draws objects, the same for both, and seeds, for each on its own, with replacement. With a
  single seed, the interval covers only the objects.
  """
  rng = np.random.default_rng(_SEED)

  def weights(count):
    """Returns how often each of `count` things is drawn in each resample, as shares [R, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count

  objects = weights(values.shape[1])
  means = np.einsum('rs,so,ro->r', weights(len(values)), values, objects, optimize=True)
  if reference is not None:
    means = means - np.einsum('rs,so,ro->r', weights(len(reference)), reference, objects, optimize=True)
  tail = 50 * (1 - _LEVEL)
  return [float(x) for x in np.percentile(means, [tail, 100 - tail])]


def paired(first: Mapping[str, float | None], second: Mapping[str, float | None]) -> dict:
  """Returns the summary of second - first over the objects that both have, and their number as `pairs`.

  Both are {uid: value}, with None where a value is not defined.
  """
  common = [uid for uid in first if uid in second]

  def values(of):
    return np.array([np.nan if of[uid] is None else of[uid] for uid in common], np.float64)

  return {**summary(values(second) - values(first)), 'pairs': len(common)}
