"""The initial parameters of a training: those of config.init_from and config.encoder_weights.

The model at config.init_from has the sizes of the new one, or, with config.init_partial, only some of them
(lrm_jax/weights/partial.py). LoRA's parameters are never required: they start fresh. A model with LoRA is merged first,
unless the new model has LoRA with the same settings.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path

from flax import traverse_util
import jax
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.distributed import sharding
from lrm_jax.errors import InputError
from lrm_jax.models import lora
from lrm_jax.storage import checkpoint
from lrm_jax.weights import dino, partial, pretrained

Arrays = Mapping[str, np.ndarray | jax.Array]
_ENCODER = 'encoder/'


def check(config: ConfigDict) -> list[str]:
  """Returns lines that describe the initial parameters of a new run, without reading those of runs.

  Raises InputError if they are not found or do not fit the model of the configuration.
  """
  wanted, lines = pretrained.shapes(config), []
  if config.init_from:
    model = _open(config)
    lines += _lines(config, model, _fit(config, model, wanted), wanted)
  if config.encoder_weights:
    lines.append(_read_encoder(config, wanted)[1])
  return lines


def load(config: ConfigDict, target: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[dict, list[str]]:
  """Returns ({path: array}, lines that describe them) for parameters of the shapes and shardings of `target`.

  Arrays of runs have shardings by the same rule as `target`; third-party arrays stay on the host. Of stacked layers,
  there may be fewer than in `target`: the first ones. Raises InputError if nothing is found or it does not fit.
  """
  wanted = {path: tuple(x.shape) for path, x in target.items()}
  given, lines = {}, []
  if config.init_from:
    model = _open(config)
    chosen = _fit(config, model, wanted)
    arrays = model.read(next(iter(target.values())).sharding.mesh)
    channels = wanted['decoder/upsampler_bias'][0]
    for path in chosen.taken:
      array = arrays[path]
      if path not in chosen.equal:
        array = jax.jit(partial.convert, static_argnums=(0, 2, 3))(path, array, wanted[path], channels)
        if model.arrays is not None:  # All processes have it; a local device's array could not be spread over the mesh.
          array = np.asarray(array)
      given[path] = array
    lines += _lines(config, model, chosen, wanted)
  if config.encoder_weights:
    encoder, line = _read_encoder(config, wanted)
    given |= {_ENCODER + path: array for path, array in encoder.items()}
    lines.append(line)
  return given, lines


@dataclasses.dataclass(frozen=True)
class _Model:
  """A stored model. `arrays` are those of a third-party model, and None for a run, whose arrays are read later.

  `stored` and `shapes` are {path: shape}, before and after merging LoRA; `merges` is LoRA's settings if it is merged.
  """

  directory: Path
  arrays: dict[str, np.ndarray] | None
  stored: dict[str, tuple[int, ...]]
  shapes: dict[str, tuple[int, ...]]
  merges: lora.Settings | None

  def read(self, mesh: jax.sharding.Mesh) -> Arrays:
    """Returns {path: array} of the model, after merging; those of a run are sharded over the mesh."""
    if self.arrays is not None:
      return self.arrays
    shapes = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in self.stored.items()}
    where = sharding.shardings(mesh, shapes)
    target = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[path]) for path, x in shapes.items()}
    params, _ = checkpoint.restore_parameters(self.directory, traverse_util.unflatten_dict(target, sep='/'))
    arrays = traverse_util.flatten_dict(params, sep='/')
    if (settings := self.merges) is None:
      return arrays
    kept = {path: where[path] for path in self.shapes}
    return jax.jit(lambda x: lora.merge(x, settings), out_shardings=kept)(arrays)


def _open(config: ConfigDict) -> _Model:
  """Returns the model at config.init_from. Raises InputError if there is none."""
  try:
    directory = pretrained.find(config.init_from)
    other, arrays = pretrained.stored(directory)
    if arrays is None and not checkpoint.saved_steps(directory):
      raise InputError(f'{config.init_from} has no checkpoint')
  except InputError as error:
    raise InputError(f'config.init_from = {error}') from error
  shapes = pretrained.shapes(other)
  theirs, ours = (lora.settings(x.model.to_dict())[0] for x in (other, config))
  merged = {path: shape for path, shape in shapes.items() if not lora.is_lora(path)}
  merges = theirs if theirs.rank and theirs != ours else None
  return _Model(directory, arrays, shapes, merged if merges else shapes, merges)


def _fit(config: ConfigDict, model: _Model, wanted: partial.Shapes) -> partial.Fit:
  """Returns what is taken from a stored model. Raises InputError if that is nothing, or not all where all is needed."""
  needed = {path: shape for path, shape in wanted.items() if not lora.is_lora(path) or path in model.shapes}
  differences = checkpoint.differences(model.shapes, needed)
  more = f'; and {len(differences) - 3} others' if len(differences) > 3 else ''
  problem = f'{"; ".join(differences[:3])}{more}'
  if differences and not config.init_partial:
    raise InputError(
      f'config.init_from = {config.init_from} does not match config.model: {problem}; to start from what fits, add '
      '--config.init_partial=True'
    )
  chosen = partial.fit(model.shapes, wanted)
  if not any(path.endswith('kernel') for path in chosen.taken):
    raise InputError(
      f'config.init_from = {config.init_from} has no layer that fits config.model ({problem}): give a model with the '
      'same widths'
    )
  return chosen


def _lines(config: ConfigDict, model: _Model, chosen: partial.Fit, wanted: partial.Shapes) -> list[str]:
  line = f'initial parameters: {config.init_from}' + (', with its LoRA merged' if model.merges else '')
  if chosen.fresh and all(lora.is_lora(path) for path in chosen.fresh):
    line += '; those of LoRA start fresh'
    chosen = dataclasses.replace(chosen, fresh=())
  complete = not (chosen.layers or chosen.resized or chosen.fresh or chosen.unused)
  return [line] if complete else [line, *(f'  {x}' for x in partial.describe(chosen, model.shapes, wanted))]


def _read_encoder(config: ConfigDict, wanted: partial.Shapes) -> tuple[dict[str, np.ndarray], str]:
  """Returns ({path below encoder/: array}, a line about them) of config.encoder_weights."""
  encoder = {path: shape for path, shape in wanted.items() if path.startswith(_ENCODER) and not lora.is_lora(path)}
  shapes = {path.removeprefix(_ENCODER): shape for path, shape in encoder.items()}
  line = f'initial encoder: {config.encoder_weights}'
  if config.init_partial:
    line += f', its first {config.model.encoder_depth} blocks'
  return dino.load(config.encoder_weights, shapes, first_blocks=config.init_partial), line
