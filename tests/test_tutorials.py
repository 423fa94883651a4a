"""Every command of the pages that lead through several steps, as it stands there, but with smaller sizes."""

import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from conftest import DATA, TINY_MODEL
from lrm_jax.export import export
from lrm_jax.models import registry
from lrm_jax.storage import checkpoint

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
# What is added to commands, and options whose value is replaced, to make them short.
SMALLER = {
  'lrm_jax.data.render': ['--num_views=4', '--size=32', '--timeout=300'],
  'lrm_jax.reconstruct': ['--resolution=16', '--size=16', '--num_frames=2', '--threshold=0.01'],
  'lrm_jax.evaluate': ['--objects=1', '--size=16', '--baseline_views=4', '--baseline_objects=2'],
}
STEPS = ['--config.num_train_steps=2', '--config.batch_size=2', '--config.optimizer.warmup_steps=1']
STEPS += ['--config.data.eval_objects=1', '--config.eval_every=2']


def commands(page: str) -> list[list[str]]:
  """Returns the words of each command in the code blocks of a page, without comments."""
  blocks = re.findall(r'^```\n(.*?)^```', (ROOT / 'docs' / page).read_text(), re.MULTILINE | re.DOTALL)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess:
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.run(
    [sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
  )


def image(path: Path) -> None:
  pixels = np.zeros((64, 64, 4), np.uint8)
  pixels[12:52, 20:44] = (200, 80, 40, 255)
  Image.fromarray(pixels).save(path)


def test_page_from_models_to_training(tmp_path):
  pytest.importorskip('moderngl', reason="OpenGL is not installed: pip install '.[raster]'")
  (tmp_path / 'models').mkdir()
  sources = sorted((ROOT / 'tests/objects').glob('*.glb'))
  for number in range(24):  # So many that each split has some: they are chosen by a hash of the name.
    shutil.copy(sources[number % len(sources)], tmp_path / 'models' / f'model_{number}.glb')
  image(tmp_path / 'photo.png')
  done = []
  for words in commands('from_models_to_training.md'):
    if words[0] == 'pip':  # tests/test_wheel.py installs the extras.
      continue
    module = words[2]
    words = words + SMALLER.get(module, [])
    if module == 'lrm_jax.train' and '--check=1' not in words:
      words = words + STEPS
    result = run(words, tmp_path)
    # 1: data_check finds that views of 32 px show too little detail.
    assert result.returncode == 0 or (module == 'lrm_jax.data_check' and result.returncode == 1), (words, result.stderr)
    if result.returncode:
      problems = [line for line in result.stdout.splitlines() if line.startswith('- ')]
      assert all(line.startswith('- size: ') for line in problems), problems
    done.append(module.removeprefix('lrm_jax.'))
  assert done[:4] == ['data.render', 'data_check', 'data.build', 'data_check']
  assert done[4:] == ['train', 'report', 'train', 'evaluate', 'reconstruct', 'export']
  for name in ('renders.png', 'report.html', 'results/report.html', 'out/photo.glb', 'exported/config.json'):
    assert (tmp_path / name).is_file(), name


TRIPOSR = {name: value for name, value in TINY_MODEL.items() if name != 'camera_width'} | dict(
  architecture='triposr', nerf_depth=4, decoder_width=32
)
# The configuration `triposr`, with the sizes of a tiny model.
CONFIGURATION = f"""
from lrm_jax.configs import triposr

def get_config():
  config = triposr.get_config()
  config.model.update({TRIPOSR!r})
  config.data.update(dict(window=8, resize_min=8, resize_max=12, eval_size=16, eval_split='test', num_workers=0))
  config.loss.lpips_weight = 0.0
  return config
"""


def test_page_of_fine_tuning_triposr(dataset, tmp_path):
  rng = np.random.default_rng(0)
  params = registry.parameters(registry.build_model(TRIPOSR, nnx.Rngs(0)))
  params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
  checkpoint.write_model(tmp_path / 'run', params, ConfigDict({'model': TRIPOSR, 'data': DATA}), step=1)
  export(tmp_path / 'run', tmp_path / 'published', format='triposr')
  (tmp_path / 'tiny.py').write_text(CONFIGURATION)
  replaced = {
    '--config=triposr': '--config=tiny.py',
    'hf://stabilityai/TripoSR': 'published',
    'my_data/objaverse_views/1.1.0': dataset,
  }
  done = []
  for words in commands('fine_tuning_triposr.md'):
    module = words[2]
    if module == 'lrm_jax.data.lpips_weights':  # It downloads 64 MB; tests/test_vgg.py tests it.
      continue
    for old, new in replaced.items():
      words = [word.replace(old, new) for word in words]
    words = [word for word in words if 'lpips_network' not in word]
    if module == 'lrm_jax.train':
      words += STEPS if not any('--check' in word for word in words) else ['--config.batch_size=8']
    if module == 'lrm_jax.evaluate' and '--compare' not in words:
      words += SMALLER[module]
    result = run(words, tmp_path)
    assert result.returncode == 0, (words, result.stderr)
    done.append(module.removeprefix('lrm_jax.'))
  assert done == ['train', 'train', 'train', 'evaluate', 'evaluate', 'evaluate', 'export']
  assert (tmp_path / 'exported/config.yaml').is_file() and (tmp_path / 'results/after/report.html').is_file()
  table = (ROOT / 'docs/fine_tuning_triposr.md').read_text()
  options = [shlex.split(words) for words in re.findall(r'^\| .* \| `(--config[^`]*)` \|$', table, re.MULTILINE)]
  assert len(options) == 5
  for some in options:
    command = ['python', '-m', 'lrm_jax.train', '--config=tiny.py', f'--config.data.path={dataset}']
    result = run([*command, '--config.init_from=published', '--config.batch_size=8', '--check=1', *some], tmp_path)
    assert result.returncode == 0, (some, result.stderr)
