"""Shared by all commands: error handling and exit codes, the compilation cache, and the time of each phase."""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import hashlib
import logging
import os
from pathlib import Path
import sys
import time
import traceback

from lrm_jax import errors
from lrm_jax.errors import BAD_INPUT, FAILURE, TEMPORARY_FAILURE, FailureError, InputError, Interrupted


def enable_compilation_cache() -> None:
  """Caches compiled programs on disk in ~/.cache/lrm_jax, or in JAX_COMPILATION_CACHE_DIR if that is set.

  Nothing is cached if LRM_JAX_NO_CACHE=1 is set or the home directory is not writable. CPU programs depend on the CPU
  model, so each model has its own directory: several machines may share a home directory.
  """
  if os.environ.get('JAX_COMPILATION_CACHE_DIR') or os.environ.get('LRM_JAX_NO_CACHE'):
    return
  place = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'lrm_jax' / f'compiled-{_cpu()}'
  try:
    place.mkdir(parents=True, exist_ok=True)
  except OSError:
    return
  import jax  # Commands that do not compute anything start without it.

  jax.config.update('jax_compilation_cache_dir', str(place))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def silence_repeated_tracebacks() -> None:
  """Hides tracebacks that Orbax's threads print repeatedly, on a full disk for example: they also raise the error."""
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  logging.getLogger('absl').addFilter(lambda record: not (record.exc_info and 'orbax' in record.pathname))
  default_hook = sys.unraisablehook

  def hook(unraisable):
    if 'Event loop is closed' not in str(unraisable.exc_value):
      default_hook(unraisable)

  sys.unraisablehook = hook


def _cpu() -> str:
  """Returns a short hash of the CPU's instruction sets."""
  try:
    flags = next(
      line for line in Path('/proc/cpuinfo').read_text().splitlines() if line.startswith(('flags', 'Features'))
    )
  except (OSError, StopIteration):
    flags = ' '.join(os.uname())
  return hashlib.sha256(flags.encode()).hexdigest()[:8]


class Phases:
  """Measures the seconds of each phase of a command, beginning at the start of the process."""

  def __init__(self):
    self._last = time.monotonic() - _process_age()
    self._seconds: dict[str, float] = {}

  def done(self, name: str) -> None:
    """Ends a phase. The time since the previous phase ended is added to `name`."""
    now = time.monotonic()
    self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
    self._last = now

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Adds the time of a `with` block to `name`. The time between the previous phase and the block is not counted."""
    self._last = time.monotonic()
    yield
    self.done(name)

  @property
  def seconds(self) -> dict[str, float]:
    """The seconds of each finished phase, rounded to tenths."""
    return {name: round(seconds, 1) for name, seconds in self._seconds.items()}

  def __str__(self):
    parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in self._seconds.items())
    return f'{sum(self._seconds.values()):.1f} s: {parts}'


def _process_age() -> float:
  """Returns the seconds since this process started, or 0 if the system does not report them."""
  try:
    started = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
  except (OSError, ValueError, AttributeError):
    return 0.0


def run_main(main: Callable[[], int | None], leave: Callable[[int], None] = sys.exit) -> None:
  """Runs a command and exits with the code that it returns (None: 0), or with that of its exception (`code_of`)."""
  if '_ARGCOMPLETE' in os.environ:
    _answer_shell()
  try:
    code = main() or 0
  except (Exception, KeyboardInterrupt) as error:
    code = code_of(error)
    if (sentence := _sentence(error)) is None:
      traceback.print_exception(error)
    else:
      print(sentence, file=sys.stderr)
  leave(code)


def _answer_shell() -> None:
  """Lets argcomplete answer a shell that completes options, once the command has made its parser (docs/commands.md)."""
  import argcomplete

  parse = argparse.ArgumentParser.parse_known_args

  def complete(parser, *args, **kwargs):
    argparse.ArgumentParser.parse_known_args = parse  # type: ignore[method-assign]
    argcomplete.autocomplete(parser)  # Does not return.
    return parse(parser, *args, **kwargs)

  argparse.ArgumentParser.parse_known_args = complete  # type: ignore[method-assign, assignment]


def code_of(error: BaseException) -> int:
  """Returns the exit code of an exception.

  2 if a person must act: an InputError, or a file system that refuses something (a full disk, a missing permission).
  75 if the command was interrupted and lost nothing. 130 for Ctrl-C. 1 for all others, which launchers retry: failures
  of machines and networks, and bugs.
  """
  if isinstance(error, InputError) or _refused(error):
    return BAD_INPUT
  if isinstance(error, Interrupted):
    return TEMPORARY_FAILURE
  return 130 if isinstance(error, KeyboardInterrupt) else FAILURE


def _sentence(error: BaseException) -> str | None:
  """Returns the sentence that explains an exception, or None if its traceback is needed."""
  if isinstance(error, (InputError, FailureError)) or _refused(error):
    return f'error: {errors.one_line(error)}'
  if isinstance(error, Interrupted):
    return str(error)
  if isinstance(error, KeyboardInterrupt):
    return 'stopped'
  if errors.out_of_memory(error):
    return f'error: out of memory ({errors.one_line(error)[:200] or type(error).__name__}): use smaller sizes'
  return None


def _refused(error: BaseException) -> bool:
  """Returns whether an error of the operating system names a file and what a person must change about it."""
  return isinstance(error, OSError) and error.filename is not None and errors.must_be_mended(error)
