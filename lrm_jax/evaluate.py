"""Evaluates a model on held-out objects, and compares it with baselines that learn nothing.

  python -m lrm_jax.evaluate [--checkpoint=quickstart] [--data=DIR] [--json=FILE]

View 0 of each object is the input; all other views are novel.
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
  """Returns a text table with a row per predictor and a column per metric."""
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
    help="directory of a dataset, or 'embedded', the dataset that ships with the package (default: embedded)",
  )
  parser.add_argument('--split', default='test', help='split to evaluate (default: test)')
  parser.add_argument('--train_split', default='train', help='split whose mean view is a baseline (default: train)')
  parser.add_argument('--size', type=int, default=64, help='side of the views, in pixels (default: 64)')
  parser.add_argument('--keep_distance', action='store_true', help='for videos; see config.data.keep_distance')
  parser.add_argument(
    '--lpips_network', help='VGG16 and LPIPS weights: a file, or several separated by commas (docs/weights.md)'
  )
  parser.add_argument('--json', type=Path, help='file for the metrics, with those of each object')
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
  with jax.set_mesh(mesh):  # Shards the objects over all devices of this machine.
    model, network = jax.device_put((reconstructor.model, lpips), sharding.replicated(mesh))
    scores = novel_views.score(novel_views.predict(model, views), views, network)
  rows = {'model': scores} | {
    name.replace('_', ' '): values for name, values in baselines.trivial(views, mean_view, lpips).items()
  }
  columns = ['psnr', 'ssim'] + (['lpips'] if lpips else [])
  rows = {name: {column: values[column] for column in columns} for name, values in rows.items()}
  objects, count = views['color'].shape[:2]
  print(
    f'{args.checkpoint}: {objects} objects of {args.data}, split {args.split}, with {count - 1} novel views each; '
    f'views of {args.size} px; PSNR in dB'
  )
  print(table(rows))
  print(f'PSNR of the input view: {scores["psnr_seen"]:.3f} dB')
  if lpips:
    print(f'LPIPS network: {lpips.source}')
  if args.json:
    result = {'rows': rows, 'per_object': scores['per_object']}
    if lpips:
      result['lpips_network'] = lpips.source
    args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  run_main(main)
