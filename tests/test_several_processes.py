"""Distributed training: the losses do not depend on the number of processes, also after resuming on another number."""

import json
import os
import signal

import numpy as np
import pytest

from conftest import TINY_MODEL
from lrm_jax.configs import base
from lrm_jax.distributed import processes, simulation
from lrm_jax.storage import checkpoint
import training_processes


@pytest.fixture
def config(tiny_config):
  """configs/base.py in miniature, in float32, so that losses can be compared, and without LPIPS."""
  config = base.get_config()
  config.model.update(TINY_MODEL | dict(dtype='float32', decoder_width=256))  # So wide that parameters are sharded.
  data = ('path', 'eval_split', 'window', 'resize_min', 'resize_max', 'eval_objects', 'eval_size', 'num_workers')
  config.data.update({name: tiny_config.data[name] for name in data})
  # The second evaluation is that of the last step; the first gives tests the time to kill a run before it ends.
  config.update(dict(num_train_steps=20, batch_size=8, log_every=1, checkpoint_every=10, eval_every=12))
  config.optimizer.warmup_steps, config.loss.lpips_weight = 2, 0.0
  return config


PLAIN = {'JAX_COORDINATOR_ADDRESS': 'node0:1234', 'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'}
SLURM = {
  'SLURM_JOB_ID': '4097',
  'SLURM_STEP_NODELIST': 'gpu[007-009,12],cpu1',
  'SLURM_NTASKS': '8',
  'SLURM_PROCID': '5',
  'SLURM_LOCALID': '1',
  'SLURM_NODEID': '2',
  'SLURM_STEP_TASKS_PER_NODE': '2(x4)',
}
OPEN_MPI = {
  'OMPI_COMM_WORLD_SIZE': '4',
  'OMPI_COMM_WORLD_RANK': '2',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
  'OMPI_MCA_orte_hnp_uri': '8192.0;tcp://10.96.0.1,10.148.0.1:34911',
}


@pytest.mark.parametrize(
  'environment, expected',
  [
    ({}, None),
    (PLAIN, ('node0:1234', 4, 3, None)),
    (PLAIN | {'JAX_NUM_PROCESSES': '1', 'JAX_PROCESS_ID': '0'}, None),
    (SLURM, ('gpu007:61441', 8, 5, (1,))),
    (SLURM | {'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, ('gpu007:61441', 8, 5, (2, 3))),  # Two processes share 4 GPUs.
    (SLURM | {'CUDA_VISIBLE_DEVICES': '0'}, ('gpu007:61441', 8, 5, None)),  # Slurm assigned one GPU to each task.
    (SLURM | {'SLURM_STEP_TASKS_PER_NODE': '1(x8)', 'SLURM_LOCALID': '0'}, ('gpu007:61441', 8, 5, None)),
    (SLURM | {'SLURM_STEP_NODELIST': 'a1,b2'}, ('a1:61441', 8, 5, (1,))),
    (SLURM | {'JAX_COORDINATOR_ADDRESS': 'other:99'}, ('other:99', 8, 5, (1,))),
    (SLURM | {'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'}, None),
    ({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8'}, None),  # In a job, but not started by srun.
    (OPEN_MPI, ('10.96.0.1:61442', 4, 2, (0,))),
    ({k: v for k, v in OPEN_MPI.items() if 'hnp' not in k} | {'JAX_COORDINATOR_ADDRESS': 'n:5'}, ('n:5', 4, 2, (0,))),
  ],
)
def test_membership_of_launchers(environment, expected):
  found = processes.membership(environment)
  assert found == (expected and processes.Membership(*expected))


@pytest.mark.parametrize(
  'environment, message',
  [
    ({'JAX_PROCESS_ID': '1'}, 'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is not'),
    (PLAIN | {'JAX_PROCESS_ID': '4'}, 'process 4 of 4'),
    (PLAIN | {'JAX_NUM_PROCESSES': 'four'}, "'four'"),
    (PLAIN | {'JAX_COORDINATOR_ADDRESS': 'node0'}, "'node0' must be host:port"),
    ({k: v for k, v in OPEN_MPI.items() if 'hnp' not in k}, 'JAX_COORDINATOR_ADDRESS'),
  ],
)
def test_invalid_membership_raises(environment, message):
  with pytest.raises(ValueError, match=message):
    processes.membership(environment)


def test_tpu_membership_comes_from_jax(monkeypatch):
  calls = []
  monkeypatch.setattr(processes.jax.distributed, 'initialize', lambda *args, **kwargs: calls.append((args, kwargs)))
  for name in [name for name in os.environ if name.startswith(('JAX_', 'SLURM_', 'OMPI_', 'TPU_'))]:
    monkeypatch.delenv(name)
  monkeypatch.setattr(processes.importlib.util, 'find_spec', lambda name: name == 'libtpu')
  processes.join(peer_timeout=7)
  assert not calls
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')
  processes.join(peer_timeout=7)
  [(args, kwargs)] = calls
  assert not args and kwargs['heartbeat_timeout_seconds'] == 7 and 'coordinator_address' not in kwargs


@pytest.fixture(scope='session')
def uninterrupted(tmp_path_factory):
  """A function: trains a configuration on one device, unless it did so before, and returns the metrics of its steps."""
  known = {}

  def train(config):
    key = json.dumps(config.to_dict())
    if key not in known:
      root = tmp_path_factory.mktemp('uninterrupted')
      training_processes.train(training_processes.write_config(config, root / 'config.py'), root / 'run')
      known[key] = training_processes.steps(root / 'run')
    return known[key]

  return train


def assert_same(found, expected):
  assert [line['step'] for line in found] == [line['step'] for line in expected] == list(range(1, len(expected) + 1))
  np.testing.assert_allclose(*([line['loss'] for line in lines] for lines in (found, expected)), rtol=1e-4)


def assert_same_run(workdir, expected):
  """Compares all losses and the last evaluation of a run of 20 steps with the expected ones."""
  found = training_processes.steps(workdir)
  assert len(found) == 20
  assert_same(found, expected)
  np.testing.assert_allclose(found[-1]['eval_psnr'], expected[-1]['eval_psnr'], rtol=1e-4)
  assert (workdir / 'images' / 'eval_00000020.png').exists()


@pytest.mark.slow
def test_losses_of_eight_devices_are_those_of_one(config, tmp_path, uninterrupted):
  expected = uninterrupted(config)
  config.mesh.update(dict(data=8, fsdp=1))
  training_processes.train(training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run', devices=8)
  assert_same_run(tmp_path / 'run', expected)
  assert '8 x cpu: batch sharded over 8, parameters over 1;' in training_processes.log_text(tmp_path / 'run')


@pytest.mark.slow
@pytest.mark.parametrize(
  'platform, count, devices, mesh, later',
  [('gpu', 2, 4, dict(dcn=2, data=1, fsdp=4), 1), ('tpu', 4, 2, dict(data=2, fsdp=4), 2)],
)
def test_simulated_accelerators_of_several_processes_are_killed_and_resume_on_another_mesh(
  config, tmp_path, uninterrupted, platform, count, devices, mesh, later
):
  """They train and evaluate with the losses of one CPU; their stated memory decides micro-batches and chunks of rays.

  All processes are killed after step 11; another number of processes with one device each resumes from step 10.
  """
  expected, file, workdir = uninterrupted(config), tmp_path / 'config.py', tmp_path / 'run'
  training_processes.write_config(config, file)
  simulated = {simulation.VARIABLE: f'{platform}:3e6'}
  options = [f'--config.mesh.{name}={size}' for name, size in mesh.items()]
  started = training_processes.start(file, workdir, *options, processes=count, devices=devices, **simulated)
  try:
    training_processes.wait_for(
      lambda: checkpoint.saved_steps(workdir) == [10] and len(training_processes.steps(workdir)) >= 11,
      started,
      seconds=900,
    )
  finally:
    for process in started:
      process.kill()
  assert training_processes.finish(started, workdir) == [-signal.SIGKILL] * count
  assert len(training_processes.steps(workdir)) < 20
  text = training_processes.log_text(workdir)
  assert f'8 x cpu of {count} processes: batch sharded over 8, parameters over 4;' in text
  options = ['--config.mesh.data=1', f'--config.mesh.fsdp={later}']
  training_processes.train(file, workdir, *options, processes=later, **simulated)
  text = training_processes.log_text(workdir)
  assert 'resuming after step 10' in text and f'for {8 // later} objects per step in {8 // later} micro-batches' in text
  assert_same_run(workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize('later', [4, 1])
def test_run_stopped_on_two_processes_resumes_on_another_number(config, tmp_path, uninterrupted, later):
  """SIGTERM to one of two processes: both save the same step and exit with 75. Then 4 processes, or 1, resume."""
  # The run is long enough that the signal arrives before its end.
  config.update(dict(num_train_steps=40, checkpoint_every=1000, eval_every=1000))
  expected = uninterrupted(config)
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  started = training_processes.start(file, workdir, processes=2)
  training_processes.wait_for(lambda: len(training_processes.steps(workdir)) >= 3, started)
  started[1].send_signal(signal.SIGTERM)
  assert training_processes.finish(started, workdir) == [75, 75], training_processes.log_text(workdir, 2)
  [saved] = checkpoint.saved_steps(workdir)
  assert 3 <= saved < 40 and len(training_processes.steps(workdir)) == saved
  assert f'stopped by SIGTERM; step {saved} is saved' in training_processes.log_text(workdir)
  training_processes.train(file, workdir, '--config.mesh.data=1', f'--config.mesh.fsdp={later}', processes=later)
  assert f'resuming after step {saved}' in training_processes.log_text(workdir)
  assert_same(training_processes.steps(workdir), expected)


@pytest.mark.slow
def test_missing_coordinator_is_reported(config, tmp_path):
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  config.data.path = 'nowhere'
  started = training_processes.start(
    file,
    workdir,
    JAX_COORDINATOR_ADDRESS='127.0.0.1:1',
    JAX_NUM_PROCESSES='2',
    JAX_PROCESS_ID='1',
    LRM_JAX_CONNECT_SECONDS='3',
  )
  assert training_processes.finish(started, workdir, 60) == [1]
  output = training_processes.log_text(workdir).strip().splitlines()[-1]
  assert output.startswith('error: process 1 of 2 could not connect to process 0 at 127.0.0.1:1 within 3 s')
