"""Baselines that learn nothing: white, the mean training view, the input view repeated.

A model has to beat them; `views` is what lrm_jax/datasets/views.load_views returns.
Legend: O objects, V views, s pixels along a side.
"""

import numpy as np

from lrm_jax.datasets.records import open_split
from lrm_jax.datasets.views import load_views
from lrm_jax.evaluation.novel_views import compare


def mean_training_view(path, split: str, size: int, background: float = 1.0) -> np.ndarray:
  """Returns [s, s, 3], the mean of all views of a split: the best single picture for all of them."""
  total, count = 0.0, 0
  size_of_split = len(open_split(path, split))
  for first in range(0, size_of_split, _OBJECTS_PER_READ):
    views = load_views(
      path, split, image_size=size, size=size, indices=range(first, first + _OBJECTS_PER_READ), background=background
    )['color']
    total = total + views.sum(axis=(0, 1), dtype=np.float64)
    count += views.shape[0] * views.shape[1]
  return (total / count).astype(np.float32)


def trivial(views: dict, mean_view: np.ndarray, lpips=None) -> dict[str, dict[str, float]]:
  """Returns the figures of predictors that learn nothing: white, the mean training view, the input repeated."""
  novel = views['color'][:, 1:]
  predictions = {
    'white': np.ones_like(novel),
    'mean_view': np.broadcast_to(mean_view, novel.shape),
    'input_view': np.broadcast_to(views['color'][:, :1], novel.shape),
  }
  return {
    name: {metric: float(np.mean(values)) for metric, values in compare(prediction, novel, lpips).items()}
    for name, prediction in predictions.items()
  }


_OBJECTS_PER_READ = 64
