"""Checks what a training needs before its devices are paid for: configuration, mesh, dataset, weights, directory."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from lrm_jax.datasets import pipeline, views
from lrm_jax.datasets.records import open_split
from lrm_jax.distributed import sharding
from lrm_jax.errors import InputError
from lrm_jax.models import registry
from lrm_jax.storage import checkpoint, paths
from lrm_jax.training import losses
from lrm_jax.training.trainer import check as check_config
from lrm_jax.weights import initial
from lrm_jax.weights.vgg import load_lpips


def check(config: ConfigDict, workdir: str | Path, num_devices: int) -> list[str]:
  """Returns lines that describe the inputs of a training on `num_devices` devices, which need not be attached.

  Reads the files of weights and the first record of each dataset, and writes nothing. Raises InputError for the first
  problem found. The memory is not checked: --dry_run --topology=... compiles the step, which takes minutes.
  """
  if num_devices < 1:
    raise InputError(f'--check={num_devices} must be the number of devices, at least 1')
  check_config(config, num_devices)
  dcn, data, fsdp = sharding.mesh_shape(**config.mesh, count=num_devices)
  lines = [
    f'{num_devices} devices: batch of {config.batch_size} sharded over {num_devices}, parameters over {fsdp} '
    f'(mesh {f"{dcn} x " if dcn > 1 else ""}{data} x {fsdp})'
  ]
  model = registry.abstract_model(config.model.to_dict())
  sources = pipeline.training_sources(
    config.data.to_dict(),
    image_size=config.model.image_size,
    input_position=model.input_position,
    num_input_views=model.num_input_views,
    with_depth=losses.needs_depth(config.loss.to_dict()),
  )
  check_path(config)
  for source in sources:
    records = open_split(source.path, source.split)
    if not len(records):
      raise InputError(f'{source.path}: the split {source.split!r} has no objects')
    _ = records[0]['uid']
    lines.append(f'{source.path}, split {source.split}: {len(records):,} objects')
  evaluated = views.evaluated(
    config.data.to_dict(), image_size=config.model.image_size, input_position=model.input_position
  )
  for held_out in evaluated.values():
    lines.append(f'{held_out.path}, split {held_out.split}: {len(held_out):,} objects are evaluated')
  lines.append(epochs(config, sources))
  if config.loss.lpips_weight > 0:
    lines.append(f'LPIPS network: {load_lpips(config.loss.lpips_network).source}')
  steps = checkpoint.saved_steps(workdir)
  if not steps:
    lines += initial.check(config)
  paths.check_writable(workdir)
  lines.append(f'{workdir}: ' + (f'resumes after step {steps[-1]}' if steps else 'a new run'))
  return lines


def check_path(config: ConfigDict) -> None:
  """Raises InputError if the configuration names no dataset."""
  if not config.data.path:
    raise InputError(
      'config.data.path is empty: give the directory of a dataset, --config.data.path=DIR, or the shipped dataset, '
      '--config.data.path=embedded'
    )


def epochs(config: ConfigDict, sources: Sequence[pipeline.Source]) -> str:
  """Returns a line that says of what the epochs of a training are, and how many there are."""
  sizes = [source.times * size for source, size in zip(sources, pipeline.sizes(sources))]
  parts = ' + '.join(f'{size:,.0f} of {source.name or source.path}' for source, size in zip(sources, sizes))
  count = config.num_train_steps * config.batch_size / sum(sizes)
  line = f'an epoch is {parts}; {config.num_train_steps:,} steps are {count:,.1f} epochs'
  unused = [f'config.data.mixture.{name}' for name, entry in config.data.mixture.items() if not entry.path]
  if unused:
    line += f' without {", ".join(unused)}, whose path is empty'
  return line
