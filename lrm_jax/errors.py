"""Exceptions and exit codes of commands; lrm_jax/command_line.py turns the former into the latter."""

BAD_INPUT = 2  # The input is wrong and must be corrected: launchers do not retry.
TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes, so launchers requeue it.


class InputError(ValueError):
  """Something that the user gave is wrong: a file, an option, a configuration. The message names it and the remedy.

  Only this exception ends a command with one sentence and the exit code 2. Every other one is a bug or a failure.
  """


class Interrupted(Exception):  # noqa: N818  (not an error)
  """The command was asked to stop and lost nothing: the same command resumes."""


class FailureError(Exception):
  """Something that the command depends on failed, such as another process; the input is fine. Launchers retry."""
