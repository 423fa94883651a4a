"""The metrics that a run writes, and the progress that it shows."""

import json
from pathlib import Path
import struct
import subprocess
import sys

import imageio.v3 as imageio
import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from lrm_jax.errors import InputError
from lrm_jax.training import about, metric_writer, progress, trackers, trainer


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


def events(directory):
  """Returns the events of a TensorBoard directory; each record has a length, two checksums and the data."""
  [file] = directory.glob('events.out.tfevents.*')
  data, found = file.read_bytes(), []
  while data:
    [length] = struct.unpack('<Q', data[:8])
    assert struct.unpack('<I', data[8:12])[0] == masked_crc32c(data[:8])
    found.append(Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  return found


def test_metrics_are_written_to_tensorboard(writer, rng):
  writer.start(0, {'model': {'width': 64}}, ABOUT)
  writer.write(1, {'loss': 0.5, 'psnr': 20.0})
  writer.write_image(1, 'eval', rng.uniform(size=(6, 8, 3)))
  first, *values = events(writer.workdir / 'tensorboard')  # Without close(): nothing is buffered.
  assert first.file_version == 'brain.Event:2'
  configuration, about, loss, psnr, image = (event.summary.value[0] for event in values)
  assert b'model.width = 64' in configuration.tensor.string_val[0] and b"'abc'" in about.tensor.string_val[0]
  assert (loss.tag, loss.simple_value, psnr.simple_value) == ('loss', 0.5, 20.0) and values[2].step == 1
  assert imageio.imread(image.image.encoded_image_string).shape == (6, 8, 3)


ABOUT = {'git': 'abc', 'versions': {'jax': '0.10'}, 'devices': '8 x h100', 'processes': 1}


def test_each_start_of_a_run_records_revision_versions_and_devices(tmp_path):
  for step in (0, 5):
    writer = metric_writer.MetricWriter(tmp_path)
    writer.start(step, {'batch_size': 4}, ABOUT)
    writer.close()
  lines = [json.loads(line) for line in (tmp_path / 'starts.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [0, 5] and all(line.items() >= ABOUT.items() for line in lines)


def test_about_has_the_revision_of_this_checkout():
  found = about.about()
  revision = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=Path(__file__).parent, capture_output=True, text=True)  # noqa: PLW1510
  assert found['git'] is None if revision.returncode else found['git'].startswith(revision.stdout.strip())
  assert found['versions']['jax'] == jax.__version__ and found['devices'] == f'{jax.device_count()} x cpu'


class Recorder:
  """Takes the place of a service's library: records all calls, and fails on those named in `broken`."""

  def __init__(self, calls, broken=(), path=''):
    self._calls, self._broken, self._path = calls, broken, path

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return Recorder(self._calls, self._broken, f'{self._path}.{name}'.strip('.'))

  def __call__(self, *arguments, **keywords):
    self._calls.append((self._path, arguments, keywords))
    if self._path in self._broken:
      raise ConnectionError('no route to the service')
    return self

  def __iter__(self):  # Of a search: nothing is found.
    return iter(())

  def __contains__(self, _):
    return False


@pytest.fixture
def service(monkeypatch):
  """A function: replaces wandb and mlflow by recorders that fail at the calls `broken`; returns the list of calls."""

  def replace(*broken):
    calls = []
    monkeypatch.setattr(trackers.extras, 'installed', lambda name: True)
    for name in ('wandb', 'mlflow'):
      monkeypatch.setitem(sys.modules, name, Recorder(calls, broken))
    return calls

  return replace


def use(writer):
  writer.start(0, {'batch_size': 4, 'model': {'width': 64}}, ABOUT)
  writer.write(10, {'loss': 0.5})
  writer.write_image(10, 'eval', np.zeros((4, 4, 3)))
  writer.close()


def test_weights_and_biases_gets_configuration_metrics_and_images(service, tmp_path):
  calls = service()
  use(metric_writer.MetricWriter(tmp_path / 'run', tracker_names=['wandb']))
  names = [name for name, *_ in calls]
  assert names == ['init', 'init.define_metric', 'init.log', 'Image', 'init.log', 'init.finish']
  given = calls[0][2]
  assert given['resume'] == 'allow' and given['name'] == 'run' and given['config']['about'] == ABOUT
  assert given['config']['model'] == {'width': 64} and calls[2][1] == ({'step': 10, 'loss': 0.5},)
  again = service()
  use(metric_writer.MetricWriter(tmp_path / 'run', tracker_names=['wandb']))
  assert again[0][2]['id'] == given['id']  # A resumed training continues its run.


def test_mlflow_gets_configuration_metrics_and_images(service, tmp_path):
  calls = service()
  use(metric_writer.MetricWriter(tmp_path / 'run', tracker_names=['mlflow']))
  found = {}
  for name, arguments, keywords in calls:
    found.setdefault(name.rpartition('.')[2], []).append((arguments, keywords))
  assert found['create_run'][0][1] == dict(tags={'lrm_jax.workdir': str(tmp_path / 'run')}, run_name='run')
  assert {arguments[1:] for arguments, _ in found['log_param']} >= {
    ('batch_size', '4'),
    ('model.width', '64'),
    ('about.git', 'abc'),
    ('about.versions.jax', '0.10'),
  }
  [(metric, _)] = found['Metric']
  assert metric[:2] == ('loss', 0.5) and metric[3] == 10
  assert found['log_image'][0][1] == dict(artifact_file='images/eval_00000010.png') and found['set_terminated']


@pytest.mark.parametrize('broken', ['init', 'init.define_metric', 'init.log'])
def test_service_that_fails_is_left_out_and_the_run_goes_on(service, tmp_path, broken, capsys):
  calls = service(broken)
  writer = metric_writer.MetricWriter(tmp_path, tracker_names=['tensorboard', 'wandb'])
  use(writer)
  assert [name for name, *_ in calls].count(broken) == 1  # Not tried again.
  assert capsys.readouterr().err == (
    'warning: wandb failed and gets nothing more from this run: ConnectionError: no route to the service\n'
  )
  assert metric_writer.read(tmp_path) == [{'step': 10, 'loss': 0.5}] and len(events(tmp_path / 'tensorboard')) == 5


def test_unknown_and_missing_trackers_are_bad_input(monkeypatch, tmp_path):
  monkeypatch.setattr(trackers.extras, 'installed', lambda name: False)
  for name, message in (('visdom', 'only tensorboard, wandb, mlflow'), ('wandb', r"pip install '.\[wandb\]'")):
    with pytest.raises(InputError, match=message):
      metric_writer.MetricWriter(tmp_path, tracker_names=[name])


def test_trackers_are_checked_with_the_configuration(tiny_config):
  tiny_config.trackers = ('tensorboard', 'visdom')
  with pytest.raises(InputError, match="config.trackers has 'visdom'"):
    trainer.check(tiny_config, 1)


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
