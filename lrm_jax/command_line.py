"""What commands do first, and how long they took for it: compiled programs are kept on disk, phases are timed."""

from collections.abc import Callable
import hashlib
import logging
import os
from pathlib import Path
import sys
import time
import traceback

import jax

from lrm_jax.errors import BAD_INPUT, TEMPORARY_FAILURE, Failure, Interrupted


def enable_compilation_cache() -> None:
  """Keeps compiled programs in ~/.cache/lrm_jax, for the next command; JAX_COMPILATION_CACHE_DIR says another place.

  LRM_JAX_NO_CACHE=1, or a home that cannot be written to, keeps none. Programs for a CPU are for this kind of CPU: a
  home may be shared by many.
  """
  if os.environ.get('JAX_COMPILATION_CACHE_DIR') or os.environ.get('LRM_JAX_NO_CACHE'):
    return
  place = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'lrm_jax' / f'compiled-{_cpu()}'
  try:
    place.mkdir(parents=True, exist_ok=True)
  except OSError:
    return
  jax.config.update('jax_compilation_cache_dir', str(place))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def silence_repeated_tracebacks() -> None:
  """Keeps Orbax's threads from printing the traceback of what they also raise, many times over, where a disk is full."""
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  logging.getLogger('absl').addFilter(lambda record: not (record.exc_info and 'orbax' in record.pathname))
  shown = sys.unraisablehook

  def show(unraisable):
    if 'Event loop is closed' not in str(unraisable.exc_value):
      shown(unraisable)

  sys.unraisablehook = show


def _cpu() -> str:
  """A short name for what programs of this CPU may use."""
  try:
    flags = next(
      line for line in Path('/proc/cpuinfo').read_text().splitlines() if line.startswith(('flags', 'Features'))
    )
  except (OSError, StopIteration):
    flags = ' '.join(os.uname())
  return hashlib.sha256(flags.encode()).hexdigest()[:8]


class Phases:
  """How long each phase of a command took, from the start of the process on."""

  def __init__(self):
    self._before = time.monotonic() - _age()
    self._seconds: dict[str, float] = {}

  def done(self, name: str) -> None:
    """Says that a phase has just ended; one of a name that was there is added to it."""
    now = time.monotonic()
    self._seconds[name] = self._seconds.get(name, 0.0) + now - self._before
    self._before = now

  def __str__(self):
    parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in self._seconds.items())
    return f'{sum(self._seconds.values()):.1f} s: {parts}'


def _age() -> float:
  """Returns the seconds since this process began; 0 where the system does not tell."""
  try:
    started = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
  except (OSError, ValueError, AttributeError):
    return 0.0


def run_main(main: Callable[[], int | None], leave: Callable[[int], None] = sys.exit) -> None:
  """Runs a command and leaves with what it returns (None: 0).

  ValueError and OSError (a file that is missing, or may not be read or written) are bad input: the places that
  raise them say what is wrong and what to do. What failed beside it ends with 1, what was told to end with 75. Anything
  else is our mistake, and shows its traceback.
  """
  try:
    code = main() or 0
  except (ValueError, OSError) as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    code = BAD_INPUT
  except Interrupted as told:
    print(told, file=sys.stderr)
    code = TEMPORARY_FAILURE
  except Failure as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    code = 1
  except KeyboardInterrupt:
    print('stopped', file=sys.stderr)
    code = 130
  except Exception:  # pylint: disable=broad-except
    traceback.print_exc()
    code = 1
  leave(code)
