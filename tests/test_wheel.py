"""The wheel, installed in an environment of its own and used in an empty directory, without a checkout."""

import os
from pathlib import Path
import subprocess
import sys
import zipfile

import numpy as np
from PIL import Image
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
PAGE = [f'lrm_jax/view/static/{name}' for name in ('index.html', 'model-viewer.min.js', 'examples/chair.png')]


def run(command, cwd, **options):
  environment = {name: value for name, value in os.environ.items() if not name.startswith(('JAX_', 'PYTHON', 'COV_'))}
  return subprocess.run(
    list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, **options
  )


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, built from the files that git tracks."""
  source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
  files = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
  for name in files:
    if (ROOT / name).is_file():
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_bytes((ROOT / name).read_bytes())
  result = run([sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--wheel-dir', out, source], cwd=out)
  assert result.returncode == 0, result.stderr
  [path] = out.glob('*.whl')
  return path


def install(python, wheel, extra=''):
  result = run([python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', f'{wheel}{extra}'], cwd='/')
  assert result.returncode == 0, result.stderr


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
  """The Python of an environment with the wheel and what it requires, without extras."""
  folder = tmp_path_factory.mktemp('environment')
  assert run([sys.executable, '-m', 'venv', folder], cwd='/').returncode == 0
  install(folder / 'bin/python', wheel)
  return folder / 'bin/python'


@pytest.fixture(scope='module')
def trained_python(python, wheel):
  """The same with the extra `train`; requested after the tests of the plain installation."""
  install(python, wheel, '[train]')
  return python


def test_wheel_has_one_top_level_package(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split('/')[0] for name in names if '.dist-info' not in name} == {'lrm_jax'}
  for name in ('lrm_jax/configs/base.py', 'lrm_jax/data/build.py', 'lrm_jax/py.typed', *PAGE):
    assert name in names


def test_building_the_wheel_warns_of_nothing(tmp_path):
  result = run([sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--verbose', '--wheel-dir', tmp_path, ROOT], cwd='/')
  assert result.returncode == 0, result.stderr
  assert 'Warning' not in result.stdout + result.stderr


def test_reconstruction_needs_no_extra(python, tmp_path):
  pixels = np.zeros((64, 64, 4), np.uint8)
  pixels[12:52, 20:44] = (200, 80, 40, 255)
  Image.fromarray(pixels).save(tmp_path / 'block.png')
  result = run(
    [python, '-m', 'lrm_jax.reconstruct', 'block.png', '--out=out', '--resolution=48', '--num_frames=2'], cwd=tmp_path
  )
  assert result.returncode == 0, result.stderr
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {
    'block.glb', 'block.mp4', 'block_depth.mp4', 'block_input.png', 'block_planes.npz'
  }  # fmt: skip
  code = "import lrm_jax; print(lrm_jax.from_pretrained('quickstart').image_size)"
  assert run([python, '-c', code], cwd=tmp_path).stdout == '64\n'


@pytest.mark.parametrize('command', ['train', 'evaluate', 'data_check', 'quickstart', 'view'])
def test_missing_extra_is_one_sentence(python, command, tmp_path):
  result = run([python, '-m', f'lrm_jax.{command}'], cwd=tmp_path)
  assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1, result.stderr
  assert result.stderr.startswith('error: ') and "pip install 'lrm_jax[" in result.stderr


def test_training_and_evaluation_with_the_extra(trained_python, tmp_path):
  result = run(
    [
      trained_python, '-m', 'lrm_jax.train', '--config=quickstart', '--workdir=run', '--config.num_train_steps=2',
      '--config.batch_size=2', '--config.optimizer.warmup_steps=1', '--config.data.eval_objects=1',
    ],
    cwd=tmp_path,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  result = run([trained_python, '-m', 'lrm_jax.evaluate', '--checkpoint=run', '--data=embedded'], cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  assert 'mean view' in result.stdout
  result = run([trained_python, '-m', 'lrm_jax.train', '--config=nothing'], cwd=tmp_path)
  assert result.returncode == 2 and 'base, demo, huge' in result.stderr


def test_quickstart_with_the_extra(trained_python, tmp_path):
  result = run([trained_python, '-m', 'lrm_jax.quickstart', '--minutes=0.1', '--objects=1'], cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  assert (tmp_path / 'out/quickstart/index.html').is_file()
