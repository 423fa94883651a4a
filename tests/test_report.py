"""The page about runs: what it shows of each, names, and runs that are unfinished, damaged or missing."""

import sys

from ml_collections import ConfigDict
import numpy as np
import pytest
from test_quickstart import Outline, assert_needs_no_network

from lrm_jax import report
from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError
from lrm_jax.evaluation.curves import Panel, curves
from lrm_jax.storage import checkpoint
from lrm_jax.training import metric_writer


def write_run(directory, rate=1e-3, psnr=20.0):
  """Writes the files of a run that was killed while it wrote a line."""
  checkpoint.write_config(
    directory, ConfigDict({'num_train_steps': 40, 'seed': 0, 'optimizer': {'learning_rate': rate}})
  )
  writer = metric_writer.MetricWriter(directory, tracker_names=())
  writer.start(0, {}, {'git': 'abcdef0123456789', 'devices': '8 x h100', 'processes': 1})
  for step in (1, 10, 20, 30):
    values = {'loss': 1 / step, 'mse': 0.5 / step, 'step_seconds': 9.0 if step == 1 else 0.25, 'goodput': 0.97}
    if step in (20, 30):
      values |= {'eval_psnr': psnr - step / 10, 'eval_lpips': 1 / step, 'eval_depth_error': np.nan}
    writer.write(step, values)
  for step in (20, 30):
    writer.write_image(step, 'eval', np.full((4, 6, 3), step / 30))
  writer.close()
  with (writer.workdir / 'metrics.jsonl').open('a') as stream:
    stream.write('{"step": 40, "lo')
  return str(directory)


def command(monkeypatch, *words):
  monkeypatch.setattr(sys, 'argv', ['report', *map(str, words)])
  with pytest.raises(SystemExit) as info:
    run_main(report.main)
  return info.value.code


def test_page_shows_curves_scores_speed_differences_and_images(tmp_path, monkeypatch):
  runs = [
    write_run(tmp_path / 'sweep' / name / 'seed0', rate, psnr)
    for name, rate, psnr in (('a', 1e-3, 20.0), ('b', 2e-3, 21.0))
  ]
  out = tmp_path / 'new' / 'page.html'
  assert command(monkeypatch, *runs, f'--out={out}') == 0
  text = out.read_text()
  counts = Outline(text).counts
  assert_needs_no_network(text)
  assert counts['svg'] == 3 and counts['img'] == 2
  for part in (
    'a/seed0',
    'b/seed0',
    '30 of 40',
    '17 (best 18, step 20)',
    '>0.03333<',
    '>0.25<',
    '>0.97<',
    'eval, step 30',
  ):
    assert part in text, part
  assert '<td>optimizer.learning_rate</td><td>0.001</td><td>0.002</td>' in text and '<td>seed</td>' not in text
  assert list(out.parent.iterdir()) == [out]


def test_newest_image_of_each_name(tmp_path):
  [(name, (step, image))] = report.read(write_run(tmp_path / 'run')).images.items()
  assert (name, step, image.shape) == ('eval', 30, (4, 6, 3))
  np.testing.assert_allclose(image, 1)


def test_shipped_model_has_a_page(tmp_path, monkeypatch):
  assert command(monkeypatch, 'quickstart', f'--out={tmp_path / "page.html"}') == 0
  assert 'Differences' not in (tmp_path / 'page.html').read_text()


def test_names_leave_out_what_all_paths_have_in_common():
  assert report.names_of(['/runs/a/0', '/runs/b/0']) == ['a/0', 'b/0']
  assert report.names_of(['/runs/a', '/runs/ab/']) == ['a', 'ab'] and report.names_of(['/runs/a']) == ['a']
  with pytest.raises(InputError, match='/runs/a is given twice'):
    report.names_of(['/runs/a', '/runs/a/'])


@pytest.mark.parametrize(
  'content, message',
  [(None, 'has no metrics.jsonl'), ('{"st', 'has no step'), ('{"step": 1}', 'config.json is missing')],
)
def test_directories_without_a_run_are_refused(tmp_path, monkeypatch, capsys, content, message):
  (tmp_path / 'run').mkdir()
  if content:
    (tmp_path / 'run' / 'metrics.jsonl').write_text(content)
  assert command(monkeypatch, tmp_path / 'run', f'--out={tmp_path / "page.html"}') == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1 and not (tmp_path / 'page.html').exists()


def test_page_must_be_html(tmp_path, monkeypatch, capsys):
  assert command(monkeypatch, 'quickstart', f'--out={tmp_path}') == 2
  assert 'must be a file that ends with .html' in capsys.readouterr().err


def test_long_runs_have_small_plots():
  lines = [{'step': step, 'loss': 1 + np.sin(step)} for step in range(1, 100_001)]
  assert len(curves([Panel('loss', 'loss', smooth=True)], {'run': lines})) < 200_000


def test_running_mean_leaves_nan_out():
  lines = [{'step': step, 'loss': np.nan if step == 5 else 1.0} for step in range(1, 9)]
  first, second = (curves([Panel('loss', 'loss', smooth=True, log_values=True)], {'run': lines}) for _ in range(2))
  assert '<svg' in first and first == second
