"""Trainings in processes of their own, as users and schedulers start, stop and kill them."""

import os
from pathlib import Path
import socket
import subprocess
import sys
import time

from lrm_jax.training.metric_writer import read

ROOT = Path(__file__).parents[1]


def write_config(config, path: Path) -> Path:
  """Writes a configuration as a file for --config."""
  path.write_text(
    f'from ml_collections import ConfigDict\n\ndef get_config():\n  return ConfigDict({config.to_dict()!r})\n'
  )
  return path


def free_port() -> int:
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    return listening.getsockname()[1]


def start(
  config_file: Path, workdir: Path, *options: str, processes: int = 1, devices: int = 1, each=None, **environment: str
):
  """Returns the processes of a training, each with as many CPU devices; their words go to WORKDIR.<index>.log."""
  started, port = [], free_port()
  for index in range(processes):
    place = {
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
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
            **(place if processes > 1 else {}),
            **environment,
            **(each[index] if each else {}),
          },
        )
      )
  return started


def log_path(workdir: Path, index: int = 0) -> Path:
  return workdir.with_name(f'{workdir.name}.{index}.log')


def finish(started, workdir: Path, seconds: float = 240) -> list[int]:
  """Waits for processes; returns their exit codes, or kills them and fails after so many seconds."""
  end = time.monotonic() + seconds
  try:
    return [process.wait(max(0.1, end - time.monotonic())) for process in started]
  except subprocess.TimeoutExpired:
    raise AssertionError(f'not at an end after {seconds} s:\n{words(workdir, len(started))}') from None
  finally:
    for process in started:
      process.kill()
      process.wait()


def words(workdir: Path, processes: int = 1) -> str:
  return '\n'.join(log_path(workdir, index).read_text() for index in range(processes))


def train(config_file: Path, workdir: Path, *options: str, **kwargs) -> None:
  """Trains to the end; fails where that does not come."""
  started = start(config_file, workdir, *options, **kwargs)
  codes = finish(started, workdir)
  assert not any(codes), words(workdir, len(started))


def steps(workdir: Path) -> list[dict]:
  """Returns the logged steps of a run; none where there are none yet."""
  return [line for line in read(workdir) if 'loss' in line] if (workdir / 'metrics.jsonl').exists() else []


def losses(workdir: Path) -> list[float]:
  return [line['loss'] for line in steps(workdir)]


def wait_for(condition, started=(), seconds: float = 180) -> None:
  """Waits until condition() holds; fails after so many seconds, or when a process ends before."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, f'did not come about in {seconds} s'
    for process in started:
      assert process.poll() is None, f'a process ended with {process.returncode}'
    time.sleep(0.02)
