"""A model to pass on: python -m lrm_jax.export --checkpoint=runs/mine --out=DIR [--step=N]

DIR is a run directory with the parameters alone, in bfloat16: a sixth of what training keeps. `--checkpoint=DIR` of
every command takes it, and so does `lrm_jax.from_pretrained(DIR)`. The models that ship are made so.
"""

import argparse
from pathlib import Path
import shutil
import tempfile

from lrm_jax import checkpoint, reconstructor, state as state_lib
from lrm_jax.errors import run_main


def export(source: str | Path, out: str | Path, step: int | None = None) -> Path:
  """Writes `out`, whole or not at all, from a run directory or a model that ships; returns it.

  The run's metrics.jsonl goes along. Raises FileNotFoundError where there is no such checkpoint, and ValueError where
  `out` holds something already.
  """
  source, out = reconstructor.find(source), Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f'--out={out} holds something already: give a directory that is new or empty')
  model, config, step = checkpoint.restore(source, step)
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as folder:
    fresh = Path(folder) / out.name
    checkpoint.write_model(fresh, state_lib.parameters(model), config, step)
    if (source / 'metrics.jsonl').is_file():
      shutil.copyfile(source / 'metrics.jsonl', fresh / 'metrics.jsonl')
    fresh.replace(out)
  return out


def main() -> None:
  parser = argparse.ArgumentParser(prog='lrm_jax.export', description=__doc__.splitlines()[0])
  parser.add_argument('--checkpoint', required=True, help='a run directory, or a model that ships, by name')
  parser.add_argument('--out', type=Path, required=True, help='a directory that is new or empty')
  parser.add_argument('--step', type=int, help='of the checkpoint (default: the last)')
  args = parser.parse_args()
  out = export(args.checkpoint, args.out, args.step)
  size = sum(path.stat().st_size for path in out.rglob('*') if path.is_file())
  print(f'{out}: {size / 1e6:.1f} MB')


if __name__ == '__main__':
  run_main(main)
