"""The commands with options by argparse, found in the sources, and what their --help prints."""

import contextlib
import importlib
import io
import os
from pathlib import Path
import sys
from unittest import mock

ROOT = Path(__file__).parents[2]


def find() -> list[str]:
  """Returns the modules with a parser of options, such as lrm_jax.evaluate: those of lrm_jax/, then those of data/."""
  package, data = ROOT / 'lrm_jax', ROOT / 'data'
  names = [f'lrm_jax.{path.stem}' for path in sorted(package.glob('*.py')) if _has_options(path)]
  names += [f'lrm_jax.{path.parent.name}' for path in sorted(package.glob('*/__main__.py')) if _has_options(path)]
  return names + [f'lrm_jax.data.{path.stem}' for path in sorted(data.glob('*.py')) if _has_options(path)]


def _has_options(path: Path) -> bool:
  return 'add_argument(' in path.read_text()


def main_of(name: str):
  """Returns the module of a command that has its function `main`."""
  module = importlib.import_module(name)
  return importlib.import_module(f'{name}.__main__') if hasattr(module, '__path__') else module


def help_of(name: str) -> str:
  """Returns what `python -m NAME --help` prints, in 100 columns; the command is run in this process."""
  output = io.StringIO()
  with (
    contextlib.redirect_stdout(output),
    mock.patch.object(sys, 'argv', [name, '--help']),
    mock.patch.dict(os.environ, {'COLUMNS': '100', 'NO_COLOR': '1'}),
    contextlib.suppress(SystemExit),
  ):
    main_of(name).main()
  return output.getvalue().rstrip()
