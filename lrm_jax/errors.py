"""The door of every command: bad input is one sentence on stderr and exit code 2, with no traceback."""

from collections.abc import Callable
import sys
import traceback

BAD_INPUT = 2
# What sysexits.h calls a temporary failure: nothing is wrong, and the same command again goes on. Launchers requeue it.
GO_ON_LATER = 75


class Interrupted(Exception):
  """A command was told to end, and nothing is lost: the same command goes on."""


class Failure(Exception):
  """What a command needs has failed, such as a process beside it; its input is not at fault. Launchers try again."""


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
    code = GO_ON_LATER
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
