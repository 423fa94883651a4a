"""Renders 3D objects as LRM's training data: RGBA views from cameras around each object.

  python data/render.py OBJECT... --out=DIR [--num_views=32] [--size=512] [--engine=cycles] [--preset=paper] [--workers=1]

An OBJECT is a GLB, glTF, OBJ or FBX file, a folder of them, a pattern ('objects/*.glb'), or @FILE with such paths, one a
line; --objaverse=FILE takes Objaverse's uids, one a line, through the package `objaverse`, which downloads them.

Engines: cycles is Blender's path tracer: the `bpy` package where it can be imported, else that of .venv-render (`make
render-env`), else a `blender` on the PATH; --samples rays a pixel. raster is OpenGL through EGL, on a GPU or Mesa's
llvmpipe: some thirty times faster, without shadows and light from one part to another (docs/data.md).
Presets (data/rendering/presets.py): paper, openlrm, triposr-like.

DIR/<uid>/views/000.webp ...   lossless RGBA, straight alpha, sRGB
DIR/<uid>/cameras.npz          camera_to_world [V, 4, 4], intrinsics [V, 4], object_to_world [4, 4], float64
DIR/<uid>/surface.npy          4096 points on the surface [P, 3], world units, float32
DIR/<uid>/depth/000.png ...    with --depth: 16 bits, distance along the ray x 65535 / 8 world units, 0 where nothing is
DIR/<uid>/normals/000.png ...  with --normals: (n + 1) x 127.5, of the surface towards the camera, in world axes
DIR/<uid>/object.json          what was rendered, and how
A folder appears when it is complete; what is there already is not rendered again. An object that fails does not stop the
others: it is named with the reason, at the end and in DIR/report.jsonl; exit code 1. World and cameras: data/README.md.
"""

import argparse
import glob
import json
from pathlib import Path
import shutil
import signal
import sys

from lrm_jax.data.rendering import pool

KINDS = ('.glb', '.gltf', '.obj', '.fbx')
ROOT = Path(__file__).resolve().parents[1]


def main(argv=None) -> int:
  args, _ = parse(argv)
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # As ^C: workers are ended, nothing half-written stays.
  try:
    objects = chosen_objects(args)
    command = worker_command(args.engine)
  except (ValueError, OSError) as error:
    print(f'render: {error}', file=sys.stderr)
    return 2
  args.out.mkdir(parents=True, exist_ok=True)
  pool.remove_leftovers(args.out)
  todo = [(uid, path) for uid, path in objects if not (args.out / uid).is_dir()]
  if there := len(objects) - len(todo):
    print(f'{there} of {len(objects)} objects: is there', flush=True)
  settings, failed = settings_of(args), {}
  try:
    results = pool.render_all(todo, args.out, settings, command, workers=args.workers, timeout=args.timeout)
    with open(args.out / 'report.jsonl', 'a', encoding='utf-8') as report:
      for number, result in enumerate(results, there + 1):
        where = f'[{number}/{len(objects)}] {result.uid}'
        if result.error:
          failed[result.uid] = result.error
          print(f'{where}: FAILED: {result.error}', file=sys.stderr, flush=True)
        else:
          print(f'{where}: {args.num_views} views in {result.seconds:.1f} s', flush=True)
        report.write(json.dumps({'uid': result.uid, 'error': result.error, 'seconds': round(result.seconds, 3)}) + '\n')
        report.flush()
  except pool.EngineError as error:
    print(f'render: {args.engine}: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('render: stopped; the same command goes on', file=sys.stderr)
    return 130
  if failed:
    print(
      f'render: {len(failed)} of {len(objects)} objects failed, listed in {args.out}/report.jsonl: '
      f'{", ".join(list(failed)[:10])}{" ..." if len(failed) > 10 else ""}',
      file=sys.stderr,
    )
  return 1 if failed else 0


def chosen_objects(args) -> list[tuple[str, Path]]:
  """Returns (uid, file) of the objects that a command line names, of its shard; ValueError where there are none."""
  objects = find_objects(args.objects)
  if args.objaverse:
    objects = sorted({**dict(objects), **dict(from_objaverse(args.objaverse))}.items())
  if not objects:
    raise ValueError('no objects: give files, folders, patterns, @FILE or --objaverse=FILE')
  return share_of(objects, args.shard)


def settings_of(args) -> dict:
  """Returns what workers are told of a command line."""
  names = ('engine', 'preset', 'num_views', 'size', 'samples', 'fov', 'seed', 'threads', 'depth', 'normals', 'method')
  return {name: getattr(args, name) for name in names}


def find_objects(paths) -> list[tuple[str, Path]]:
  """Returns (uid, file) of each object; the uid is the file's name without its suffix.

  Raises ValueError where a path is not there, is of no known kind, or two objects would have one uid.
  """
  found = {}
  for path in _spelled_out(paths):
    if path.is_dir():
      files = sorted(file for file in path.rglob('*') if file.suffix.lower() in KINDS)
      if not files:
        raise ValueError(f'no objects ({", ".join(KINDS)}) in {path}')
    elif path.is_file() and path.suffix.lower() in KINDS:
      files = [path]
    else:
      raise ValueError(f'{path} is no folder and no file of {", ".join(KINDS)}: give 3D objects')
    for file in files:
      if found.setdefault(file.stem, file) != file:
        raise ValueError(f'{found[file.stem]} and {file} would both be called {file.stem}: rename one')
  return sorted(found.items())


def _spelled_out(paths):
  """Paths, those in @FILE, and those that patterns stand for."""
  for path in map(str, paths):
    if path.startswith('@'):
      yield from _spelled_out(_lines(Path(path[1:])))
    elif glob.has_magic(path) and not Path(path).exists():
      matches = sorted(glob.glob(path, recursive=True))
      if not matches:
        raise ValueError(f'nothing is called {path}')
      yield from map(Path, matches)
    else:
      yield Path(path)


def from_objaverse(uids: Path) -> list[tuple[str, Path]]:
  """Returns (uid, file) of Objaverse's objects, downloaded by its package where they are not on disk yet."""
  try:
    import objaverse  # pylint: disable=import-outside-toplevel
  except ImportError:
    raise ValueError('--objaverse needs the package: pip install objaverse') from None
  wanted = _lines(uids)
  files = objaverse.load_objects(uids=wanted)
  if missing := [uid for uid in wanted if uid not in files]:
    print(f'render: Objaverse has no {len(missing)} of {len(wanted)} uids: {", ".join(missing[:5])}', file=sys.stderr)
  return [(uid, Path(file)) for uid, file in files.items()]


def share_of(objects: list, shard: str | None) -> list:
  """Returns the objects of shard i/n, i from 0: disjoint, and together all; ValueError where it is no such thing."""
  if shard is None:
    return objects
  index, _, count = shard.partition('/')
  if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
    raise ValueError(f'--shard={shard} must be i/n with i from 0 to n - 1')
  return objects[int(index) :: int(count)]


def worker_command(engine: str) -> list[str]:
  """Returns how a worker is started; ValueError where there is no Blender for Cycles."""
  script = str(pool.WORKER)
  if engine == 'raster' or _has_bpy():
    return [sys.executable, script]
  if (python := ROOT / '.venv-render/bin/python').exists():
    return [str(python), script]
  if blender := shutil.which('blender'):
    return [blender, '--background', '--python-exit-code', '1', '--python', script, '--']
  raise ValueError(
    'no Blender: run `make render-env`, or pip install bpy (Python 3.13), or put blender on the PATH; or '
    'take --engine=raster'
  )


def _has_bpy() -> bool:
  import importlib.util  # pylint: disable=import-outside-toplevel

  return importlib.util.find_spec('bpy') is not None


def _lines(path: Path) -> list[str]:
  lines = (line.split('#')[0].strip() for line in path.read_text().splitlines())
  return [line for line in lines if line]


def parse(argv=None, *, known: bool = False):
  """Returns (arguments, what is not known of them: an error but for `known`)."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('objects', nargs='*', help='files, folders, patterns, or @FILE with such lines')
  parser.add_argument('--objaverse', type=Path, help='file with uids of Objaverse, one a line')
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--engine', choices=('cycles', 'raster'), default='cycles')
  parser.add_argument('--preset', choices=('paper', 'openlrm', 'triposr-like'), default='paper')
  parser.add_argument('--num_views', type=int, default=32, help='the frontal one among them')
  parser.add_argument('--size', type=int, default=512, help='pixels along a side')
  parser.add_argument('--samples', type=int, default=64, help='of cycles: rays a pixel')
  parser.add_argument('--fov', type=float, help="full field of view, degrees (default: the preset's)")
  parser.add_argument('--depth', action='store_true', help='write depth too')
  parser.add_argument('--normals', action='store_true', help='write normals too')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--workers', type=int, default=1, help='processes')
  parser.add_argument('--timeout', type=float, default=1800, help='seconds an object may take')
  parser.add_argument('--shard', help='i/n: this share of the objects, i from 0')
  parser.add_argument('--threads', type=int, default=0, help='of cycles, a worker; 0: all')
  parser.add_argument('--method', type=int, default=4, help='effort of the WebP, 0 (fast, larger) to 6')
  args, rest = parser.parse_known_args(argv)
  if rest and not known:
    parser.error(f'unrecognized arguments: {" ".join(rest)}')
  for name in ('num_views', 'size', 'samples', 'workers'):
    if getattr(args, name) < 1:
      parser.error(f'--{name}={getattr(args, name)} must be at least 1')
  if args.fov is not None and not 1 <= args.fov <= 150:
    parser.error(f'--fov={args.fov} must be between 1 and 150 degrees')
  if not 0 <= args.method <= 6 or args.timeout <= 0:
    parser.error(f'--method={args.method} must be 0 to 6, and --timeout={args.timeout} above 0')
  return args, rest


if __name__ == '__main__':
  sys.exit(main())
