"""How the pictures of one engine differ from another's: python bench/compare_renders.py DIR REFERENCE [--sheet=FILE]

DIR and REFERENCE are what data/render.py wrote for the same objects, views, sizes and seed. Prints a line an object and
medians: PSNR over white (dB), intersection over union of the outlines, mean difference of alpha, and, where there are depth
and normals, the median difference of depth (world units) and the median angle between normals (degrees).
"""

import argparse
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np  # pylint: disable=wrong-import-position
from PIL import Image  # pylint: disable=wrong-import-position

from lrm_jax.evaluation import image_metrics
from lrm_jax.geometry import images  # pylint: disable=wrong-import-position

COLUMNS = ('PSNR', 'outlines', 'alpha', 'depth', 'normals')


def compare(folder: Path, reference: Path) -> tuple[list[float], list[np.ndarray]]:
  """Returns (figures of an object, by COLUMNS; pictures of its first views: reference, then ours)."""
  figures, shown = [], []
  for path in sorted((folder / 'views').iterdir()):
    ours, theirs = (images.decode((root / 'views' / path.name).read_bytes()) for root in (folder, reference))
    white = [images.over(x, 1.0) for x in (theirs, ours)]
    a, b = ours[..., 3] > 0.5, theirs[..., 3] > 0.5
    row = [
      float(image_metrics.psnr(*white)),
      np.sum(a & b) / np.sum(a | b),
      np.abs(ours[..., 3] - theirs[..., 3]).mean(),
    ]
    figures.append(row + _geometry(folder, reference, path.stem))
    shown += white if len(shown) < 4 else []
  return np.nanmean(figures, axis=0).tolist(), shown


def _geometry(folder, reference, view) -> list[float]:
  name = f'{view}.png'
  if not all((root / kind / name).is_file() for root in (folder, reference) for kind in ('depth', 'normals')):
    return [np.nan, np.nan]

  def read(kind):
    return (np.asarray(Image.open(root / kind / name)).astype(float) for root in (folder, reference))

  depths, normals = list(read('depth')), [x / 127.5 - 1 for x in read('normals')]
  both = (depths[0] > 0) & (depths[1] > 0)
  cosine = np.sum(normals[0] * normals[1], axis=-1) / np.prod([np.linalg.norm(x, axis=-1) for x in normals], axis=0)
  return [
    np.median(np.abs(depths[0] - depths[1])[both]) * 8 / 65535,
    float(np.rad2deg(np.arccos(np.clip(np.median(cosine[both]), -1, 1)))),
  ]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('directory', type=Path)
  parser.add_argument('reference', type=Path)
  parser.add_argument('--sheet', type=Path, help='PNG: two views an object, the reference first')
  args = parser.parse_args()
  uids = sorted(path.name for path in args.directory.glob('*/') if (args.reference / path.name).is_dir())
  if not uids:
    sys.exit(f'error: {args.directory} and {args.reference} have no objects in common')
  rows, table = [], []
  print(f'{"":44}' + ''.join(f'{name:>10}' for name in COLUMNS))
  for uid in uids:
    figures, shown = compare(args.directory / uid, args.reference / uid)
    table.append(figures)
    rows.append(shown)
    print(f'{uid[:43]:44}' + ''.join(f'{value:10.4f}' for value in figures))
  for name, reduced in (
    ('median', np.nanmedian(table, axis=0)),
    ('least', np.nanmin(table, axis=0)),
    ('greatest', np.nanmax(table, axis=0)),
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
