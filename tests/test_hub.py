"""Uploading a model to the Hugging Face Hub and loading it back, against a stand-in for the Hub (fake_hub.py)."""

import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import yaml

import fake_hub
import lrm_jax
from lrm_jax.command_line import run_main
from lrm_jax.evaluation import results
from lrm_jax.export import __main__ as command
from lrm_jax.export import export
from lrm_jax.weights import pretrained

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """(the stand-in, its address), used by huggingface_hub in this process and by commands that it starts."""
  from huggingface_hub import constants

  with fake_hub.running() as (hub, address):
    settings = {'HF_ENDPOINT': address, 'HF_TOKEN': fake_hub.TOKEN, 'HF_HOME': str(tmp_path / 'home')}
    for name, value in settings.items():
      monkeypatch.setenv(name, value)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'home/hub'))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'home/token'))
    yield hub


def run(monkeypatch, *args) -> int:
  """Runs the command in this process and returns its exit code."""
  codes: list[int] = []
  monkeypatch.setattr(sys, 'argv', ['lrm_jax.export', *map(str, args)])
  run_main(command.main, codes.append)
  return codes[0]


def parameters(source):
  return pretrained.flat_parameters(lrm_jax.from_pretrained(source).model)


def evaluation(run_directory) -> dict:
  """The content of a results.json of the model in a run directory."""
  model, _, _ = pretrained.load(run_directory)
  row = results.Row({'a': {'psnr': 21.0}, 'b': {'psnr': 23.0}})
  section = results.Section('novel-views', 1, {}, {'model': row, 'white': results.Row({'a': {'psnr': 1.0}})})
  about = {'system': 'x', 'hash': results.hash_of_arrays(pretrained.flat_parameters(model)), 'split': 'test'}
  return json.loads(results.to_text(about | {'data': '/home/me/things/1.1.0'}, [section]))


def test_uploaded_model_is_loaded_back(hub, run_directory, tmp_path, monkeypatch, capsys):
  (tmp_path / 'results.json').write_text(json.dumps(evaluation(run_directory)))
  options = ('--license=apache-2.0', '--datasets=somebody/things', f'--results={tmp_path / "results.json"}')
  assert run(monkeypatch, f'--checkpoint={run_directory}', '--push_to_hub=somebody/chairs', *options) == 0
  output = capsys.readouterr()
  assert output.out.startswith('hf://somebody/chairs: ') and not output.err
  files = hub.models['somebody/chairs']
  assert {'README.md', 'config.json'} <= files.keys() and any(path.startswith('checkpoints/7/') for path in files)
  card = files['README.md'].decode()
  front = yaml.safe_load(card.split('---')[1])
  assert front['license'] == 'apache-2.0' and front['datasets'] == ['somebody/things']
  assert front['library_name'] == 'lrm_jax' and front['pipeline_tag'] == 'image-to-3d'
  [entry] = front['model-index'][0]['results']
  assert entry['metrics'][0]['type'] == 'psnr' and entry['metrics'][0]['value'] == 22.0
  assert entry['dataset']['name'] == 'things/1.1.0' and '/home/me' not in card
  assert "from_pretrained('hf://somebody/chairs')" in card and '| 22 [' in card
  expected = parameters(export(run_directory, tmp_path / 'exported'))
  for path, array in parameters('hf://somebody/chairs').items():
    np.testing.assert_array_equal(array, expected[path])


def test_second_upload_replaces_the_first_and_says_that_a_licence_is_missing(hub, run_directory, monkeypatch, capsys):
  for _ in range(2):
    options = ('--push_to_hub=somebody/chairs', '--format=torch', '--private')
    assert run(monkeypatch, f'--checkpoint={run_directory}', *options) == 0
  assert len(hub.commits) == 2 and hub.private == {'somebody/chairs'}
  assert 'no licence' in capsys.readouterr().err
  assert {'torch_lrm.json', 'torch_lrm.py'} <= hub.models['somebody/chairs'].keys()
  assert 'license' not in yaml.safe_load(hub.models['somebody/chairs']['README.md'].decode().split('---')[1])
  assert lrm_jax.from_pretrained('hf://somebody/chairs').image_size == 16


def test_local_paths_are_not_uploaded(hub, run_directory, tmp_path, monkeypatch):
  exported = export(run_directory, tmp_path / 'exported')
  config = json.loads((exported / 'config.json').read_text())
  config['data']['path'] = '/home/me/things/1.1.0'
  (exported / 'config.json').write_text(json.dumps(config))
  assert run(monkeypatch, f'--checkpoint={exported}', '--push_to_hub=somebody/chairs') == 0
  uploaded = json.loads(hub.models['somebody/chairs']['config.json'])
  assert uploaded == config | {'data': config['data'] | {'path': '1.1.0'}}


@pytest.mark.parametrize(
  'options, message',
  [
    (('--push_to_hub=chairs',), 'use owner/name'),
    (('--push_to_hub=some body/chairs',), 'use owner/name'),
    (('--push_to_hub=others/chairs',), 'the token needs write access to this owner'),
    (('--push_to_hub=somebody/chairs', '--format=stablehlo'), 'use another format'),
    (('--push_to_hub=somebody/chairs', '--results=RESULTS'), 'those of another model'),
    (('--license=mit', '--out=OUT'), '--license is for uploads'),
    ((), 'give --out=DIR, or --push_to_hub=owner/name'),
  ],
)
def test_bad_input_prints_one_line_and_uploads_nothing(
  hub, run_directory, tmp_path, monkeypatch, capsys, options, message
):
  (tmp_path / 'results.json').write_text(json.dumps(evaluation(run_directory) | {'hash': 'f' * 64}))
  options = [one.replace('RESULTS', str(tmp_path)).replace('=OUT', f'={tmp_path / "out"}') for one in options]
  assert run(monkeypatch, f'--checkpoint={run_directory}', *options) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ') and message in line
  assert not hub.commits and not (tmp_path / 'out').exists()


def test_missing_and_wrong_tokens_are_reported(hub, run_directory, monkeypatch, capsys):
  monkeypatch.delenv('HF_TOKEN')
  assert run(monkeypatch, f'--checkpoint={run_directory}', '--push_to_hub=somebody/chairs') == 2
  assert 'run `hf auth login`, or set HF_TOKEN' in capsys.readouterr().err
  monkeypatch.setenv('HF_TOKEN', 'hf_another')
  assert run(monkeypatch, f'--checkpoint={run_directory}', '--push_to_hub=somebody/chairs') == 2
  assert 'could not be uploaded' in capsys.readouterr().err and not hub.models


def test_unreachable_hub_is_a_failure(hub, run_directory, monkeypatch, capsys):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
  assert run(monkeypatch, f'--checkpoint={run_directory}', '--push_to_hub=somebody/chairs') == 1
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: somebody/chairs could not be uploaded to the Hugging Face Hub')


@pytest.mark.slow
def test_commands_upload_and_load(hub, run_directory, tmp_path):
  """As a user runs them: only HF_ENDPOINT, HF_TOKEN and HF_HOME say where the Hub is."""
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  push = [sys.executable, '-m', 'lrm_jax.export', f'--checkpoint={run_directory}', '--push_to_hub=somebody/chairs']
  done = subprocess.run(push, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
  assert done.returncode == 0 and done.stdout.startswith('hf://somebody/chairs'), done.stderr
  code = "import lrm_jax; print(lrm_jax.from_pretrained('hf://somebody/chairs').step)"
  load = [sys.executable, '-c', code]
  done = subprocess.run(load, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
  assert done.returncode == 0 and done.stdout == '7\n', done.stderr
