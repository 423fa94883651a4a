"""What a training would take, before it runs: on the devices here, or on those of a topology that are not here."""

from collections.abc import Sequence
import dataclasses
import time

import jax
from ml_collections import ConfigDict

from lrm_jax.distributed import accelerators, collectives, sharding
from lrm_jax.models import registry
from lrm_jax.models.lpips import abstract_lpips
from lrm_jax.training import cost
from lrm_jax.training.trainer import Trainer, check


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A training step that was compiled and not run: what it needs of each device."""

  kind: str  # of the devices, as they name themselves
  state_bytes: int  # parameters and optimizer
  input_bytes: int  # the state, the batch, LPIPS
  temporary_bytes: int
  seconds: float  # to trace and compile
  collectives: dict[str, tuple[int, int]]  # lrm_jax/distributed/collectives.py


def compile_step(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> CompiledStep:
  """Returns what a training step takes, on all devices here or for those given; needs no data, no weights."""
  began = time.monotonic()
  trainer = Trainer(config, lpips=abstract_lpips() if config.loss.lpips_weight > 0 else None, devices=devices)
  program = trainer.compile()
  memory = program.memory_analysis()
  state_bytes = sharding.bytes_per_device(trainer.abstract_state, trainer.shardings)
  return CompiledStep(
    trainer.mesh.devices.flat[0].device_kind,
    state_bytes,
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes,
    time.monotonic() - began,
    collectives.collectives(program.as_text()),
  )


def dry_run(config: ConfigDict, name: str | None, utilisation: float) -> None:
  """Prints the parameters of a configuration, the operations of a step, and what it takes as compiled.

  With the `name` of a topology also what the training takes there, at a `utilisation` of the peak; where what compiles
  for it is not installed, without the compiled step. Raises ValueError where the configuration does not fit.
  """
  if not 0 < utilisation <= 1:
    raise ValueError(f'--utilisation={utilisation} must be above 0 and at most 1')
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
  if known is not None and (needed := step.input_bytes + step.temporary_bytes) > 0.94 * known.memory:
    print(
      f'DOES NOT FIT: {needed / 2**30:.1f} GiB of {known.memory / 2**30:.1f}; raise config.gradient_accumulation, or '
      'lower config.rays_per_chunk'
    )
