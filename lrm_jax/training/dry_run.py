"""Dry runs: what a training step needs on the local devices, or on those of a topology that need not be attached."""

from collections.abc import Sequence
import dataclasses
import time

import jax
from ml_collections import ConfigDict

from lrm_jax.distributed import accelerators, collectives, sharding
from lrm_jax.errors import InputError
from lrm_jax.models import registry
from lrm_jax.models.lpips import abstract_lpips
from lrm_jax.training import cost
from lrm_jax.training.trainer import Trainer, check


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """What a training step needs on each device, according to the compiled program; it was not run."""

  kind: str  # `device_kind` of the devices.
  state_bytes: int  # Parameters and optimizer.
  input_bytes: int  # The state, the batch and the LPIPS network.
  temporary_bytes: int  # Gradients and activations.
  accumulation: int  # Micro-batches per step.
  seconds: float  # Time to trace and compile.
  collectives: dict[str, tuple[int, int]]  # {kind: (count, bytes)}, see lrm_jax/distributed/collectives.py.


def compile_step(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> CompiledStep:
  """Compiles a training step for `devices` (default: all attached devices). Needs no data and no weights."""
  began = time.monotonic()
  trainer = Trainer(config, lpips=abstract_lpips() if config.loss.lpips_weight > 0 else None, devices=devices)
  program = trainer.compile()
  memory, text = program.memory_analysis(), program.as_text()
  if memory is None or text is None:
    raise InputError('this backend does not report the memory of compiled programs: give another --topology')
  state_bytes = sharding.bytes_per_device(trainer.abstract_state, trainer.shardings)
  return CompiledStep(
    trainer.mesh.devices.flat[0].device_kind,
    state_bytes,
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes,
    trainer.accumulation,
    time.monotonic() - began,
    collectives.collectives(text),
  )


def dry_run(config: ConfigDict, name: str | None, utilisation: float) -> None:
  """Prints the parameters of a configuration, the operations of a step, and the memory of the compiled step.

  With the `name` of a topology, such as 'h100:8', compiles for that topology and also prints how long training takes at
  a fraction `utilisation` of the peak. If the compiler for it is not installed, only the compiled step is left out.
  Raises InputError if values of the configuration do not fit together or do not fit the number of devices.
  """
  if not 0 < utilisation <= 1:
    raise InputError(f'--utilisation={utilisation} must be above 0 and at most 1')
  num_devices = jax.device_count() if name is None else accelerators.count(name)
  check(config, num_devices)
  print(cost.report(config, registry.parameters(registry.abstract_model(config.model.to_dict()))))
  if name is not None:
    print(cost.estimate(config, num_devices, accelerators.ACCELERATORS[accelerators.parse(name)[0]].peak, utilisation))
  try:
    devices = None if name is None else accelerators.devices(name)
  except accelerators.MissingCompilerError as error:
    print(f'not compiled: {error}')
    return
  step = compile_step(config, devices)
  print(cost.compiled_report(config, num_devices, step))
  known = accelerators.accelerator(step.kind)
  if known is not None and (needed := step.input_bytes + step.temporary_bytes) > accelerators.usable(known):
    print(
      f'DOES NOT FIT: needs {needed / 2**30:.1f} GiB, JAX uses {accelerators.usable(known) / 2**30:.1f} GiB of the '
      f"device's {known.memory / 2**30:.1f} GiB (on GPUs: XLA_PYTHON_CLIENT_MEM_FRACTION, 0.75 if it is not set); "
      'raise config.gradient_accumulation, or lower config.objects_per_device or config.rays_per_chunk'
    )
