"""What a log line says about a training: time, waiting for data, goodput, the error of each dataset; synthetic data."""

import re
import time

import jax
import numpy as np
import pytest

from lrm_jax.distributed import accelerators, sharding
from lrm_jax.errors import InputError
from lrm_jax.training import cost, mixture, resume, synthetic, timing
from lrm_jax.training.trainer import Trainer


@pytest.fixture
def clock(monkeypatch):
  """A list with the time in seconds, which tests advance."""
  now = [1000.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(time, 'time', lambda: now[0])
  return now


def test_goodput_counts_pauses_restarts_and_the_time_between_runs(clock, tiny_config):
  mesh = sharding.make_mesh(1, -1)
  first = timing.Timing(tiny_config, mesh, resume.Position())
  clock[0] += 60
  with first.paused():
    clock[0] += 20
  assert first.training_seconds == 60 and first.values(1.0)['goodput'] == pytest.approx(0.75)
  saved = resume.Position(step=3, began=first.began, training_seconds=first.training_seconds)
  clock[0] += 100  # Steps after the checkpoint that are lost, and the time until the run is started again.
  second = timing.Timing(tiny_config, mesh, saved)
  clock[0] += 20
  assert second.values(1.0)['goodput'] == pytest.approx((60 + 20) / 200)


def test_waiting_for_data_is_the_mean_per_step_since_the_previous_line(clock, tiny_config):
  measured = timing.Timing(tiny_config, sharding.make_mesh(1, -1), resume.Position())
  for seconds in (1.0, 3.0):
    with measured.waiting_for_data():
      clock[0] += seconds
    clock[0] += 10
  measured.step_done()
  measured.step_done()
  values = measured.values(5.0)
  assert values['data_seconds'] == 2 and values['step_seconds'] == 5
  assert 'mfu' not in values, 'the peak of a CPU is unknown'
  with measured.waiting_for_data():
    clock[0] += 4
  measured.step_done()
  assert measured.values(5.0)['data_seconds'] == 4


def test_mfu_is_the_share_of_the_peak_of_all_devices(clock, tiny_config, monkeypatch):
  monkeypatch.setattr(accelerators, 'accelerator', lambda kind: accelerators.Accelerator(1e9, 1e9, 1e9))
  mesh = sharding.make_mesh(1, -1)
  measured = timing.Timing(tiny_config, mesh, resume.Position())
  expected = cost.useful_operations(tiny_config) / 4 / (1e9 * mesh.size)
  assert measured.values(4.0)['mfu'] == pytest.approx(expected)


def test_error_of_each_dataset_is_the_mean_over_its_objects(rng):
  color, target = (np.float32(rng.uniform(size=(5, 2, 3, 3, 3))) for _ in range(2))
  dataset = np.array([0, 2, 0, 0, 2], np.int32)
  each = np.square(color - target).mean((1, 2, 3, 4))
  total = mixture.DatasetErrors(['', 'video', 'scans'])
  for rows in ([0, 1], [2, 3, 4]):
    total.add(np.asarray(mixture.errors(color[rows], target[rows], dataset[rows], 3)))
  values = total.values()
  assert values == pytest.approx({'mse_main': each[[0, 2, 3]].mean(), 'mse_scans': each[[1, 4]].mean()})
  assert total.values() == {}


@pytest.mark.parametrize('text', ['20', '5:3', '0:3', 'a:b', ':', '-1:4'])
def test_malformed_profile_steps_are_refused(text):
  with pytest.raises(InputError, match='must be FIRST:LAST'):
    timing.parse_steps(text)


def test_profile_steps_are_two_numbers():
  assert timing.parse_steps('20:25') == (20, 25) and timing.parse_steps(None) is None


def test_synthetic_batches_have_the_types_of_real_ones_and_parts_of_the_step_are_named(tiny_config):
  trainer = Trainer(tiny_config, lpips=None)
  real, made = trainer.batches(0), Trainer(tiny_config, lpips=None, synthetic_data=True).batches(0)
  batch, other = next(real)[0], next(made)[0]
  assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), other) == jax.tree.map(
    lambda x: (x.shape, x.dtype, x.sharding), batch
  )
  assert all(np.all(np.isfinite(x)) for x in other.values())
  assert synthetic.batch(tiny_config, 3)['record'].shape == (3,)
  real.close()
  with jax.set_mesh(trainer.mesh):
    text = trainer._step.lower(trainer.abstract_on_devices, batch, np.float32(0), None).as_text(debug_info=True)
  for scope in ('encode', 'decode', 'render', 'optimizer'):
    assert re.search(rf'[(/]{scope}[)/]', text), scope
