"""Trains and evaluates the variants of a sweep with several seeds, and writes a table of what each choice does.

  python launch/ablations.py --sweep=quickstart --out=ablations             # one run after another, here
  python launch/ablations.py --sweep=quickstart --out=ablations --jobs=2    # two at once, each on half of the cores
  python launch/ablations.py --sweep=paper --out=DIR --slurm                # an array of jobs, one for each run
  python launch/ablations.py --sweep=quickstart --out=ablations --table     # only the table of the finished runs

Sweeps: quickstart, paper (launch/sweeps.py), or a Python file with a Sweep called SWEEP. Each run is DIR/VARIANT/seedK,
the --workdir of a training, with its evaluation in `evaluation`. The same command continues: finished runs are kept,
and an unfinished one resumes. Writes DIR/ablations.md, .json and .png.
"""

import argparse
import dataclasses
import json
from pathlib import Path
import runpy
import shlex
import subprocess
import sys

import ablation_runs
from ablation_runs import Run
import ablation_table
from lrm_jax.command_line import run_main
from lrm_jax.errors import FAILURE, TEMPORARY_FAILURE, InputError
from sweeps import SWEEPS, Overrides, Sweep

THIS_COMMAND = (sys.executable, str(Path(__file__).resolve()))
_SLURM = """#!/bin/bash
# Written by launch/ablations.py: one task for each run. A task that is requeued resumes.
#SBATCH --job-name=ablations
#SBATCH --array=0-{last}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output={out}/%x_%A_%a.log
{options}
cd {folder}
trap 'kill -TERM "$child"' TERM
{command} --task="$SLURM_ARRAY_TASK_ID" &
child=$!
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
[ "$code" -eq {temporary} ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
exit "$code"
"""


def runs_of(
  sweep: Sweep, out: Path, seeds: int, extra: Overrides, inputs: dict[str, str]
) -> tuple[list[Run], list[str]]:
  """Returns the runs, all variants with the first seed first, and what is left out because an input is not given.

  Raises InputError if an input of the base is not given.
  """
  chosen, left_out = {}, []
  for number, (name, overrides) in enumerate(sweep.variants.items()):
    try:
      chosen[name] = {key: fill(value, inputs) for key, value in {**sweep.common, **overrides, **extra}.items()}
    except KeyError as missing:
      if number == 0:
        raise InputError(f'the sweep needs --input={missing.args[0]}=PATH') from missing
      left_out.append(f'{name} needs --input={missing.args[0]}=PATH')
  return [
    Run(name, seed, out / name / f'seed{seed}', {**overrides, 'seed': seed})
    for seed in range(seeds)
    for name, overrides in chosen.items()
  ], left_out


def fill(value: object, inputs: dict[str, str]) -> object:
  """Returns a value, with an input in braces replaced; raises KeyError if it is not given."""
  return value.format_map(inputs) if isinstance(value, str) else value


def evaluation_options(sweep: Sweep, args: argparse.Namespace, inputs: dict[str, str]) -> list[str]:
  """Returns the options of lrm_jax.evaluate. It measures LPIPS if the sweep's input `lpips` is given."""
  data, split = args.data or fill(sweep.data, inputs), args.split or sweep.split
  network = [f'--lpips_network={inputs["lpips"]}'] if 'lpips' in inputs else []
  return [f'--data={data}', f'--split={split}', f'--size={sweep.size}', '--no_baselines', *network]


def array_script(args, runs: list[Run]) -> Path:
  """Writes DIR/ablations.sbatch, an array with a task for each run, and returns its path."""
  words = [
    word for word in sys.argv[1:] if word not in ('--slurm', '--submit') and not word.startswith('--slurm_options')
  ]
  command = shlex.join([*THIS_COMMAND, *words])
  options = '\n'.join(f'#SBATCH {option}' for option in shlex.split(args.slurm_options))
  path = args.out / 'ablations.sbatch'
  args.out.mkdir(parents=True, exist_ok=True)
  path.write_text(
    _SLURM.format(
      last=len(runs) - 1,
      out=args.out.absolute(),
      options=options,
      folder=shlex.quote(str(Path.cwd())),
      command=command,
      temporary=TEMPORARY_FAILURE,
    )
  )
  return path


def main() -> int:
  args = parse()
  sweep = some_variants(find_sweep(args.sweep), args.variants)
  inputs, extra = dict(args.input), dict(args.set)
  runs, left_out = runs_of(sweep, args.out, args.seeds, extra, inputs)
  evaluation = evaluation_options(sweep, args, inputs)
  for sentence in left_out:
    print(f'left out: {sentence}')
  if args.list:
    for number, run in enumerate(runs):
      print(number, run.workdir, json.dumps(run.overrides))
    return 0
  if args.task is not None:
    if not 0 <= args.task < len(runs):
      raise InputError(f'--task={args.task} must be from 0 to {len(runs) - 1}')
    return ablation_runs.execute(runs[args.task], sweep.config, evaluation)
  if args.slurm:
    path = array_script(args, runs)
    if args.submit:
      return subprocess.run(['sbatch', str(path)], check=False).returncode
    print(f'sbatch {path}')
    return 0
  if args.table:
    failed = []
  elif args.jobs > 1:
    failed = ablation_runs.run_at_once(runs, args.jobs, [*THIS_COMMAND, *sys.argv[1:]])
  else:
    failed = ablation_runs.run_all(runs, sweep.config, evaluation)
  finished = [run for run in runs if run.result.is_file()]
  if not finished:
    raise InputError(f'{args.out} has no finished run' + ('' if args.table else f': {"; ".join(failed)}'))
  ablation_table.write(args.out, args.sweep, runs, left_out)
  print(f'{args.out}: ablations.md, ablations.json, ablations.png; {len(finished)} of {len(runs)} runs are finished')
  for sentence in failed:
    print(sentence, file=sys.stderr)
  return FAILURE if failed else 0


def find_sweep(name: str) -> Sweep:
  """Returns the sweep of a name, or the SWEEP of a Python file."""
  if name in SWEEPS:
    return SWEEPS[name]
  if not name.endswith('.py') or not Path(name).is_file():
    raise InputError(f'--sweep={name} must be {", ".join(SWEEPS)} or a Python file with a Sweep called SWEEP')
  found = runpy.run_path(name).get('SWEEP')
  if not isinstance(found, Sweep) or not found.variants:
    raise InputError(f'{name} must define SWEEP, a Sweep of launch/sweeps.py with variants')
  return found


def some_variants(sweep: Sweep, names: str) -> Sweep:
  """Returns a sweep with the base and the variants of these names, separated by commas; '': all of them."""
  if not names:
    return sweep
  wanted = [name.strip() for name in names.split(',')]
  if unknown := [name for name in wanted if name not in sweep.variants]:
    raise InputError(f'--variants={unknown[0]} is unknown: the sweep has {", ".join(sweep.variants)}')
  base = next(iter(sweep.variants))
  chosen = {name: values for name, values in sweep.variants.items() if name == base or name in wanted}
  return dataclasses.replace(sweep, variants=chosen)


def pair(text: str) -> tuple[str, str]:
  name, separator, value = text.partition('=')
  if not separator or not name:
    raise argparse.ArgumentTypeError(f'{text!r} must be NAME=VALUE')
  return name, value


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  group = parser.add_argument_group('sweep')
  group.add_argument('--sweep', required=True, help=f'{", ".join(SWEEPS)}, or a Python file')
  group.add_argument('--out', type=Path, required=True, help='directory of the runs and the table')
  group.add_argument(
    '--variants', default='', metavar='NAME,...', help='only these variants, besides the base (default: all)'
  )
  group.add_argument('--seeds', type=int, default=3, help='seeds of each variant (default: 3)')
  group.add_argument(
    '--input', type=pair, action='append', default=[], metavar='NAME=PATH', help='an input of the sweep'
  )
  group.add_argument(
    '--set', type=pair, action='append', default=[], metavar='KEY=VALUE', help='a value of all configurations'
  )
  group.add_argument('--jobs', type=int, default=1, help='runs at once, each on its share of the cores (default: 1)')
  group.add_argument('--data', help="dataset of the evaluations (default: the sweep's)")
  group.add_argument('--split', help="split of the evaluations (default: the sweep's)")
  group = parser.add_argument_group('instead of running')
  group.add_argument('--list', action='store_true', help='print the runs, and stop')
  group.add_argument('--table', action='store_true', help='only write the table of the finished runs')
  group.add_argument('--task', type=int, help='only this run; jobs of an array use it')
  group = parser.add_argument_group('Slurm')
  group.add_argument(
    '--slurm', action='store_true', help='write DIR/ablations.sbatch, an array of jobs, and print the command'
  )
  group.add_argument('--submit', action='store_true', help='with --slurm: run sbatch')
  group.add_argument(
    '--slurm_options', default='', help="options of a job, such as '--gres=gpu:8 --cpus-per-task=64 --time=24:00:00'"
  )
  args = parser.parse_args()
  if args.seeds < 1:
    raise InputError(f'--seeds={args.seeds} must be at least 1')
  if args.jobs < 1:
    raise InputError(f'--jobs={args.jobs} must be at least 1')
  if args.submit and not args.slurm:
    raise InputError('--submit needs --slurm')
  return args


if __name__ == '__main__':
  run_main(main)
