"""The runs of launch/ablations.py: trains and evaluates each, one after another or several at once."""

from collections.abc import Sequence
import dataclasses
import json
import os
from pathlib import Path
import shlex
import shutil
import signal
import subprocess
import sys
import time

from lrm_jax.errors import InputError, Interrupted
from sweeps import Overrides


@dataclasses.dataclass(frozen=True)
class Run:
  """One training with its evaluation, in `workdir`."""

  variant: str
  seed: int
  workdir: Path
  overrides: Overrides

  @property
  def result(self) -> Path:
    """The file that a finished run has."""
    return self.workdir / 'evaluation' / 'results.json'


def execute(run: Run, config: str, evaluation: Sequence[str]) -> int:
  """Trains and evaluates a run, unless it is finished; returns the exit code. `evaluation`: options of evaluate.

  Raises InputError if its directory was started with other values, and Interrupted after SIGTERM.
  """
  started = run.workdir / 'ablation.json'
  wanted = json.loads(json.dumps({'config': config, 'overrides': run.overrides}))  # as it is read: tuples are lists
  if started.is_file():
    if (found := json.loads(started.read_text())) != wanted:
      raise InputError(
        f'{run.workdir} was started with {json.dumps(found)}, not {json.dumps(wanted)}: give another --out, or '
        'remove it'
      )
  else:
    run.workdir.mkdir(parents=True, exist_ok=True)
    started.write_text(json.dumps(wanted, indent=1) + '\n')
  if run.result.is_file():
    return 0
  options = [f'--config.{name}={value}' for name, value in run.overrides.items()]
  code = call('lrm_jax.train', f'--config={config}', f'--workdir={run.workdir}', *options)
  if code:
    return code
  return call('lrm_jax.evaluate', f'--checkpoint={run.workdir}', f'--out={run.result.parent}', *evaluation)


def call(module: str, *options: str) -> int:
  """Runs a command of the package and returns its exit code. Passes SIGTERM on; then raises Interrupted."""
  command = [sys.executable, '-m', module, *options]
  print(shlex.join(command), flush=True)
  stopped = []
  with subprocess.Popen(command) as process:

    def stop(number, frame):
      del frame
      stopped.append(number)
      process.send_signal(number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
      code = process.wait()
    finally:
      signal.signal(signal.SIGTERM, previous)
  if stopped:
    raise Interrupted('stopped by SIGTERM: the same command continues')
  return code


def run_all(runs: list[Run], config: str, evaluation: Sequence[str]) -> list[str]:
  """Runs one after another; returns a sentence for each that failed. The next start tries those again."""
  failed = []
  for number, run in enumerate(runs, 1):
    print(f'\n== {number} of {len(runs)}: {run.workdir}', flush=True)
    if code := execute(run, config, evaluation):
      failed.append(f'{run.workdir} failed with exit code {code}')
      print(failed[-1], file=sys.stderr, flush=True)
  return failed


def run_at_once(runs: list[Run], jobs: int, command: Sequence[str]) -> list[str]:
  """Runs `jobs` at once, each as a process of `command` with --task, on its share of the cores.

  What they print goes to log.txt in the directory of each. Returns a sentence for each that failed.
  Raises Interrupted after SIGTERM, when all have stopped.
  """
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else [0]
  waiting = [number for number, run in enumerate(runs) if not run.result.is_file()]
  print(f'{len(runs) - len(waiting)} of {len(runs)} runs are finished', flush=True)
  running: dict[int, tuple[int, subprocess.Popen]] = {}  # slot -> (number of the run, its process)
  failed, stopped = [], []

  def stop(number, frame):
    del frame
    stopped.append(number)
    for _, process in running.values():
      process.send_signal(signal.SIGTERM)

  previous = signal.signal(signal.SIGTERM, stop)
  try:
    while running or (waiting and not stopped):
      for slot in range(jobs):
        if slot in running and running[slot][1].poll() is not None:
          number, process = running.pop(slot)
          print(f'{runs[number].workdir}: {"done" if process.returncode == 0 else "failed"}', flush=True)
          if process.returncode:
            failed.append(f'{runs[number].workdir} failed with exit code {process.returncode}: see its log.txt')
        if slot not in running and waiting and not stopped:
          number = waiting.pop(0)
          running[slot] = number, start(runs[number], [*command, f'--task={number}'], cores[slot % len(cores) :: jobs])
      time.sleep(0.2)
  finally:
    signal.signal(signal.SIGTERM, previous)
  if stopped:
    raise Interrupted('stopped by SIGTERM: the same command continues')
  return failed


def start(run: Run, command: list[str], cores: Sequence[int]) -> subprocess.Popen:
  """Starts a command for one run, on these cores if the system can limit it; what it prints goes to log.txt."""
  run.workdir.mkdir(parents=True, exist_ok=True)
  limit = ['taskset', '--cpu-list', ','.join(map(str, cores))] if shutil.which('taskset') else []
  with open(run.workdir / 'log.txt', 'ab') as log:
    return subprocess.Popen(limit + command, stdout=log, stderr=subprocess.STDOUT)
