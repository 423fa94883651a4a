"""Specifications of accelerators, and devices of unattached ones, for which programs can be compiled.

A topology name is kind:shape. v5e:4x4 and v5p:2x2x1 are TPU slices in Google's notation; h100:8 is one host with 8
GPUs; a100:16x8 is 16 hosts with 8 GPUs each (a100:128 is the same). A number after a second colon counts slices:
v5e:16x16:2 are two slices of 16 x 16, connected by a data-centre network.
"""

import dataclasses
import math
import os

import jax
from jax.experimental import multihost_utils, topologies
import numpy as np

from lrm_jax import extras
from lrm_jax.distributed import simulation
from lrm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """The vendor's data sheet: peak dense bfloat16 FLOP/s, memory in bytes, memory bandwidth in bytes/s."""

  peak: float
  memory: float
  bandwidth: float


ACCELERATORS = {
  'a100': Accelerator(312e12, 40e9, 1.555e12),
  'a100-80': Accelerator(312e12, 80e9, 2.039e12),
  'h100': Accelerator(989.4e12, 80e9, 3.35e12),
  'h200': Accelerator(989.4e12, 141e9, 4.8e12),
  'v4': Accelerator(275e12, 32e9, 1.228e12),
  'v5e': Accelerator(197e12, 16e9, 0.819e12),
  'v5p': Accelerator(459e12, 95e9, 2.765e12),
  'v6e': Accelerator(918e12, 32e9, 1.64e12),
}
# Substrings of jax.Device.device_kind; more specific names first.
_KINDS = {
  'H200': 'h200',
  'H100': 'h100',
  'A100-SXM4-80': 'a100-80',
  'A100 80GB': 'a100-80',
  'A100': 'a100',
  'TPU v6 lite': 'v6e',
  'TPU v5 lite': 'v5e',
  'TPU v5': 'v5p',
  'TPU v4': 'v4',
}
# NVIDIA GPUs: device name, compute capability, multiprocessors, shared memory per multiprocessor and per block
# (opt-in), L2 cache, clock in GHz.
_GPUS = {
  'a100': ('NVIDIA A100-SXM4-40GB', (8, 0), 108, 167936, 166912, 41943040, 1.41),
  'a100-80': ('NVIDIA A100-SXM4-80GB', (8, 0), 108, 167936, 166912, 41943040, 1.41),
  'h100': ('NVIDIA H100 80GB HBM3', (9, 0), 132, 233472, 232448, 52428800, 1.98),
  'h200': ('NVIDIA H200', (9, 0), 132, 233472, 232448, 62914560, 1.98),
}
_GPUS_PER_HOST = 8
_NEEDED = {  # platform: (modules that compile for it, packages that provide them)
  'tpu': (('libtpu',), "'jax[tpu]=={jax}'"),
  'gpu': (
    ('jax_cuda12_plugin', 'nvidia.cudnn'),
    'jax-cuda12-plugin=={jax} jax-cuda12-pjrt=={jax} nvidia-cudnn-cu12 nvidia-cublas-cu12 nvidia-cuda-nvrtc-cu12',
  ),
}


class MissingCompilerError(InputError):
  """The compiler for a topology's devices is not installed."""


def accelerator(device_kind: str) -> Accelerator | None:
  """Returns the specification of a device by its `device_kind`, or None if it is not in the table."""
  return next((ACCELERATORS[name] for part, name in _KINDS.items() if part in device_kind), None)


def usable(known: Accelerator) -> float:
  """Returns the bytes of a device's memory that JAX uses for arrays.

  JAX reserves a share of a GPU's memory when it starts, XLA_PYTHON_CLIENT_MEM_FRACTION, or 0.75 if that is not set.
  TPUs reserve a few hundred MiB for themselves.
  """
  if known in (ACCELERATORS[kind] for kind in _GPUS):
    text = os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION') or '0.75'
    try:
      share = float(text)
    except ValueError:
      share = 0.0
    if not 0 < share <= 1:
      raise InputError(f'XLA_PYTHON_CLIENT_MEM_FRACTION = {text!r} must be a number above 0 and at most 1')
    return share * known.memory
  return 0.94 * known.memory


def memory(device: jax.Device) -> float | None:
  """Returns the usable memory of a device in bytes, or None if it is unknown or the device is a CPU.

  It is that of the table (`usable`), so that a program planned for a device is the one that runs on it. If an attached
  device reports a lower limit, that one counts: it may be a MIG slice or shared.
  """
  if (simulated := simulation.simulated()) is not None and device in jax.local_devices():
    return simulated.memory
  if device.platform == 'cpu':
    return None
  known = accelerator(device.device_kind)
  planned = None if known is None else usable(known)
  if device in jax.local_devices() and (stats := device.memory_stats()):
    limit = float(stats['bytes_limit'])
    return limit if planned is None else min(planned, limit)
  return planned


def mesh_memory(mesh: jax.sharding.Mesh) -> float | None:
  """Returns the memory of each device of a mesh in bytes (see `memory`), the same number in all processes.

  Process 0's device decides. The number determines the compiled program, and processes with different programs hang.
  """
  local = [device for device in mesh.devices.flat if device in jax.local_devices()]
  size = memory(local[0] if local else mesh.devices.flat[0])
  if local and jax.process_count() > 1:
    size = float(multihost_utils.broadcast_one_to_all(np.float32(size or 0))) or None
  return size


def parse(name: str) -> tuple[str, tuple[int, ...]]:
  """Returns (kind, shape of a slice) of a topology name. Raises InputError if it is not a topology."""
  kind, _, rest = name.lower().partition(':')
  parts = rest.partition(':')[0].split('x')
  if kind not in ACCELERATORS or not all(part.isdigit() and int(part) for part in parts):
    raise InputError(
      f'topology = {name!r} is unknown: write kind:shape, such as v5e:4x4 or h100:8; kinds: {", ".join(ACCELERATORS)}'
    )
  shape = tuple(map(int, parts))
  if kind in _GPUS and len(shape) == 1:
    hosts, rest = divmod(shape[0], _GPUS_PER_HOST)
    if hosts and rest:
      raise InputError(f'topology = {name!r}: a host has {_GPUS_PER_HOST} GPUs; write hosts x GPUs, such as {kind}:4x4')
    shape = (hosts, _GPUS_PER_HOST) if hosts else (1, shape[0])
  return kind, shape


def slices(name: str) -> int:
  """Returns the number of slices of a topology, 1 if its name gives none. Raises InputError for another text."""
  text = name.split(':', 2)[2] if name.count(':') > 1 else '1'
  if not text.isdigit() or not int(text):
    raise InputError(f'topology = {name!r} has {text!r} slices: write kind:shape:slices, such as v5e:16x16:2')
  return int(text)


def count(name: str) -> int:
  """Returns the number of devices in a topology."""
  return slices(name) * math.prod(parse(name)[1])


def devices(name: str) -> list[jax.Device]:
  """Returns devices that programs can be compiled for but not run on.

  Raises MissingCompilerError, with the packages to install, and InputError if the topology does not exist.
  """
  kind, shape = parse(name)
  modules, packages = _NEEDED['gpu' if kind in _GPUS else 'tpu']
  if not all(extras.installed(module) for module in modules):
    raise MissingCompilerError(
      f'{name}: compiling for it needs pip install {packages.format(jax=jax.__version__)} (no such device is needed)'
    )
  if kind in _GPUS:
    return topologies.get_topology_desc(
      platform='cuda', target_config=_target(kind), topology='x'.join(map(str, (slices(name), *shape)))
    ).devices
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')  # libtpu warns if it cannot resolve the host name.
  several = {'num_slices': slices(name)} if slices(name) > 1 else {}
  topology = f'{kind}:{"x".join(map(str, shape))}'
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=topology, **several).devices
  except Exception as error:  # libtpu raises JaxRuntimeError, NotImplementedError and others.
    raise InputError(f'topology = {name!r} is not supported by libtpu: {str(error).splitlines()[0]}') from error


def _target(kind: str) -> str:
  """Returns XLA's GPU target description (GpuTargetConfigProto, text format)."""
  name, (major, minor), cores, shared, per_block, cache, clock = _GPUS[kind]
  known = ACCELERATORS[kind]
  capability = f'major: {major} minor: {minor}' if minor else f'major: {major}'
  return f'''gpu_device_info {{
    threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: {cores}
    fpus_per_core: {128 if major > 8 else 64} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z:
    65535 shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {per_block}
    memory_bandwidth: {int(known.bandwidth)} l2_cache_size: {cache} clock_rate_ghz: {clock} device_memory_size:
    {int(known.memory)} registers_per_core_limit: 65536 registers_per_block_limit: 65536 device_address_bits: 64
    cuda_compute_capability {{ {capability} }} name: "{name}" }}
  platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"'''
