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
from lrm_jax.geometry import image_files
from lrm_jax.reconstruction import glb, video
from lrm_jax.reconstruction.preprocess import Prepared
from lrm_jax.reconstruction.reconstructor import Reconstructor, from_pretrained
from lrm_jax.weights import pretrained

_ENDS = ('', '_depth', '_planes')  # of the names of the files that are written for an image


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
  """Returns a name for the outputs of each image: the stem of its file, numbered if a file would be written twice.

  The outputs of cat.png include cat_depth.mp4, so those of cat_depth.png get a number. Case makes no difference,
  because some file systems ignore it.
  """
  names: list[str] = []
  taken: set[str] = set()
  for path in paths:
    name, number = path.stem, 2
    while taken & (files := {f'{name}{end}'.casefold() for end in _ENDS}):
      name, number = f'{path.stem}_{number}', number + 1
    names.append(name)
    taken |= files
  return names


def prepare_all(model: Reconstructor, paths: list[Path], **options) -> tuple[dict[int, Prepared], dict[int, str]]:
  """Returns ({number of the image: prepared image}, {number of the image: why it cannot be used})."""
  prepared, problems = {}, {}
  for number, path in enumerate(paths):
    try:
      prepared[number] = model.prepare(path, **options)
    except InputError as error:
      problems[number] = str(error)
  return prepared, problems


def main() -> int | None:
  parser = argparse.ArgumentParser(prog='lrm_jax.reconstruct', description=__doc__.splitlines()[0])
  parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='PNG, JPEG, WebP, ...')
  parser.add_argument('--checkpoint', default='quickstart', help=pretrained.HELP)
  parser.add_argument('--out', type=Path, default=Path('out'), help='directory for the results (default: out)')
  parser.add_argument(
    '--remove_background', action='store_true', help='cut the object out of an image without transparency'
  )
  parser.add_argument(
    '--max_pixels',
    type=int,
    default=image_files.MAX_PIXELS,
    help=f'largest number of pixels of an image (default: {image_files.MAX_PIXELS})',
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
  for name in ('size', 'num_frames', 'max_pixels'):
    if getattr(args, name) < 1:
      raise InputError(f'--{name}={getattr(args, name)} must be at least 1')
  phases = Phases()
  phases.done('imports')
  enable_compilation_cache()
  model = from_pretrained(args.checkpoint)
  phases.done('weights')
  # Read all images before the first reconstruction, so that a bad one is reported at once.
  prepared, problems = prepare_all(
    model, args.images, remove_background=args.remove_background, max_pixels=args.max_pixels
  )
  if len(args.images) > 1:
    for problem in problems.values():
      print(f'skipped: {problem}', file=sys.stderr)
  for number, name in enumerate(names_of(args.images)):
    if number in problems:
      continue
    path, image = args.images[number], prepared[number]
    for note in image.notes:
      print(f'note: {note}', file=sys.stderr)
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
      problems[number] = f'{path}: {error}'
  if len(problems) < len(args.images):
    print(phases, file=sys.stderr)
  for _, problem in sorted(problems.items()):
    print(f'error: {problem}', file=sys.stderr)
  if problems and len(args.images) > 1:
    print(f'{len(problems)} of {len(args.images)} images could not be reconstructed', file=sys.stderr)
  return 2 if problems else None


if __name__ == '__main__':
  run_main(main)
