"""A model to pass on, in one of four formats; the command is `python -m lrm_jax.export`.

lrm_jax: a run directory with the parameters alone, in bfloat16: a sixth of what training keeps. The models that ship
are made so. openlrm: config.json + model.safetensors as OpenLRM's own loader opens them. triposr: config.yaml +
model.safetensors as TripoSR has them. torch: any of our models for plain PyTorch, with the one file that runs it
(lrm_jax/export/torch_lrm.py, which documents itself). `lrm_jax.from_pretrained` takes each of them back.
"""

from pathlib import Path
import shutil
import tempfile

import jax
import jax.numpy as jnp

from lrm_jax.models import registry
from lrm_jax.storage import checkpoint
from lrm_jax.weights import openlrm, plain_torch, pretrained, triposr

_FOREIGN = {'openlrm': openlrm, 'triposr': triposr, 'torch': plain_torch}
FORMATS = ('lrm_jax', *_FOREIGN)


def export(source: str | Path, out: str | Path, step: int | None = None, *, format: str = 'lrm_jax') -> Path:
  """Writes `out`, whole or not at all, from anything that lrm_jax/weights/pretrained.py loads; returns it.

  In our own format the run's metrics.jsonl goes along. Raises FileNotFoundError where there is no such checkpoint, and
  ValueError where `out` holds something already, or where the format cannot express the model, with the reasons.
  """
  out = Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f'--out={out} holds something already: give a directory that is new or empty')
  if format not in FORMATS:
    raise ValueError(f'--format={format} is unknown: one of {", ".join(FORMATS)}')
  source = pretrained.find(source)
  model, config, step = pretrained.load(source, step)
  if format in _FOREIGN and (reasons := _FOREIGN[format].refusal(config.to_dict())):
    raise ValueError(f'{source} cannot be written as --format={format}: {"; ".join(reasons)}')
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as folder:
    fresh = Path(folder) / out.name
    if format in _FOREIGN:
      _FOREIGN[format].write(fresh, config.to_dict(), pretrained.flat_parameters(model))
      if format == 'torch':
        shutil.copyfile(Path(__file__).with_name('torch_lrm.py'), fresh / 'torch_lrm.py')
    else:
      checkpoint.write_model(fresh, jax.tree.map(_halved, registry.parameters(model)), config, step)
      if (source / 'metrics.jsonl').is_file():
        shutil.copyfile(source / 'metrics.jsonl', fresh / 'metrics.jsonl')
    fresh.replace(out)
  return out


def _halved(array: jax.Array) -> jax.Array:
  """Returns an array in bfloat16, and lets the one it was made of go: a model may be as large as half of the memory."""
  half = array.astype(jnp.bfloat16).block_until_ready()
  array.delete()
  return half
