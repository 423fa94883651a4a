# PYTHON_ARGCOMPLETE_OK
"""Makes procedural objects and renders them into training data, as data/render.py renders files.

  python -m lrm_jax.data.procedural --preset=things --count=10000 --out=DIR [--num_views=8] [--size=128]
  python -m lrm_jax.data.procedural --preset=things --count=10000 --dataset=DIR

Presets:
  things      90 kinds of things from a grammar of surfaces of revolution, extrusions, rounded boxes, legs, wheels,
              handles, lattices and so on, with few colours and printed textures; they stand upright and look forward
  zeroverse   chaotic objects after LRM-Zero: textured primitives with height fields, holes and wireframes

Output:
  DIR/<preset>_<seed>_<index>/...   folders of views, as data/render.py writes them (data/README.md); object.json names
                                    the maker of the object
  GLB/<preset>_<seed>_<index>.glb   with --glb=GLB: the objects, in metres, y up, front along +z
  DIR/procedural_views/<version>    with --dataset instead of --out: a dataset as data/build.py writes it, no folders

An object depends only on its preset, seed and index, so --first and --shard divide the work at will. With --out, an
interrupted run is resumed by the same command: folders appear only when they are complete, and existing ones are kept.
Objects that fail are reported at the end and in DIR/report.jsonl, or skipped.jsonl of the dataset, and the exit code is
then 1. On a cluster: launch/procedural_array.sbatch, or data/procedural_beam.py. See docs/procedural.md.
"""

import argparse
from collections.abc import Iterable
import importlib.util
from pathlib import Path
import signal
import sys

from lrm_jax.command_line import run_main
from lrm_jax.data import render
from lrm_jax.data.rendering import folders, options
from lrm_jax.errors import InputError

PRESETS = ('things', 'zeroverse')
COMMAND = [sys.executable, str(Path(__file__).parent / 'procedural_objects/worker.py')]  # starts a worker


def main(argv=None) -> int:
  args = parse(argv)
  if args.dataset:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # As for Ctrl-C, stop workers and clean up.
    return write_dataset(args)
  if args.glb:
    args.glb.mkdir(parents=True, exist_ok=True)
  return folders.render(
    'procedural',
    as_objects(chosen_uids(args)),
    args.out,
    settings_of(args),
    COMMAND,
    workers=args.workers,
    timeout=args.timeout,
    is_done=lambda uid: is_done(uid, args),
    lines_every=100,
  )


def write_dataset(args) -> int:
  """Writes a dataset as the command line says; returns the exit code."""
  from lrm_jax.data import procedural_dataset  # Here, because it needs the extra `data`.

  return procedural_dataset.write(
    as_objects(chosen_uids(args)),
    args.dataset,
    settings_of(args),
    COMMAND,
    workers=args.workers,
    timeout=args.timeout,
    test_share=args.test_share,
  )


def as_objects(uids: Iterable[str]) -> list[tuple[str, Path]]:
  """Returns (uid, file) of objects as the pool of workers takes them; the files do not exist."""
  return [(uid, Path(f'{uid}.glb')) for uid in uids]


def chosen_uids(args) -> list[str]:
  """Returns the uids of the objects of a shard of the command line."""
  uids = [f'{args.preset}_{args.seed}_{index:07d}' for index in range(args.first, args.first + args.count)]
  return render.share_of(uids, args.shard)


def is_done(uid: str, args) -> bool:
  """Returns whether an object is rendered and, with --glb, kept."""
  return (args.out / uid).is_dir() and (args.glb is None or (args.glb / f'{uid}.glb').is_file())


def settings_of(args) -> dict:
  """Returns the settings of the workers: those of render.py, for the engine raster, and the folder of GLB files."""
  return {
    'engine': 'raster',
    'preset': args.cameras,
    'num_views': args.num_views,
    'size': args.size,
    'fov': args.fov,
    'seed': args.seed,
    'depth': args.depth,
    'normals': args.normals,
    'method': args.method,
    'glb': str(args.glb.absolute()) if args.glb else None,
  }


class _Parser(argparse.ArgumentParser):
  def error(self, message):
    raise InputError(message)


def parse(argv=None, *, known: bool = False):
  """Returns the arguments; InputError with one sentence if they are not valid.

  With `known`, returns (arguments, unknown arguments) instead of refusing unknown ones, and needs --out.
  """
  parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  group = parser.add_argument_group('objects')
  group.add_argument('--preset', choices=PRESETS, default='things', help='kind of objects (default: things)')
  group.add_argument('--count', type=int, required=True, help='number of objects')
  group.add_argument('--first', type=int, default=0, help='index of the first object (default: 0)')
  group = parser.add_argument_group('output')
  group.add_argument('--out', type=Path, help='folder to write folders of views to')
  group.add_argument('--dataset', type=Path, help='folder to write a dataset to, instead of --out')
  group.add_argument(
    '--test_share', type=float, default=0.1, help='with --dataset: share of the test split, by a hash (default: 0.1)'
  )
  group.add_argument('--glb', type=Path, help='folder in which to keep the objects as GLB files (default: not kept)')
  group = parser.add_argument_group('views')
  group.add_argument(
    '--cameras',
    choices=('paper', 'openlrm', 'triposr-like'),
    default='paper',
    help='cameras and light, see render.py --preset (default: paper)',
  )
  options.add_views(group, num_views=8, size=128, fov_of='--cameras')
  group = parser.add_argument_group('run')
  group.add_argument('--seed', type=int, default=0, help='of objects, cameras and lights (default: 0)')
  group.add_argument('--workers', type=int, default=2, help='number of processes (default: 2)')
  group.add_argument(
    '--timeout', type=float, default=300, help='seconds after which an object is given up (default: 300)'
  )
  group.add_argument('--shard', help='i/n: make only shard i of n, i from 0 to n - 1')
  group.add_argument('--method', type=int, default=0, help='WebP effort, 0 (fast, larger files) to 6 (default: 0)')
  args, rest = parser.parse_known_args(argv)
  if rest and not known:
    parser.error(f'unrecognized arguments: {" ".join(rest)}')
  if known and args.dataset:
    raise InputError('--dataset cannot be used in a pipeline: give --out, then run data/build.py --beam')
  if (args.out is None) == (args.dataset is None):
    raise InputError('give either --out=DIR, for folders of views, or --dataset=DIR')
  if args.dataset and args.shard:
    raise InputError(f'--shard={args.shard} needs --out: build one dataset of all shards with data/build.py')
  if not 0 <= args.test_share <= 1:
    raise InputError(f'--test_share={args.test_share} must be between 0 and 1')
  options.check(args, ('count', 'num_views', 'size', 'workers'), ('first', 'seed'))
  for module, extra in (('manifold3d', 'procedural'), ('moderngl', 'procedural')):
    if importlib.util.find_spec(module) is None:
      raise InputError(f"{module} is not installed: pip install '.[{extra}]'")
  return (args, rest) if known else args


if __name__ == '__main__':
  run_main(main)
