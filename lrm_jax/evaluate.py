"""Figures on held-out objects: python -m lrm_jax.evaluate [--checkpoint=quickstart] [--data=DIR] [--json=FILE]

View 0 of each object is the input, all others are novel. Beside the model stand predictors that learn nothing.
"""

import argparse
import json
from pathlib import Path

import jax

from lrm_jax.command_line import enable_compilation_cache, run_main
from lrm_jax.datasets.views import load_views
from lrm_jax.distributed import sharding
from lrm_jax.evaluation import baselines, novel_views
from lrm_jax.reconstruction.reconstructor import from_pretrained
from lrm_jax.weights import pretrained
from lrm_jax.weights.vgg import load_lpips


def table(rows: dict[str, dict[str, float]]) -> str:
  """Returns the lines of a table: a predictor a row, a figure a column."""
  columns = list(next(iter(rows.values())))
  lines = [f'{"":24}' + ''.join(f'{name:>10}' for name in columns)]
  for name, values in rows.items():
    lines.append(f'{name:24}' + ''.join(f'{values[column]:10.3f}' for column in columns))
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(prog='lrm_jax.evaluate', description=__doc__.splitlines()[0])
  parser.add_argument('--checkpoint', default='quickstart', help=pretrained.HELP)
  parser.add_argument(
    '--data',
    default='embedded',
    help="directory of a dataset (default: 'embedded', the one that is part of the package)",
  )
  parser.add_argument('--split', default='test')
  parser.add_argument('--train_split', default='train', help='whose mean view is a predictor')
  parser.add_argument('--size', type=int, default=64, help='of the views, pixels along a side')
  parser.add_argument('--keep_distance', action='store_true', help='as config.data.keep_distance, for videos')
  parser.add_argument('--lpips_network', help='VGG16 and LPIPS weights, files joined by commas (docs/weights.md)')
  parser.add_argument('--json', type=Path, help='where to write the figures, per object too')
  args = parser.parse_args()
  enable_compilation_cache()
  reconstructor = from_pretrained(args.checkpoint)
  lpips = load_lpips(args.lpips_network) if args.lpips_network else None
  views = load_views(
    args.data,
    args.split,
    image_size=reconstructor.image_size,
    size=args.size,
    input_background=reconstructor.input_background,
    input_position=reconstructor.input_position,
    keep_distance=args.keep_distance,
  )
  mean_view = baselines.mean_training_view(args.data, args.train_split, args.size)
  mesh = sharding.make_mesh()
  with jax.set_mesh(mesh):  # All devices of this machine share the objects.
    model, network = jax.device_put((reconstructor.model, lpips), sharding.replicated(mesh))
    scores = novel_views.score(novel_views.predict(model, views), views, network)
  rows = {'model': scores} | {
    name.replace('_', ' '): values for name, values in baselines.trivial(views, mean_view, lpips).items()
  }
  columns = ['psnr', 'ssim'] + (['lpips'] if lpips else [])
  rows = {name: {column: values[column] for column in columns} for name, values in rows.items()}
  objects, count = views['color'].shape[:2]
  print(
    f'{args.checkpoint}: {objects} objects of {args.data}, split {args.split}; {count - 1} novel views each, '
    f'{args.size} px; PSNR in dB'
  )
  print(table(rows))
  print(f'the input view itself: {scores["psnr_seen"]:.3f} dB')
  if lpips:
    print(f'lpips by {lpips.source}')
  if args.json:
    figures = {'rows': rows, 'per_object': scores['per_object']} | ({'lpips_network': lpips.source} if lpips else {})
    args.json.write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  run_main(main)
