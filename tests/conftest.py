"""Shared fixtures: a random generator, a tiny model, and a small dataset of analytic objects."""

import atexit
import importlib.util
import io
import os
import shutil
import tempfile

from absl import flags
import jaxtyping
import numpy as np
from PIL import Image
import pytest

# Check the shapes and types in the signatures of the maths and the models at each call. The import hook has to be
# installed before these modules are imported.
_CHECKED = ['lrm_jax.geometry.rays', 'lrm_jax.geometry.volume', 'lrm_jax.training.losses', 'lrm_jax.models']
jaxtyping.install_import_hook(_CHECKED, 'beartype.beartype')

from lrm_jax.geometry import cameras  # noqa: E402  (the import hook must come first)

# All tests, workers of pytest-xdist and commands that tests start share one compilation cache.
if 'PYTEST_XDIST_WORKER' not in os.environ:
  _PROGRAMS = tempfile.mkdtemp(prefix='lrm_jax_tests_')
  atexit.register(shutil.rmtree, _PROGRAMS, ignore_errors=True)
  os.environ |= {
    'JAX_COMPILATION_CACHE_DIR': _PROGRAMS,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
  }

# Files whose tests take minutes. They come first, so that no worker of `make test-slow` is idle at the end.
_LONGEST = ('test_slurm', 'test_overfit', 'test_several_processes', 'test_faults', 'test_models', 'test_quickstart')


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))


flags.FLAGS.mark_as_parsed()  # Grain's workers read flags.

TINY_MODEL = dict(
  image_size=16,
  patch_size=8,
  encoder_width=24,
  encoder_depth=2,
  encoder_num_heads=2,
  encoder_table_size=3,
  camera_width=16,
  decoder_width=32,
  decoder_depth=2,
  decoder_num_heads=2,
  triplane_resolution=4,
  triplane_upsample=2,
  triplane_channels=6,
  nerf_width=16,
  nerf_depth=3,
  num_samples=8,
)

# The values of the configuration section `data` that inference reads.
DATA = {'fov': 50.0, 'fill': 0.58, 'input_background': 1.0}


@pytest.fixture(scope='session')
def run_directory(tmp_path_factory):
  """A run directory with an untrained model of the tiny configuration, at step 7."""
  from flax import nnx
  import jax
  from ml_collections import ConfigDict

  from lrm_jax.models import registry
  from lrm_jax.models.lrm import LRM
  from lrm_jax.storage import checkpoint

  directory = tmp_path_factory.mktemp('run')
  rng = np.random.default_rng(0)
  # An untrained model ignores the camera, so all parameters are perturbed a little.
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32),
    registry.parameters(LRM(**TINY_MODEL, rngs=nnx.Rngs(0))),
  )
  checkpoint.write_model(directory, params, ConfigDict({'model': TINY_MODEL, 'data': DATA}), step=7)
  return directory


def load_torch_lrm(directory):
  """Returns the model that `export --format=torch` wrote to a directory, loaded with the directory's torch_lrm.py."""
  spec = importlib.util.spec_from_file_location('torch_lrm', directory / 'torch_lrm.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.load(directory)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def ball(pose: np.ndarray, intrinsics: np.ndarray, size: int, radius: float) -> np.ndarray:
  """Returns RGBA bytes [size, size, 4] of a ball at the origin, coloured by its surface normals."""
  centre = (np.arange(size) + 0.5) / size
  x, y = np.meshgrid((centre - intrinsics[2]) / intrinsics[0], (centre - intrinsics[3]) / intrinsics[1])
  directions = np.stack([x, -y, -np.ones_like(x)], axis=-1) @ pose[:3, :3].T
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  along = -directions @ pose[:3, 3]
  under = along**2 - (pose[:3, 3] @ pose[:3, 3] - radius**2)
  hit = under > 0
  normal = (pose[:3, 3] + directions * (along - np.sqrt(np.maximum(under, 0)))[..., None]) / radius
  color = np.where(hit[..., None], 0.5 + 0.5 * normal, 0)
  return np.round(np.concatenate([color, hit[..., None]], axis=-1) * 255).astype(np.uint8)


@pytest.fixture(scope='session')
def renders(tmp_path_factory):
  """A directory with folders in the format of data/render.py: 6 balls, each with 5 views of 32 px."""
  root = tmp_path_factory.mktemp('renders')
  rng = np.random.default_rng(1)
  for number in range(6):
    folder = root / f'ball_{number}'
    (folder / 'views').mkdir(parents=True)
    positions = rng.normal(size=(4, 3)) * [1, 1, 0.4]
    positions *= (rng.uniform(1.5, 3.0, 4) / np.linalg.norm(positions, axis=-1))[:, None]
    poses = np.concatenate([cameras.input_camera()[None], cameras.look_at(positions)])
    intrinsics = np.tile(cameras.intrinsics_from_fov(50), (5, 1))
    np.savez(folder / 'cameras.npz', camera_to_world=poses, intrinsics=intrinsics, object_to_world=np.eye(4))
    for view in range(5):
      pixels = ball(poses[view], intrinsics[view], 32, radius=0.3 + 0.05 * number)
      Image.fromarray(pixels).save(folder / 'views' / f'{view:03d}.webp', lossless=True, exact=True)
  return root


@pytest.fixture(scope='session')
def dataset(renders, tmp_path_factory):
  """The directory of an `object_views` dataset of these balls: 4 for training, 2 held out."""
  from lrm_jax.data.object_views import ObjectViews

  folders = sorted(renders.glob('ball_*'))
  splits = {name: {path.name: path for path in some} for name, some in (('train', folders[:4]), ('test', folders[4:]))}
  builder = ObjectViews(splits=splits, data_dir=tmp_path_factory.mktemp('dataset'))
  builder.download_and_prepare()
  return str(builder.data_dir)


def make_tiny_config(dataset):
  """Returns a configuration that trains the tiny model on a dataset for 6 steps."""
  from lrm_jax.configs import quickstart

  config = quickstart.get_config()
  config.model.update(TINY_MODEL)
  config.rays_per_chunk = 48
  config.data.update(
    dict(path=dataset, eval_split='test', window=8, resize_min=8, resize_max=12, eval_objects=2, eval_size=16)
  )
  config.update(dict(num_train_steps=6, batch_size=4, log_every=1, checkpoint_every=3, eval_every=6))
  config.optimizer.update(dict(warmup_steps=2, muon=False))  # AdamW compiles in half the time; Muon has its own test.
  return config


@pytest.fixture
def tiny_config(dataset):
  return make_tiny_config(dataset)


def encode_png(pixels: np.ndarray) -> bytes:
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'PNG')
  return stream.getvalue()


@pytest.fixture(scope='session')
def truth():
  """(poses [V, 4, 4], intrinsics [4]) of views of a ball at the origin."""
  rng = np.random.default_rng(3)
  positions = rng.normal(size=(7, 3)) * [1, 1, 0.5]
  positions *= (rng.uniform(1.8, 2.6, 7) / np.linalg.norm(positions, axis=-1))[:, None]
  return cameras.look_at(positions), np.array([1.1, 1.1, 0.5, 0.5])
