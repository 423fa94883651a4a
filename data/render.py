"""Renders 3D objects with Blender as LRM's training data: RGBA views from random cameras around each object.

  python data/render.py OBJECT... --out=DIR [--num_views=32] [--size=512] [--samples=64] [--seed=0]

Objects are GLB, glTF, OBJ or FBX files, or folders of them. Blender is the `bpy` package where it can be imported,
else that of .venv-render (`make render-env`), else a `blender` on the PATH.

World (lrm_jax/cameras.py): z up, the object's bounding box centred at the origin, its vertices within a sphere of
radius 1.5 sin(25 deg) = 0.634, so that every camera sees all of it. View 0 is frontal: at [0, -2, 0]. The others
lie at radius 1.5..3.0, height -0.75..1.60, any azimuth, and look at the origin. Light comes evenly from everywhere;
the background is transparent.

DIR/<uid>/views/000.webp ...   lossless RGBA, straight alpha, sRGB
DIR/<uid>/cameras.npz          camera_to_world [V, 4, 4], intrinsics [V, 4], object_to_world [4, 4], float64
DIR/<uid>/object.json          what was rendered, and how
A folder appears when it is complete; what is there already is not rendered again. `object_to_world` takes vertices of
the file (y up, as glTF and OBJ are; for FBX, of Blender's scene) to the world. Source: LRM, section 4.1 and appendix.
"""

import argparse
import contextlib
import hashlib
import json
import os
from pathlib import Path
import shutil
import sys
import tempfile
import zlib

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrm_jax import cameras  # pylint: disable=wrong-import-position

OBJECT_RADIUS = 1.5 * np.sin(np.deg2rad(25))
KINDS = ('.glb', '.gltf', '.obj', '.fbx')
RADIUS = (1.5, 3.0)
HEIGHT = (-0.75, 1.60)
_Y_UP_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def main(argv=None) -> int:
  args = _parse(sys.argv[1:] if argv is None else argv)
  try:
    objects = find_objects(args.objects)
  except ValueError as error:
    print(f'render: {error}', file=sys.stderr)
    return 2
  if not _has_bpy():
    return _run_elsewhere(sys.argv[1:] if argv is None else argv)
  failed = []
  for number, (uid, path) in enumerate(objects, 1):
    where = f'[{number}/{len(objects)}] {uid}'
    if (args.out / uid).is_dir():
      print(f'{where}: is there', flush=True)
      continue
    try:
      render_object(path, args.out / uid, uid=uid, args=args)
      print(f'{where}: {args.num_views} views', flush=True)
    except Exception as error:  # One bad object, of whatever kind, must not end the work on the others.
      failed.append(uid)
      print(f'{where}: FAILED: {error}', file=sys.stderr, flush=True)
  if failed:
    print(f'render: {len(failed)} of {len(objects)} objects failed: {", ".join(failed)}', file=sys.stderr)
  return 1 if failed else 0


def find_objects(paths) -> list[tuple[str, Path]]:
  """Returns (uid, file) of each object; the uid is the file's name without its suffix.

  Raises ValueError where a path is not there, is of no known kind, or two objects would have one uid.
  """
  found = {}
  for path in map(Path, paths):
    if path.is_dir():
      files = sorted(file for file in path.rglob('*') if file.suffix.lower() in KINDS)
    elif path.is_file() and path.suffix.lower() in KINDS:
      files = [path]
    else:
      raise ValueError(f'{path} is no folder and no file of {", ".join(KINDS)}: give 3D objects')
    for file in files:
      if found.setdefault(file.stem, file) != file:
        raise ValueError(f'{found[file.stem]} and {file} would both be called {file.stem}: rename one')
  if not found:
    raise ValueError(f'no objects ({", ".join(KINDS)}) in {", ".join(map(str, paths))}')
  return sorted(found.items())


def sample_cameras(num_views: int, rng: np.random.Generator) -> np.ndarray:
  """Returns camera_to_world [V, 4, 4]: the frontal view, then random ones, all looking at the origin."""
  radius = rng.uniform(*RADIUS, num_views - 1)
  height = rng.uniform(np.maximum(HEIGHT[0], -0.95 * radius), np.minimum(HEIGHT[1], 0.95 * radius))
  azimuth = rng.uniform(0, 2 * np.pi, num_views - 1)
  across = np.sqrt(radius**2 - height**2)
  position = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], axis=-1)
  return np.concatenate([cameras.input_camera()[None], cameras.look_at(position)])


def render_object(path: Path, out: Path, *, uid: str, args) -> None:
  """Renders one object into the folder `out`, which appears when all of it is written."""
  import bpy  # pylint: disable=import-outside-toplevel

  rng = np.random.default_rng([args.seed, zlib.crc32(uid.encode())])
  poses = sample_cameras(args.num_views, rng)
  intrinsics = np.tile(cameras.intrinsics_from_fov(args.fov), (args.num_views, 1))
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{uid}.', dir=out.parent) as folder:
    folder = Path(folder) / uid
    (folder / 'views').mkdir(parents=True)
    with _quiet():
      _load(path)
      centre, scale = _normalisation(bpy.context.evaluated_depsgraph_get())
      _set_up(bpy.context.scene, args, scale)
    camera = bpy.context.scene.camera
    for view, pose in enumerate(poses):
      moved = pose.copy()
      # The camera is moved around the object as it is, rather than the object (with whatever rig it has) moved.
      moved[:3, 3] = pose[:3, 3] / scale + centre
      camera.matrix_world = moved.T.tolist()
      with _quiet():
        _render(bpy, folder / 'views' / f'{view:03d}.webp')
    to_unit = np.diag([scale, scale, scale, 1.0])
    to_unit[:3, 3] = -scale * centre
    source_axes = np.eye(4) if path.suffix.lower() == '.fbx' else _Y_UP_TO_Z_UP
    np.savez(folder / 'cameras.npz', camera_to_world=poses, intrinsics=intrinsics, object_to_world=to_unit @ source_axes)
    (folder / 'object.json').write_text(json.dumps({
        'uid': uid, 'file': path.name, 'sha256': hashlib.sha256(path.read_bytes()).hexdigest(), 'engine': 'cycles',
        'samples': args.samples, 'size': args.size, 'fov': args.fov, 'seed': args.seed, 'preset': 'paper',
        'blender': bpy.app.version_string}, indent=2) + '\n')
    folder.rename(out)


def _load(path: Path) -> None:
  import bpy  # pylint: disable=import-outside-toplevel

  bpy.ops.wm.read_factory_settings(use_empty=True)
  load = {'.glb': bpy.ops.import_scene.gltf, '.gltf': bpy.ops.import_scene.gltf, '.obj': bpy.ops.wm.obj_import,
          '.fbx': bpy.ops.import_scene.fbx}[path.suffix.lower()]
  load(filepath=str(path))


def _normalisation(depsgraph) -> tuple[np.ndarray, float]:
  """Returns (centre [3], scale): world = scale * (scene - centre). ValueError where there is nothing to see."""
  clouds = []
  for instance in depsgraph.object_instances:
    if instance.object.type != 'MESH' or not instance.show_self:
      continue
    mesh = instance.object.to_mesh()
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get('co', points)
    matrix = np.array(instance.matrix_world)
    clouds.append(points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
    instance.object.to_mesh_clear()
  points = np.concatenate(clouds) if clouds else np.empty((0, 3))
  if not len(points) or not np.all(np.isfinite(points)):
    raise ValueError('no mesh with finite vertices in it')
  centre = (points.min(0) + points.max(0)) / 2
  radius = np.linalg.norm(points - centre, axis=-1).max()
  if radius <= 0:
    raise ValueError('all its vertices lie in one point')
  return centre.astype(np.float64), float(OBJECT_RADIUS / radius)


def _set_up(scene, args, scale: float) -> None:
  """Cycles, even light, a transparent background, colours as they are, and a camera."""
  import bpy  # pylint: disable=import-outside-toplevel

  for thing in [thing for thing in scene.objects if thing.type in ('LIGHT', 'CAMERA')]:
    bpy.data.objects.remove(thing, do_unlink=True)
  scene.render.engine = 'CYCLES'
  scene.cycles.device = 'CPU'
  scene.cycles.samples = args.samples
  scene.cycles.use_denoising = False
  scene.cycles.use_adaptive_sampling = False
  scene.cycles.seed = args.seed
  scene.cycles.max_bounces = 4
  scene.render.film_transparent = True
  scene.render.use_persistent_data = True
  scene.render.resolution_x = scene.render.resolution_y = args.size
  scene.render.resolution_percentage = 100
  scene.render.image_settings.file_format = 'PNG'
  scene.render.image_settings.color_mode = 'RGBA'
  scene.render.image_settings.color_depth = '8'
  scene.render.image_settings.compression = 0
  if args.threads:
    scene.render.threads_mode, scene.render.threads = 'FIXED', args.threads
  scene.view_settings.view_transform = 'Standard'
  scene.world = bpy.data.worlds.new('even light')
  scene.world.use_nodes = True
  background = scene.world.node_tree.nodes['Background']
  background.inputs['Color'].default_value = (1.0, 1.0, 1.0, 1.0)
  background.inputs['Strength'].default_value = 1.0
  lens = bpy.data.cameras.new('camera')
  lens.sensor_fit, lens.angle = 'HORIZONTAL', np.deg2rad(args.fov)
  lens.clip_start, lens.clip_end = 0.01 / scale, 100.0 / scale
  scene.camera = bpy.data.objects.new('camera', lens)
  scene.collection.objects.link(scene.camera)


def _render(bpy, path: Path) -> None:
  from PIL import Image  # pylint: disable=import-outside-toplevel

  raw = path.with_suffix('.png')
  bpy.context.scene.render.filepath = str(raw)
  bpy.ops.render.render(write_still=True)
  with Image.open(raw) as picture:
    pixels = np.array(picture.convert('RGBA'))
  pixels[pixels[..., 3] == 0] = 0
  Image.fromarray(pixels).save(path, lossless=True, exact=True, method=4)
  raw.unlink()


@contextlib.contextmanager
def _quiet():
  """Blender writes its progress straight to file descriptor 1."""
  sys.stdout.flush()
  kept = os.dup(1)
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 1)
  try:
    yield
  finally:
    os.dup2(kept, 1)
    os.close(kept)


def _has_bpy() -> bool:
  try:
    import bpy  # pylint: disable=import-outside-toplevel,unused-import
  except ImportError:
    return False
  return True


def _run_elsewhere(argv) -> int:
  """Goes on in the Python that has Blender; does not return where there is one."""
  script, python = str(Path(__file__).resolve()), Path(__file__).resolve().parents[1] / '.venv-render/bin/python'
  sys.stdout.flush()
  if python.exists() and Path(sys.prefix).resolve() != python.parents[1].resolve():
    os.execv(python, [str(python), script, *argv])
  blender = shutil.which('blender')
  if blender:
    os.execv(blender, [blender, '--background', '--python-exit-code', '1', '--python', script, '--', *argv])
  print('render: no Blender: run `make render-env`, or pip install bpy (Python 3.13), or put blender on the PATH',
        file=sys.stderr)
  return 2


def _parse(argv):
  if '--' in argv and 'bpy' in sys.modules:  # Started as a script of Blender's.
    argv = argv[argv.index('--') + 1:]
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('objects', nargs='+', help='GLB, glTF, OBJ or FBX files, or folders of them')
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--num_views', type=int, default=32, help='the frontal one among them')
  parser.add_argument('--size', type=int, default=512, help='pixels along a side')
  parser.add_argument('--samples', type=int, default=64, help='rays a pixel')
  parser.add_argument('--fov', type=float, default=50.0, help='full field of view, degrees')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--threads', type=int, default=0, help='0: all')
  args = parser.parse_args(argv)
  for name in ('num_views', 'size', 'samples'):
    if getattr(args, name) < 1:
      parser.error(f'--{name}={getattr(args, name)} must be at least 1')
  if not 1 <= args.fov <= 150:
    parser.error(f'--fov={args.fov} must be between 1 and 150 degrees')
  return args


if __name__ == '__main__':
  sys.exit(main())
