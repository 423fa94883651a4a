"""Branches that only accelerators execute, on CPU devices that claim to be GPUs or TPUs (distributed/simulation.py)."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import make_tiny_config
from lrm_jax.distributed import accelerators, backend, sharding, simulation
from lrm_jax.models import attention, renderer
from lrm_jax.storage import checkpoint
import training_processes

GPU, TPU = {simulation.VARIABLE: 'gpu:1e9'}, {simulation.VARIABLE: 'tpu:1e9'}


@pytest.fixture
def config(dataset):
  config = make_tiny_config(dataset)
  config.update(dict(num_train_steps=10, batch_size=8, checkpoint_every=10, eval_every=10))
  config.rays_per_chunk = 0  # decided from the memory of a device
  return config


@pytest.mark.parametrize('platform, gradient, padding', [('gpu', 'windows', 1), ('tpu', 'rows', 2)])
def test_simulated_platform_decides_forms_and_memory(monkeypatch, platform, gradient, padding):
  monkeypatch.setenv(simulation.VARIABLE, f'{platform}:16e9')
  form = backend.current()
  assert (form.platform, form.attention, form.plane_gradient, form.lane_padding) == (platform, 'xla', gradient, padding)
  assert not form.cache_blocking and not form.one_object_at_a_time
  assert accelerators.memory(jax.local_devices()[0]) == 16e9
  assert accelerators.mesh_memory(sharding.make_mesh()) == 16e9
  monkeypatch.delenv(simulation.VARIABLE)
  assert backend.platform() == 'cpu' and accelerators.memory(jax.local_devices()[0]) is None


@pytest.mark.parametrize('text', ['gpu', 'gpu:', 'gpu:many', 'gpu:-1', 'cpu:1e9'])
def test_malformed_simulation_is_an_error(monkeypatch, text):
  monkeypatch.setenv(simulation.VARIABLE, text)
  with pytest.raises(ValueError, match=simulation.VARIABLE):
    backend.platform()


@pytest.mark.parametrize('platform', ['gpu', 'tpu'])
def test_attention_equals_that_of_the_cpu(monkeypatch, platform, rng):
  q, k, v = (jnp.array(rng.normal(size=(2, n, 3, 8)), jnp.float32) for n in (20, 33, 33))
  expected = attention.attend(q, k, v)
  monkeypatch.setenv(simulation.VARIABLE, f'{platform}:1e9')
  np.testing.assert_allclose(attention.attend(q, k, v), expected, atol=1e-5)


def test_less_memory_means_fewer_rays(monkeypatch):
  monkeypatch.setenv(simulation.VARIABLE, 'gpu:1e9')
  rays = [renderer.rays_that_fit(memory, 8, 2**18) for memory in (80e9, 40e9, 1e9)]
  assert rays == sorted(rays, reverse=True) and rays[0] > rays[1] >= 128


def losses(config, workdir, **options):
  training_processes.train(training_processes.write_config(config, workdir.with_suffix('.py')), workdir, **options)
  return training_processes.losses(workdir)


@pytest.mark.slow
@pytest.mark.parametrize('count, environment', [(2, GPU), (2, TPU)], ids=['gpus', 'tpus'])
def test_several_processes_on_simulated_accelerators_have_the_losses_of_one(config, tmp_path, count, environment):
  expected = losses(config, tmp_path / 'one')
  config.mesh.update(dict(data=2, fsdp=count // 2))
  found = losses(config, tmp_path / 'several', processes=count, **environment)
  assert len(found) == 10
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_hosts_with_different_memory_compile_the_same_program(config, tmp_path):
  """The rays that are rendered at once follow process 0's memory; programs that differ would hang."""
  config.mesh.update(dict(data=1, fsdp=2))
  file = training_processes.write_config(config, tmp_path / 'config.py')
  started = training_processes.start(
    file, tmp_path / 'run', processes=2, each=[{simulation.VARIABLE: 'gpu:80e9'}, {simulation.VARIABLE: 'gpu:2e6'}]
  )
  assert training_processes.finish(started, tmp_path / 'run') == [0, 0]


@pytest.mark.slow
def test_stopped_on_simulated_gpus_resumes_on_another_mesh(config, tmp_path):
  expected = losses(config, tmp_path / 'one')
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  started = training_processes.start(file, workdir, processes=2, **GPU)
  training_processes.wait_for(lambda: training_processes.steps(workdir), started)
  started[1].send_signal(signal.SIGTERM)
  assert training_processes.finish(started, workdir) == [75, 75]
  assert checkpoint.saved_steps(workdir)
  config.mesh.update(dict(data=1, fsdp=2))
  training_processes.train(training_processes.write_config(config, tmp_path / 'later.py'), workdir, devices=2, **TPU)
  np.testing.assert_allclose(training_processes.losses(workdir), expected, rtol=1e-4)
