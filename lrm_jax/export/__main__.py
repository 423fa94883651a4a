"""A model to pass on: python -m lrm_jax.export --checkpoint=runs/mine --out=DIR [--format=lrm_jax] [--step=N]

--format=lrm_jax, openlrm, triposr or torch: see lrm_jax/export/__init__.py. `--checkpoint=DIR` of every command takes each
of them back.
"""

import argparse
from pathlib import Path

from lrm_jax.command_line import run_main
from lrm_jax.export import FORMATS, export
from lrm_jax.weights import pretrained


def main() -> None:
  parser = argparse.ArgumentParser(prog='lrm_jax.export', description=__doc__.splitlines()[0])
  parser.add_argument('--checkpoint', required=True, help=pretrained.HELP)
  parser.add_argument('--out', type=Path, required=True, help='a directory that is new or empty')
  parser.add_argument('--step', type=int, help='of the checkpoint (default: the last)')
  parser.add_argument('--format', default='lrm_jax', help=f'one of {", ".join(FORMATS)} (default: lrm_jax)')
  args = parser.parse_args()
  out = export(args.checkpoint, args.out, args.step, format=args.format)
  size = sum(path.stat().st_size for path in out.rglob('*') if path.is_file())
  print(f'{out}: {size / 1e6:.1f} MB')


if __name__ == '__main__':
  run_main(main)
