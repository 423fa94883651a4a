"""Resuming with another configuration, and the number of micro-batches."""

import json

import pytest

from lrm_jax.configs import base, small
from lrm_jax.distributed import accelerators
from lrm_jax.errors import InputError
from lrm_jax.training import loop, micro_batches, resume


@pytest.fixture
def trainer(tiny_config):
  """Has what the decision needs of a trainer; building the model takes seconds."""

  class Fake:
    config = tiny_config
    sources = loop.pipeline.training_sources(tiny_config.data.to_dict(), image_size=16, input_position=(0.0, -2.0, 0.0))
    schedule = staticmethod(
      loop.make_optimizer(num_train_steps=tiny_config.num_train_steps, **tiny_config.optimizer)[1]
    )

  return Fake()


def resumed(trainer, progress=None, **changes):
  """Returns (position, text) of resuming after step 3 a run whose configuration had these other values."""
  old = trainer.config.copy_and_resolve_references()
  old.update_from_flattened_dict(changes)
  return loop._resume(trainer, progress or {'step': 3}, type(old)(json.loads(json.dumps(old.to_dict()))))


def test_same_configuration_resumes_without_remarks(trainer):
  assert resumed(trainer) == (resume.Position(3, 12, 3.0), 'resuming after step 3')


def test_data_continue_at_the_example_after_another_batch_size(trainer):
  position, text = resumed(trainer, batch_size=10)
  assert position.examples == 30, 'old checkpoints have only the step'
  assert 'config.batch_size: 10 -> 4' in text and 'continue after example 30' in text
  saved = {'step': 3, 'position': {'step': 3, 'examples': 26, 'schedule': 3.0, 'data': {}}}
  assert resumed(trainer, saved, batch_size=10)[0].examples == 26, 'it was resumed with another size before'


def test_another_schedule_is_carried_out_and_the_learning_rates_are_named(trainer):
  _, text = resumed(trainer, **{'num_train_steps': 100, 'optimizer.learning_rate': 1e-3})
  old = loop.make_optimizer(num_train_steps=100, **{**trainer.config.optimizer, 'learning_rate': 1e-3})[1](3.0)
  assert 'config.num_train_steps: 100 -> 6' in text and 'config.optimizer.learning_rate: 0.001 -> ' in text
  assert f'continues at {trainer.schedule(3.0):.3g} instead of {old:.3g}' in text


def test_run_with_more_steps_than_asked_for_says_so(trainer):
  _, text = resumed(trainer, {'step': 7})
  assert 'at step 7, beyond config.num_train_steps = 6: nothing is trained' in text


@pytest.mark.parametrize(
  'change, reason',
  [
    ({'seed': 5}, 'config.seed was 5 and is 0'),
    ({'data.path': '/elsewhere'}, 'config.data.path was "/elsewhere"'),
    ({'data.train_split': 'test'}, 'config.data.train_split was "test"'),
  ],
)
def test_other_data_are_refused_unless_allowed(trainer, change, reason):
  with pytest.raises(InputError, match=f'{reason}.*allow_other_data=True'):
    resumed(trainer, **change)
  trainer.config.allow_other_data = True
  assert resumed(trainer, **change)[0].examples == 12


def test_the_same_data_in_another_place_resume_and_other_data_in_the_same_place_do_not(trainer):
  identity = resume.identity(trainer.sources)
  saved = {'step': 3, 'position': {'step': 3, 'examples': 12, 'schedule': 3.0, 'data': identity}}
  saved = json.loads(json.dumps(saved))
  position, text = resumed(trainer, saved, **{'data.path': '/elsewhere'})
  assert position.examples == 12 and '/elsewhere' in text
  saved['position']['data'][''][1] = 5
  with pytest.raises(InputError, match=r'\["train", 5, .* and is \["train", 4, '):
    resumed(trainer, saved)


STATE = 16 * 451_000_000  # bytes of the parameters, gradients and optimizer of base


@pytest.mark.parametrize(
  'kind, devices, expected',
  # Of these, docs/scale.md has a compiled program for the A100 only; the others are what the estimate gives.
  [('a100', 128, 8), ('h100', 8, 16), ('h100', 1, 16), ('v5p', 64, 8), ('v5e', 256, 2)],
)
def test_base_runs_on_any_number_of_devices_without_a_sum_by_hand(kind, devices, expected):
  config = base.get_config()
  platform = 'tpu' if kind.startswith('v') else 'gpu'
  memory = accelerators.ACCELERATORS[kind].memory
  count = micro_batches.number(config, devices, STATE // min(devices, 8), memory, platform)
  micro_batches.check(config, devices)
  assert 1024 % (count * devices) == 0 and 1024 // (count * devices) == expected


def test_micro_batches_follow_from_objects_per_device_or_are_given():
  config = base.get_config()

  def count(devices, **changes):
    config.update(changes)
    micro_batches.check(config, devices)
    return micro_batches.number(config, devices, STATE, None, 'cpu')

  assert count(8) == 1, 'the memory of a CPU is unknown'
  assert count(8, objects_per_device=16) == 8 and count(128) == 1 and count(4, objects_per_device=100) == 4
  with pytest.raises(InputError, match='exclude each other'):
    count(8, gradient_accumulation=2)
  assert count(8, objects_per_device=0) == 2
  with pytest.raises(InputError, match='batch_size = 1024 must be a multiple of .* 2 x 5'):
    count(5)
  assert small.get_config().gradient_accumulation == 2
