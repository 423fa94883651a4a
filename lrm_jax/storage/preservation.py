"""Which checkpoints of a run are kept: the last two, multiples of a number of steps, and the best by a metric.

Only the last two are needed to resume, so that the others lose their optimizer state, two thirds of their size or more.
"""

from collections.abc import Sequence
import json

from etils import epath
import jax
from orbax.checkpoint.checkpoint_managers import preservation_policy

_LAST = 2


class Best(preservation_policy.PreservationPolicy):
  """Preserves the checkpoint of `directory` with the best `metric` among the `scores` that were saved with it.

  The best is the largest value, or the smallest if `lower_is_better`. Ties keep the older checkpoint.
  """

  def __init__(self, directory: epath.Path, metric: str, *, lower_is_better: bool):
    self._directory, self._metric = directory, metric
    self._sign = -1.0 if lower_is_better else 1.0
    self._known: dict[int, float | None] = {}  # Scores of finished checkpoints.

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    del context
    best = self.best([info.step for info in checkpoints])
    return [info.step == best for info in checkpoints]

  def best(self, steps: Sequence[int]) -> int | None:
    """Returns the step of the best checkpoint among `steps`, or None if none has the metric."""
    scores = {step: score for step in steps if (score := self._score(step)) is not None}
    return max(sorted(scores), key=lambda step: self._sign * scores[step], default=None)

  def improves(self, value: float, steps: Sequence[int]) -> bool:
    """Returns whether `value` is better than that of all checkpoints `steps`."""
    best = self.best(steps)
    return best is None or self._sign * value > self._sign * self._known[best]  # type: ignore[operator]

  def _score(self, step: int) -> float | None:
    if step not in self._known:
      file = self._directory / str(step) / 'progress' / 'metadata'
      if not file.is_file():  # It is still being written, or it was deleted.
        return None
      self._known[step] = json.loads(file.read_text()).get('position', {}).get('scores', {}).get(self._metric)
    return self._known[step]


def policy(keep_every: int, best: Best | None) -> preservation_policy.PreservationPolicy:
  """Returns the policy that keeps the last two checkpoints, multiples of `keep_every` (0: none), and the best."""
  policies: list = [preservation_policy.LatestN(_LAST)]
  if keep_every:
    policies.append(preservation_policy.EveryNSteps(keep_every))
  return preservation_policy.AnyPreservationPolicy([*policies, best] if best else policies)


def drop_optimizer_states(directory: epath.Path, steps: Sequence[int]) -> None:
  """Deletes the optimizer states of all but the last two of the finished checkpoints `steps`, in the first process."""
  for step in sorted(steps)[:-_LAST]:
    path = directory / str(step) / 'opt_state'
    if jax.process_index() == 0 and path.exists():
      path.rmtree(missing_ok=True)
