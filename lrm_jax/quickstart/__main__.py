"""python -m lrm_jax.quickstart [--out=out/quickstart] [--minutes=5]: see lrm_jax/quickstart/__init__.py."""

import argparse
from pathlib import Path

from lrm_jax import quickstart
from lrm_jax.command_line import enable_compilation_cache, run_main


def main() -> None:
  parser = argparse.ArgumentParser(prog='lrm_jax.quickstart', description=quickstart.__doc__.splitlines()[0])
  parser.add_argument('--out', type=Path, default=Path('out/quickstart'))
  parser.add_argument('--minutes', type=float, default=5.0, help='of training')
  parser.add_argument('--objects', type=int, default=5, help='held-out objects to make meshes and videos of')
  parser.add_argument('--checkpoint', default='quickstart', help='a run directory, or a model that ships, by name')
  parser.add_argument('--data', default='embedded', help='directory of a dataset (default: embedded)')
  args = parser.parse_args()
  if args.minutes <= 0 or args.objects < 1:
    raise ValueError(f'--minutes={args.minutes:g} must be above 0 and --objects={args.objects} at least 1')
  enable_compilation_cache()
  quickstart.run(args)


if __name__ == '__main__':
  run_main(main)
