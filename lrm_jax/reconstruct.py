"""Reconstructs objects from images: python -m lrm_jax.reconstruct IMAGE... [--checkpoint=quickstart] [--out=out]

Writes for each image NAME: OUT/NAME.glb (mesh with vertex colours), OUT/NAME.mp4 (turntable), OUT/NAME_depth.mp4 and
OUT/NAME_planes.npz (the triplane, for further use: planes [3, P, P, C]).
"""

import argparse
import os
from pathlib import Path
import sys
import tempfile

import jax
import numpy as np
from tqdm import tqdm

from lrm_jax.command_line import Phases, enable_compilation_cache, run_main
from lrm_jax.errors import InputError
from lrm_jax.reconstruction import glb, video
from lrm_jax.reconstruction.reconstructor import Reconstructor, from_pretrained
from lrm_jax.weights import pretrained


def reconstruct(
  model: Reconstructor,
  image: np.ndarray,
  out: Path,
  name: str,
  *,
  resolution: int = 128,
  threshold: float | None = None,
  dense: bool = False,
  size: int = 128,
  num_frames: int = 48,
  phases: Phases | None = None,
) -> dict[str, Path]:
  """Writes mesh, videos and planes of an image [S, S, 3] in 0..1 to `out`; returns {kind: file}.

  Either all files are written or none. `resolution` is that of the mesh in grid points, `size` that of the videos in
  pixels. The time of each phase is added to `phases`. Raises InputError if there is no surface.
  """
  done = phases.done if phases else lambda name: None
  planes = jax.block_until_ready(model.encode(image[None]))
  done('image to planes')
  mesh = model.mesh(planes, resolution=resolution, threshold=threshold, dense=dense)[0]
  done('mesh')
  with tqdm(total=num_frames, desc='turntable', unit='frame', leave=False, disable=not sys.stderr.isatty()) as bar:
    pixels = model.render(planes, *model.turntable(num_frames), size, skip=True, progress=bar.update)
  done('turntable')
  files = {'mesh': f'{name}.glb', 'video': f'{name}.mp4', 'depth': f'{name}_depth.mp4', 'planes': f'{name}_planes.npz'}
  out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{name}.', dir=out) as folder:
    fresh = {kind: Path(folder) / file for kind, file in files.items()}
    glb.write(mesh, fresh['mesh'], model.input_position)
    video.write_video(pixels.color[0], fresh['video'])
    distance = float(np.linalg.norm(model.input_position))
    video.write_video(video.depth_frames(pixels.depth[0], pixels.opacity[0], distance), fresh['depth'])
    np.savez_compressed(fresh['planes'], planes=np.asarray(planes[0]))
    for kind, path in fresh.items():
      os.replace(path, out / files[kind])
  done('files')
  return {kind: out / file for kind, file in files.items()}


def names_of(paths: list[Path]) -> list[str]:
  """Returns a unique name for the outputs of each image: the stem of its file, numbered if it repeats."""
  names = []
  for path in paths:
    name, number = path.stem, 2
    while name in names:
      name, number = f'{path.stem}_{number}', number + 1
    names.append(name)
  return names


def main() -> int | None:
  parser = argparse.ArgumentParser(prog='lrm_jax.reconstruct', description=__doc__.splitlines()[0])
  parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='PNG, JPEG, WebP, ...')
  parser.add_argument('--checkpoint', default='quickstart', help=pretrained.HELP)
  parser.add_argument('--out', type=Path, default=Path('out'), help='directory for the results (default: out)')
  parser.add_argument(
    '--remove_background', action='store_true', help='cut the object out of an image without transparency'
  )
  parser.add_argument(
    '--resolution', type=int, default=128, help='grid points along a side for the mesh (default: 128)'
  )
  parser.add_argument(
    '--threshold', type=float, help='density of the surface, per world unit (default: matches the outline)'
  )
  parser.add_argument('--dense', action='store_true', help='evaluate all grid points: many times slower')
  parser.add_argument('--size', type=int, default=128, help='pixels along a side of the video (default: 128)')
  parser.add_argument('--num_frames', type=int, default=48, help='frames of the turntable (default: 48)')
  args = parser.parse_args()
  for name in ('size', 'num_frames'):
    if getattr(args, name) < 1:
      raise InputError(f'--{name}={getattr(args, name)} must be at least 1')
  phases = Phases()
  phases.done('imports')
  enable_compilation_cache()
  model = from_pretrained(args.checkpoint)
  phases.done('weights')
  # Read all images before the first reconstruction, so that a bad one is reported at once.
  prepared = [model.prepare(path, remove_background=args.remove_background) for path in args.images]
  failed = 0
  for path, name, image in zip(args.images, names_of(args.images), prepared):
    if not image.has_mask:
      print(
        f'{path} has no transparency, so the whole image is used; --remove_background cuts the object out',
        file=sys.stderr,
      )
    try:
      files = reconstruct(
        model,
        image.image,
        args.out,
        name,
        resolution=args.resolution,
        threshold=args.threshold,
        dense=args.dense,
        size=args.size,
        num_frames=args.num_frames,
        phases=phases,
      )
      print(f'{path}: ' + ', '.join(map(str, files.values())))
    except InputError as error:
      failed += 1
      print(f'error: {path}: {error}', file=sys.stderr)
  if failed < len(args.images):
    print(phases, file=sys.stderr)
  return 2 if failed else None


if __name__ == '__main__':
  run_main(main)
