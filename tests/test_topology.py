"""Specifications and topologies of accelerators, the choice of kernels, and the collectives of compiled programs."""

import dataclasses
import os
from pathlib import Path
import subprocess
import sys

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax import extras
from lrm_jax.configs import base
from lrm_jax.distributed import accelerators, backend, collectives, sharding
from lrm_jax.errors import InputError
from lrm_jax.models import attention, registry, renderer

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
  'name, expected, devices',
  [
    ('v5e:4x4', ('v5e', (4, 4)), 16),
    ('V5P:2x2x1', ('v5p', (2, 2, 1)), 4),
    ('h100:8', ('h100', (1, 8)), 8),
    ('h100:2', ('h100', (1, 2)), 2),
    ('a100:128', ('a100', (16, 8)), 128),
    ('a100:4x4', ('a100', (4, 4)), 16),
    ('v5e:4x4:2', ('v5e', (4, 4)), 32),
  ],
)
def test_topology_names(name, expected, devices):
  assert accelerators.parse(name) == expected and accelerators.count(name) == devices


@pytest.mark.parametrize('name', ['h100', 'v5e:', 'v5e:4x', 'b900:8', 'h100:12', 'h100:0', 'v5e:4x-4', 'v5e:4x4:0', ''])
def test_invalid_topology_raises_with_its_value(name):
  with pytest.raises(ValueError, match='topology = ') as caught:
    accelerators.count(name)
  assert repr(name) in str(caught.value)


def test_missing_compiler_is_named(monkeypatch):
  monkeypatch.setattr(extras, 'installed', lambda module: False)
  with pytest.raises(accelerators.MissingCompilerError, match=f'jax-cuda12-plugin=={jax.__version__}'):
    accelerators.devices('h100:8')
  with pytest.raises(accelerators.MissingCompilerError, match='jax.tpu'):
    accelerators.devices('v5e:4x4')


@pytest.mark.parametrize(
  'kind, name',
  [
    ('NVIDIA H100 80GB HBM3', 'h100'),
    ('NVIDIA A100-SXM4-40GB', 'a100'),
    ('NVIDIA A100-SXM4-80GB', 'a100-80'),
    ('NVIDIA H200', 'h200'),
    ('TPU v5 lite', 'v5e'),
    ('TPU v5', 'v5p'),
    ('TPU v6 lite', 'v6e'),
    ('cpu', None),
  ],
)
def test_devices_are_recognised_by_device_kind(kind, name):
  assert accelerators.accelerator(kind) == (name and accelerators.ACCELERATORS[name])


@dataclasses.dataclass(frozen=True)
class Attached:
  """A device of a slice and a process."""

  id: int
  process_index: int
  slice_index: int
  platform: str = 'gpu'
  device_kind: str = 'NVIDIA H100 80GB HBM3'


@pytest.mark.parametrize('slices, processes', [(2, 4), (8, 2), (8, 4)])
def test_groups_of_a_network_are_slices_or_processes_or_consecutive_devices(slices, processes):
  devices = [Attached(i, i * processes // 8, i * slices // 8) for i in range(8)]
  assert sharding.mesh_shape(-1, 2, 8, dcn=2) == (2, 2, 2)
  found = sharding.arranged((2, 2, 2), devices)
  assert [[device.id for device in group.flat] for group in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_slices_of_tpus_need_the_axis_between_them():
  devices = [Attached(i, i // 4, i // 4, platform='tpu', device_kind='TPU v5 lite') for i in range(8)]
  with pytest.raises(InputError, match='config.mesh.dcn = 1, but the devices are 2 slices of TPUs: set it to 2'):
    sharding.make_mesh(-1, 4, devices=devices)
  with pytest.raises(InputError, match=r'config.mesh = \(3, -1, 1\) does not match 8 devices'):
    sharding.make_mesh(-1, 1, dcn=3, devices=devices)


def test_small_parameters_are_not_sharded():
  """The NeRF is used for each chunk of rays, and norms in each layer: gathering them there costs more than memory."""
  params = registry.parameters(registry.abstract_model(base.get_config().model.to_dict()))
  found = traverse_util.flatten_dict(sharding.shardings(sharding.make_mesh(1, 1), params), sep='/')
  small = [name for name in found if name.startswith('nerf/') or name.endswith(('bias', 'scale'))]
  assert len(small) > 20 and all('fsdp' not in found[name].spec for name in small)
  kernels = [name for name in found if name.endswith('kernel') and 'blocks' in name]
  assert all('fsdp' in found[name].spec for name in kernels)


def test_rays_that_fit_follow_the_memory(monkeypatch):
  few, many = (renderer.rays_that_fit(40e9, objects, 128 * 2112) for objects in (8, 1))
  assert few % 128 == 0 and 0.15 * 40e9 < 8 * few * 128 * 2112 < 0.21 * 40e9 and many > 7 * few
  assert renderer.rays_that_fit(None, 8, 128 * 2112) == 4096
  monkeypatch.setattr(backend, 'platform', lambda: 'tpu')
  assert renderer.rays_that_fit(40e9, 8, 128 * 2112) == few // 2 // 128 * 128


@pytest.mark.slow
@pytest.mark.parametrize('lengths', [(256, 256), (192, 130)])
def test_tpu_kernel_equals_attention(lengths):
  """Forward and backward, in interpret mode, also for lengths that are not multiples of the tiles."""
  keys = jax.random.split(jax.random.key(0), 4)
  q, k, v, g = (
    jax.random.normal(key, (2, n, 2, 64)) for key, n in zip(keys, (lengths[0], *lengths[1:] * 2, lengths[0]))
  )

  def both(attend):
    return jax.value_and_grad(lambda *x: jnp.sum(attend(*x) * g), argnums=(0, 1, 2))(q, k, v)

  found, expected = both(lambda *x: attention._splash(*x, interpret=True)), both(attention._plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


PROGRAM = """HloModule jit_f
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}
%body.1 (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %gathered = bf16[16,64]{1,0} all-gather(%x), replica_groups={{0,1}}, dimensions={0}
  %scattered = f32[4,64]{1,0} reduce-scatter(%y), replica_groups=[2,4]<=[8], to_apply=%add
}
%condition.1 (state: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%init), condition=%condition.1, body=%body.1, backend_config={"known_trip_count":{"n":"12"}}
  %begun = (f32[10]{0}, f32[80]{0}) all-gather-start(%z), replica_groups={{0,1,2,3,4,5,6,7}}
  %done = f32[80]{0} all-gather-done(%begun)
  ROOT %reduced = f32[8]{0} all-reduce(%w), to_apply=%add
}
"""  # noqa: E501


def test_collectives_in_loops_are_counted_per_iteration():
  """The trip count is given by the loop (GPU), or only by the constant in its condition (TPU)."""
  assert collectives.collectives(PROGRAM) == {
    'all-gather': (13, 12 * 16 * 64 * 2 + 320),
    'reduce-scatter': (12, 12 * 4 * 64 * 4 * 4),
    'all-reduce': (1, 32),
  }
  without_trip_count = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"12"}}', '').replace(
    '  ROOT %less', '  %n = s32[]{:T(128)} constant(12)\n  ROOT %less'
  )
  assert without_trip_count != PROGRAM and collectives.collectives(without_trip_count) == collectives.collectives(
    PROGRAM
  )


@pytest.mark.slow
def test_step_on_eight_devices_communicates_no_activations():
  """The gathered bytes do not depend on the number of objects: only parameters are gathered (forward and backward)."""
  code = """
from lrm_jax.configs import quickstart
from lrm_jax.training import dry_run
from lrm_jax.weights import pretrained
import math
for objects in (8, 32):
  config = quickstart.get_config()
  config.batch_size, config.loss.lpips_weight = objects, 0.0
  config.mesh.update(dict(data=1, fsdp=8))
  found = dry_run.compile_step(config).collectives
  kinds = ('all-gather', 'all-to-all', 'collective-permute')
  print(sum(size for kind, (number, size) in found.items() if kind in kinds),
        4 * sum(map(math.prod, pretrained.shapes(config).values())))
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_force_host_platform_device_count=8'},
  )
  assert done.returncode == 0, done.stderr
  (few, parameters), (many, _) = (map(int, line.split()) for line in done.stdout.split('\n')[-3:-1])
  assert few == many and few < 4 * parameters
