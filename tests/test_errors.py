"""Bad input is reported in one line with exit code 2; bugs print their traceback."""

import pytest

from lrm_jax.command_line import run_main
from lrm_jax.errors import FailureError, Interrupted


def leave(main):
  with pytest.raises(SystemExit) as info:
    run_main(main)
  return info.value.code


def fail(error):
  def main():
    raise error

  return main


@pytest.mark.parametrize(
  'error',
  [
    ValueError('size = 0 is too small:\n  give 64'),
    FileNotFoundError(2, 'No such file', 'size = 0'),
    PermissionError('size = 0'),
    IsADirectoryError('size = 0'),
  ],
)
def test_bad_input_is_reported_in_one_line(error, capsys):
  assert leave(fail(error)) == 2
  out, err = capsys.readouterr()
  assert out == '' and err.count('\n') == 1
  assert err.startswith('error: ') and 'size = 0' in err and 'Traceback' not in err


@pytest.mark.parametrize('error', [TypeError('bug'), KeyError('bug'), RuntimeError('bug'), AssertionError('bug')])
def test_bugs_print_their_traceback(error, capsys):
  assert leave(fail(error)) == 1
  err = capsys.readouterr().err
  assert err.startswith('Traceback') and err.splitlines()[-1].startswith(f'{type(error).__name__}: ')


def test_exit_codes(capsys):
  assert leave(lambda: None) == 0
  assert leave(lambda: 3) == 3
  assert leave(fail(KeyboardInterrupt())) == 130
  assert leave(fail(FailureError('a worker exited'))) == 1
  assert leave(fail(Interrupted('stopped by SIGTERM'))) == 75
  codes = []
  run_main(fail(ValueError('size')), codes.append)
  assert codes == [2]
  assert 'Traceback' not in capsys.readouterr().err
