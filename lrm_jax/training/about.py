"""What a run was computed with: git revision, versions of libraries, devices."""

from pathlib import Path
import platform
import subprocess

import jax

from lrm_jax import extras

_LIBRARIES = ('lrm_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
_PLUGINS = ('libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin', 'nvidia-cudnn-cu12', 'nvidia-nccl-cu12')


def about() -> dict:
  """Returns {'git': revision or None, 'versions': {name: version}, 'devices': text, 'processes': number}.

  The revision is that of the checkout that contains this package; '+changes' follows it if files differ from it.
  """
  versions = {'python': platform.python_version()}
  versions |= {name: extras.version(name) or 'unknown' for name in _LIBRARIES}
  versions |= {name: found for name in _PLUGINS if (found := extras.version(name))}
  return {
    'git': _revision(Path(__file__).parents[1]),
    'versions': versions,
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'processes': jax.process_count(),
  }


def _revision(folder: Path) -> str | None:
  """Returns the git revision of the checkout that a package belongs to, or None."""

  def git(*words):
    return subprocess.run(['git', '-C', str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()

  try:
    if not git('ls-files', '__init__.py'):  # Installed below the checkout of another project.
      return None
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', 'HEAD') + ('+changes' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return None
