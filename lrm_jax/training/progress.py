"""The progress bar of a training: loss, pictures a second, time left. Plain lines where nobody watches a terminal."""

import collections
import statistics
import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0
_RECENT_STEPS = 30


class Progress:
  """Shows how far a run is; `images_per_second` counts objects (input pictures) in recent steps."""

  def __init__(self, first: int, last: int, *, objects_per_step: int, active: bool = True):
    self._last, self._objects, self._active = last, objects_per_step, active
    self._terminal = active and sys.stderr.isatty()
    self._bar = (
      tqdm(total=last, initial=first, unit='step', dynamic_ncols=True, smoothing=0.05) if self._terminal else None
    )
    self._shown = self._began = self._before = time.monotonic()
    self._start = first
    self._seconds = collections.deque(maxlen=_RECENT_STEPS)
    self._note = ''

  @property
  def images_per_second(self) -> float:
    # The median: a step that waited for compilation, an evaluation or a checkpoint says nothing of the speed.
    return self._objects / statistics.median(self._seconds) if self._seconds else 0.0

  def update(self, step: int, values: dict[str, float], position: float) -> None:
    """Says that `step` is done, at `position` of the schedule."""
    now = time.monotonic()
    self._seconds.append(max(now - self._before, 1e-9))
    self._before = now
    text = f'loss {values["loss"]:.4f}  {self.images_per_second:.1f} images/s{self._note}'
    if self._bar:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(min(round(position), self._last) - self._bar.n)
    elif self._active and (now - self._shown > _SECONDS_BETWEEN_LINES or step == self._start + 1):
      self._shown = now
      share = (position - self._start) / max(self._last - self._start, 1)
      left = (now - self._began) * (1 - share) / max(share, 1e-9)
      print(f'step {step}, {position / self._last:.1%}  {text}  {_clock(left)} left', file=sys.stderr, flush=True)

  def note(self, values: dict[str, float]) -> None:
    """Shows figures of an evaluation from now on."""
    if values:
      self._note = ''.join(f'  {name} {value:.2f}' for name, value in values.items())

  def close(self) -> None:
    if self._bar:
      self._bar.close()


def _clock(seconds: float) -> str:
  hours, rest = divmod(int(seconds), 3600)
  return f'{hours}:{rest // 60:02d}:{rest % 60:02d}'
