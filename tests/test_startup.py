"""Commands cache compiled programs and report the time of each phase."""

import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

from lrm_jax import command_line

CODE = (
  'import jax, jax.numpy as jnp\nfrom lrm_jax import command_line\ncommand_line.enable_compilation_cache()\n'
  'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)\n'
  'jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((64, 64)))\nprint(jax.config.jax_compilation_cache_dir)'
)


def run(**settings):
  environment = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')} | settings
  return subprocess.run(
    [sys.executable, '-c', CODE], env=environment, capture_output=True, text=True, check=True
  ).stdout.strip()


def test_compiled_programs_are_cached(tmp_path):
  place = Path(run(XDG_CACHE_HOME=str(tmp_path)))
  assert place.parent == tmp_path / 'lrm_jax' and any(place.iterdir())


@pytest.mark.parametrize(
  'settings, place', [({'LRM_JAX_NO_CACHE': '1'}, 'None'), ({'JAX_COMPILATION_CACHE_DIR': '/tmp/mine'}, '/tmp/mine')]
)
def test_cache_directory_can_be_set(settings, place, tmp_path):
  assert run(XDG_CACHE_HOME=str(tmp_path), **settings) == place
  assert not any(tmp_path.iterdir())


def test_unwritable_cache_directory_is_ignored(tmp_path):
  (tmp_path / 'file').touch()
  assert run(XDG_CACHE_HOME=str(tmp_path / 'file')) == 'None'


def test_phases_sum_to_the_age_of_the_process():
  code = (
    'import time; time.sleep(0.3)\nfrom lrm_jax.command_line import Phases\n'
    'p = Phases(); p.done("a"); time.sleep(0.2); p.done("b"); print(p)'
  )
  began = time.monotonic()
  output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
  took = time.monotonic() - began
  total, parts = output.split(' s: ')
  times = {part.split()[0]: float(part.split()[1]) for part in parts.split(',')}
  assert times['a'] >= 0.3 and times['b'] == pytest.approx(0.2, abs=0.11) and 0.5 <= float(total) <= took + 0.1
  assert command_line.Phases()._seconds == {}
