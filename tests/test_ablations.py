"""Sweeps: every override exists, finished runs are kept, the table's intervals, arrays of jobs, a real tiny sweep."""

import importlib
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
import time
import types

from ml_collections import ConfigDict
import numpy as np
import pytest

from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError, Interrupted
from lrm_jax.evaluation import statistics
from lrm_jax.models import registry
from lrm_jax.training import trainer

LAUNCH = Path(__file__).parents[1] / 'launch'
sys.path.insert(0, str(LAUNCH))
import ablation_runs  # noqa: E402
import ablation_table  # noqa: E402
import ablations  # noqa: E402
import sweeps  # noqa: E402

TINY = """
from sweeps import Sweep
SWEEP = Sweep(
  config={config!r},
  data={data!r},
  split='test',
  size=16,
  variants={{'base': {{}}, 'shallow': {{'model.decoder_depth': 1}}, 'with_videos': {{'data.path': '{{videos}}'}}}},
)
"""
INPUTS = {name: f'/{name}' for name in ('objects', 'videos', 'procedural', 'lpips', 'dino', 'dinov2', 'depth')}


def test_variants_can_be_chosen_and_the_base_stays():
  chosen = ablations.some_variants(sweeps.QUICKSTART, 'adamw, lpips')
  assert list(chosen.variants) == ['base', 'lpips', 'adamw'] and chosen.variants['adamw'] == {'optimizer.muon': False}
  assert ablations.some_variants(sweeps.QUICKSTART, '') is sweeps.QUICKSTART
  with pytest.raises(InputError, match='--variants=adam is unknown: the sweep has base, decoder_depth_2'):
    ablations.some_variants(sweeps.QUICKSTART, 'adamw,adam')


@pytest.mark.parametrize('name', sweeps.SWEEPS)
def test_every_override_is_a_value_of_the_configuration(name):
  sweep = sweeps.SWEEPS[name]
  config = importlib.import_module(f'lrm_jax.configs.{sweep.config}').get_config()
  runs, left_out = ablations.runs_of(sweep, Path('out'), 2, {}, INPUTS)
  assert len(runs) == 2 * len(sweep.variants) and not left_out
  for run in runs:
    for key, value in run.overrides.items():
      section: ConfigDict = config
      *parts, last = key.split('.')
      for part in parts:
        section = section[part]
      assert last in section or last in config.data, f'{run.variant}: config.{key}'
      if last in section:
        assert isinstance(value, type(section[last])), f'{run.variant}: config.{key}'
      if run.variant != 'base' and key in sweep.variants[run.variant] and last in section and not sweep.common:
        assert section[last] != value, f'{run.variant} does not change config.{key}'
  assert len({json.dumps({**run.overrides, 'seed': 0}) for run in runs}) == len(sweep.variants)


@pytest.mark.parametrize('name', sweeps.SWEEPS)
def test_every_variant_is_a_valid_training(name):
  sweep = sweeps.SWEEPS[name]
  get_config = importlib.import_module(f'lrm_jax.configs.{sweep.config}').get_config
  runs, _ = ablations.runs_of(sweep, Path('out'), 1, {}, INPUTS)
  models = set()
  for run in runs:
    config = get_config()
    config.update_from_flattened_dict(run.overrides)
    trainer.check(config, num_devices=8)
    if (model := config.model.to_json()) not in models:
      registry.abstract_model(config.model.to_dict())
      models.add(model)
  assert len(models) > 4


@pytest.fixture
def sweep(tmp_path):
  path = tmp_path / 'sweep.py'
  path.write_text(TINY.format(config='quickstart', data='embedded'))
  return path


class Calls(list):
  """Commands, and the exit codes {variant: code} of trainings that fail."""

  def __init__(self):
    super().__init__()
    self.failing = {}


@pytest.fixture
def commands(monkeypatch):
  """The commands that would run; training and evaluation are replaced by writers of their results."""
  calls = Calls()

  def call(module, *options):
    calls.append((module, *options))
    values = dict(option[2:].split('=', 1) for option in options if '=' in option)
    if module == 'lrm_jax.train':
      workdir = Path(values['workdir'])
      (workdir / 'metrics.jsonl').write_text('{"step": 1, "step_seconds": 0.5}\n{"step": 2, "step_seconds": 0.7}\n')
      return calls.failing.get(workdir.parent.name, 0)
    seed, depth = values['checkpoint'][-1], 'shallow' in values['checkpoint']
    rng = np.random.default_rng(int(seed) + 10 * depth)
    objects = {f'o{i}': {'psnr': 20 + i - 3 * depth + 0.1 * rng.normal(), 'ssim': 0.5} for i in range(8)}
    write_result(Path(values['out']), objects)
    return 0

  monkeypatch.setattr(ablation_runs, 'call', call)
  return calls


def write_result(folder, objects):
  folder.mkdir()
  section = {'protocol': 'novel-views', 'version': 1, 'rows': {'model': {'objects': objects}}}
  about = {'format': 1, 'data': 'embedded', 'split': 'test', 'objects': len(objects)}
  (folder / 'results.json').write_text(json.dumps({**about, 'sections': [section]}))


def command(monkeypatch, *words):
  monkeypatch.setattr(sys, 'argv', ['ablations', *map(str, words)])
  with pytest.raises(SystemExit) as info:
    run_main(ablations.main)
  return info.value.code


def test_sweep_keeps_finished_runs_and_writes_the_table(sweep, commands, tmp_path, monkeypatch, capsys):
  out = tmp_path / 'out'
  words = [f'--sweep={sweep}', f'--out={out}', '--seeds=2', '--set', 'num_train_steps=5']
  commands.failing['shallow'] = 1
  assert command(monkeypatch, *words) == 1
  assert 'seed0 failed with exit code 1' in capsys.readouterr().err
  assert len(commands) == 2 * 2 + 2 and '--config.num_train_steps=5' in commands[0]
  commands.failing.clear()
  commands.clear()
  assert command(monkeypatch, *words) == 0
  assert len(commands) == 2 * 2 and all('shallow' in ' '.join(words) for words in commands)
  commands.clear()
  assert command(monkeypatch, *words, '--table') == 0 and not commands
  table = json.loads((out / 'ablations.json').read_text())
  row = table['variants']['shallow']
  assert row['overrides'] == {'model.decoder_depth': 1} and row['seeds'] == [0, 1] and row['step_seconds'] == 0.6
  low, high = row['psnr']['difference_interval']
  assert low < row['psnr']['difference'] < high < -2.5 and row['psnr']['difference'] == pytest.approx(-3, abs=0.2)
  text = (out / 'ablations.md').read_text()
  assert (
    re.search(r'\| shallow \| `model.decoder_depth=1` \| 2 \|.*\| worse \|', text)
    and 'bootstrap over objects and seeds' in text
  )
  assert 'left out: with_videos needs --input=videos=PATH' in text and (out / 'ablations.png').stat().st_size > 5000
  assert command(monkeypatch, *words[:3], '--set', 'num_train_steps=6') == 2
  assert 'was started with' in capsys.readouterr().err


def test_jobs_of_an_array_run_one_each(sweep, commands, tmp_path, monkeypatch, capsys):
  words = [f'--sweep={sweep}', f'--out={tmp_path / "out"}', '--seeds=2']
  assert command(monkeypatch, *words, '--slurm', '--slurm_options=--gres=gpu:8 --time=24:00:00') == 0
  path = tmp_path / 'out' / 'ablations.sbatch'
  assert f'sbatch {path}' in capsys.readouterr().out
  script = path.read_text()
  assert '#SBATCH --array=0-3' in script and '#SBATCH --gres=gpu:8\n#SBATCH --time=24:00:00' in script
  assert '--slurm' not in script.split('trap')[1] and '--task="$SLURM_ARRAY_TASK_ID"' in script
  assert subprocess.run(['bash', '-n', path], check=False).returncode == 0
  assert command(monkeypatch, *words, '--task=3') == 0
  assert 'shallow/seed1' in commands[0][2] and len(commands) == 2
  assert command(monkeypatch, *words, '--list') == 0
  assert len([line for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()]) == 4


@pytest.mark.parametrize(
  'words, message',
  [
    (('--sweep=huge',), '--sweep=huge must be quickstart, paper or a Python file'),
    (('--sweep=paper',), 'the sweep needs --input=objects=PATH'),
    (('--sweep=quickstart', '--seeds=0'), '--seeds=0 must be at least 1'),
    (('--sweep=quickstart', '--jobs=0'), '--jobs=0 must be at least 1'),
    (('--sweep=quickstart', '--task=999'), '--task=999 must be from 0 to'),
    (('--sweep=quickstart', '--submit'), '--submit needs --slurm'),
    (('--sweep=quickstart', '--table'), 'has no finished run'),
  ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, message):
  assert command(monkeypatch, *words, f'--out={tmp_path / "out"}') == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_a_run_with_a_tuple_continues(commands, tmp_path):
  run = ablation_runs.Run('x', 0, tmp_path / 'x' / 'seed0', {'optimizer.multipliers': ('encoder/*=0.1',)})
  commands.failing['x'] = 1
  assert ablation_runs.execute(run, 'quickstart', []) == 1 == ablation_runs.execute(run, 'quickstart', [])
  assert commands[0] == commands[1] and "--config.optimizer.multipliers=('encoder/*=0.1',)" in commands[0]


_JOB = """
import pathlib, signal, sys, time
me, wanted, number = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3].removeprefix('--task='))
signal.signal(signal.SIGTERM, lambda *_: ((me / f'{number}.stopped').touch(), sys.exit(75)))
(me / f'{number}.began').touch()
while len(list(me.glob('*.began'))) < wanted:
  time.sleep(0.02)
print('run', number)
sys.exit(number == 1)
"""


def jobs_of(tmp_path, wanted):
  """Returns (runs, command): four runs of a command that waits until `wanted` of them have begun; number 1 fails."""
  script = tmp_path / 'job.py'
  script.write_text(_JOB)
  runs = [ablation_runs.Run('base', seed, tmp_path / 'out' / f'seed{seed}', {}) for seed in range(4)]
  return runs, [sys.executable, str(script), str(tmp_path), str(wanted)]


def test_jobs_run_at_once_and_a_failure_does_not_stop_the_others(tmp_path):
  runs, command = jobs_of(tmp_path, wanted=2)
  runs[3].result.parent.mkdir(parents=True)
  runs[3].result.touch()  # finished before
  assert ablation_runs.run_at_once(runs, 2, command) == [f'{runs[1].workdir} failed with exit code 1: see its log.txt']
  assert [path.name for path in sorted(tmp_path.glob('*.began'))] == ['0.began', '1.began', '2.began']
  assert (runs[2].workdir / 'log.txt').read_text() == 'run 2\n'


def test_sigterm_stops_the_jobs_that_run(tmp_path):
  runs, command = jobs_of(tmp_path, wanted=99)

  def stop():
    while len(list(tmp_path.glob('*.began'))) < 2:
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=stop)
  thread.start()
  with pytest.raises(Interrupted, match='the same command continues'):
    ablation_runs.run_at_once(runs, 2, command)
  thread.join()
  assert sorted(path.stem for path in tmp_path.glob('*.stopped')) == ['0', '1']
  assert len(list(tmp_path.glob('*.began'))) == 2


def test_evaluations_use_the_network_and_data_that_are_given(sweep, commands, tmp_path, monkeypatch):
  words = [f'--sweep={sweep}', f'--out={tmp_path / "out"}', '--task=0', '--input=lpips=FILE', '--data=DIR']
  assert command(monkeypatch, *words, '--split=validation') == 0
  assert {'--lpips_network=FILE', '--data=DIR', '--split=validation', '--size=16'} < set(commands[1])


def test_results_of_other_objects_are_refused(tmp_path):
  runs = [types.SimpleNamespace(variant=name, seed=0, overrides={}, workdir=tmp_path / name) for name in 'ab']
  for number, run in enumerate(runs):
    run.workdir.mkdir()
    (run.workdir / 'metrics.jsonl').write_text('{"step": 1}\n')
    run.result = run.workdir / 'evaluation' / 'results.json'
    write_result(run.workdir / 'evaluation', {f'o{number}': {'psnr': 1.0}})
  with pytest.raises(InputError, match='b was evaluated on other objects'):
    ablation_table.make('x', runs, [])


def test_a_metric_that_a_variant_lacks_is_a_dash(tmp_path):
  values = {'base': {'psnr': 20.0, 'depth_error': 0.1}, 'empty': {'psnr': 17.0, 'depth_error': None}}
  runs = []
  for name, metrics in values.items():
    run = ablation_runs.Run(name, 0, tmp_path / name, {})
    run.workdir.mkdir()
    (run.workdir / 'metrics.jsonl').write_text('{"step": 1}\n')
    write_result(run.workdir / 'evaluation', {f'o{i}': metrics for i in range(3)})
    runs.append(run)
  table = ablation_table.make('x', runs, [])
  assert table['variants']['empty']['depth_error'] is None and table['variants']['base']['depth_error']['mean']
  text = ablation_table.to_markdown(table)
  assert '| empty |  | 1 | **-3.00 [-3.00, -3.00]** | - | - | worse |' in text
  assert '| base |  | 1 | 20.00 [20.00, 20.00] | 0.100 [0.100, 0.100] | - | the base |' in text
  ablation_table.plot(table)


def test_crossed_interval_covers_objects_and_seeds(rng):
  objects = rng.normal(0, 2, 100)
  half = 1.96 * objects.std() / 10
  np.testing.assert_allclose(
    statistics.crossed_interval(5 + objects[None]), [5 + objects.mean() - half, 5 + objects.mean() + half], atol=0.05
  )
  # The difference of variants on the same objects does not have the variance of the objects ...
  low, high = statistics.crossed_interval(objects[None] + 1, objects[None])
  assert (low, high) == pytest.approx((1, 1))
  # ... but that of the seeds.
  seeds = rng.normal(0, 1, (30, 1))
  low, high = statistics.crossed_interval(objects + seeds, objects[None])
  assert high - low == pytest.approx(2 * 1.96 * seeds.std() / 30**0.5, rel=0.1)


@pytest.mark.slow
def test_tiny_sweep_of_two_variants_and_seeds(dataset, tmp_path):
  config = tmp_path / 'tiny.py'
  config.write_text(
    f'import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport conftest\n\n\n'
    f'def get_config():\n  return conftest.make_tiny_config({dataset!r})\n'
  )
  sweep = tmp_path / 'sweep.py'
  sweep.write_text(TINY.format(config=str(config), data=dataset))
  command = [sys.executable, LAUNCH / 'ablations.py', f'--sweep={sweep}', f'--out={tmp_path / "out"}', '--seeds=2']
  subprocess.run([*command, '--jobs=2'], check=True)
  table = json.loads((tmp_path / 'out' / 'ablations.json').read_text())
  assert table['unfinished'] == [] and list(table['variants']) == ['base', 'shallow']
  for row in table['variants'].values():
    assert row['seeds'] == [0, 1] and np.isfinite(row['psnr']['mean']) and len(set(row['psnr']['of_seeds'])) == 2
