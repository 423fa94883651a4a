"""Simulated accelerators, for tests: CPU devices that claim to be GPUs or TPUs with a stated memory.

LRM_JAX_SIMULATE=gpu:80e9 (platform, bytes of memory per device) makes this package choose implementations, device
memory and chunk sizes as on that platform. The exception is the vendors' kernels: attention uses XLA.
"""

import dataclasses
import os
from typing import Literal

from lrm_jax.errors import InputError

VARIABLE = 'LRM_JAX_SIMULATE'


@dataclasses.dataclass(frozen=True)
class Simulated:
  """A platform, 'gpu' or 'tpu', and the bytes of memory that each of its devices reports."""

  platform: Literal['gpu', 'tpu']
  memory: float


def simulated() -> Simulated | None:
  """Returns the accelerator that this process simulates, or None. Raises InputError if the variable is malformed."""
  text = os.environ.get(VARIABLE, '')
  if not text:
    return None
  platform, _, memory = text.partition(':')
  try:
    size = float(memory)
  except ValueError:
    size = 0.0
  if size > 0 and platform == 'gpu':
    return Simulated('gpu', size)
  if size > 0 and platform == 'tpu':
    return Simulated('tpu', size)
  raise InputError(f'{VARIABLE} = {text!r} must be gpu:BYTES or tpu:BYTES, such as gpu:80e9')
