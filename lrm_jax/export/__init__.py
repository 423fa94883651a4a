"""Exports a model in one of five formats; the command is `python -m lrm_jax.export`.

- lrm_jax: a run directory with only the parameters, in bfloat16, a sixth of the size of a training checkpoint. The
  shipped models have this format.
- openlrm: config.json + model.safetensors, as OpenLRM's own loader expects them.
- triposr: config.yaml + model.safetensors, in TripoSR's layout.
- torch: any model of lrm_jax for plain PyTorch, with the single file that runs it (lrm_jax/export/torch_lrm.py).
- stablehlo: the compiled model's two programs and its weights, for `jax.export` without this library
  (lrm_jax/export/stablehlo.py).

`lrm_jax.from_pretrained` loads all formats but stablehlo.
"""

from pathlib import Path
import shutil
import tempfile

import jax
import jax.numpy as jnp

from lrm_jax import extras
from lrm_jax.errors import InputError
from lrm_jax.export import stablehlo
from lrm_jax.models import registry
from lrm_jax.storage import checkpoint
from lrm_jax.weights import openlrm, plain_torch, pretrained, triposr

_CONVERTERS = {'openlrm': openlrm, 'triposr': triposr, 'torch': plain_torch}
FORMATS = ('lrm_jax', *_CONVERTERS, 'stablehlo')


def export(source: str | Path, out: str | Path, step: int | None = None, *, format: str = 'lrm_jax') -> Path:
  """Exports any model that lrm_jax/weights/pretrained.py loads to the directory `out`, atomically; returns `out`.

  `step` selects a checkpoint of a run (default: the last one). The format lrm_jax includes the run's metrics.jsonl.
  Raises InputError if the checkpoint does not exist, or if `out` is not empty or if the format
  cannot express the model, with the reasons.
  """
  out = Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise InputError(f'--out={out} is not empty: give a new or empty directory')
  if format not in FORMATS:
    raise InputError(f'--format={format} is unknown: use one of {", ".join(FORMATS)}')
  if format == 'stablehlo':
    extras.require('stablehlo', 'flatbuffers', purpose='--format=stablehlo')
  source = pretrained.find(source)
  model, config, step = pretrained.load(source, step)
  if format in _CONVERTERS and (reasons := _CONVERTERS[format].refusal(config.to_dict())):
    raise InputError(f'{source} cannot be exported with --format={format}: {"; ".join(reasons)}')
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as folder:
    fresh = Path(folder) / out.name
    if format in _CONVERTERS:
      _CONVERTERS[format].write(fresh, config.to_dict(), pretrained.flat_parameters(model))
      if format == 'torch':
        shutil.copyfile(Path(__file__).with_name('torch_lrm.py'), fresh / 'torch_lrm.py')
    elif format == 'stablehlo':
      stablehlo.write(fresh, model, config.data.fov)
    else:
      checkpoint.write_model(fresh, jax.tree.map(_to_bfloat16, registry.parameters(model)), config, step)
      if (source / 'metrics.jsonl').is_file():
        shutil.copyfile(source / 'metrics.jsonl', fresh / 'metrics.jsonl')
    fresh.replace(out)
  return out


def _to_bfloat16(array: jax.Array) -> jax.Array:
  """Returns the array in bfloat16 and frees the original: a model may take up to half of the memory."""
  half = array.astype(jnp.bfloat16).block_until_ready()
  array.delete()
  return half
