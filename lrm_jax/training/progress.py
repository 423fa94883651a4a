"""Training progress: loss, images per second, time left. A bar on a terminal, otherwise one line every few seconds."""

import collections
import statistics
import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0
_RECENT_STEPS = 30


class Progress:
  """Shows the progress of a run on stderr.

  `first` is the number of steps done before, and `last` the number of steps of the whole run. `images_per_second`
  counts objects, that is, input images. If not `active` (in all processes except one), nothing is shown.
  """

  def __init__(self, first: int, last: int, *, objects_per_step: int, active: bool = True):
    self._last, self._objects, self._active = last, objects_per_step, active
    self._terminal = active and sys.stderr.isatty()
    self._bar = (
      tqdm(total=last, initial=first, unit='step', dynamic_ncols=True, smoothing=0.05) if self._terminal else None
    )
    self._last_shown = self._began = self._last_update = time.monotonic()
    self._start = first
    self._seconds = collections.deque(maxlen=_RECENT_STEPS)
    self._note = ''

  @property
  def step_seconds(self) -> float:
    # The median ignores steps that waited for compilation, an evaluation or a checkpoint.
    return statistics.median(self._seconds) if self._seconds else 0.0

  @property
  def images_per_second(self) -> float:
    return self._objects / self.step_seconds if self._seconds else 0.0

  def update(self, step: int, values: dict[str, float], position: float) -> None:
    """Reports that `step` is done. `position` is its position in the schedule, in steps."""
    now = time.monotonic()
    self._seconds.append(max(now - self._last_update, 1e-9))
    self._last_update = now
    text = f'loss {values["loss"]:.4f}  {self.images_per_second:.1f} images/s{self._note}'
    if self._bar:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(min(round(position), self._last) - self._bar.n)
    elif self._active and (now - self._last_shown > _SECONDS_BETWEEN_LINES or step == self._start + 1):
      self._last_shown = now
      fraction = (position - self._start) / max(self._last - self._start, 1)
      left = (now - self._began) * (1 - fraction) / max(fraction, 1e-9)
      print(
        f'step {step}, {position / self._last:.1%}  {text}  {_hours_minutes_seconds(left)} left',
        file=sys.stderr,
        flush=True,
      )

  def note(self, values: dict[str, float]) -> None:
    """Adds the metrics of the latest evaluation to the progress."""
    if values:
      self._note = ''.join(f'  {name} {value:.2f}' for name, value in values.items())

  def close(self) -> None:
    if self._bar:
      self._bar.close()


def _hours_minutes_seconds(seconds: float) -> str:
  hours, rest = divmod(int(seconds), 3600)
  return f'{hours}:{rest // 60:02d}:{rest % 60:02d}'
