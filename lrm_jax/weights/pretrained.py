"""Where a model comes from: a run of ours, a model that ships, OpenLRM's and TripoSR's directories, the Hugging Face Hub.

What `--checkpoint`, `--config.init_from` and `lrm_jax.from_pretrained` take. A kind is recognised by its files; sizes
of others' models are read off their tensors.
"""

from collections.abc import Mapping
from pathlib import Path
import types

from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lrm_jax.models import registry
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.storage import checkpoint, paths
from lrm_jax.weights import files, openlrm, plain_torch, triposr

SHIPPED = Path(__file__).parents[1] / 'pretrained'
HELP = 'a run directory, one of OpenLRM or TripoSR, hf://owner/name, or a model that ships, by name'
_HUB = 'hf://'
_KINDS = {
  'OpenLRM': ('config.json', openlrm),
  'TripoSR': ('config.yaml', triposr),
  'lrm_jax.export --format=torch': (plain_torch.CONFIG, plain_torch),
}


def load(source: str | Path, step: int | None = None) -> tuple[TriplaneModel, ConfigDict, int]:
  """Returns (model, configuration, step) of what `source` means; others' models are at step 0.

  Of others' models the configuration has the sections that they tell: `model` and `data`. Raises FileNotFoundError
  and ValueError, which say what was looked for, or what does not fit.
  """
  directory = find(source)
  kind = _kind(directory)
  if kind is None:
    return checkpoint.restore(directory, step)
  if step is not None:
    raise ValueError(f'{directory} holds one model, and no steps: leave --step away')
  config, arrays = read(directory, kind)
  model = registry.abstract_model(config.model.to_dict())
  params = {}
  while arrays:  # Each is let go as soon as JAX has it.
    path, array = arrays.popitem()
    params[path] = jnp.asarray(array).block_until_ready()
  return registry.with_parameters(model, traverse_util.unflatten_dict(params, sep='/')), config, 0


def load_parameters(
  source: str | Path, target: dict[str, jax.ShapeDtypeStruct]
) -> Mapping[str, np.ndarray | jax.Array]:
  """Returns {path: array} of what `source` means, for a model whose parameters are `target`, with their shardings.

  A run of ours is read straight to where its arrays are wanted; others' arrays stay on the host. Raises ValueError
  where it is another model.
  """
  directory = find(source)
  kind = _kind(directory)
  if kind is None:
    there = shapes(checkpoint.read_config(directory))
  else:
    arrays = read(directory, kind)[1]
    there = {path: array.shape for path, array in arrays.items()}
  if differ := checkpoint.differences(there, {path: x.shape for path, x in target.items()}):
    raise ValueError(f'{source} is of another model than config.model describes: {"; ".join(differ)}')
  if kind is not None:
    return arrays
  params, _ = checkpoint.restore_parameters(directory, traverse_util.unflatten_dict(target, sep='/'))
  return traverse_util.flatten_dict(params, sep='/')


def read(directory: Path, kind: types.ModuleType) -> tuple[ConfigDict, dict[str, np.ndarray]]:
  """Returns (configuration, {our path: array}) of a model of OpenLRM's or TripoSR's."""
  path = next(directory / name for name in kind.TENSORS if (directory / name).is_file())
  tensors = files.read(path)
  for wrapper in ('state_dict.', 'weights.', 'model_state_dict.'):
    if all(name.startswith(wrapper) for name in tensors):
      tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
  config = ConfigDict(kind.read_config(directory, tensors))
  return config, kind.load(tensors, shapes(config), str(path))


def shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
  """Returns {path: shape} of the parameters of the model that a configuration describes."""
  params = registry.parameters(registry.abstract_model(config.model.to_dict()))
  return {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(params, sep='/').items()}


def flat_parameters(model: TriplaneModel) -> Mapping[str, np.ndarray]:
  """Returns {path: array} of the parameters of a model."""
  return traverse_util.flatten_dict(registry.parameters(model), sep='/')


def find(source: str | Path) -> Path:
  """Returns the directory that `source` means: itself (gs:// and s3:// too), a model that ships, by name, a copy from the Hub."""
  if str(source).startswith(_HUB):
    return _from_hub(str(source))
  if '://' in str(source):
    return paths.directory(source)
  for directory in (Path(source), SHIPPED / source):
    if directory.is_dir() and str(source):
      return directory
  names = sorted(path.name for path in SHIPPED.glob('*/')) if SHIPPED.is_dir() else []
  raise FileNotFoundError(
    f'{source} is no directory and no model that ships: give a run directory (the --workdir of a training), one in '
    f"OpenLRM's or TripoSR's layout, hf://owner/name, or one of: {', '.join(names) or '(none)'}"
  )


def _kind(directory: Path) -> types.ModuleType | None:
  """Returns the module that reads a directory of others', None for a run of ours; FileNotFoundError for neither."""
  if (directory / 'config.json').is_file() and (directory / 'checkpoints').is_dir():
    return None
  for file, kind in _KINDS.values():
    if (directory / file).is_file() and any((directory / name).is_file() for name in kind.TENSORS):
      return kind
  looked_for = ['config.json + checkpoints/ (a run of ours)'] + [
    f'{file} + {" or ".join(kind.TENSORS)} ({name})' for name, (file, kind) in _KINDS.items()
  ]
  there = sorted(path.name for path in directory.iterdir())[:8]
  raise FileNotFoundError(
    f'{directory} holds no model that is known; looked for: {"; ".join(looked_for)}; '
    f'it has: {", ".join(there) or "nothing"}'
  )


def _from_hub(source: str) -> Path:
  """Returns the local copy of hf://owner/name[@revision]: cache, token and offline mode are huggingface_hub's."""
  name, _, revision = source.removeprefix(_HUB).partition('@')
  if name.count('/') != 1 or not all(name.split('/')):
    raise ValueError(f'{source}: write hf://owner/name, or hf://owner/name@revision')
  import huggingface_hub  # Half a second to import, and only this needs it.

  patterns = ['checkpoints/**', *(name for file, kind in _KINDS.values() for name in (file, *kind.TENSORS))]
  try:
    return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=patterns))
  except (OSError, ValueError) as error:  # Its errors are of these kinds; so are those of the network.
    first = ' '.join(str(error).split())[:300]
    raise ValueError(f'{source} could not be had from the Hugging Face Hub: {first}') from error
