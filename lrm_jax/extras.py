"""Optional dependencies: one sentence, with what to install, where an extra of the package is missing."""

import importlib.util
import sys

from lrm_jax.errors import BAD_INPUT


def installed(module: str) -> bool:
  """Returns whether a module, 'a.b' or 'a', can be imported; it is not imported."""
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # The parent of a dotted name is missing.
    return False


def require(extra: str, *modules: str, purpose: str) -> None:
  """Raises ImportError, with what to install, where a module of an extra is missing; ends a command of ours instead.

  `purpose` begins the sentence: 'training'. Packages call this when they are imported, before the import that would
  fail.
  """
  missing = [module for module in modules if not installed(module)]
  if not missing:
    return
  message = (
    f'{purpose} needs {", ".join(missing)}, which {"are" if len(missing) > 1 else "is"} not installed: '
    f"pip install 'lrm_jax[{extra}]'"
  )
  words = sys.orig_argv  # Of `python -m lrm_jax.train ...`; runpy imports packages before it sets up __main__.
  if '-m' in words[:-1] and words[words.index('-m') + 1].startswith('lrm_jax.'):
    print(f'error: {message}', file=sys.stderr)
    sys.exit(BAD_INPUT)
  raise ImportError(message)
