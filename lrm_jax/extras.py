"""Installed packages: their versions; a missing extra is reported in one sentence, with the command to install it."""

import importlib.metadata
import importlib.util
import sys

from lrm_jax.errors import BAD_INPUT


def installed(module: str) -> bool:
  """Returns whether a module, 'a.b' or 'a', can be imported; it is not imported."""
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # The parent of a dotted name is missing.
    return False


def version(package: str) -> str | None:
  """Returns the version of an installed package, or None."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def require(extra: str, *modules: str, purpose: str) -> None:
  """Raises ImportError, with the packages to install, if a module of an extra is missing.

  In a command of this package, such as `python -m lrm_jax.train`, prints the message and exits with code 2 instead.
  `purpose` begins the message, for example 'training'. Packages call this when they are imported, before the import
  that would fail.
  """
  missing = [module for module in modules if not installed(module)]
  if not missing:
    return
  message = (
    f'{purpose} needs {", ".join(missing)}, which {"are" if len(missing) > 1 else "is"} not installed: '
    f"pip install 'lrm_jax[{extra}]'"
  )
  # runpy imports packages before it sets up __main__, so the command is recognised by `python -m lrm_jax.train ...`.
  argv = sys.orig_argv
  if '-m' in argv[:-1] and argv[argv.index('-m') + 1].startswith('lrm_jax.'):
    print(f'error: {message}', file=sys.stderr)
    sys.exit(BAD_INPUT)
  raise ImportError(message)
