"""Where the time of a training goes: seconds per step, seconds of waiting for data, MFU, memory, goodput, a profile."""

import collections
from collections.abc import Iterator
import contextlib
import time

from etils import epath
import jax
from ml_collections import ConfigDict

from lrm_jax.distributed import accelerators
from lrm_jax.errors import InputError
from lrm_jax.training import cost
from lrm_jax.training.resume import Position


class Timing:
  """Measures a training that continues at the position `start`.

  Goodput is the share of the time since the start of the training, across restarts, that was spent on training steps
  whose result was kept: not on starting, compiling, evaluating, saving, repeating lost steps, or being stopped.
  """

  def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh, start: Position):
    known = accelerators.accelerator(mesh.devices.flat[0].device_kind)
    self._operations, self._peak = cost.useful_operations(config), known and known.peak * mesh.size
    self.began = start.began or time.time()
    self._trained, self._resumed, self._paused = start.training_seconds, time.monotonic(), 0.0
    self._waits: collections.deque[float] = collections.deque()  # Of the steps that are not yet done.
    self._waited, self._steps = 0.0, 0

  @property
  def training_seconds(self) -> float:
    """Seconds of training steps since the start of the training."""
    return self._trained + time.monotonic() - self._resumed - self._paused

  @contextlib.contextmanager
  def waiting_for_data(self) -> Iterator[None]:
    """Counts the time of a `with` block as waiting for the data of the next step."""
    began = time.monotonic()
    yield
    self._waits.append(time.monotonic() - began)

  def step_done(self) -> None:
    """Adds the waiting of the oldest step that is not yet done to the next log line."""
    self._waited, self._steps = self._waited + self._waits.popleft(), self._steps + 1

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Does not count the time of a `with` block as training."""
    began = time.monotonic()
    yield
    self._paused += time.monotonic() - began

  def values(self, step_seconds: float) -> dict[str, float]:
    """Returns the values of a log line; waiting is the mean per step since the previous line.

    `mfu`, the share of the devices' peak, counts no recomputed operations; it is missing if the peak is unknown, as on
    CPUs. `memory_peak_gib` is that of a local device; it is missing if the device does not report it.
    """
    values = {'step_seconds': step_seconds, 'data_seconds': self._waited / max(self._steps, 1)}
    self._waited, self._steps = 0.0, 0
    if self._peak and step_seconds:
      values['mfu'] = self._operations / step_seconds / self._peak
    if 'peak_bytes_in_use' in (memory := jax.local_devices()[0].memory_stats() or {}):
      values['memory_peak_gib'] = memory['peak_bytes_in_use'] / 2**30
    return values | {'goodput': self.training_seconds / max(time.time() - self.began, 1e-9)}


class Profile:
  """Writes a profile of the steps first..last of a run to DIR/profile, for TensorBoard (XProf) or Perfetto.

  Without `steps`, does nothing. Each process profiles its own devices.
  """

  def __init__(self, workdir: epath.Path, steps: tuple[int, int] | None):
    self._directory, self._steps, self._active = workdir / 'profile', steps, False

  def before(self, step: int) -> None:
    """Starts the profile if `step`, which has not yet begun, is the first to be profiled."""
    if self._steps and step == self._steps[0]:
      jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
      self._active = True

  def after(self, step: int, result) -> None:
    """Waits for `result` and ends the profile if `step` is the last to be profiled."""
    if self._steps and self._active and step >= self._steps[1]:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    if self._active:
      self._active = False
      jax.profiler.stop_trace()


def parse_steps(text: str | None) -> tuple[int, int] | None:
  """Returns (first, last) of '20:25', or None without a text. Raises InputError for other texts."""
  if not text:
    return None
  first, colon, last = text.partition(':')
  if not (colon and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
    raise InputError(f'--profile_steps={text} must be FIRST:LAST, such as 20:25')
  return int(first), int(last)
