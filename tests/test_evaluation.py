"""Evaluation on held-out objects: metrics of predictions with known results, baselines, and the command."""

import os
import re
import subprocess
import sys

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
from skimage import metrics as reference

from conftest import DATA, TINY_MODEL, encode_png
from lrm_jax import evaluate
from lrm_jax.command_line import run_main
from lrm_jax.datasets import views as views_lib
from lrm_jax.datasets.records import open_split
from lrm_jax.datasets.views import HeldOut, ViewRules, color, evaluated, load_views, pad
from lrm_jax.evaluation import baselines, image_metrics, novel_views, results, statistics
from lrm_jax.evaluation.novel_views import Batches, Prediction
from lrm_jax.geometry import images
from lrm_jax.models import registry
from lrm_jax.models.lrm import LRM
from lrm_jax.storage import checkpoint

RULES = ViewRules(image_size=16, size=16)


@pytest.fixture(scope='module')
def held_out(dataset):
  return HeldOut(dataset, 'test', RULES)


@pytest.fixture(scope='module')
def views(held_out):
  return held_out.load(range(len(held_out)))


def shifted(error, batch, rays_per_chunk):
  """Predicts novel views that are wrong by `error` everywhere, and an input view that is all wrong."""
  color = batch['color'] + jnp.where(batch['color'] > 0.5, -error, error)
  return Prediction(color.at[:, 0].set(0), 2.0 * batch['opacity'], batch['opacity'])


def test_metrics_are_those_of_the_prediction_per_view_and_object(held_out):
  scores, _ = novel_views.evaluate(Batches(held_out), shifted, jnp.float32(0.1))
  assert scores.number.tolist() == [[0, 1, 2, 3, 4]] * 2
  np.testing.assert_allclose(scores.values['psnr'][:, 1:], 20, atol=1e-4)
  assert scores.means()['psnr'] == pytest.approx(20, abs=1e-4)  # The error of the input view does not matter ...
  assert scores.means()['psnr_seen'] < 10  # ... but is reported.
  assert scores.means()['mask_iou'] == 1
  assert set(scores.per_object()) == {'psnr', 'ssim', 'mask_iou'}


@pytest.mark.parametrize('input_view', [0, 2])
def test_true_views_have_perfect_scores(held_out, input_view):
  """In the protocols novel-views, whose input is view 0, and lrm, where each of several views is the input in turn."""
  extra = lambda place, views: {'predicted': views['rgba']}  # noqa: E731
  batches = Batches(held_out, input_view=input_view, extra=extra)
  scores, _ = novel_views.evaluate(batches, baselines.given_views, np.float32(1))
  assert scores.number[:, 0].tolist() == [input_view] * 2
  means = scores.means()
  assert means['psnr'] == pytest.approx(100, abs=1e-3) and means['ssim'] == pytest.approx(1, abs=1e-6)
  assert means['mask_iou'] == 1


def test_objects_may_have_different_numbers_of_views(held_out, monkeypatch):
  load = HeldOut._load_object
  expected = novel_views.evaluate(Batches(held_out), shifted, jnp.float32(0.1))[0].values['ssim']

  def shorter(self, record, input_view):
    views = load(self, record, input_view)
    if views['uid'] == held_out.uids[0]:
      views = {name: value if name in ('uid', 'image', 'to_input') else value[:3] for name, value in views.items()}
    return views

  monkeypatch.setattr(HeldOut, '_load_object', shorter)
  scores, _ = novel_views.evaluate(Batches(held_out), shifted, jnp.float32(0.1))
  assert scores.number.tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]]
  assert np.isnan(scores.values['ssim'][0, 3:]).all()
  np.testing.assert_allclose(scores.values['ssim'][0, :3], expected[0, :3], rtol=1e-6)
  np.testing.assert_allclose(scores.means()['ssim'], (expected[0, 1:3].mean() + expected[1, 1:].mean()) / 2, rtol=1e-6)


def test_padding_repeats_the_last_view(views):
  one = {name: value[0] for name, value in views.items()}
  padded = pad(one, 7)
  assert padded['rgba'].shape[0] == 7 and padded['valid'].tolist() == [True] * 5 + [False] * 2
  np.testing.assert_array_equal(padded['rgba'][5], one['rgba'][4])


def test_any_view_can_be_the_input(held_out, views):
  other = held_out.load([1], input_view=3)
  assert other['number'].tolist() == [[3, 0, 1, 2, 4]]
  np.testing.assert_array_equal(other['rgba'][0, 0], views['rgba'][1, 3])
  np.testing.assert_allclose(other['camera_to_world'][0, 0], views['camera_to_world'][0, 0], atol=1e-5)
  with pytest.raises(ValueError, match='has 5 views: there is no input view 5'):
    held_out.load([0], input_view=5)


def test_metrics_equal_scikit_image_on_views(rng):
  # Mostly white, as renders are: the worst case for float32.
  true = np.ones((3, 40, 40, 3), np.float32)
  true[:, 10:30, 12:25] = rng.uniform(size=(3, 20, 13, 3))
  image = np.clip(true + 0.02 * rng.normal(size=true.shape), 0, 1).astype(np.float32)
  image[0] = true[0]
  image[0, 15:20, 15:20] = 0.5
  values = jax.jit(lambda a, b: (image_metrics.psnr(a, b), image_metrics.ssim(a, b)))(image, true)
  for i in range(3):
    x, y = image[i].astype(np.float64), true[i].astype(np.float64)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert values[0][i] == pytest.approx(reference.peak_signal_noise_ratio(y, x, data_range=1), abs=1e-5)
    expected = reference.structural_similarity(y, x, data_range=1, channel_axis=-1, **options)
    assert values[1][i] == pytest.approx(expected, abs=1e-5)


def test_mask_iou_and_depth_error():
  true = np.zeros((4, 4))
  true[:2] = 1
  seen = np.zeros((4, 4))
  seen[1:3] = 0.8
  assert image_metrics.mask_iou(seen, true) == pytest.approx(4 / 12)
  assert image_metrics.mask_iou(0 * seen, 0 * true) == 1
  # The depth is weighted by the opacity. Only the four pixels that are opaque in both count.
  assert image_metrics.depth_error(1.5 * seen, seen, 2.0 * true) == pytest.approx(0.5)
  assert np.isnan(image_metrics.depth_error(0 * seen, 0 * seen, true))


def deeper(state, batch, rays_per_chunk):
  """Predicts the true views, but `state` too far away."""
  del rays_per_chunk
  opacity = batch['opacity']
  return Prediction(batch['color'], (batch['depth'] + state) * opacity, opacity)


def test_depth_error_is_in_normalised_world_units(dataset, monkeypatch):
  record = dict(open_split(dataset, 'test')[0])
  record['depth'] = [encode_png(np.full((32, 32), round(3 / 8 * 65535), np.uint16))] * 5
  monkeypatch.setattr(views_lib, 'open_split', lambda path, split: [record])
  # The input camera of the record is at distance 2; it is moved to 1.
  held_out = HeldOut(dataset, 'test', ViewRules(image_size=16, size=16, input_position=(0.0, -1.0, 0.0)))
  np.testing.assert_allclose(held_out.load([0])['depth'], 1.5, atol=1e-4)
  scores, _ = novel_views.evaluate(Batches(held_out), deeper, np.float32(0.25))
  np.testing.assert_allclose(scores.values['depth_error'], 0.25, atol=1e-5)


def test_baselines_have_the_scores_of_their_images(held_out, views):
  mean_view = baselines.mean_training_view(held_out.path, 'train', 16)
  scores = baselines.trivial(held_out, mean_view)
  novel = color(views)[:, 1:]
  for name, prediction in (
    ('white', np.ones_like(novel)),
    ('mean_view', np.broadcast_to(mean_view, novel.shape)),
    ('input_view', np.repeat(color(views)[:, :1], novel.shape[1], axis=1)),
  ):
    expected = np.mean(image_metrics.psnr(prediction, novel))
    np.testing.assert_allclose(scores[name].means()['psnr'], expected, rtol=1e-6)


def test_mean_training_view_averages_a_seeded_sample(dataset):
  everything = load_views(dataset, 'train', image_size=16, size=16)['color']
  mean = baselines.mean_training_view(dataset, 'train', 16, num_views=20)
  np.testing.assert_allclose(mean, everything.mean((0, 1)), atol=0.6 / 255)  # References have 8 bits.
  few = [baselines.mean_training_view(dataset, 'train', 16, num_views=6, seed=seed) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(few[0], few[1])
  assert np.abs(few[0] - few[2]).max() > 0
  sample = list(baselines.sample_views(dataset, 'train', 6))
  assert sum(len(views) for _, views in sample) == 6 and len(sample) == 4


def test_nearest_training_object_of_a_training_object_is_itself(dataset):
  held_out = HeldOut(dataset, 'train', RULES)
  nearest = baselines.Nearest(dataset, 'train', RULES)
  views = {name: value[0] for name, value in held_out.load([2], input_view=1).items()}
  assert nearest.of(views) == baselines.Neighbour(2, 1)
  np.testing.assert_array_equal(nearest.views(2, views)['predicted'], views['rgba'])
  scores = baselines.trivial(held_out, np.ones((16, 16, 3), np.float32), nearest=nearest)
  assert scores['nearest_training_object'].means()['psnr'] > 99


def test_each_dataset_of_a_mixture_is_evaluated_by_its_own_rules(dataset):
  common = dict(
    path=dataset, eval_split='test', eval_objects=2, eval_size=16, input_background=1.0, keep_distance=False
  )
  options = dict(image_size=16, input_position=(0.0, -2.0, 0.0))
  videos = dict(path=dataset, eval_objects=1, keep_distance=True)
  found = evaluated(common | {'mixture': {'videos': videos, 'unused': {'path': ''}}}, **options)
  assert {name: len(objects) for name, objects in found.items()} == {'': 2, 'videos': 1}
  assert found['videos'].rules.keep_distance and not found[''].rules.keep_distance
  with pytest.raises(ValueError, match=r"config.data.mixture.videos.eval_split = 'valid': .* no split 'valid'"):
    evaluated(common | {'mixture': {'videos': videos | {'eval_split': 'valid'}}}, **options)
  found = evaluated(common | {'mixture': {'videos': videos | {'eval_split': 'valid', 'eval_objects': 0}}}, **options)
  assert list(found) == ['']


@pytest.fixture(scope='module')
def run_directory(tmp_path_factory):
  directory = tmp_path_factory.mktemp('run')
  parameters = registry.parameters(LRM(**TINY_MODEL, rngs=nnx.Rngs(0)))
  checkpoint.write_model(directory, parameters, ConfigDict({'model': TINY_MODEL, 'data': DATA}), step=3)
  return directory


@pytest.mark.slow
def test_any_number_of_objects_can_be_evaluated(run_directory, dataset):
  model, _, _ = checkpoint.restore(run_directory)
  five = HeldOut(dataset, 'train', RULES, [0, 1, 2, 3, 1])  # One more than fit in one call.
  scores, (_, shown) = novel_views.evaluate_model(Batches(five), model)
  assert scores.values['psnr'].shape == (5, 5) and len(shown.color) == 4
  np.testing.assert_allclose(scores.values['psnr'][4], scores.values['psnr'][1], rtol=1e-6)
  pixels = novel_views.predict(model, five.load([1]))
  expected = image_metrics.psnr(pixels.color[0], color(five.load([1]))[0])
  np.testing.assert_allclose(scores.values['psnr'][1], expected, rtol=1e-5)


def run_command(monkeypatch, *options):
  monkeypatch.setattr(sys, 'argv', ['evaluate', *map(str, options)])
  evaluate.main()


@pytest.fixture(scope='module')
def result(run_directory, dataset, tmp_path_factory):
  """The directory of a result with the protocols novel-views and lrm."""
  out = tmp_path_factory.mktemp('result')
  with pytest.MonkeyPatch.context() as monkeypatch:
    for protocol in ('novel-views', 'lrm'):
      run_command(
        monkeypatch,
        f'--checkpoint={run_directory}',
        f'--data={dataset}',
        '--size=16',
        f'--protocol={protocol}',
        '--input_views=0,2',
        f'--out={out / protocol}',
      )
  return out


def test_result_has_each_view_each_object_and_intervals(result, dataset):
  document = results.read(result / 'novel-views')
  assert document['data'] == dataset and document['split'] == 'test' and len(document['hash']) == 64
  assert {'jax', 'numpy', 'python'} <= document['versions'].keys()
  [section] = document['sections']
  assert (section['protocol'], section['version']) == ('novel-views', 1)
  names = ['model', 'white', 'mean_view', 'input_view', 'nearest_training_object']
  assert list(section['rows']) == names
  row = section['rows']['model']
  assert len(row['objects']) == 2 and all(len(views) == 5 for views in row['views'].values())
  for uid, values in row['objects'].items():
    novel = [view['psnr'] for view in row['views'][uid] if view['view'] != 0]
    assert values['psnr'] == pytest.approx(np.mean(novel))
  summary = row['summary']['psnr']
  assert summary['interval'][0] <= summary['mean'] <= summary['interval'][1] and summary['objects'] == 2
  text = (result / 'novel-views' / 'results.md').read_text()
  assert '| nearest training object |' in text and 'novel-views, version 1' in text


def test_lrm_protocol_scores_each_input_view_on_all_others(result):
  [section] = results.read(result / 'lrm')['sections']
  assert section['settings']['input views'] == [0, 2]
  row = section['rows']['model']
  for uid, views in row['views'].items():
    assert sorted((v['input'], v['view']) for v in views) == [(i, v) for i in (0, 2) for v in range(5)]
    novel = [np.mean([v['ssim'] for v in views if v['input'] == i != v['view']]) for i in (0, 2)]
    assert row['objects'][uid]['ssim'] == pytest.approx(np.mean(novel))


def test_report_needs_no_network_and_shows_best_and_worst(result):
  text = (result / 'novel-views' / 'report.html').read_text()
  assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)
  assert 'Best objects by psnr' in text and text.count('<img') >= 2 * (1 + 4 * 4) and '<svg' in text


def test_evaluating_twice_gives_the_same_bytes(result, run_directory, dataset, tmp_path, monkeypatch, capsys):
  run_command(
    monkeypatch, f'--checkpoint={run_directory}', f'--data={dataset}', '--size=16', f'--out={tmp_path / "again"}'
  )
  for name in ('results.json', 'results.md'):
    assert (tmp_path / 'again' / name).read_bytes() == (result / 'novel-views' / name).read_bytes()
  printed = capsys.readouterr().out
  assert '2 objects' in printed and '\nnearest training object' in printed


def test_comparison_pairs_objects_and_gives_intervals(result, dataset, tmp_path, monkeypatch, capsys):
  folder = tmp_path / 'views'
  for record in open_split(dataset, 'test'):  # Perfect views, without that of the input.
    uid = record['uid'].decode()
    (folder / uid).mkdir(parents=True)
    for view in range(1, 5):
      image = np.round(images.decode(record['views'][view]) * 255).astype(np.uint8)
      image[..., :3] = np.where(image[..., 3:] > 0, image[..., :3] / np.maximum(image[..., 3:] / 255, 1e-6), 0)
      (folder / uid / f'{view:03d}.png').write_bytes(encode_png(image))
  options = [f'--predictions={folder}', f'--data={dataset}', '--size=16', f'--out={tmp_path / "perfect"}']
  run_command(monkeypatch, *options)
  row = results.read(tmp_path / 'perfect')['sections'][0]['rows']['predictions']
  assert row['summary']['psnr']['mean'] > 45 and row['summary']['psnr_seen']['mean'] is None
  capsys.readouterr()
  run_command(monkeypatch, '--compare', result / 'novel-views', tmp_path / 'perfect', f'--out={tmp_path}')
  printed = capsys.readouterr().out
  assert 'B is better' in printed and (tmp_path / 'comparison.md').read_text() in printed
  [compared] = results.compare(*(results.read(path) for path in (result / 'novel-views', tmp_path / 'perfect')))
  psnr = compared['metrics']['psnr']
  assert psnr['pairs'] == 2 and psnr['mean'] == pytest.approx(psnr['means'][1] - psnr['means'][0])
  with pytest.raises(ValueError, match='no protocol in common'):
    results.compare(results.read(result / 'lrm'), results.read(result / 'novel-views'))
  (folder / 'ball_4' / '002.png').unlink()
  with pytest.raises(ValueError, match='ball_4 has no image 002'):
    run_command(monkeypatch, *options)


def test_undefined_values_are_counted_and_not_averaged():
  summary = statistics.summary(np.array([1.0, np.nan, 3.0]))
  assert summary['mean'] == 2 and summary['objects'] == 2 and summary['undefined'] == 1
  assert statistics.summary(np.array([np.nan]))['mean'] is None
  difference = statistics.paired({'a': 1.0, 'b': 2.0, 'c': None}, {'b': 5.0, 'c': 1.0, 'd': 0.0})
  assert difference['mean'] == 3 and difference['pairs'] == 2 and difference['undefined'] == 1


def test_bootstrap_interval_is_that_of_the_normal_distribution(rng):
  values = rng.normal(5, 2, 400)
  half = 1.96 * values.std() / 20
  np.testing.assert_allclose(statistics.interval(values), [values.mean() - half, values.mean() + half], atol=0.02)


@pytest.mark.parametrize(
  'options, message',
  [
    (('--data=nowhere',), 'nowhere is not a dataset'),
    (('--split=other',), "no split 'other'; it has test, train"),
    (('--size=5',), 'at least 11 x 11'),
    (('--lpips_network=nowhere.npz',), 'nowhere.npz'),
    (('--objects=0',), '--objects=0 must be at least 1'),
    (('--uids=ball_4,ball_9',), "1 objects are not in the split 'test'"),
    (('--protocol=geometry',), 'has no surface points'),
    (('--compare', 'nowhere', 'nowhere'), 'nowhere cannot be read as results.json'),
    (('--predictions=nowhere',), '--predictions=nowhere is not a folder'),
  ],
)
def test_errors_of_the_command_are_one_line(run_directory, dataset, capsys, monkeypatch, options, message):
  monkeypatch.setattr(sys, 'argv', ['evaluate', f'--checkpoint={run_directory}', f'--data={dataset}', *options])
  with pytest.raises(SystemExit) as info:
    run_main(evaluate.main)
  error = capsys.readouterr().err
  assert info.value.code == 2 and error.count('\n') == 1 and message in error


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one(run_directory, dataset, tmp_path):
  rows = []
  for devices in (1, 8):
    out = tmp_path / str(devices)
    command = ['-m', 'lrm_jax.evaluate', f'--checkpoint={run_directory}', f'--data={dataset}', '--size=16']
    environment = {**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
    options = ['--split=train', '--no_baselines', f'--out={out}']
    subprocess.run([sys.executable, *command, *options], check=True, env=environment)
    rows.append(results.read(out)['sections'][0]['rows']['model']['objects'])
  assert rows[0].keys() == rows[1].keys()
  for uid, values in rows[0].items():
    assert values == pytest.approx(rows[1][uid], abs=1e-5)
