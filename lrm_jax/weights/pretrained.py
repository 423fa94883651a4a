"""Loads a model from a run directory, a shipped model, an OpenLRM or TripoSR directory, or the Hugging Face Hub.

These are the sources that `--checkpoint`, `--config.init_from` and `lrm_jax.from_pretrained` accept. The format of a
directory is recognised by its files; the sizes of third-party models are inferred from their tensors.
"""

from collections.abc import Mapping
from pathlib import Path
import types

from flax import traverse_util
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.errors import FailureError, InputError, must_be_mended, one_line
from lrm_jax.models import lora, registry
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.storage import checkpoint, paths
from lrm_jax.weights import files, openlrm, plain_torch, tables, triposr

SHIPPED = Path(__file__).parents[1] / 'pretrained'
HELP = 'a run directory, an OpenLRM or TripoSR directory, hf://owner/name, or the name of a shipped model'
_HUB = 'hf://'
_OF_A_TRAINING = ('optimizer.bin', 'scheduler.bin', 'random_states_0.pkl')
_KINDS = {
  'OpenLRM': ('config.json', openlrm),
  'TripoSR': ('config.yaml', triposr),
  'lrm_jax.export --format=torch': (plain_torch.CONFIG, plain_torch),
}


def load(source: str | Path, step: int | None = None) -> tuple[TriplaneModel, ConfigDict, int]:
  """Returns (model, configuration, step) of the model at `source`; third-party models have step 0.

  For third-party models the configuration has only the sections `model` and `data`. LoRA is merged, so that the model
  and the configuration are those of a model without it. Raises InputError if there is no model, listing the expected
  files, or if the files do not match each other.
  """
  directory = find(source)
  kind = _kind(directory)
  if kind is None:
    return _merged(*checkpoint.restore(directory, step))
  if step is not None:
    raise InputError(f'--step={step} cannot be used with {directory}, which contains a single model: omit --step')
  config, arrays = read(directory, kind)
  model = registry.abstract_model(config.model.to_dict())
  params = {}
  while arrays:  # Free each host array as soon as JAX has copied it.
    path, array = arrays.popitem()
    params[path] = jnp.asarray(array).block_until_ready()
  return registry.with_parameters(model, traverse_util.unflatten_dict(params, sep='/')), config, 0


def _merged(model: TriplaneModel, config: ConfigDict, step: int) -> tuple[TriplaneModel, ConfigDict, int]:
  """Returns a model with LoRA as the same model without it; other models are returned as they are."""
  chosen, _ = lora.settings(config.model.to_dict())
  if not chosen.rank:
    return model, config, step
  config = config.copy_and_resolve_references()
  config.model.lora_rank = 0
  params = traverse_util.unflatten_dict(lora.merge(flat_parameters(model), chosen), sep='/')
  return registry.with_parameters(registry.abstract_model(config.model.to_dict()), params), config, step


def stored(directory: Path) -> tuple[ConfigDict, dict[str, np.ndarray] | None]:
  """Returns (configuration, {path: array}) of the model in a directory; the arrays of a run are not read: None."""
  kind = _kind(directory)
  return (checkpoint.read_config(directory), None) if kind is None else read(directory, kind)


def read(directory: Path, kind: types.ModuleType) -> tuple[ConfigDict, dict[str, np.ndarray]]:
  """Returns (configuration, {parameter path: array}) of a directory, read by the module `kind` for its format.

  Raises InputError if the files do not match the format or each other.
  """
  path = files.locate(directory, kind.TENSORS)
  assert path is not None  # `_kind` has found it.
  tensors = tables.without_wrappers(files.read(path), kind.ANCHOR, str(path))
  config = ConfigDict(kind.read_config(directory, tensors))
  return config, kind.load(tensors, shapes(config), str(path))


def shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
  """Returns {parameter path: shape} of the model that a configuration describes."""
  params = registry.parameters(registry.abstract_model(config.model.to_dict()))
  return {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(params, sep='/').items()}


def flat_parameters(model: TriplaneModel) -> Mapping[str, np.ndarray]:
  """Returns {parameter path: array} of a model."""
  return traverse_util.flatten_dict(registry.parameters(model), sep='/')


def find(source: str | Path) -> Path:
  """Returns the directory of `source`: a path (also gs:// or s3://), a shipped model's name, or hf://owner/name.

  Models on the Hugging Face Hub are downloaded to the local cache. Raises InputError if the model is not found.
  """
  if str(source).startswith(_HUB):
    return _from_hub(str(source))
  if '://' in str(source):
    return paths.directory(source)
  for directory in (Path(source), SHIPPED / source):
    if directory.is_dir() and str(source):
      return openlrm.step_folder(directory)
  names = sorted(path.name for path in SHIPPED.glob('*/')) if SHIPPED.is_dir() else []
  raise InputError(
    f'Model {source} was not found: give a run directory (the --workdir of a training run), a directory in OpenLRM or '
    f'TripoSR format, hf://owner/name, or the name of a shipped model ({", ".join(names) or "none available"})'
  )


def recognise(source: str | Path) -> Path:
  """Returns the directory of a model in a known format; raises InputError if there is none. Reads no weights."""
  directory = find(source)
  _kind(directory)
  return directory


def _kind(directory: Path) -> types.ModuleType | None:
  """Returns the module that reads the directory, or None for an lrm_jax run; raises InputError for neither."""
  if (directory / 'config.json').is_file() and (directory / 'checkpoints').is_dir():
    return None
  for file, kind in _KINDS.values():
    # The configuration of OpenLRM's training may also be called config.yaml.
    is_other = kind is triposr and openlrm.training_values(directory / file) is not None
    if (directory / file).is_file() and files.locate(directory, kind.TENSORS) and not is_other:
      return kind
  if files.locate(directory, openlrm.TENSORS) and openlrm.training_config(directory):
    return openlrm
  if files.locate(directory, openlrm.TENSORS) and any((directory / name).exists() for name in _OF_A_TRAINING):
    raise InputError(
      f'{directory} is a checkpoint of a training without its configuration: if it is of OpenLRM, copy the YAML file '
      'that it was started with (--config) into it'
    )
  expected = ['config.json + checkpoints/ (lrm_jax run)'] + [
    f'{file} + {" or ".join(kind.TENSORS)} ({name})' for name, (file, kind) in _KINDS.items()
  ]
  found = sorted(path.name for path in directory.iterdir())[:8]
  raise InputError(
    f'{directory} does not contain a model in a known format. Expected one of: {"; ".join(expected)}. '
    f'Found: {", ".join(found) or "nothing"}'
  )


def _hub_refusals() -> tuple[type[Exception], ...]:
  """Returns the errors of the Hub that a person must mend: a wrong name, no access, or neither network nor cache."""
  from huggingface_hub import errors

  return (
    errors.HFValidationError,
    errors.RepositoryNotFoundError,
    errors.RevisionNotFoundError,
    errors.LocalEntryNotFoundError,
    errors.OfflineModeIsEnabled,
  )


def _from_hub(source: str) -> Path:
  """Returns the local copy of hf://owner/name[@revision]; huggingface_hub handles cache, token and offline mode."""
  name, _, revision = source.removeprefix(_HUB).partition('@')
  if name.count('/') != 1 or not all(name.split('/')):
    raise InputError(f'{source} is not a valid Hub address: use hf://owner/name or hf://owner/name@revision')
  import huggingface_hub  # Takes half a second to import, so import it only here.

  patterns = ['checkpoints/**', '*.index.json', '*-of-*.safetensors', '*-of-*.bin']
  patterns += [name for file, kind in _KINDS.values() for name in (file, *kind.TENSORS)]
  try:
    return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=patterns))
  except (OSError, huggingface_hub.errors.HFValidationError) as error:  # Also network errors are OSErrors.
    if must_be_mended(error):
      raise
    sentence = f'{source} could not be downloaded from the Hugging Face Hub: {one_line(error)[:300]}'
    raise (InputError if isinstance(error, _hub_refusals()) else FailureError)(sentence) from error
