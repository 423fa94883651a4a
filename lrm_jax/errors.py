"""The door of every command: bad input is one sentence on stderr and exit code 2, with no traceback."""

from collections.abc import Callable
import sys

BAD_INPUT = 2


def run_main(main: Callable[[], int | None]) -> None:
  """Runs a command and exits with what it returns (None: 0).

  ValueError and OSError (a file that is missing, or may not be read or written) are bad input: the places that
  raise them say what is wrong and what to do. Anything else is our mistake, and shows its traceback.
  """
  try:
    code = main() or 0
  except (ValueError, OSError) as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    code = BAD_INPUT
  except KeyboardInterrupt:
    print('stopped', file=sys.stderr)
    code = 130
  sys.exit(code)
