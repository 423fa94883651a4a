"""Selects the implementation of each operation for the backend that a program is compiled for.

A program may be compiled for devices that are not attached (lrm_jax/distributed/accelerators.py). The choice therefore
depends on the mesh that is set. Without a mesh, it depends on the default device.
"""

import dataclasses
import os
from typing import Literal, get_args

import jax

from lrm_jax.distributed import simulation
from lrm_jax.errors import InputError

PlaneGradient = Literal['windows', 'rows', 'sorted']


@dataclasses.dataclass(frozen=True)
class Backend:
  """The fastest implementations on a platform, and its memory layout.

  `attention`: 'blocks' of queries whose scores stay in a CPU's caches, 'cudnn', 'splash' (Pallas, TPU) or 'xla'.
  `plane_gradient`: how gradients of samples are added to a plane: 'windows' of 2 x 2 texels at once, 'rows', one texel
  after another (a TPU compiles a scatter of windows to a loop over all points), or 'sorted' segments. No accelerator
  has been measured yet: bench/gpu.py compares them, and LRM_JAX_PLANE_GRADIENT selects one.
  `cache_blocking`: whether work is split into blocks that stay in a CPU's caches.
  `one_object_at_a_time`: whether objects are rendered one by one. On a single CPU device, the planes of one object and
  their gradient stay in the caches; all other devices are faster with as many rays as possible.
  `lane_padding`: the factor by which arrays of 64 channels grow in memory (a TPU pads them to 128 lanes).
  """

  platform: Literal['cpu', 'gpu', 'tpu']
  attention: Literal['blocks', 'cudnn', 'splash', 'xla']
  plane_gradient: PlaneGradient
  cache_blocking: bool
  one_object_at_a_time: bool
  lane_padding: int


def current() -> Backend:
  """Returns the backend of the mesh that is set, or of the default device without a mesh."""
  name = platform()
  if name == 'cpu':
    single = jax.sharding.get_abstract_mesh().size <= 1
    return Backend(
      'cpu',
      attention='blocks',
      plane_gradient=_plane_gradient('windows'),
      cache_blocking=True,
      one_object_at_a_time=single,
      lane_padding=1,
    )
  if name == 'tpu':
    return Backend(
      'tpu',
      attention='splash' if simulation.simulated() is None else 'xla',
      plane_gradient=_plane_gradient('rows'),
      cache_blocking=False,
      one_object_at_a_time=False,
      lane_padding=2,
    )
  return Backend(
    'gpu',
    attention='cudnn' if _has_cudnn_attention() else 'xla',
    plane_gradient=_plane_gradient('windows'),
    cache_blocking=False,
    one_object_at_a_time=False,
    lane_padding=1,
  )


def platform() -> Literal['cpu', 'gpu', 'tpu']:
  """Returns the platform of the mesh, or of the default device without a mesh. CUDA and ROCm are both 'gpu'."""
  if (simulated := simulation.simulated()) is not None:
    return simulated.platform
  device = jax.sharding.get_abstract_mesh().abstract_device
  name = jax.default_backend() if device is None else device.platform
  if name in ('gpu', 'cuda', 'rocm'):
    return 'gpu'
  return 'tpu' if name == 'tpu' else 'cpu'


def _plane_gradient(default: PlaneGradient) -> PlaneGradient:
  chosen = os.environ.get('LRM_JAX_PLANE_GRADIENT') or default
  if chosen not in get_args(PlaneGradient):
    raise InputError(f'LRM_JAX_PLANE_GRADIENT={chosen} is unknown: use one of {", ".join(get_args(PlaneGradient))}')
  return chosen  # type: ignore[return-value]


def _has_cudnn_attention() -> bool:
  """Returns whether the device is an NVIDIA GPU (not ROCm) of a generation that cuDNN's fused attention supports."""
  if simulation.simulated() is not None:
    return False
  local, target = jax.local_devices()[0], jax.sharding.get_abstract_mesh().abstract_device
  kind = local.device_kind if target is None else target.device_kind
  return 'NVIDIA' in kind.upper() and float(getattr(local, 'compute_capability', 8)) >= 8
