"""Branches that only accelerators execute, on CPU devices that claim to be GPUs or TPUs (distributed/simulation.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax.distributed import accelerators, backend, sharding, simulation
from lrm_jax.models import attention, renderer


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


class Attached:
  """A GPU or TPU that reports `limit` bytes."""

  platform = 'gpu'

  def __init__(self, kind, limit=None):
    self.device_kind, self._limit = kind, limit

  def memory_stats(self):
    return {'bytes_limit': self._limit}


@pytest.mark.parametrize('share', [None, '0.92'])
def test_plan_for_a_device_uses_the_memory_of_a_run_on_it(monkeypatch, share):
  """An H100 has 85.0e9 bytes, of which JAX uses three quarters or the given share; the plan assumes 80e9."""
  monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
  if share:
    monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', share)
  used = float(share or 0.75)
  attached = Attached('NVIDIA H100 80GB HBM3', int(85.0e9 * used))
  part = Attached('NVIDIA H100 80GB HBM3 MIG 1g.10gb', int(10.0e9 * used))
  monkeypatch.setattr(accelerators.jax, 'local_devices', lambda: [attached, part])
  planned = accelerators.memory(Attached('NVIDIA H100 80GB HBM3'))
  assert planned == accelerators.memory(attached) == used * 80e9
  assert accelerators.memory(part) == int(10.0e9 * used)  # A MIG slice reports less.
  assert accelerators.memory(Attached('TPU v5 lite')) == 0.94 * 16e9


def test_malformed_memory_fraction_is_an_error(monkeypatch):
  monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', '92%')
  with pytest.raises(ValueError, match='XLA_PYTHON_CLIENT_MEM_FRACTION'):
    accelerators.memory(Attached('NVIDIA H100 80GB HBM3'))
