"""The worker process, `worker.py SETTINGS REPLIES`, which renders one object after another (see pool.py).

Each line of standard input is a request {"uid": ..., "file": ..., "out": ...}. Each reply is a line {"error": ...} on
the file descriptor REPLIES, with null if the object was rendered; a first reply says whether the engine started.
Runs in the Python of lrm_jax for the engine raster, and in Blender's Python for Cycles. The parent process kills the
worker if it takes too long.
"""

import hashlib
import json
import os
from pathlib import Path
import sys
import traceback
import zlib

import numpy as np
from PIL import Image

# Python puts the folder of this script first on the path. Replace it by its parent, so that blender.py and others here
# do not shadow Blender's own modules; and by the folder of lrm_jax, which is not installed in Blender's Python (two
# levels up in a checkout, three in site-packages).
_HERE = Path(__file__).resolve()
_ROOT = next(folder for folder in _HERE.parents[2:] if (folder / 'lrm_jax/geometry/cameras.py').is_file())
sys.path[:] = [str(_HERE.parents[1]), str(_ROOT), *(x for x in sys.path if Path(x) != Path(__file__).parent)]
from rendering import presets, scene  # noqa: E402

NUM_SURFACE_POINTS = 4096
DEPTH_RANGE = 8.0  # distance in world units that is stored as 65535


def render_object(engine, path: Path, out: Path, uid: str, settings: dict) -> None:
  """Renders one object into the folder `out`, which appears only when it is complete.

  `settings` is the dict of render.py. Raises ValueError if the object cannot be used, and whatever its loader raises.
  """
  if path.suffix.lower() not in engine.kinds:
    raise ValueError(f'--engine={engine.name} does not support {path.suffix}: use --engine=cycles')
  rng = np.random.default_rng([settings['seed'], zlib.crc32(uid.encode())])
  setup = presets.make(settings['preset'], settings['num_views'], settings['fov'], rng)
  folder = out.parent / f'.{uid}.{os.getpid()}.partial'
  for name in ['views'] + [kind for kind in ('depth', 'normals') if settings[kind]]:
    (folder / name).mkdir(parents=True)
  vertices, triangles = engine.load(path)
  centre, scale = scene.normalisation(vertices)
  engine.light(setup.light)
  to_world = np.diag([scale, scale, scale, 1.0])
  to_world[:3, 3] = -scale * centre
  views = []
  for view, (pose, fov) in enumerate(zip(setup.poses, setup.fovs)):
    # Transform the camera instead of the object, which may have a rig.
    scene_pose = pose.copy()
    scene_pose[:3, 3] = pose[:3, 3] / scale + centre
    pixels = engine.render(scene_pose, float(fov), settings['size'])
    pixels[pixels[..., 3] == 0] = 0
    views.append(pixels)
    Image.fromarray(pixels).save(
      folder / f'views/{view:03d}.webp', lossless=True, exact=True, method=settings['method']
    )
    if settings['depth'] or settings['normals']:
      _write_geometry(engine.geometry(scene_pose, float(fov), settings['size']), scale, folder, view, settings)
  scene.check_views(views, (vertices - centre) * scale, setup.poses, setup.intrinsics)
  points = scene.surface_points(vertices, triangles, NUM_SURFACE_POINTS, rng) * scale - scale * centre
  np.save(folder / 'surface.npy', points.astype(np.float32))
  source_axes = np.eye(4) if path.suffix.lower() in engine.z_up else scene.Y_UP_TO_Z_UP
  np.savez(
    folder / 'cameras.npz',
    camera_to_world=setup.poses,
    intrinsics=setup.intrinsics,
    object_to_world=to_world @ source_axes,
  )
  (folder / 'object.json').write_text(
    json.dumps(
      {
        'uid': uid,
        'file': path.name,
        'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
        'engine': engine.name,
        'preset': settings['preset'],
        'size': settings['size'],
        'seed': settings['seed'],
        'fov': sorted(set(np.round(setup.fovs, 4).tolist())),
        'ambient': setup.light.ambient,
        'suns': setup.light.suns,
        **engine.describe(),
      },
      indent=2,
    )
    + '\n'
  )
  folder.rename(out)


def _write_geometry(geometry, scale, folder, view, settings) -> None:
  if settings['depth']:
    steps = np.round(geometry.distance * (scale / DEPTH_RANGE) * 65535)
    Image.fromarray(np.clip(steps, 0, 65535).astype(np.uint16)).save(folder / f'depth/{view:03d}.png')
  if settings['normals']:
    hit = geometry.distance > 0
    normals = np.round((geometry.normals + 1) * 127.5) * hit[..., None]
    Image.fromarray(normals.astype(np.uint8)).save(folder / f'normals/{view:03d}.png')


def make_engine(settings: dict):
  """Returns the engine of the settings; imports only that one, because each has its own dependencies."""
  if settings['engine'] == 'raster':
    from rendering.raster import Raster

    return Raster()
  from rendering.blender import Cycles

  return Cycles(samples=settings['samples'], threads=settings['threads'], seed=settings['seed'])


def main(make_engine=make_engine, render_object=render_object) -> None:
  """Serves requests with the given functions, until standard input ends."""
  arguments = sys.argv[sys.argv.index('--') + 1 :] if '--' in sys.argv else sys.argv[1:]
  settings, replies = json.loads(arguments[0]), os.fdopen(int(arguments[1]), 'w')

  def reply(error):
    print(json.dumps({'error': error}), file=replies, flush=True)

  try:
    engine = make_engine(settings)
  except (ImportError, ValueError) as error:
    reply(f'the engine cannot be started: {error}')
    return
  reply(None)
  for line in sys.stdin:
    work = json.loads(line)
    try:
      render_object(engine, Path(work['file']), Path(work['out']), work['uid'], settings)
      reply(None)
    except Exception as error:  # Loaders raise all kinds of errors; a bad object must not stop the others.
      if not isinstance(error, (ValueError, RuntimeError, OSError)):
        traceback.print_exc()
      reply(' '.join(str(error).split()) or type(error).__name__)


if __name__ == '__main__':
  main()
