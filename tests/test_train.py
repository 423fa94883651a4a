"""Training: it learns, resumes bit for bit, is the same on eight devices, and stops where it must."""

import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import numpy as np
import pytest

from conftest import TINY_MODEL
from lrm_jax.export import export
from lrm_jax.models import lpips, registry, renderer
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


def test_a_resumed_run_is_the_uninterrupted_run(config, tmp_path):
  train_lib.train(config, tmp_path / 'whole')
  with pytest.MonkeyPatch.context() as patch:  # Stopped after step 4, with step 3 the last that was saved.
    settle, seen = train_lib._settle, []

    def stop(pending, *args):
      settle(pending, *args)
      seen.append(pending)
      if len(seen) == 6:
        raise KeyboardInterrupt

    patch.setattr(train_lib, '_settle', stop)
    with pytest.raises(KeyboardInterrupt):
      train_lib.train(config, tmp_path / 'pieces')
  assert len(losses(tmp_path / 'pieces')) > 3
  train_lib.train(config, tmp_path / 'pieces')
  assert losses(tmp_path / 'pieces') == losses(tmp_path / 'whole')
  assert [line['step'] for line in read(tmp_path / 'pieces') if 'loss' in line] == list(range(1, 7))
  whole, pieces = (registry.parameters(checkpoint.restore(tmp_path / name)[0]) for name in ('whole', 'pieces'))
  jax.tree.map(np.testing.assert_array_equal, whole, pieces)


def test_what_was_trained_can_be_read_from_the_run(config, tmp_path):
  train_lib.train(config, tmp_path)
  model, restored, step = checkpoint.restore(tmp_path)
  assert step == 6 and restored.to_dict() == json.loads(json.dumps(config.to_dict()))
  assert model.image_size == TINY_MODEL['image_size']
  assert checkpoint.restore(tmp_path, step=3)[2] == 3
  with pytest.raises(FileNotFoundError, match='step 5'):
    checkpoint.restore(tmp_path, step=5)
  last = read(tmp_path)[-1]
  assert {'step', 'loss', 'eval_psnr', 'eval_ssim'} <= last.keys()
  assert all({'step', 'loss'} <= line.keys() for line in read(tmp_path))
  assert list((tmp_path / 'images').glob('eval_*.png')) and list((tmp_path / 'tensorboard').iterdir())
  # Another model or optimizer does not go on from it, and leaves what is there.
  for change, words in (
    ({'model.decoder_width': 16}, r'another model.*kernel is \(2, '),
    ({'optimizer.muon': True}, 'opt_state is of another model or optimizer'),
  ):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=words):
      train_lib.train(other, tmp_path)
  assert checkpoint.read_config(tmp_path).to_dict() == json.loads(json.dumps(config.to_dict()))


def test_an_exported_model_is_the_trained_one_in_half_the_precision(config, tmp_path):
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
  with pytest.raises(ValueError, match='holds something already'):
    export(tmp_path / 'run', tmp_path / 'new' / 'out')
  with pytest.raises(FileNotFoundError, match='step 4'):
    export(tmp_path / 'run', tmp_path / 'other', step=4)
  assert not (tmp_path / 'other').exists()


def size_of(directory):
  return sum(path.stat().st_size for path in directory.rglob('*') if path.is_file())


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_whole_batch(config, tmp_path):
  """With a middle-of-the-bin renderer and no randomness the two are the same numbers."""
  config.num_train_steps = 3
  results = []
  for accumulation in (1, 2):
    config.gradient_accumulation = accumulation
    with pytest.MonkeyPatch.context() as patch:
      sample = renderer.rays.sample_distances
      patch.setattr(renderer.rays, 'sample_distances', lambda near, far, count, key=None: sample(near, far, count))
      train_lib.train(config, tmp_path / str(accumulation))
    results.append(losses(tmp_path / str(accumulation)))
  np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


def test_the_clock_can_move_the_schedule(config, tmp_path):
  config.update(dict(num_train_steps=100_000, eval_every=100_000, checkpoint_every=100_000))
  result = train_lib.train(config, tmp_path, time_limit_seconds=4)
  assert np.isfinite(result['eval_psnr'])
  lines = [line for line in read(tmp_path) if 'loss' in line]
  assert lines[-1]['step'] < 5000 and lines[-1]['learning_rate'] < 0.2 * config.optimizer.learning_rate


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(config, tmp_path, monkeypatch):
  config.max_skipped_steps = 0
  make, calls = train_lib.pipeline.make_dataset, []

  class Poisoned:
    def __init__(self, batches):
      self.batches = batches

    def __iter__(self):
      for number, batch in enumerate(self.batches, 1):
        if number == 5:
          batch['target_color'][0, 0, 0, 0, 0] = np.nan
        yield batch

    def close(self):
      calls.append('closed')
      self.batches.close()

  monkeypatch.setattr(train_lib.pipeline, 'make_dataset', lambda *args, **kwargs: Poisoned(make(*args, **kwargs)))
  with pytest.raises(train_lib.DivergedError, match='step 5'):
    train_lib.train(config, tmp_path)
  assert checkpoint.restore(tmp_path)[2] == 3 and calls == ['closed']


@pytest.mark.parametrize(
  'change, words',
  [
    ({'batch_size': 3, 'gradient_accumulation': 2}, 'multiple'),
    ({'num_train_steps': 0}, 'num_train_steps = 0'),
    ({'data.path': ''}, 'data.path'),
    ({'data.resize_min': 4}, 'window'),
    ({'loss.lpips_weight': 1.0}, 'lpips_network'),
    ({'mesh.fsdp': 3, 'mesh.data': 2}, 'devices'),
    ({'optimizer.warmup_steps': 99}, 'warmup_steps'),
    ({'data.path': 'nowhere'}, 'nowhere'),
    ({'data.num_side_views': 9}, 'views'),
  ],
)
def test_bad_values_are_told_in_one_sentence(config, tmp_path, change, words):
  config.update_from_flattened_dict(change)
  with pytest.raises((ValueError, FileNotFoundError), match=words):
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
  'arguments, words',
  [
    ([], '--config'),
    (['--config=configs/nothing.py'], 'nothing.py'),
    (['--config=configs/quickstart.py', '--config.batch_sizes=3'], 'batch_sizes'),
    (['--config=configs/quickstart.py', '--config.batch_size=many'], 'many'),
  ],
)
def test_the_command_line_tells_what_is_wrong(arguments, words):
  result = run_command(*arguments)
  assert result.returncode == 2, result.stderr
  assert words in result.stderr and 'Traceback' not in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_dry_run_of_the_paper_prints_its_size():
  result = run_command('--config=configs/base.py', '--dry_run')
  assert result.returncode == 0, result.stderr
  assert 'parameters: 451,382,932' in result.stdout and '3,072' in result.stdout and '1,025' in result.stdout
  assert '3 x 64 x 64 x 80' in result.stdout and 'TFLOP' in result.stdout and 'GiB' in result.stdout


@pytest.mark.slow
def test_a_step_with_lpips(config, tmp_path):
  """By two processes, with random weights of VGG16's shapes: what is tested is the way of the gradient, not the judgement."""
  rng = np.random.default_rng(0)
  weights = {}
  for k, (stage, width) in enumerate(zip(lpips.STAGES, lpips.WIDTHS)):
    for i in stage:
      inputs = 3 if i == 0 else weights[f'features.{last}.bias'].size
      weights[f'features.{i}.weight'] = rng.normal(size=(width, inputs, 3, 3)) * (2 / 9 / inputs) ** 0.5
      weights[f'features.{i}.bias'], last = np.zeros(width), i
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
