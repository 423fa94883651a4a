# PYTHON_ARGCOMPLETE_OK
"""Checks training data for mistakes: python -m lrm_jax.data_check DIR [--split=train] [--objects=100]

DIR is one of
- a dataset built by data/build.py (the directory with dataset_info.json), or `embedded`, the dataset that ships;
- folders of views: the output of data/render.py, or the layouts of OpenLRM, NeRF (transforms.json) or COLMAP.

Prints statistics of the images and cameras, then the problems found: broken records, views with a background, objects
that are cut off, cameras in the wrong convention or in the wrong order, and so on. Also writes a contact sheet
(--sheet=data_check.png): views with the cube [-1, 1]^3 and the world axes drawn over them. If the cameras are right,
the cube stays fixed around the object.
Exit code: 0 if no problem was found, 1 if there are problems, 2 for bad input. More: data/README.md
"""

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
import sys

import numpy as np
import tqdm

from lrm_jax.command_line import run_main
from lrm_jax.datasets import contact_sheet, folders
from lrm_jax.datasets.folders.images import Options
from lrm_jax.datasets.inspection import Findings, inspect
from lrm_jax.datasets.records import BrokenRecordError, open_split, split_sizes
from lrm_jax.errors import InputError
from lrm_jax.storage import paths

_ROWS = 12  # objects on the contact sheet
# Least median share of silhouettes that the visual hull covers. It is 1 if the cameras are right, and about 0.9 if the
# views of each object are in the wrong order, which the check of single objects (0.9) may miss.
_AGREE = 0.97


def check(
  directory: str | Path,
  *,
  split: str = 'train',
  objects: int = 100,
  keep_distance: bool = False,
  sheet: Path | None = None,
  layout: str | None = None,
  options: Options = Options(),
) -> tuple[list[str], list[str]]:
  """Returns (lines with statistics, lines with problems), and writes the contact sheet if `sheet` is given.

  `directory` is a dataset, 'embedded', or folders of views. `objects` is the number of objects to check, evenly spaced;
  0 checks all. Raises InputError if there is nothing to check.
  """
  header, names, read = _open(directory, split, layout, options)
  if objects:
    checked = np.unique(np.linspace(0, len(names) - 1, objects).round().astype(int))
  else:
    checked = np.arange(len(names))
  rows = set(checked[np.unique(np.linspace(0, len(checked) - 1, _ROWS).round().astype(int))].tolist())
  findings, broken, shown = [], [], []
  for index in tqdm.tqdm(checked, desc='objects', disable=not sys.stderr.isatty()):
    try:
      record = read(index)
      findings.append(inspect(record, keep_distance=keep_distance))
      if index in rows:
        shown.append(record)
    except (BrokenRecordError, ValueError, FileNotFoundError) as error:
      broken.append(f'{names[index]}: {error}')
  hint = '' if len(checked) == len(names) else ' (evenly spaced; --objects=0 checks all)'
  lines = [header, f'{"objects":14}{len(checked)} of {len(names)} checked{hint}, {len(broken)} broken']
  if findings:
    lines += _statistics(findings)
  if sheet and shown:
    contact_sheet.draw(shown, keep_distance=keep_distance).save(sheet)
    lines.append(f'{"contact sheet":14}{sheet}')
  return lines, [*(f'broken: {line}' for line in broken), *_problems(findings)]


def _open(directory: str | Path, split: str, layout: str | None, options: Options):
  """Returns (description of the data, names of the objects, function that reads the object at an index)."""
  path = paths.dataset(directory)
  if (path / 'dataset_info.json').is_file():
    records = open_split(directory, split)
    info = json.loads((path / 'dataset_info.json').read_text())
    splits = ', '.join(f'{count} {name}' for name, count in split_sizes(directory).items())
    header = f'{"dataset":14}{info["name"]} {info["version"]} in {path}: {splits}'
    return header, [f'record {i} of {split}' for i in range(len(records))], records.__getitem__
  layout, found = folders.find(directory, layout)
  uids = list(found)
  header = f'{"folders":14}{len(found)} objects in {directory}, layout {layout}: {folders.LAYOUTS[layout].looks_like}'
  return header, uids, lambda index: folders.read(layout, uids[index], found[uids[index]], options)


def _statistics(findings: list[Findings]) -> Iterator[str]:
  def span(values, form):
    low, high = f'{min(values):{form}}', f'{max(values):{form}}'
    return low if low == high else f'{low} to {high}'

  def joined(name):
    return np.concatenate([getattr(x, name) for x in findings])

  counts = [len(x.distances) for x in findings]
  sizes = sorted({size for x in findings for size in x.sizes})
  formats = sorted({kind for x in findings for kind in x.formats})
  yield (
    f'{"views":14}{span(counts, "d")} per object, {", ".join(map(str, sizes))} px, {", ".join(formats)}, '
    f'{np.mean([x.bytes for x in findings]) / 1e3:.0f} kB per object'
  )
  yield (
    f'{"distances":14}{span(joined("distances"), ".2f")} from camera to origin; '
    f'{span(joined("normalised"), ".2f")} after normalisation to the input view, as in training'
  )
  yield (
    f'{"cameras":14}field of view {span(joined("fovs"), ".1f")} degrees, '
    f'elevation {span(joined("elevations"), ".0f")} degrees'
  )
  aims = joined('aims')
  yield f'{"aim":14}cameras miss the origin by {np.median(aims):.1f} degrees (median), {aims.max():.1f} at most'
  agreement = [x.agreement for x in findings]
  yield (
    f'{"silhouettes":14}{np.median(agreement):.0%} consistent with the cameras (median object), '
    f'{min(agreement):.0%} in the worst object'
  )


def _problems(findings: list[Findings]) -> Iterator[str]:
  by_kind: dict[str, list[Findings]] = {}
  for x in findings:
    for kind in x.problems:
      by_kind.setdefault(kind, []).append(x)
  for kind, affected in by_kind.items():
    first = affected[0]
    yield f'{kind}: {len(affected)} of {len(findings)} objects; the first is {first.uid}: {first.problems[kind]}'
  agreement = np.median([x.agreement for x in findings]) if findings else 1.0
  if agreement < _AGREE and 'silhouettes' not in by_kind:
    yield (
      f'silhouettes: only {agreement:.0%} are consistent with the cameras in the median object. Check that poses and '
      'views are in the same order, and that the object does not move'
    )
  sizes = {size for x in findings for size in x.sizes}
  if sizes and min(sizes) < 64:
    yield f'size: views of {min(sizes)} px show too little detail: render at least 64 px'


def main() -> int:
  parser = argparse.ArgumentParser(
    prog='lrm_jax.data_check', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  group = parser.add_argument_group('data')
  group.add_argument('directory', metavar='DIR', help='dataset, `embedded`, or folders of views')
  group.add_argument('--split', default='train', help='split of the dataset (default: train)')
  group.add_argument(
    '--objects', type=int, default=100, help='number of objects to check, evenly spaced; 0 for all (default: 100)'
  )
  group = parser.add_argument_group('reading')
  group.add_argument(
    '--keep_distance', action='store_true', help='normalise as config.data.keep_distance does; for videos'
  )
  group.add_argument(
    '--layout', help=f'layout of the folders: {", ".join(folders.LAYOUTS)} (default: detected automatically)'
  )
  group.add_argument(
    '--background', choices=('white', 'black'), help='background colour of images that have no alpha channel'
  )
  group = parser.add_argument_group('result')
  group.add_argument(
    '--sheet', type=Path, default=Path('data_check.png'), help='contact sheet to write (default: data_check.png)'
  )
  args = parser.parse_args()
  if args.objects < 0:
    raise InputError(f'--objects={args.objects} must not be negative; 0 checks all objects')
  lines, problems = check(
    args.directory,
    split=args.split,
    objects=args.objects,
    keep_distance=args.keep_distance,
    sheet=args.sheet,
    layout=args.layout,
    options=Options(background=args.background),
  )
  print(*lines, '', sep='\n')
  if not problems:
    print('no problems found')
    return 0
  print(f'{len(problems)} {"problem" if len(problems) == 1 else "problems"} found')
  print(*(f'- {problem}' for problem in problems), sep='\n')
  return 1


if __name__ == '__main__':
  run_main(main)
