"""The metrics that a run writes, and the progress that it shows."""

import json

import imageio.v3 as imageio
import numpy as np
import pytest

from lrm_jax.training import metric_writer, progress


@pytest.fixture
def writer(tmp_path):
  writer = metric_writer.MetricWriter(tmp_path / 'run')
  yield writer
  writer.close()


def test_lines_can_be_read_as_soon_as_they_are_written(writer):
  for step in (1, 2):
    writer.write(step, {'loss': 1 / step, 'psnr': 20.0})
    lines = (writer.workdir / 'metrics.jsonl').read_text().splitlines()
    assert len(lines) == step
    assert json.loads(lines[-1]) == {'step': step, 'loss': 1 / step, 'psnr': 20.0}
  assert metric_writer.read(writer.workdir) == [json.loads(line) for line in lines]


def test_metrics_are_written_to_tensorboard(writer):
  writer.write(1, {'loss': 0.5})
  writer.close()
  assert list((writer.workdir / 'tensorboard').glob('events*'))


def test_metrics_of_a_resumed_run_have_each_step_once(writer):
  for step in range(1, 7):
    writer.write(step, {'loss': float(step)})
  with (writer.workdir / 'metrics.jsonl').open('a') as stream:
    stream.write('{"step": 7, "lo')  # The run was killed while writing.
  writer.close()
  resumed = metric_writer.MetricWriter(writer.workdir)
  resumed.truncate_after(4)
  resumed.write(5, {'loss': -5.0})
  resumed.close()
  assert [(line['step'], line['loss']) for line in metric_writer.read(writer.workdir)] == [
    (1, 1.0),
    (2, 2.0),
    (3, 3.0),
    (4, 4.0),
    (5, -5.0),
  ]


def test_truncating_a_fresh_run_does_nothing(writer):
  writer.truncate_after(0)
  assert not (writer.workdir / 'metrics.jsonl').exists()


def test_images_are_written_as_png(writer, rng):
  image = rng.uniform(-0.1, 1.1, (6, 8, 3))
  writer.write_image(12, 'eval', image)
  saved = imageio.imread(str(writer.workdir / 'images' / 'eval_00000012.png'))
  np.testing.assert_allclose(saved / 255, np.clip(image, 0, 1), atol=0.5 / 255 + 1e-6)


def test_inactive_writer_writes_nothing(tmp_path):
  writer = metric_writer.MetricWriter(tmp_path / 'run', active=False)
  writer.write(1, {'loss': 1.0})
  writer.write_image(1, 'eval', np.zeros((4, 4, 3)))
  writer.truncate_after(0)
  writer.close()
  assert not (tmp_path / 'run').exists()


class Clock:
  """A clock that the test sets."""

  def __init__(self):
    self.now = 100.0

  def monotonic(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress, 'time', clock)
  return clock


def run(clock, shown, first, last, seconds):
  for step in range(first + 1, last + 1):
    clock.now += seconds
    shown.update(step, {'loss': 0.25}, float(step))


def test_progress_without_a_terminal_is_a_line_every_ten_seconds(clock, capsys):
  shown = progress.Progress(0, 200, objects_per_step=8)
  run(clock, shown, 0, 50, seconds=1.0)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 5
  assert lines[-1] == 'step 45, 22.5%  loss 0.2500  8.0 images/s  0:02:35 left'
  shown.note({'eval_psnr': 21.5})
  run(clock, shown, 50, 61, seconds=1.0)
  assert 'eval_psnr 21.50' in capsys.readouterr().err
  shown.close()


def test_images_per_second_ignores_slow_steps(clock):
  shown = progress.Progress(10, 200, objects_per_step=8)
  run(clock, shown, 10, 11, seconds=60.0)  # A step that compiles.
  run(clock, shown, 11, 14, seconds=0.5)
  assert shown.images_per_second == pytest.approx(16)
  run(clock, shown, 14, 15, seconds=30.0)  # A step with an evaluation.
  assert shown.images_per_second == pytest.approx(16)


def test_progress_on_a_terminal_is_a_bar(clock, capsys, monkeypatch):
  monkeypatch.setattr(progress.sys.stderr, 'isatty', lambda: True, raising=False)
  shown = progress.Progress(0, 4, objects_per_step=8)
  for step in range(1, 5):
    clock.now += 0.5
    shown.update(step, {'loss': 0.25}, 1.1 * step)  # A schedule that follows the clock may pass the end.
  shown.close()
  err = capsys.readouterr().err
  assert '4/4' in err and 'loss 0.2500' in err and '16.0 images/s' in err


def test_inactive_progress_shows_nothing(clock, capsys):
  run(clock, progress.Progress(0, 50, objects_per_step=8, active=False), 0, 50, seconds=1.0)
  assert capsys.readouterr().err == ''
