"""Evaluation on held-out objects: metrics of predictions with known results, baselines, and the command."""

import json
import sys

from flax import nnx
from ml_collections import ConfigDict
import numpy as np
import pytest

from conftest import DATA, TINY_MODEL
from lrm_jax import evaluate
from lrm_jax.command_line import run_main
from lrm_jax.datasets.views import load_views
from lrm_jax.evaluation import baselines, image_metrics, novel_views
from lrm_jax.geometry.volume import Pixels
from lrm_jax.models import registry
from lrm_jax.models.lrm import LRM
from lrm_jax.storage import checkpoint


@pytest.fixture(scope='module')
def views(dataset):
  return load_views(dataset, 'test', image_size=16, size=16)


def pixels_of(color):
  return Pixels(color=color, depth=np.ones(color.shape[:-1]), opacity=np.ones(color.shape[:-1]))


def test_metrics_cover_only_novel_views(views):
  color = views['color'].copy()
  color[:, 0] = 0  # Errors of the input view do not matter.
  color[:, 1:] += np.where(color[:, 1:] > 0.5, -0.1, 0.1)
  scores = novel_views.score(pixels_of(color), views)
  np.testing.assert_allclose(scores['psnr'], 20, atol=1e-4)
  assert scores['psnr_seen'] < 10
  assert list(scores['per_object']) == views['uid']
  for values in scores['per_object'].values():
    np.testing.assert_allclose(values['psnr'], 20, atol=1e-4)


def test_true_views_have_perfect_scores(views):
  scores = novel_views.score(pixels_of(views['color']), views)
  assert scores['psnr'] == pytest.approx(100) and scores['ssim'] == pytest.approx(1)


def test_psnr_is_averaged_over_images(views):
  color = views['color'].copy()
  color[:, 1:] += 0.1
  color[0, 1] += 0.3
  expected = np.mean(image_metrics.psnr(color[:, 1:], views['color'][:, 1:]))
  np.testing.assert_allclose(novel_views.score(pixels_of(color), views)['psnr'], expected)


def test_baselines_have_the_scores_of_their_images(views):
  mean_view = np.full((16, 16, 3), 0.7, np.float32)
  scores = baselines.trivial(views, mean_view)
  novel = views['color'][:, 1:]
  for name, prediction in (
    ('white', np.ones_like(novel)),
    ('mean_view', np.full_like(novel, 0.7)),
    ('input_view', np.repeat(views['color'][:, :1], novel.shape[1], axis=1)),
  ):
    np.testing.assert_allclose(scores[name]['psnr'], image_metrics.psnr(prediction, novel).mean(), rtol=1e-6)


def test_mean_training_view_averages_all_training_views(dataset, monkeypatch):
  everything = load_views(dataset, 'train', image_size=16, size=16)['color']
  monkeypatch.setattr(baselines, '_OBJECTS_PER_READ', 3)  # The last read is smaller.
  mean = baselines.mean_training_view(dataset, 'train', 16)
  np.testing.assert_allclose(mean, everything.mean((0, 1)), atol=1e-6)


@pytest.fixture(scope='module')
def run_directory(tmp_path_factory):
  directory = tmp_path_factory.mktemp('run')
  parameters = registry.parameters(LRM(**TINY_MODEL, rngs=nnx.Rngs(0)))
  checkpoint.write_model(directory, parameters, ConfigDict({'model': TINY_MODEL, 'data': DATA}), step=3)
  return directory


def test_any_number_of_objects_can_be_predicted(run_directory, views):
  model, _, _ = checkpoint.restore(run_directory)
  three = {
    name: [*value, value[0]] if name == 'uid' else np.concatenate([value, value[:1]]) for name, value in views.items()
  }
  pixels = novel_views.predict(model, three)  # Fewer than fit in one call.
  assert pixels.color.shape == three['color'].shape
  np.testing.assert_allclose(pixels.color[2], pixels.color[0], atol=1e-6)
  both = {name: value + value if name == 'uid' else np.concatenate([value] * 2) for name, value in three.items()}
  np.testing.assert_allclose(novel_views.predict(model, both).color[3:], pixels.color, atol=1e-6)


def test_command_prints_a_table_and_writes_json(run_directory, dataset, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(
    sys,
    'argv',
    [
      'evaluate',
      f'--checkpoint={run_directory}',
      f'--data={dataset}',
      '--size=16',
      f'--json={tmp_path / "figures.json"}',
    ],
  )
  evaluate.main()
  printed = capsys.readouterr().out
  assert '2 objects' in printed and '4 novel views' in printed
  for name in ('model', 'white', 'mean view', 'input view'):
    assert f'\n{name} ' in printed
  figures = json.loads((tmp_path / 'figures.json').read_text())
  assert set(figures['rows']) == {'model', 'white', 'mean view', 'input view'} and len(figures['per_object']) == 2


@pytest.mark.parametrize(
  'options, message',
  [
    (('--data=nowhere',), 'nowhere is not a dataset'),
    (('--split=other',), "no split 'other'; it has test, train"),
    (('--size=5',), 'at least 11 x 11'),
    (('--lpips_network=nowhere.npz',), 'nowhere.npz'),
  ],
)
def test_errors_of_the_command_are_one_line(run_directory, dataset, capsys, monkeypatch, options, message):
  monkeypatch.setattr(sys, 'argv', ['evaluate', f'--checkpoint={run_directory}', f'--data={dataset}', *options])
  with pytest.raises(SystemExit) as info:
    run_main(evaluate.main)
  error = capsys.readouterr().err
  assert info.value.code == 2 and error.count('\n') == 1 and message in error
