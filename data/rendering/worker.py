"""The process that renders: `worker.py SETTINGS REPLIES`, one object after another, told on standard input.

A line in is {"uid": ..., "file": ..., "out": ...}; a line out, on the file descriptor REPLIES, {"error": ... or null}.
Runs in our Python for the engine raster, in Blender's for Cycles. Whoever started it kills it when it takes too long.
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

# Not the folder of this script, where Python looks first: Blender has modules with names of its own.
sys.path[:] = [str(Path(__file__).resolve().parents[1])] + [x for x in sys.path if Path(x) != Path(__file__).parent]
from rendering import presets, scene  # pylint: disable=wrong-import-position

NUM_SURFACE_POINTS = 4096
DEPTH_RANGE = 8.0  # world units that 65535 stands for


def render_object(engine, path: Path, out: Path, uid: str, settings: dict) -> None:
  """Renders one object into the folder `out`, which appears when all of it is written."""
  if path.suffix.lower() not in engine.kinds:
    raise ValueError(f'--engine={engine.name} does not read {path.suffix}, --engine=cycles does')
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
  pictures = []
  for view, (pose, fov) in enumerate(zip(setup.poses, setup.fovs)):
    # The camera is moved around the object as it is, rather than the object (with whatever rig it has) moved.
    moved = pose.copy()
    moved[:3, 3] = pose[:3, 3] / scale + centre
    pixels = engine.render(moved, float(fov), settings['size'])
    pixels[pixels[..., 3] == 0] = 0
    pictures.append(pixels)
    Image.fromarray(pixels).save(
      folder / f'views/{view:03d}.webp', lossless=True, exact=True, method=settings['method']
    )
    if settings['depth'] or settings['normals']:
      _write_geometry(engine.geometry(moved, float(fov), settings['size']), scale, folder, view, settings)
  scene.check_views(pictures, (vertices - centre) * scale, setup.poses, setup.intrinsics)
  points = scene.surface_points(vertices, triangles, NUM_SURFACE_POINTS, rng) * scale - scale * centre
  np.save(folder / 'surface.npy', points.astype(np.float32))
  source_axes = np.eye(4) if path.suffix.lower() == '.fbx' else scene.Y_UP_TO_Z_UP
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
    there = geometry.distance > 0
    normals = np.round((geometry.normals + 1) * 127.5) * there[..., None]
    Image.fromarray(normals.astype(np.uint8)).save(folder / f'normals/{view:03d}.png')


def make_engine(settings: dict):
  """Returns the engine that the settings name; each is imported where it is asked for."""
  if settings['engine'] == 'raster':
    from rendering.raster import Raster  # pylint: disable=import-outside-toplevel

    return Raster()
  from rendering.blender import Cycles  # pylint: disable=import-outside-toplevel

  return Cycles(samples=settings['samples'], threads=settings['threads'], seed=settings['seed'])


def main() -> None:
  arguments = sys.argv[sys.argv.index('--') + 1 :] if '--' in sys.argv else sys.argv[1:]
  settings, replies = json.loads(arguments[0]), os.fdopen(int(arguments[1]), 'w')

  def reply(error):
    return print(json.dumps({'error': error}), file=replies, flush=True)

  try:
    engine = make_engine(settings)
  except (ImportError, ValueError) as error:
    return reply(f'the engine cannot be started: {error}')
  reply(None)
  for line in sys.stdin:
    work = json.loads(line)
    try:
      render_object(engine, Path(work['file']), Path(work['out']), work['uid'], settings)
      reply(None)
    except Exception as error:  # One bad object, of whatever kind, must not end the work on the others.
      if not isinstance(error, (ValueError, RuntimeError, OSError)):
        traceback.print_exc()
      reply(' '.join(str(error).split()) or type(error).__name__)


if __name__ == '__main__':
  main()
