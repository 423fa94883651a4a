"""Evaluation during training: the metrics of each dataset on its held-out objects."""

import jax
import numpy as np

from lrm_jax.datasets import views
from lrm_jax.errors import InputError
from lrm_jax.evaluation import image_metrics, novel_views
from lrm_jax.models import registry
from lrm_jax.training.metric_writer import MetricWriter
from lrm_jax.training.step import averaged
from lrm_jax.training.trainer import Trainer


class Evaluator:
  """Evaluates the model on the held-out objects of all datasets of a configuration, each by its own name and rules.

  Their views are read when it is created, so that a fault stops a run at its start and not at the first evaluation.
  Each process reads and keeps only the objects of its own devices. Raises InputError if a dataset cannot be evaluated.
  """

  def __init__(self, trainer: Trainer):
    self.trainer = trainer
    config = trainer.config
    held_out = views.evaluated(
      config.data.to_dict(), image_size=config.model.image_size, input_position=trainer.model.input_position
    )
    for name, objects in held_out.items():
      smallest = max(image_metrics.SMALLEST, trainer.lpips.smallest if trainer.lpips is not None else 0)
      if objects.rules.size < smallest:
        where = f'config.data.mixture.{name}' if name else 'config.data'
        raise InputError(f'{where}.eval_size = {objects.rules.size} must be at least {smallest} pixels')
    with jax.set_mesh(trainer.mesh):
      self.batches = {name: novel_views.Batches(objects, keep=True) for name, objects in held_out.items()}

  def __call__(self, state: dict, step: int, writer: MetricWriter) -> dict[str, float]:
    """Writes images of some renders; returns {eval_<metric>: value}, and eval_<dataset>_<metric> for a mixture's.

    Values are means over objects of the means over novel views; `psnr_seen` is that of the input views.
    """
    model = registry.with_parameters(self.trainer.model, averaged(state))
    networks = {} if self.trainer.lpips is None else {'lpips': self.trainer.lpips}
    result = {}
    for name, batches in self.batches.items():
      prefix = f'eval_{name}' if name else 'eval'
      scores, shown = novel_views.evaluate_model(batches, model, networks)
      assert shown is not None
      # The depth error is not defined as long as no pixel is opaque.
      result |= {
        f'{prefix}_{metric}': value
        for metric, value in scores.means().items()
        if not (metric == 'depth_error' and np.isnan(value))
      }
      writer.write_image(step, prefix, novel_views.comparison(shown, min(4, len(batches.held_out))))
    return result
