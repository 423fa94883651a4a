"""Starts trainings as separate processes, so that tests can stop and kill them as users and schedulers do."""

import os
from pathlib import Path
import socket
import subprocess
import sys
import time

from lrm_jax.training.metric_writer import read

ROOT = Path(__file__).parents[1]
# Less time to compile, slower programs: the trainings of the tests are short.
FAST_COMPILE = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'


def write_config(config, path: Path) -> Path:
  """Writes a configuration as a Python file for --config; returns its path."""
  path.write_text(
    f'from ml_collections import ConfigDict\n\ndef get_config():\n  return ConfigDict({config.to_dict()!r})\n'
  )
  return path


def free_port() -> int:
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    return listening.getsockname()[1]


def start(
  config_file: Path,
  workdir: Path,
  *options: str,
  processes: int = 1,
  devices: int = 1,
  each=None,
  xla_flags: str = FAST_COMPILE,
  **environment: str,
):
  """Starts a training; returns its processes with `devices` CPU devices each. They write to WORKDIR.<index>.log.

  `xla_flags` are added to XLA_FLAGS.
  `environment` is set for all processes, and `each[index]` only for the process of that index.
  """
  started, port = [], free_port()
  for index in range(processes):
    peers = {
      'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
      'JAX_NUM_PROCESSES': str(processes),
      'JAX_PROCESS_ID': str(index),
    }
    with log_path(workdir, index).open('w') as log:
      started.append(
        subprocess.Popen(
          [
            sys.executable,
            '-m',
            'lrm_jax.train',
            f'--config={config_file}',
            f'--workdir={workdir}',
            '--peer_timeout=10',
            *options,
          ],
          cwd=ROOT,
          stdout=log,
          stderr=log,
          env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {xla_flags}',
            **(peers if processes > 1 else {}),
            **environment,
            **(each[index] if each else {}),
          },
        )
      )
  return started


def log_path(workdir: Path, index: int = 0) -> Path:
  return workdir.with_name(f'{workdir.name}.{index}.log')


def finish(started, workdir: Path, seconds: float = 900) -> list[int]:
  """Waits for processes; returns their exit codes. After `seconds`, kills them and fails."""
  end = time.monotonic() + seconds
  try:
    return [process.wait(max(0.1, end - time.monotonic())) for process in started]
  except subprocess.TimeoutExpired:
    raise AssertionError(f'the processes did not end within {seconds} s:\n{log_text(workdir, len(started))}') from None
  finally:
    for process in started:
      process.kill()
      process.wait()


def log_text(workdir: Path, processes: int = 1) -> str:
  return '\n'.join(log_path(workdir, index).read_text() for index in range(processes))


def train(config_file: Path, workdir: Path, *options: str, **kwargs) -> None:
  """Trains to the end; fails if a process exits with an error."""
  started = start(config_file, workdir, *options, **kwargs)
  codes = finish(started, workdir)
  assert not any(codes), log_text(workdir, len(started))


def steps(workdir: Path) -> list[dict]:
  """Returns the metrics of the logged steps of a run; empty if nothing was logged yet."""
  return [line for line in read(workdir) if 'loss' in line] if (workdir / 'metrics.jsonl').exists() else []


def losses(workdir: Path) -> list[float]:
  return [line['loss'] for line in steps(workdir)]


def wait_for(condition, started=(), seconds: float = 180) -> None:
  """Waits until condition() holds; fails after `seconds`, or if one of the `started` processes ends first."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, f'the condition did not hold within {seconds} s'
    for process in started:
      assert process.poll() is None, f'a process exited with code {process.returncode}'
    time.sleep(0.02)
