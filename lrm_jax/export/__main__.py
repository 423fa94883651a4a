"""Exports a model: python -m lrm_jax.export --checkpoint=runs/mine --out=DIR [--format=lrm_jax] [--step=N]

The formats lrm_jax, openlrm, triposr, torch and stablehlo are described in lrm_jax/export/__init__.py. Every command
accepts the result as `--checkpoint=DIR`, except that of stablehlo.
"""

import argparse
from pathlib import Path

from lrm_jax.command_line import run_main
from lrm_jax.export import FORMATS, export
from lrm_jax.weights import pretrained


def main() -> None:
  parser = argparse.ArgumentParser(prog='lrm_jax.export', description=__doc__.splitlines()[0])
  parser.add_argument('--checkpoint', required=True, help=pretrained.HELP)
  parser.add_argument('--out', type=Path, required=True, help='a new or empty output directory')
  parser.add_argument('--step', type=int, help='step of the checkpoint (default: the last one)')
  parser.add_argument('--format', default='lrm_jax', help=f'one of {", ".join(FORMATS)} (default: lrm_jax)')
  args = parser.parse_args()
  out = export(args.checkpoint, args.out, args.step, format=args.format)
  size = sum(path.stat().st_size for path in out.rglob('*') if path.is_file())
  print(f'{out}: {size / 1e6:.1f} MB')


if __name__ == '__main__':
  run_main(main)
