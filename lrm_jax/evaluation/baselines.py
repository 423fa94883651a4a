"""Baselines that learn nothing, which a model has to beat: a white image, the mean training view, the input view.

`views` is the result of lrm_jax.datasets.views.load_views.
Legend: O objects, V views, s pixels along a side.
"""

import numpy as np

from lrm_jax.datasets.records import open_split
from lrm_jax.datasets.views import load_views
from lrm_jax.evaluation.novel_views import compare

_OBJECTS_PER_READ = 64  # Bounds the memory.


def mean_training_view(path, split: str, size: int, background: float = 1.0) -> np.ndarray:
  """Returns the mean [s, s, 3] of all views of a split: the best single image for all views, by squared error."""
  total, count = np.zeros((size, size, 3)), 0
  size_of_split = len(open_split(path, split))
  for first in range(0, size_of_split, _OBJECTS_PER_READ):
    views = load_views(
      path, split, image_size=size, size=size, indices=range(first, first + _OBJECTS_PER_READ), background=background
    )['color']
    total = total + views.sum(axis=(0, 1), dtype=np.float64)
    count += views.shape[0] * views.shape[1]
  return (total / count).astype(np.float32)


def trivial(views: dict, mean_view: np.ndarray, lpips=None) -> dict[str, dict[str, float]]:
  """Returns the metrics {baseline: {metric: value}} on the novel views, of the baselines white, mean_view, input_view.

  `mean_view` [s, s, 3] is the mean training view. With a network `lpips`, the metrics include LPIPS.
  """
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
