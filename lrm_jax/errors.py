"""Exceptions and exit codes of commands; lrm_jax/command_line.py turns the former into the latter.

docs/operations.md lists which failures are final and which ones launchers retry.
"""

import errno
import os

FAILURE = 1  # A bug or a failure of the machine: launchers start the command again, a limited number of times.
BAD_INPUT = 2  # The input is wrong and must be corrected: launchers do not retry.
TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes, so launchers requeue it.


class InputError(ValueError):
  """Something that the user gave is wrong: a file, an option, a configuration. The message names it and the remedy.

  A command ends with one sentence and the exit code 2. So it does on errors of the file system that a person must
  remove (`must_be_mended`); every other exception is a bug or a failure.
  """


class Interrupted(Exception):  # noqa: N818  (not an error)
  """The command was asked to stop and lost nothing: the same command resumes."""


class FailureError(Exception):
  """Something that the command depends on failed, such as another process; the input is fine. Launchers retry."""


# What a file system refuses until a person changes something.
_LASTING = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.EISDIR,
  errno.ENOTDIR,
  errno.ENAMETOOLONG,
  errno.ELOOP,
  errno.EEXIST,  # A file where a directory is to be made.
)
# What passes, or may be gone on another machine: failures of networks, disks and memory, and exhausted tables.
_PASSING = (
  errno.EIO,
  errno.ESTALE,
  errno.EREMOTEIO,
  errno.ETIMEDOUT,
  errno.EAGAIN,
  errno.EBUSY,
  errno.EINTR,
  errno.ENOMEM,
  errno.EMFILE,
  errno.ENFILE,
  errno.ENOTCONN,
  errno.ENETDOWN,
  errno.ENETUNREACH,
  errno.ENETRESET,
  errno.EHOSTDOWN,
  errno.EHOSTUNREACH,
)


def must_be_mended(error: BaseException) -> bool:
  """Returns whether the file system refused something until a person acts: a full disk, a missing permission.

  Libraries that are not Python's, such as tensorstore, raise other exceptions with the operating system's message.
  """
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno in _LASTING
  text = str(error)
  return text.startswith(('PERMISSION_DENIED', 'UNAUTHENTICATED')) or any(
    os.strerror(number) in text for number in _LASTING
  )


def passes(error: BaseException) -> bool:
  """Returns whether an error that occurred while reading a file says nothing about its content, and may pass.

  A damaged file, in contrast, fails again: `OSError` without a number is how Pillow and NumPy report one.
  """
  if isinstance(error, (ConnectionError, TimeoutError, MemoryError)):
    return True
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno in _PASSING
  text = str(error)
  # The messages of tensorstore begin with these status codes.
  return text.startswith(('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED', 'ABORTED', 'CANCELLED')) or any(
    os.strerror(number) in text for number in _PASSING
  )


def one_line(error: BaseException) -> str:
  """Returns the message of an error on one line."""
  return ' '.join(str(error).split())


def out_of_memory(error: BaseException) -> bool:
  """Returns whether a device or this process ran out of memory."""
  # By name, so that commands that do not need JAX do not import it.
  of_device = type(error).__name__ in ('JaxRuntimeError', 'XlaRuntimeError')
  return isinstance(error, MemoryError) or (of_device and 'RESOURCE_EXHAUSTED' in str(error)[:200])
