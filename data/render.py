# PYTHON_ARGCOMPLETE_OK
"""Renders 3D objects into training data: RGBA views from cameras around each object.

  python -m lrm_jax.data.render OBJECT... --out=DIR [--num_views=32] [--size=512] [--engine=cycles] [--preset=paper]

OBJECT is a GLB, glTF, OBJ or FBX file, a folder of such files, a pattern ('objects/*.glb'), or @FILE with one of these
per line. --objaverse=FILE renders objects of Objaverse, given by one uid per line; the package `objaverse` downloads
them.

Engines:
  cycles   Blender's path tracer. Uses the package `bpy` if it can be imported, else the one in .venv-render
           (`make render-env`), else `blender` on the PATH.
  raster   OpenGL through EGL, on a GPU or on the CPU with Mesa's llvmpipe. About 30 times faster, but without shadows
           and indirect light (docs/data.md).

Output:
  DIR/<uid>/views/000.webp ...   lossless RGBA, straight alpha, sRGB
  DIR/<uid>/cameras.npz          camera_to_world [V, 4, 4], intrinsics [V, 4], object_to_world [4, 4], float64
  DIR/<uid>/surface.npy          4096 points on the surface [P, 3], world units, float32
  DIR/<uid>/depth/000.png ...    with --depth: 16 bits, distance along the ray x 65535 / 8 world units, 0 for background
  DIR/<uid>/normals/000.png ...  with --normals: (n + 1) x 127.5, surface normals facing the camera, in world axes
  DIR/<uid>/object.json          the source file and the settings of the renderer

An interrupted run is resumed by the same command: folders appear only when they are complete, and existing ones are
kept. Objects that fail are reported at the end and in DIR/report.jsonl, and the exit code is then 1.
The world and the cameras are described in data/README.md, the presets in data/rendering/presets.py.
"""

import argparse
import glob
from pathlib import Path
import shutil
import sys

from lrm_jax.command_line import run_main
from lrm_jax.data.rendering import folders, options, pool, presets
from lrm_jax.errors import InputError

KINDS = ('.glb', '.gltf', '.obj', '.fbx')
ROOT = Path(__file__).resolve().parents[1]


def main(argv=None) -> int:
  args, _ = parse(argv)
  return folders.render(
    'render',
    chosen_objects(args),
    args.out,
    settings_of(args),
    worker_command(args.engine),
    workers=args.workers,
    timeout=args.timeout,
  )


def chosen_objects(args) -> list[tuple[str, Path]]:
  """Returns (uid, file) of the objects on the command line that belong to its shard; InputError if there are none."""
  objects = find_objects(args.objects)
  if args.objaverse:
    objects = sorted({**dict(objects), **dict(from_objaverse(args.objaverse))}.items())
  if not objects:
    raise InputError('no objects: give files, folders, patterns, @FILE or --objaverse=FILE')
  return share_of(objects, args.shard)


def settings_of(args) -> dict:
  """Returns the settings that are sent to the workers."""
  names = ('engine', 'preset', 'num_views', 'size', 'samples', 'fov', 'seed', 'threads', 'depth', 'normals', 'method')
  return {name: getattr(args, name) for name in names}


def find_objects(paths) -> list[tuple[str, Path]]:
  """Returns (uid, file) of each object, sorted; the uid is the name of the file without its suffix.

  `paths` are files, folders, patterns, or @FILE. Raises InputError if a path does not exist or has an unknown file
  type, or if two objects would have the same uid.
  """
  found = {}
  for path in _expand(paths):
    if path.is_dir():
      files = sorted(file for file in path.rglob('*') if file.suffix.lower() in KINDS)
      if not files:
        raise InputError(f'no objects ({", ".join(KINDS)}) in {path}: give another folder')
    elif path.is_file() and path.suffix.lower() in KINDS:
      files = [path]
    else:
      raise InputError(f'{path} does not exist, or is not a folder or a 3D object ({", ".join(KINDS)})')
    for file in files:
      if found.setdefault(file.stem, file) != file:
        raise InputError(f'{found[file.stem]} and {file} have the same uid {file.stem}: rename one')
  return sorted(found.items())


def _expand(paths):
  """Yields the paths, with @FILE replaced by the lines of the file and patterns by their matches."""
  for path in map(str, paths):
    if path.startswith('@'):
      yield from _expand(read_lines(Path(path[1:])))
    elif glob.has_magic(path) and not Path(path).exists():
      matches = sorted(glob.glob(path, recursive=True))
      if not matches:
        raise InputError(f'no file matches {path}')
      yield from map(Path, matches)
    else:
      yield Path(path)


def from_objaverse(uids: Path) -> list[tuple[str, Path]]:
  """Returns (uid, file) of Objaverse objects, given a file of uids; the package `objaverse` downloads missing ones."""
  try:
    import objaverse
  except ImportError:
    raise InputError('--objaverse needs the package objaverse: pip install objaverse') from None
  wanted = read_lines(uids)
  files = objaverse.load_objects(uids=wanted)
  if missing := [uid for uid in wanted if uid not in files]:
    print(
      f'render: {len(missing)} of {len(wanted)} uids are not in Objaverse: {", ".join(missing[:5])}', file=sys.stderr
    )
  return [(uid, Path(file)) for uid, file in files.items()]


def share_of(objects: list, shard: str | None) -> list:
  """Returns the objects of shard 'i/n', with i from 0 to n - 1 (None: all); InputError if the shard is not valid.

  Shards are disjoint, and their union is all objects.
  """
  if shard is None:
    return objects
  index, _, count = shard.partition('/')
  if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
    raise InputError(f'--shard={shard} must be i/n with i from 0 to n - 1')
  return objects[int(index) :: int(count)]


def worker_command(engine: str) -> list[str]:
  """Returns the command that starts a worker; InputError if Cycles is asked for and Blender is not installed."""
  script = str(pool.WORKER)
  if engine == 'raster' or _has_bpy():
    return [sys.executable, script]
  if (python := ROOT / '.venv-render/bin/python').exists():
    return [str(python), script]
  if blender := shutil.which('blender'):
    return [blender, '--background', '--python-exit-code', '1', '--python', script, '--']
  raise InputError(
    'Blender is not installed: run `make render-env`, or pip install bpy (Python 3.13), or put blender on the PATH; '
    'or use --engine=raster'
  )


def _has_bpy() -> bool:
  import importlib.util

  return importlib.util.find_spec('bpy') is not None


def read_lines(path: Path) -> list[str]:
  """Returns the entries of a text file, one per line; '#' starts a comment. InputError if it is not a file."""
  if not path.is_file():
    raise InputError(f'{path} is not a file: give a text file with one entry per line')
  lines = (line.split('#')[0].strip() for line in path.read_text().splitlines())
  return [line for line in lines if line]


def parse(argv=None, *, known: bool = False):
  """Returns (arguments, unknown arguments); exits with an error if there are unknown ones, unless `known` is set."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  group = parser.add_argument_group('objects')
  group.add_argument('objects', nargs='*', help='files, folders, patterns, or @FILE with one of these per line')
  group.add_argument('--objaverse', type=Path, help='file with uids of Objaverse, one per line')
  group.add_argument('--out', type=Path, required=True, help='folder to write to')
  group = parser.add_argument_group('views')
  group.add_argument('--engine', choices=('cycles', 'raster'), default='cycles', help='(default: cycles)')
  group.add_argument('--preset', choices=tuple(presets.PRESETS), default='paper', help='(default: paper)')
  options.add_views(group, num_views=32, size=512, fov_of='--preset')
  group.add_argument('--samples', type=int, default=64, help='cycles: rays per pixel (default: 64)')
  group = parser.add_argument_group('run')
  group.add_argument('--seed', type=int, default=0, help='of the cameras and lights (default: 0)')
  group.add_argument('--workers', type=int, default=1, help='number of processes (default: 1)')
  group.add_argument(
    '--timeout', type=float, default=1800, help='seconds after which an object is given up (default: 1800)'
  )
  group.add_argument('--shard', help='i/n: render only shard i of n, i from 0 to n - 1')
  group.add_argument('--threads', type=int, default=0, help='cycles: threads per worker; 0 uses all cores (default: 0)')
  group.add_argument('--method', type=int, default=4, help='WebP effort, 0 (fast, larger files) to 6 (default: 4)')
  args, rest = parser.parse_known_args(argv)
  if rest and not known:
    parser.error(f'unrecognized arguments: {" ".join(rest)}')
  options.check(args, ('num_views', 'size', 'samples', 'workers'))
  return args, rest


if __name__ == '__main__':
  run_main(main)
