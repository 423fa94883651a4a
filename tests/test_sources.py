"""Third-party models: loading, exporting and fine-tuning them, and the errors for files that do not match."""

import importlib
import json
import math
import os
from pathlib import Path
import subprocess
import sys

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
import yaml

from conftest import DATA, TINY_MODEL
import lrm_jax
from lrm_jax import export
from lrm_jax.configs import triposr as triposr_config
from lrm_jax.errors import InputError
from lrm_jax.models import registry
from lrm_jax.storage import checkpoint
from lrm_jax.training import loop as train_lib
from lrm_jax.training import metric_writer
from lrm_jax.weights import openlrm, pretrained, triposr
from tests.test_vgg import write_legacy

OPENLRM = TINY_MODEL | dict(
  architecture='openlrm', nerf_width=64, nerf_depth=4, encoder_width=28, encoder_interpolate_offset=0.1
)
TRIPOSR = {name: value for name, value in TINY_MODEL.items() if name != 'camera_width'} | dict(
  architecture='triposr', nerf_depth=4, decoder_width=32
)


def random_run(model_kwargs, directory, seed=0):
  """Writes a run directory with random float32 parameters and returns it."""
  rng = np.random.default_rng(seed)
  params = registry.parameters(registry.build_model(model_kwargs, nnx.Rngs(0)))
  params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32), params)
  config = ConfigDict({'model': model_kwargs, 'data': DATA})
  checkpoint.write_model(directory, params, config, step=1, dtype=jnp.float32)
  return directory


def arrays(model):
  return {path: np.asarray(x) for path, x in pretrained.flat_parameters(model).items()}


@pytest.mark.parametrize(
  'config, count',
  [
    ('openlrm_small', 111_390_948),
    ('openlrm_base', 260_201_972),
    ('openlrm_large', 452_138_004),
    ('triposr', 419_275_628),
  ],
)
def test_configurations_have_published_parameter_counts(config, count):
  shapes = pretrained.shapes(importlib.import_module(f'lrm_jax.configs.{config}').get_config())
  assert sum(math.prod(shape) for shape in shapes.values()) == count


@pytest.mark.slow
@pytest.mark.parametrize(
  'config, tensors, count',
  [
    ('openlrm_small', None, 111_390_948),
    ('openlrm_base', None, 260_201_972),
    ('openlrm_large', None, 452_138_004),
    ('triposr', 549, 419_275_628),
  ],
)
def test_full_size_files_are_loaded(config, tensors, count, tmp_path):
  """Random weights, written in the third-party layout, are loaded into the right parameters and sizes."""
  sizes = importlib.import_module(f'lrm_jax.configs.{config}').get_config()
  kind = triposr if config == 'triposr' else openlrm
  rng = np.random.default_rng(0)
  arrays_in = {path: rng.standard_normal(shape, np.float32) for path, shape in pretrained.shapes(sizes).items()}
  sums = {path: float(x.ravel()[::997].sum()) for path, x in arrays_in.items()}
  kind.write(tmp_path / 'model', sizes.to_dict(), arrays_in)
  del arrays_in
  with safe_open(tmp_path / 'model/model.safetensors', 'np') as file:
    names = list(file.keys())
    assert sum(math.prod(file.get_slice(name).get_shape()) for name in names) == count
  assert tensors is None or len(names) == tensors
  model, found, _ = pretrained.load(tmp_path / 'model')
  (tmp_path / 'model/model.safetensors').unlink()  # pytest keeps the temporary directories of the last three runs.
  after = arrays(model)
  assert sum(x.size for x in after.values()) == count
  assert {path: float(x.ravel()[::997].sum()) for path, x in after.items()} == sums
  for name in (
    'encoder_num_heads',
    'encoder_depth',
    'decoder_num_heads',
    'decoder_depth',
    'triplane_channels',
    'image_size',
    'num_samples',
    'nerf_depth',
    'camera_width',
  ):
    assert found.model.get(name) == sizes.model.get(name), name


@pytest.mark.slow
@pytest.mark.parametrize(
  'format, sizes',
  [
    ('openlrm', OPENLRM),
    ('triposr', TRIPOSR),
    ('openlrm', OPENLRM | dict(encoder='dinov2', encoder_registers=4, encoder_width=32)),
    ('torch', TINY_MODEL | dict(plane_axes=('xy', 'xz', 'zy'))),
    ('torch', TRIPOSR),
  ],
  ids=['openlrm', 'triposr', 'openlrm_packed_dinov2', 'torch', 'torch_triposr'],
)
def test_exported_model_is_loaded_unchanged(format, sizes, tmp_path, rng):
  run = random_run(sizes, tmp_path / 'run')
  export.export(run, tmp_path / 'out', format=format)
  before, after = lrm_jax.from_pretrained(run), lrm_jax.from_pretrained(tmp_path / 'out')
  expected = arrays(before.model)
  for path, array in arrays(after.model).items():
    np.testing.assert_array_equal(array, expected[path])
  names = load_file(next((tmp_path / 'out').glob('*.safetensors'))).keys()
  packed = any(name.endswith('cross_attn.in_proj_weight') for name in names)
  assert packed == (format == 'openlrm' and sizes['encoder_width'] == sizes['decoder_width'])
  images = rng.uniform(size=(1, 16, 16, 3)).astype(np.float32)
  camera = dict(intrinsics=np.tile(before.intrinsics, (1, 1)))
  planes = before.encode(images, **camera)
  np.testing.assert_allclose(after.encode(images, **camera), planes, atol=1e-4 * np.abs(planes).max())


@pytest.mark.slow
def test_lrm_camera_feature_is_folded_for_openlrm(tmp_path, rng):
  sizes = TINY_MODEL | dict(
    nerf_width=64,
    nerf_depth=4,
    plane_axes=('xy', 'xz', 'zy'),
    color_padding=0.001,
    encoder_interpolate_offset=0.1,
    encoder_norm_epsilon=1e-12,
  )
  export.export(random_run(sizes, tmp_path / 'run'), tmp_path / 'out', format='openlrm')
  before, after = lrm_jax.from_pretrained(tmp_path / 'run'), lrm_jax.from_pretrained(tmp_path / 'out')
  images = rng.uniform(size=(2, 16, 16, 3)).astype(np.float32)
  camera = dict(intrinsics=np.tile(before.intrinsics, (2, 1)))
  planes = before.encode(images, **camera)
  # Heads of 24 / 2 channels, not the default of 64, so the number of heads must come from the configuration.
  np.testing.assert_allclose(after.encode(images, **camera), planes, atol=1e-5 * np.abs(planes).max())
  points = rng.uniform(-1, 1, (2, 50, 3))
  for a, b in zip(before.query(planes, points), after.query(planes, points)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_export_names_values_that_a_format_cannot_express(tmp_path):
  with pytest.raises(ValueError, match='nerf_depth is 3.*plane_axes.*density_scale is 10.0') as info:
    export.export('quickstart', tmp_path / 'out', format='openlrm')
  assert not (tmp_path / 'out').exists(), info
  with pytest.raises(ValueError, match="architecture is 'lrm'"):
    export.export('quickstart', tmp_path / 'out', format='triposr')
  with pytest.raises(ValueError, match='--format=onnx is unknown'):
    export.export('quickstart', tmp_path / 'out', format='onnx')


@pytest.fixture
def triposr_directory(tmp_path):
  export.export(random_run(TRIPOSR, tmp_path / 'run'), tmp_path / 'triposr', format='triposr')
  return tmp_path / 'triposr'


@pytest.mark.parametrize('wrapper', ['', 'state_dict.'])
def test_pytorch_checkpoint_equals_safetensors(triposr_directory, wrapper):
  expected = arrays(lrm_jax.from_pretrained(triposr_directory).model)
  tensors = load_file(triposr_directory / 'model.safetensors')
  write_legacy(triposr_directory / 'model.ckpt', {wrapper + name: tensor for name, tensor in tensors.items()})
  (triposr_directory / 'model.safetensors').unlink()
  for path, array in arrays(lrm_jax.from_pretrained(triposr_directory).model).items():
    np.testing.assert_array_equal(array, expected[path])


@pytest.mark.slow
def test_openlrm_1_0_names_are_loaded(tmp_path):
  run = random_run(OPENLRM, tmp_path / 'run')
  out = export.export(run, tmp_path / 'out', format='openlrm')
  expected = arrays(lrm_jax.from_pretrained(out).model)
  names_of_1_0 = {
    'pos_embed': 'transformer.pos_embed',
    'upsampler.weight': 'transformer.deconv.weight',
    'upsampler.bias': 'transformer.deconv.bias',
  }
  tensors = load_file(out / 'model.safetensors')
  save_file({names_of_1_0.get(name, name): tensor for name, tensor in tensors.items()}, out / 'model.safetensors')
  for path, array in arrays(lrm_jax.from_pretrained(out).model).items():
    np.testing.assert_array_equal(array, expected[path])


@pytest.mark.slow
def test_openlrm_trains_with_its_losses_and_two_passes(tiny_config, tmp_path):
  config = tiny_config
  config.model = ConfigDict(OPENLRM)
  config.data.background = (0.0, 0.5, 1.0)
  config.loss.update(dict(mask_weight=0.0, total_variation_weight=5e-4))
  train_lib.train(config, tmp_path / 'run')
  lines = metric_writer.read(tmp_path / 'run')
  assert all(np.isfinite(line['loss']) and line['total_variation'] > 0 for line in lines)
  assert lines[-1]['grad_norm'] > 0


def test_error_lists_all_mismatched_tensors(triposr_directory):
  tensors = load_file(triposr_directory / 'model.safetensors')
  del tensors['backbone.proj_in.bias']
  tensors['extra'] = np.zeros(3, np.float32)
  tensors['backbone.norm.bias'] = np.zeros(7, np.float32)
  save_file(tensors, triposr_directory / 'model.safetensors')
  with pytest.raises(ValueError) as info:
    lrm_jax.from_pretrained(triposr_directory)
  for fragment in (
    'model.safetensors',
    'backbone.proj_in.bias is missing',
    'extra (3,) is unexpected',
    '(7,)',
    '(32,)',
  ):
    assert fragment in str(info.value)


def test_unknown_format_lists_expected_and_found_files(tmp_path):
  (tmp_path / 'notes.txt').write_text('hello')
  with pytest.raises(InputError) as info:
    lrm_jax.from_pretrained(tmp_path)
  for fragment in ('checkpoints/', 'model.safetensors', 'config.yaml', 'model.ckpt', 'notes.txt'):
    assert fragment in str(info.value)


@pytest.mark.parametrize('source', ['hf://nobody', 'hf://a/b/c', 'hf:///x'])
def test_invalid_hub_addresses_are_rejected(source):
  with pytest.raises(ValueError, match='use hf://owner/name'):
    lrm_jax.from_pretrained(source)


def test_hub_models_are_loaded_from_the_cache(triposr_directory, tmp_path, monkeypatch):
  """Runs offline: huggingface_hub finds models that are in its cache."""
  import huggingface_hub

  commit, repository = 'a' * 40, tmp_path / 'hub/models--somebody--triposr'
  (repository / 'refs').mkdir(parents=True)
  (repository / 'refs/main').write_text(commit)
  (repository / 'snapshots').mkdir()
  triposr_directory.rename(repository / 'snapshots' / commit)
  original = huggingface_hub.snapshot_download
  monkeypatch.setattr(
    huggingface_hub,
    'snapshot_download',
    lambda name, **kwargs: original(name, cache_dir=tmp_path / 'hub', local_files_only=True, **kwargs),
  )
  assert lrm_jax.from_pretrained('hf://somebody/triposr').half_size == 0.87
  with pytest.raises(ValueError, match='hf://somebody/other could not be downloaded'):
    lrm_jax.from_pretrained('hf://somebody/other')


@pytest.mark.slow
def test_triposr_is_fine_tuned_from_its_weights(triposr_directory, dataset, tmp_path):
  config = triposr_config.get_config()
  config.model.update(TRIPOSR)
  config.data.update(
    dict(path=dataset, window=8, resize_min=8, resize_max=12, eval_objects=2, eval_size=16, num_workers=0)
  )
  config.update(dict(num_train_steps=4, batch_size=4, log_every=1, checkpoint_every=4, eval_every=4))
  config.init_from = str(triposr_directory)
  config.loss.lpips_weight = 0.0
  config.optimizer.warmup_steps = 1
  trainer = train_lib.Trainer(config, lpips=None)
  expected = arrays(lrm_jax.from_pretrained(triposr_directory).model)
  first = traverse_util.flatten_dict(trainer.first_state(trainer.read_weights()[0])['params'], sep='/')
  for path, array in expected.items():
    np.testing.assert_array_equal(first[path], array)
  assert np.isfinite(train_lib.train(config, tmp_path / 'tuned')['eval_psnr'])
  after = arrays(lrm_jax.from_pretrained(tmp_path / 'tuned').model)
  changed = {path for path in expected if not np.array_equal(after[path], expected[path])}
  assert {'encoder/blocks/mlp/expand/kernel', 'decoder/tokens', 'nerf/last/kernel'} <= changed
  export.export(tmp_path / 'tuned', tmp_path / 'again', format='triposr')
  assert yaml.safe_load((tmp_path / 'again/config.yaml').read_text())['cond_image_size'] == 16
  config.model.decoder_width = 64
  with pytest.raises(ValueError, match='does not match config.model'):
    train_lib.Trainer(config, lpips=None).read_weights()


@pytest.mark.slow
def test_initial_parameters_are_restored_with_their_shardings(dataset, tmp_path):
  """On eight devices: each array has the sharding of the trainer and the saved values."""
  code = """
import sys
from flax import traverse_util
import jax, numpy as np
import lrm_jax
from lrm_jax.configs import quickstart
from lrm_jax.training import loop as train_lib
from lrm_jax.weights import pretrained
config = quickstart.get_config()
config.data.path, config.mesh.data, config.mesh.fsdp, config.batch_size = sys.argv[2], 1, 8, 8
config.init_from = sys.argv[1]
trainer = train_lib.Trainer(config, lpips=None)
initial, _ = trainer.read_weights()
expected = traverse_util.flatten_dict(trainer.abstract_on_devices["params"], sep="/")
saved = pretrained.flat_parameters(lrm_jax.from_pretrained(sys.argv[1]).model)
assert initial.keys() == expected.keys() == saved.keys()
assert all(initial[path].sharding == expected[path].sharding for path in expected)
assert any(not x.sharding.is_fully_replicated for x in initial.values())
state = trainer.first_state(initial)
for path, array in traverse_util.flatten_dict(state["params"], sep="/").items():
  np.testing.assert_array_equal(array, saved[path])
"""
  result = subprocess.run(
    [sys.executable, '-c', code, str(pretrained.find('quickstart')), str(dataset)],
    capture_output=True,
    text=True,
    check=False,
    cwd=Path(__file__).parents[1],
    env={**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu'},
  )
  assert result.returncode == 0, result.stderr


def test_export_command(tmp_path):
  run = random_run(OPENLRM, tmp_path / 'run')

  def call(*args):
    return subprocess.run([sys.executable, '-m', 'lrm_jax.export', *args], capture_output=True, text=True, check=False)

  result = call(f'--checkpoint={run}', f'--out={tmp_path / "out"}', '--format=openlrm')
  assert result.returncode == 0, result.stderr
  assert json.loads((tmp_path / 'out/config.json').read_text())['transformer_dim'] == 32
  result = call('--checkpoint=quickstart', f'--out={tmp_path / "no"}', '--format=openlrm')
  assert result.returncode == 2 and 'Traceback' not in result.stderr and 'config.model.nerf_depth' in result.stderr


def test_folded_camera_layer_equals_original(rng):
  kernel, bias = rng.normal(size=(20, 5)), rng.normal(size=5)
  names = [f'decoder/camera_embedding/expand/{name}' for name in ('kernel', 'bias')]
  folded = openlrm.fold_camera(dict(zip(names, (kernel, bias))))
  feature = rng.normal(size=20)
  feature[12:16] = 0, 0, 0, 1
  np.testing.assert_allclose(
    np.delete(feature, slice(12, 16)) @ folded[names[0]] + folded[names[1]], feature @ kernel + bias
  )
