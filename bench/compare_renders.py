"""Compares the images of two render engines: python bench/compare_renders.py DIR REFERENCE [--sheet=FILE]

DIR and REFERENCE are outputs of data/render.py for the same objects, views, sizes and seed. Prints a line per object,
and the medians: PSNR over white (dB), intersection over union of the silhouettes, mean absolute difference of alpha. If
both have depth and normals, also the median absolute difference of depth (world units) and the median angle between
normals (degrees).
"""

import argparse
from pathlib import Path
import sys

import numpy as np
from PIL import Image

from lrm_jax.evaluation import image_metrics
from lrm_jax.geometry import images

COLUMNS = ('PSNR', 'IoU', 'alpha', 'depth', 'normals')


def compare(folder: Path, reference: Path) -> tuple[list[float], list[np.ndarray]]:
  """Returns the means of COLUMNS for an object, and images of its first two views, each as [reference, ours]."""
  rows, shown = [], []
  for path in sorted((folder / 'views').iterdir()):
    ours, theirs = (images.decode((root / 'views' / path.name).read_bytes()) for root in (folder, reference))
    white = [images.over(x, 1.0) for x in (theirs, ours)]
    a, b = ours[..., 3] > 0.5, theirs[..., 3] > 0.5
    row = [
      float(image_metrics.psnr(*white)),
      np.sum(a & b) / np.sum(a | b),
      np.abs(ours[..., 3] - theirs[..., 3]).mean(),
    ]
    rows.append(row + _geometry(folder, reference, path.stem))
    if len(shown) < 4:
      shown += white
  return np.nanmean(rows, axis=0).tolist(), shown


def _geometry(folder, reference, view) -> list[float]:
  """Returns the differences of depth and of normals in a view; NaN if they were not rendered."""
  name = f'{view}.png'
  if not all((root / kind / name).is_file() for root in (folder, reference) for kind in ('depth', 'normals')):
    return [np.nan, np.nan]

  def read(kind):
    return (np.asarray(Image.open(root / kind / name)).astype(float) for root in (folder, reference))

  depths, normals = list(read('depth')), [x / 127.5 - 1 for x in read('normals')]
  both = (depths[0] > 0) & (depths[1] > 0)
  cosine = np.sum(normals[0] * normals[1], axis=-1) / np.prod([np.linalg.norm(x, axis=-1) for x in normals], axis=0)
  return [
    np.median(np.abs(depths[0] - depths[1])[both]) * 8 / 65535,  # 65535 stands for 8 world units.
    float(np.rad2deg(np.arccos(np.clip(np.median(cosine[both]), -1, 1)))),
  ]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('directory', type=Path)
  parser.add_argument('reference', type=Path)
  parser.add_argument('--sheet', type=Path, help='PNG file with two views per object, the reference first')
  args = parser.parse_args()
  uids = sorted(path.name for path in args.directory.glob('*/') if (args.reference / path.name).is_dir())
  if not uids:
    sys.exit(f'error: {args.directory} and {args.reference} have no objects in common')
  rows, table = [], []
  print(f'{"":44}' + ''.join(f'{name:>10}' for name in COLUMNS))
  for uid in uids:
    means, shown = compare(args.directory / uid, args.reference / uid)
    table.append(means)
    rows.append(shown)
    print(f'{uid[:43]:44}' + ''.join(f'{value:10.4f}' for value in means))
  for name, reduced in (
    ('median', np.nanmedian(table, axis=0)),
    ('minimum', np.nanmin(table, axis=0)),
    ('maximum', np.nanmax(table, axis=0)),
  ):
    print(f'{name:44}' + ''.join(f'{value:10.4f}' for value in reduced))
  if args.sheet:
    half = -(-len(rows) // 2)
    blank = [np.ones_like(rows[0][0])] * 4
    pairs = zip(rows[:half], rows[half:] + [blank] * (2 * half - len(rows)))
    sheet = Image.fromarray(images.to_bytes(images.grid([a + b for a, b in pairs], gap=1)))
    sheet.quantize(128).save(args.sheet)


if __name__ == '__main__':
  main()
