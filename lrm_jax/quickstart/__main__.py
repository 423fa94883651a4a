# PYTHON_ARGCOMPLETE_OK
"""From one image to 3D in ten minutes on two CPU cores: python -m lrm_jax.quickstart [--out=DIR] [--minutes=5]

1. Reconstructs held-out objects of the embedded dataset, from one image each, with the pretrained model.
2. Trains a smaller model, configs/quickstart.py, from scratch for --minutes.
3. Writes OUT/index.html (learning curves, metrics, images, turntables, meshes), OUT/metrics.json and OUT/overview.png.
"""

import argparse
from pathlib import Path

from lrm_jax.command_line import enable_compilation_cache, run_main
from lrm_jax.errors import InputError
from lrm_jax.quickstart.run import run
from lrm_jax.weights import pretrained


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='lrm_jax.quickstart', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--out', type=Path, default=Path('out/quickstart'), help='default: out/quickstart')
  parser.add_argument('--minutes', type=float, default=5.0, help='minutes of training (default: 5)')
  parser.add_argument('--objects', type=int, default=5, help='held-out objects with mesh and videos (default: 5)')
  parser.add_argument('--checkpoint', default='demo', help=pretrained.HELP)
  parser.add_argument('--data', default='embedded', help='directory of a dataset (default: embedded)')
  args = parser.parse_args()
  if args.minutes <= 0 or args.objects < 1:
    raise InputError(f'--minutes={args.minutes:g} must be above 0 and --objects={args.objects} at least 1')
  enable_compilation_cache()
  run(args.out, minutes=args.minutes, num_objects=args.objects, checkpoint=args.checkpoint, data=args.data)


if __name__ == '__main__':
  run_main(main)
