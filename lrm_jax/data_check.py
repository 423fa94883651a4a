"""Looks at training data as training will: python -m lrm_jax.data_check DIR [--split=train] [--objects=100]

DIR is a dataset (the directory with dataset_info.json), or folders of views: of data/render.py, OpenLRM, NeRF, COLMAP.
Prints what is in it and what is wrong, and writes a contact sheet (--sheet=data_check.png): views with the cube
[-1, 1]^3 and its axes drawn over them. Exit code 1 where something is wrong, with the list.
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
from lrm_jax.datasets.folders.pictures import Options
from lrm_jax.datasets.inspection import Findings, inspect
from lrm_jax.datasets.records import BrokenRecordError, open_split

_ROWS = 12  # of the contact sheet
_AGREE = 0.97  # of the outlines are covered in the median: all, where cameras are right; 0.9, where they are mixed up


def check(
  directory: Path,
  *,
  split: str = 'train',
  objects: int = 100,
  keep_distance: bool = False,
  sheet: Path | None = None,
  layout: str | None = None,
  options: Options = Options(),
) -> tuple[list[str], list[str]]:
  """Returns (what is there, what is wrong), lines each; writes the contact sheet where one is asked for.

  `objects` are looked at, evenly spread; 0: all. Raises FileNotFoundError, ValueError where there is nothing to check.
  """
  there, names, read = _open(Path(directory), split, layout, options)
  some = range(len(names)) if not objects else np.unique(np.linspace(0, len(names) - 1, objects).round().astype(int))
  findings, broken, shown = [], [], []
  rows = set(np.asarray(some)[np.unique(np.linspace(0, len(some) - 1, _ROWS).round().astype(int))].tolist())
  for index in tqdm.tqdm(some, desc='objects', disable=not sys.stderr.isatty()):
    try:
      record = read(index)
      findings.append(inspect(record, keep_distance=keep_distance))
      if index in rows:
        shown.append(record)
    except (BrokenRecordError, ValueError, FileNotFoundError) as error:
      broken.append(f'{names[index]}: {error}')
  told = '' if len(some) == len(names) else ' (evenly spread; --objects=0 looks at all)'
  lines = [there, f'{"objects":14}{len(some)} of {len(names)} looked at{told}, {len(broken)} broken']
  if findings:
    lines += _report(findings)
  if sheet and shown:
    contact_sheet.draw(shown, keep_distance=keep_distance).save(sheet)
    lines.append(f'{"contact sheet":14}{sheet}')
  return lines, [*(f'broken: {line}' for line in broken), *_problems(findings)]


def _open(directory: Path, split: str, layout: str | None, options: Options):
  """Returns (what is there, names of objects, function of a number that reads one)."""
  if (directory / 'dataset_info.json').is_file():
    records = open_split(directory, split)
    info = json.loads((directory / 'dataset_info.json').read_text())
    splits = ', '.join(f'{sum(map(int, s["shardLengths"]))} {s["name"]}' for s in info['splits'])
    there = f'{"dataset":14}{info["name"]} {info["version"]} in {directory}: {splits}'
    return there, [f'record {i} of {split}' for i in range(len(records))], records.__getitem__
  layout, found = folders.find(directory, layout)
  uids = list(found)
  there = f'{"folders":14}{len(found)} objects in {directory}, laid out as {folders.LAYOUTS[layout].looks_like}'
  return there, uids, lambda index: folders.read(layout, uids[index], found[uids[index]], options)


def _report(findings: list[Findings]) -> Iterator[str]:
  def span(values, form):
    return f'{min(values):{form}} .. {max(values):{form}}'

  def joined(name):
    return np.concatenate([getattr(x, name) for x in findings])

  counts = [len(x.distances) for x in findings]
  sizes = sorted({size for x in findings for size in x.sizes})
  formats = sorted({kind for x in findings for kind in x.formats})
  yield (
    f'{"views":14}{span(counts, "d")} an object, {", ".join(map(str, sizes))} px, {", ".join(formats)}, '
    f'{np.mean([x.bytes for x in findings]) / 1e3:.0f} kB an object'
  )
  yield (
    f'{"distances":14}{span(joined("distances"), ".2f")}; {span(joined("normalised"), ".2f")} once the input view '
    'is where it is in training'
  )
  yield f'{"cameras":14}field of view {span(joined("fovs"), ".1f")}, elevation {span(joined("elevations"), ".0f")} degrees'
  yield f'{"aim":14}{np.median(joined("aims")):.1f} degrees past the origin (median), {joined("aims").max():.1f} at most'
  agreement = [x.agreement for x in findings]
  yield f'{"outlines":14}{np.median(agreement):.0%} fit together (median), {min(agreement):.0%} at least'


def _problems(findings: list[Findings]) -> Iterator[str]:
  by_kind: dict[str, list[Findings]] = {}
  for x in findings:
    for kind in x.problems:
      by_kind.setdefault(kind, []).append(x)
  for kind, some in by_kind.items():
    yield f'{kind}: {len(some)} of {len(findings)} objects, the first is {some[0].uid}: {some[0].problems[kind]}'
  agreement = np.median([x.agreement for x in findings]) if findings else 1.0
  if agreement < _AGREE and 'outlines' not in by_kind:
    yield (
      f'outlines: only {agreement:.0%} of them fit together by their cameras, in the median object: are poses and '
      'views in the same order, and is the object at rest?'
    )
  sizes = {size for x in findings for size in x.sizes}
  if sizes and min(sizes) < 64:
    yield f'size: views of {min(sizes)} px show little: render at least 64'


def main() -> int:
  parser = argparse.ArgumentParser(prog='lrm_jax.data_check', description=__doc__.splitlines()[0])
  parser.add_argument('directory', type=Path, metavar='DIR')
  parser.add_argument('--split', default='train', help='of a dataset (default: train)')
  parser.add_argument(
    '--objects', type=int, default=100, help='that are looked at, evenly spread; 0: all (default: 100)'
  )
  parser.add_argument('--keep_distance', action='store_true', help='as config.data.keep_distance, for videos')
  parser.add_argument('--layout', help=f'of folders: one of {", ".join(folders.LAYOUTS)} (default: recognised)')
  parser.add_argument('--background', choices=('white', 'black'), help='of pictures in folders that have no alpha')
  parser.add_argument('--sheet', type=Path, default=Path('data_check.png'), help='PNG (default: data_check.png)')
  args = parser.parse_args()
  if args.objects < 0:
    raise ValueError(f'--objects={args.objects} must be 0 or more')
  lines, problems = check(
    args.directory,
    split=args.split,
    objects=args.objects,
    keep_distance=args.keep_distance,
    sheet=args.sheet,
    layout=args.layout,
    options=Options(background=args.background),
  )
  print(*lines, sep='\n')
  print(*(problems or ['nothing wrong was found']), sep='\n')
  return 1 if problems else 0


if __name__ == '__main__':
  run_main(main)
