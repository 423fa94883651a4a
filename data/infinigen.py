# PYTHON_ARGCOMPLETE_OK
"""Makes objects with Infinigen, in Blender, and renders them into training data, as data/render.py renders files.

  make infinigen-env                                                # installs Infinigen and its Blender
  python -m lrm_jax.data.infinigen --count=1000 --out=renders [--num_views=14] [--size=128] [--depth]
  python -m lrm_jax.data.build --source=renders --out=infinigen

Infinigen (Raistrick et al. 2024, BSD-3-Clause) makes furniture, tableware, lamps, fruit, shells, plants and others from
random numbers; its licence does not extend to what it makes. Object i is of the kind i mod K of the K kinds of --kinds,
made and rendered with a seed that depends on --seed and i.

Output:
  DIR/infinigen_<seed>_<index>/...   folders of views, as data/render.py writes them (data/README.md); object.json names
                                     the kind and its seed
  DIR/recipes/<uid>.json             the kind and the seed of each object

An interrupted run is resumed by the same command: folders appear only when they are complete, and existing ones are
kept. Objects that fail, or take too long, are reported at the end and in DIR/report.jsonl, and the exit code is then 1.
"""

import argparse
import json
from pathlib import Path
import re

import numpy as np

from lrm_jax.command_line import run_main
from lrm_jax.data import render
from lrm_jax.data.rendering import folders, options, presets
from lrm_jax.errors import InputError

KINDS = Path(__file__).parent / 'splits/infinigen.txt'
WORKER = Path(__file__).parent / 'infinigen_objects/worker.py'
_KIND = re.compile(r'\w+(\.\w+)*:\w+')


def main(argv=None) -> int:
  args = parse(argv)
  kinds = read_kinds(args.kinds)
  recipes = {
    f'infinigen_{args.seed}_{index:07d}': recipe(kinds, args.seed, index)
    for index in range(args.first, args.first + args.count)
  }
  uids = render.share_of(list(recipes), args.shard)
  (args.out / 'recipes').mkdir(parents=True, exist_ok=True)
  objects = []
  for uid in uids:
    path = args.out / 'recipes' / f'{uid}.json'
    path.write_text(json.dumps(recipes[uid]) + '\n')
    objects.append((uid, path))
  return folders.render(
    'infinigen',
    objects,
    args.out,
    settings_of(args),
    [str(args.python), str(WORKER)],
    workers=args.workers,
    timeout=args.timeout,
  )


def recipe(kinds: list[str], seed: int, index: int) -> dict:
  """Returns the recipe of an object: its kind, MODULE:FACTORY, and the seed of its factory."""
  draw = int(np.random.default_rng([seed, index]).integers(2**31))
  return {'kind': kinds[index % len(kinds)], 'seed': draw}


def read_kinds(path: Path) -> list[str]:
  """Returns the kinds in a file, MODULE:FACTORY a line; InputError if there are none or a line is something else."""
  kinds = render.read_lines(path)
  if not kinds:
    raise InputError(f'--kinds={path} has no kinds: give lines such as tableware:BowlFactory')
  if wrong := [kind for kind in kinds if not _KIND.fullmatch(kind)]:
    raise InputError(f'--kinds={path}: {wrong[0]!r} is not MODULE:FACTORY, such as tableware:BowlFactory')
  return kinds


def settings_of(args) -> dict:
  """Returns the settings of the workers: those of data/render.py, with one thread each."""
  names = ('preset', 'num_views', 'size', 'samples', 'fov', 'seed', 'depth', 'normals', 'method')
  return {name: getattr(args, name) for name in names} | {'engine': 'cycles', 'threads': 1}


def parse(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  group = parser.add_argument_group('objects')
  group.add_argument('--count', type=int, required=True, help='number of objects')
  group.add_argument('--first', type=int, default=0, help='index of the first object (default: 0)')
  group.add_argument('--out', type=Path, required=True, help='folder to write to')
  group.add_argument('--kinds', type=Path, default=KINDS, help=f'file with the kinds (default: {KINDS.name})')
  group = parser.add_argument_group('views')
  group.add_argument('--preset', choices=tuple(presets.PRESETS), default='paper', help='(default: paper)')
  options.add_views(group, num_views=14, size=128, fov_of='--preset')
  group.add_argument('--samples', type=int, default=32, help='rays per pixel (default: 32)')
  group = parser.add_argument_group('run')
  group.add_argument('--seed', type=int, default=0, help='of objects, cameras and lights (default: 0)')
  group.add_argument('--workers', type=int, default=2, help='number of processes, of one thread each (default: 2)')
  group.add_argument(
    '--timeout', type=float, default=300, help='seconds after which an object is given up (default: 300)'
  )
  group.add_argument('--shard', help='i/n: make only shard i of n, i from 0 to n - 1')
  group.add_argument('--method', type=int, default=4, help='WebP effort, 0 (fast, larger files) to 6 (default: 4)')
  group.add_argument(
    '--python',
    type=Path,
    default=render.ROOT / '.venv-infinigen/bin/python',
    help='Python that has Infinigen (default: that of `make infinigen-env`)',
  )
  args = parser.parse_args(argv)
  options.check(args, ('count', 'num_views', 'size', 'samples', 'workers'), ('first', 'seed'))
  if not args.python.is_file():
    raise InputError(f'{args.python} does not exist: run `make infinigen-env`, or give --python=PATH')
  return args


if __name__ == '__main__':
  run_main(main)
