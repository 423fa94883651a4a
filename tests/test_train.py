"""Training runs: resuming, what a run writes, export, errors, and the command line."""

import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import numpy as np
import pytest

from conftest import TINY_MODEL
from lrm_jax.errors import InputError
from lrm_jax.export import export
from lrm_jax.models import lpips, registry
from lrm_jax.storage import checkpoint
from lrm_jax.training import loop as train_lib
from lrm_jax.training.metric_writer import read
import training_processes

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tiny_config):
  return tiny_config


def losses(workdir):
  return [line['loss'] for line in read(workdir) if 'loss' in line]


def test_resumed_run_equals_uninterrupted_run(config, tmp_path):
  train_lib.train(config, tmp_path / 'whole')
  with pytest.MonkeyPatch.context() as patch:  # Stops after step 4; the last saved step is 3.
    finish_step, seen = train_lib._finish_step, []

    def stop(pending, *args):
      finish_step(pending, *args)
      seen.append(pending)
      if len(seen) == 6:
        raise KeyboardInterrupt

    patch.setattr(train_lib, '_finish_step', stop)
    with pytest.raises(KeyboardInterrupt):
      train_lib.train(config, tmp_path / 'pieces')
  assert len(losses(tmp_path / 'pieces')) > 3
  train_lib.train(config, tmp_path / 'pieces')
  assert losses(tmp_path / 'pieces') == losses(tmp_path / 'whole')
  assert [line['step'] for line in read(tmp_path / 'pieces') if 'loss' in line] == list(range(1, 7))
  whole, pieces = (registry.parameters(checkpoint.restore(tmp_path / name)[0]) for name in ('whole', 'pieces'))
  jax.tree.map(np.testing.assert_array_equal, whole, pieces)


def test_run_directory_holds_model_configuration_metrics_and_images(config, tmp_path):
  train_lib.train(config, tmp_path)
  model, restored, step = checkpoint.restore(tmp_path)
  assert step == 6 and restored.to_dict() == json.loads(json.dumps(config.to_dict()))
  assert model.image_size == TINY_MODEL['image_size']
  assert checkpoint.restore(tmp_path, step=3)[2] == 3
  with pytest.raises(InputError, match='step 5'):
    checkpoint.restore(tmp_path, step=5)
  last = read(tmp_path)[-1]
  assert {'step', 'loss', 'eval_psnr', 'eval_ssim'} <= last.keys()
  assert last['data_seconds'] > 0 and last['step_seconds'] > 0 and 0 < last['goodput'] < 1
  assert all({'step', 'loss'} <= line.keys() for line in read(tmp_path))
  assert list((tmp_path / 'images').glob('eval_*.png')) and list((tmp_path / 'tensorboard').iterdir())
  # A run with another model or optimizer cannot resume from the checkpoint, and leaves the directory unchanged.
  for change, message in (
    ({'model.decoder_width': 16}, r'another model.*kernel is \(2, '),
    ({'optimizer.muon': True}, 'opt_state belongs to another model or optimizer'),
  ):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
      train_lib.train(other, tmp_path)
  assert checkpoint.read_config(tmp_path).to_dict() == json.loads(json.dumps(config.to_dict()))


@pytest.mark.slow
def test_exported_model_equals_the_trained_one_up_to_bfloat16(config, tmp_path):
  train_lib.train(config, tmp_path / 'run')
  export(tmp_path / 'run', tmp_path / 'new' / 'out')
  (model, restored, step), small = checkpoint.restore(tmp_path / 'run'), checkpoint.restore(tmp_path / 'new' / 'out')
  assert small[1:] == (restored, step)
  for a, b in zip(jax.tree.leaves(registry.parameters(small[0])), jax.tree.leaves(registry.parameters(model))):
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=2**-8)
  assert read(tmp_path / 'new' / 'out') == read(tmp_path / 'run')
  assert size_of(tmp_path / 'new' / 'out') < 0.5 * size_of(tmp_path / 'run' / 'checkpoints' / str(step))
  assert [path.name for path in (tmp_path / 'new').iterdir()] == ['out']
  with pytest.raises(ValueError, match='is not empty'):
    export(tmp_path / 'run', tmp_path / 'new' / 'out')
  with pytest.raises(InputError, match='step 4'):
    export(tmp_path / 'run', tmp_path / 'other', step=4)
  assert not (tmp_path / 'other').exists()


def size_of(directory):
  return sum(path.stat().st_size for path in directory.rglob('*') if path.is_file())


@pytest.mark.slow
def test_gradient_accumulation_does_not_change_the_losses(config, tmp_path):
  """The samples along rays are random; each object has a key of its own, whatever the micro-batches."""
  config.num_train_steps = 3
  results = []
  for accumulation in (1, 2):
    config.gradient_accumulation = accumulation
    train_lib.train(config, tmp_path / str(accumulation))
    results.append(losses(tmp_path / str(accumulation)))
  np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


@pytest.mark.slow
def test_time_limit_ends_the_schedule_at_a_low_learning_rate(config, tmp_path):
  config.update(dict(num_train_steps=100_000, eval_every=100_000, checkpoint_every=100_000))
  result = train_lib.train(config, tmp_path, time_limit_seconds=4)
  assert np.isfinite(result['eval_psnr'])
  lines = [line for line in read(tmp_path) if 'loss' in line]
  assert lines[-1]['step'] < 5000 and lines[-1]['learning_rate'] < 0.2 * config.optimizer.learning_rate


def test_time_limit_of_several_processes_is_refused(config, tmp_path, monkeypatch):
  monkeypatch.setattr(train_lib.processes, 'several', lambda: True)
  with pytest.raises(InputError, match='a time limit .4 s. needs a single process'):
    train_lib.train(config, tmp_path / 'run', time_limit_seconds=4)
  assert not (tmp_path / 'run').exists()


def test_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(config, tmp_path, monkeypatch):
  config.max_skipped_steps = 0
  make, calls = train_lib.pipeline.make_dataset, []

  class WithNaN:
    def __init__(self, batches):
      self.batches = batches

    def __iter__(self):
      for number, batch in enumerate(self.batches, 1):
        if number == 5:
          batch['background'][0, 0, 0] = np.nan
        yield batch

    def close(self):
      calls.append('closed')
      self.batches.close()

  monkeypatch.setattr(train_lib.pipeline, 'make_dataset', lambda *args, **kwargs: WithNaN(make(*args, **kwargs)))
  with pytest.raises(train_lib.DivergedError, match='step 5'):
    train_lib.train(config, tmp_path)
  assert checkpoint.restore(tmp_path)[2] == 3 and calls == ['closed']


@pytest.mark.parametrize(
  'change, message',
  [
    ({'batch_size': 3, 'gradient_accumulation': 2}, 'multiple'),
    ({'num_train_steps': 0}, 'num_train_steps = 0'),
    ({'ema_decay': 1.0}, 'ema_decay = 1.0'),
    ({'data.path': ''}, 'data.path'),
    ({'data.resize_min': 4}, 'window'),
    ({'data.rays': 'pixels'}, "rays = 'pixels'"),
    ({'data.rays': 'foreground', 'loss.normal_weight': 1.0}, 'normal_weight = 1.0 needs'),
    ({'data.window': 4, 'loss.normal_weight': 1.0}, 'window = 4 has no normals'),
    ({'data.foreground_share': 1.0}, 'foreground_share = 1.0'),
    ({'loss.lpips_weight': 1.0}, 'lpips_network'),
    ({'mesh.fsdp': 3, 'mesh.data': 2}, 'devices'),
    ({'optimizer.warmup_steps': 99}, 'warmup_steps'),
    ({'data.path': 'nowhere'}, 'nowhere'),
    pytest.param({'data.num_side_views': 9}, 'views', marks=pytest.mark.slow),
  ],
)
def test_bad_values_raise_before_anything_is_written(config, tmp_path, change, message):
  config.update_from_flattened_dict(change)
  with pytest.raises(InputError, match=message):
    train_lib.train(config, tmp_path / 'run')
  assert 'data.num_side_views' in change or not (tmp_path / 'run').exists()


def run_command(*arguments, **environment):
  return subprocess.run(
    [sys.executable, '-m', 'lrm_jax.train', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={**os.environ, **environment},
    check=False,
  )


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], '--config'),
    (['--config=configs/nothing.py'], 'nothing.py'),
    (['--config=configs/quickstart.py', '--config.batch_sizes=3'], 'batch_sizes'),
    (['--config=configs/quickstart.py', '--config.batch_size=many'], 'many'),
  ],
)
def test_command_line_errors_are_one_line(arguments, message):
  result = run_command(*arguments)
  assert result.returncode == 2, result.stderr
  assert message in result.stderr and 'Traceback' not in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_dry_run_of_the_base_configuration_prints_its_sizes():
  result = run_command('--config=base', '--dry_run')
  assert result.returncode == 0, result.stderr
  assert 'parameters: 451,382,932' in result.stdout and '3,072' in result.stdout and '1,025' in result.stdout
  assert '3 x 64 x 64 x 80' in result.stdout and 'TFLOP' in result.stdout and 'GiB' in result.stdout


@pytest.mark.slow
def test_loss_includes_lpips_on_two_processes(config, tmp_path):
  """Uses random weights with the shapes of VGG16."""
  rng = np.random.default_rng(0)
  weights, inputs = {}, 3
  for k, (stage, width) in enumerate(zip(lpips.STAGES, lpips.WIDTHS)):
    for i in stage:
      weights[f'features.{i}.weight'] = rng.normal(size=(width, inputs, 3, 3)) * (2 / 9 / inputs) ** 0.5
      weights[f'features.{i}.bias'] = np.zeros(width)
      inputs = width
    weights[f'lin{k}.model.1.weight'] = rng.uniform(size=(1, width, 1, 1)) / width
  np.savez(tmp_path / 'vgg.npz', **weights)
  config.loss.update(dict(lpips_weight=2.0, lpips_network=str(tmp_path / 'vgg.npz')))
  config.data.update(dict(window=16, resize_min=16, resize_max=20))
  config.num_train_steps = 3
  training_processes.train(
    training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run', processes=2
  )
  lines = [line for line in read(tmp_path / 'run') if 'loss' in line]
  for line in lines:
    np.testing.assert_allclose(line['loss'], line['mse'] + 2 * line['lpips'] + 0.1 * line['mask'], rtol=1e-5)
  assert 'eval_lpips' in read(tmp_path / 'run')[-1]


@pytest.mark.slow
def test_mixture_shows_the_error_of_each_dataset_and_steps_are_profiled(config, tmp_path):
  config.data.mixture.more = dict(path=config.data.path, train_split='test')
  config.update(dict(num_train_steps=4, log_every=2, gradient_accumulation=2))
  train_lib.train(config, tmp_path, profile_steps=(2, 3))
  lines = [line for line in read(tmp_path) if line['step'] in (2, 4)]
  for line in lines:  # Each epoch has 4 objects of the one dataset and 2 of the other.
    assert min(line['mse_main'], line['mse_more']) < line['mse'] * 1.5 and line['mse_main'] > 0
  assert list((tmp_path / 'profile').rglob('*.xplane.pb')) and list((tmp_path / 'profile').rglob('perfetto*'))


@pytest.mark.slow
def test_synthetic_data_need_no_dataset_and_leave_no_checkpoint(config, tmp_path):
  config.data.path = ''
  config.num_train_steps = 3
  assert train_lib.train(config, tmp_path / 'speed', synthetic_data=True) == {}
  assert len(losses(tmp_path / 'speed')) == 3 and not checkpoint.saved_steps(tmp_path / 'speed')


@pytest.mark.slow
def test_moving_average_is_evaluated_and_exported(config, tmp_path):
  train_lib.train(config, tmp_path / 'plain')
  config.ema_decay = 0.9
  train_lib.train(config, tmp_path / 'run')
  assert losses(tmp_path / 'run') == losses(tmp_path / 'plain')
  assert read(tmp_path / 'run')[-1]['eval_psnr'] != read(tmp_path / 'plain')[-1]['eval_psnr']
  run, plain = (registry.parameters(checkpoint.restore(tmp_path / name)[0]) for name in ('run', 'plain'))
  assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(run), jax.tree.leaves(plain)))


@pytest.mark.slow
def test_single_pixels_train_in_place_of_windows(config, tmp_path):
  config.data.rays = 'foreground'
  config.data.mixture.mvimgnet.path = config.data.path
  config.loss.mask_entropy_weight = 0.1
  result = train_lib.train(config, tmp_path)
  last = read(tmp_path)[-1]
  assert np.isfinite(result['eval_psnr']) and last['skipped'] == 0
  assert {'mse_main', 'mse_mvimgnet', 'mask_entropy'} <= {name for line in read(tmp_path) for name in line}
