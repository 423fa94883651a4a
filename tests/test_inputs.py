"""`--check=N`: what a training needs is checked before its devices are paid for."""

import pytest

from lrm_jax import train
from lrm_jax.errors import InputError
from lrm_jax.storage import checkpoint
from lrm_jax.training import inputs


def test_complete_inputs_are_described_and_nothing_is_written(tiny_config, tmp_path):
  tiny_config.mesh.update(dict(data=-1, fsdp=2))
  lines = inputs.check(tiny_config, tmp_path / 'run', 4)
  assert 'parameters over 2 (mesh 2 x 2)' in lines[0] and lines[-1] == f'{tmp_path / "run"}: a new run'
  assert f'{tiny_config.data.path}, split train: 4 objects' in lines
  assert any(line.startswith(f'an epoch is 4 of {tiny_config.data.path}; 6 steps are 6.0 epochs') for line in lines)
  assert not list(tmp_path.iterdir())


def test_dataset_of_the_mixture_without_a_path_is_said_to_be_unused(dataset, tiny_config):
  with tiny_config.unlocked():
    tiny_config.data.mixture = {'videos': {'path': '', 'times': 3.0}}
  assert '6.0 epochs without config.data.mixture.videos, whose path is empty' in str(
    inputs.check(tiny_config, 'run', 1)
  )
  tiny_config.data.mixture.videos.path = dataset
  assert '+ 12 of videos; 6 steps are 1.5 epochs' in str(inputs.check(tiny_config, 'run', 1))


def test_held_out_objects_of_all_datasets_are_checked(dataset, tiny_config):
  with tiny_config.unlocked():
    tiny_config.data.mixture = {'videos': {'path': dataset, 'eval_split': 'none'}}
  with pytest.raises(InputError, match="config.data.mixture.videos.eval_split = 'none'"):
    inputs.check(tiny_config, 'run', 1)
  with tiny_config.unlocked():
    tiny_config.data.mixture.videos.eval_objects = 0
  lines = inputs.check(tiny_config, 'run', 1)
  assert [line for line in lines if 'evaluated' in line] == [f'{dataset}, split test: 2 objects are evaluated']


@pytest.mark.parametrize(
  'change, devices, message',
  [
    ({}, 3, 'must be a multiple of .* 1 x 3'),
    ({}, 0, '--check=0 must be the number of devices'),
    ({'mesh.data': 3}, 4, r'config.mesh = \(3, 1\) does not match 4 devices'),
    ({'data.path': ''}, 1, 'config.data.path is empty'),
    ({'data.path': 'nowhere'}, 1, 'nowhere is not a dataset'),
    ({'data.eval_split': 'none'}, 1, "no split 'none'"),
    ({'loss.lpips_weight': 1.0}, 1, 'LPIPS needs VGG16 weights'),
    ({'loss.lpips_weight': 1.0, 'loss.lpips_network': 'gone.npz'}, 1, "'gone.npz'"),
    (
      {'data.rays': 'foreground', 'loss.lpips_weight': 2.0},
      1,
      'no windows, which config.loss.lpips_weight = 2.0 needs',
    ),
    ({'encoder_weights': 'gone.pth'}, 1, 'gone.pth does not exist'),
    ({'init_from': 'gone'}, 1, 'config.init_from = Model gone was not found'),
    ({'init_from': 'quickstart'}, 1, 'config.init_from = quickstart does not match config.model'),
    ({'model.architecture': 'none'}, 1, "config.model.architecture = 'none' is unknown"),
  ],
)
def test_each_missing_input_is_named(tiny_config, tmp_path, change, devices, message):
  with tiny_config.unlocked():
    tiny_config.update_from_flattened_dict(change)
  with pytest.raises(InputError, match=message):
    inputs.check(tiny_config, tmp_path / 'run', devices)


def test_run_directory_that_is_a_file_is_named(tiny_config, tmp_path):
  (tmp_path / 'run').write_text('')
  with pytest.raises(InputError, match='run is a file: give a directory'):
    inputs.check(tiny_config, tmp_path / 'run', 1)


def test_weights_are_not_needed_to_resume(tiny_config, tmp_path):
  """They may have been removed since the first start; the checkpoint has all parameters."""
  tiny_config.encoder_weights = 'gone.pth'
  (tmp_path / 'run' / 'checkpoints' / '3').mkdir(parents=True)
  assert checkpoint.saved_steps(tmp_path / 'run') == [3]
  assert inputs.check(tiny_config, tmp_path / 'run', 1)[-1] == f'{tmp_path / "run"}: resumes after step 3'


def test_command_checks_and_stops(monkeypatch, capsys, dataset, tmp_path):
  monkeypatch.setattr(train, 'enable_compilation_cache', lambda: None)
  monkeypatch.setattr(train, 'train', lambda *_: pytest.fail('the training was started'))
  monkeypatch.setattr(
    train.sys,
    'argv',
    [
      'train',
      '--config=quickstart',
      '--check=2',
      f'--config.data.path={dataset}',
      '--config.data.eval_split=test',
      f'--workdir={tmp_path / "run"}',
    ],
  )
  train.main()
  assert 'the inputs are complete; nothing was written' in capsys.readouterr().out
