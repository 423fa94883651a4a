# PYTHON_ARGCOMPLETE_OK
"""Reconstructs objects from images: python -m lrm_jax.reconstruct IMAGE... [--checkpoint=demo] [--out=out]
Or one object from several views: python -m lrm_jax.reconstruct --views FRONT RIGHT BACK [--cameras=FILE]

Writes for each image NAME: OUT/NAME.glb (the mesh, see docs/meshes.md), OUT/NAME.mp4 (turntable), OUT/NAME_depth.mp4,
OUT/NAME_input.png (what the network saw) and OUT/NAME_planes.npz (the triplane, for further use: planes [3, P, P, C]).
"""

import argparse
from collections.abc import Callable, Sequence
import functools
from pathlib import Path
import sys

import jax
from jax import Array
import numpy as np
from tqdm import tqdm

from lrm_jax.command_line import Phases, enable_compilation_cache, run_main
from lrm_jax.errors import InputError
from lrm_jax.geometry import image_files
from lrm_jax.reconstruction import camera_fit, cleanup, inputs, masks, mesh_files, segmenters, several_views, texture
from lrm_jax.reconstruction.preprocess import Prepared
from lrm_jax.reconstruction.reconstructor import Reconstructor, from_pretrained
from lrm_jax.reconstruction.result import Reconstruction
from lrm_jax.weights import pretrained

_ENDS = ('', '_depth', '_input', '_planes', '_texture')  # of the names of the files that are written for an image


def reconstruct(
  model: Reconstructor,
  image: np.ndarray,
  out: Path,
  name: str,
  *,
  planes: Array | None = None,
  formats: Sequence[str] = ('glb',),
  size: int = 128,
  num_frames: int = 48,
  elevation: float = 0.0,
  phases: Phases | None = None,
  log: Callable[[str], object] = lambda text: None,
  **mesh_options,
) -> dict[str, Path]:
  """Writes mesh, videos and planes of an image [S, S, 3] in 0..1 to `out`; returns {kind: file}.

  Either all files are written or none. `planes` [3, P, P, C] are those of the image if they are known. `size` is that
  of the videos in pixels, `elevation` is that of the camera in degrees, `mesh_options` are those of Reconstructor.mesh,
  such as `resolution`. The time of each phase is added to `phases`, and `log` is called with the numbers of the mesh.
  Raises InputError if there is no surface.
  """
  done = phases.done if phases else lambda name: None
  planes = model.encode(image[None])[0] if planes is None else planes
  result = Reconstruction(model, jax.block_until_ready(planes), image, name=name, elevation=elevation)
  done('image to planes')
  mesh = result.mesh(done=done, **mesh_options)
  log(f'{mesh.metadata["report"]}, threshold {mesh.metadata["threshold"]:.3g}')
  with tqdm(total=num_frames, desc='turntable', unit='frame', leave=False, disable=not sys.stderr.isatty()) as bar:
    return result.save(
      out, formats=formats, mesh=mesh, size=size, num_frames=num_frames, done=done, progress=bar.update
    )


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


def prepare_all(
  model: Reconstructor, paths: list[Path], outlines: Sequence[Path] | None = None, **options
) -> tuple[dict[int, Prepared], dict[int, str]]:
  """Returns ({number of the image: prepared image}, {number of the image: why it cannot be used}).

  `outlines` are the files of their masks.
  """
  prepared, problems = {}, {}
  for number, path in enumerate(paths):
    try:
      prepared[number] = model.prepare(path, mask=outlines[number] if outlines else None, **options)
    except InputError as error:
      problems[number] = str(error)
  return prepared, problems


def _number(name: str, text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise InputError(f"--{name}={text}: use a number or 'auto'") from None


def parse() -> argparse.Namespace:
  """Returns the arguments of the command line; InputError if one is out of range."""
  parser = argparse.ArgumentParser(prog='lrm_jax.reconstruct', description=__doc__.splitlines()[0])
  group = parser.add_argument_group('images')
  group.add_argument(
    'images', nargs='*', type=Path, metavar='IMAGE', help='PNG, JPEG, WebP, ..., a folder, or a quoted pattern'
  )
  group.add_argument(
    '--views', nargs='+', type=Path, metavar='IMAGE', help='several views of one object, for a model that takes them'
  )
  group.add_argument(
    '--layout', help=f'sides that the views show, with commas (default: {",".join(several_views.LAYOUT)})'
  )
  group.add_argument('--cameras', type=Path, help='JSON file with the cameras of the views (docs/input_views.md)')
  group = parser.add_argument_group('the camera of a photograph')
  group.add_argument(
    '--camera',
    default='default',
    help='of a photograph: exif takes its field of view from the file, search tries a few (docs/camera.md)',
  )
  group.add_argument('--fov', type=float, help='field of view of a photograph, degrees along its longer side')
  group.add_argument(
    '--elevation', type=float, default=0.0, help='degrees by which the camera looks down on the object (default: 0)'
  )
  group = parser.add_argument_group('model and results')
  group.add_argument('--checkpoint', default='demo', help=pretrained.HELP)
  group.add_argument('--out', type=Path, default=Path('out'), help='directory for the results (default: out)')
  group = parser.add_argument_group('reading images')
  group.add_argument(
    '--remove_background', action='store_true', help='cut the object out of an image without transparency'
  )
  group.add_argument('--segmenter', help=f'{segmenters.HELP}; implies --remove_background (default: grabcut)')
  group.add_argument(
    '--mask', type=Path, help="outline of the object: an image file, or a folder with one of each image's name"
  )
  group.add_argument(
    '--max_pixels',
    type=int,
    default=image_files.MAX_PIXELS,
    help=f'largest number of pixels of an image (default: {image_files.MAX_PIXELS})',
  )
  group = parser.add_argument_group('mesh')
  group.add_argument('--resolution', type=int, default=128, help='grid points along a side for the mesh (default: 128)')
  group.add_argument(
    '--threshold',
    help='density of the surface, per world unit, or auto: matches outline and depth of the rendered volume (default: '
    'that of the imported model, otherwise auto)',
  )
  group.add_argument(
    '--keep',
    default=str(cleanup.KEEP),
    help=f'parts of the mesh: largest, all, or at least this share of the largest one (default: {cleanup.KEEP})',
  )
  group.add_argument('--faces', type=int, help='greatest number of triangles (default: all; textured: 10000)')
  group.add_argument(
    '--texture', type=int, metavar='SIZE', help='a texture of so many pixels along a side, in place of vertex colours'
  )
  group.add_argument(
    '--formats', default='glb', help=f'of the mesh, with commas: {", ".join(mesh_files.FORMATS)} (default: glb)'
  )
  group = parser.add_argument_group('speed')
  group.add_argument(
    '--batch_size', type=int, help='images that are encoded at once (default: 1 on a CPU, otherwise 8)'
  )
  group.add_argument('--dense', action='store_true', help='evaluate all grid points: many times slower')
  group = parser.add_argument_group('video')
  group.add_argument('--size', type=int, default=128, help='pixels along a side of the video (default: 128)')
  group.add_argument('--num_frames', type=int, default=48, help='frames of the turntable (default: 48)')
  args = parser.parse_args()
  if bool(args.images) == bool(args.views):
    raise InputError('give either images, one per object, or --views with the views of one object')
  if not args.views and (args.layout or args.cameras):
    raise InputError('--layout and --cameras are those of --views: give the images there')
  if args.views and args.batch_size is not None:
    raise InputError(f'--batch_size={args.batch_size} is for images of several objects, and --views are those of one')
  if args.mask and (args.views or args.segmenter or args.remove_background):
    raise InputError(f'--mask={args.mask} replaces --segmenter and --remove_background, and is not for --views')
  camera_fit.check(args.camera, args.fov)
  if not -89 <= args.elevation <= 89:
    raise InputError(f'--elevation={args.elevation:g} must be between -89 and 89 degrees')
  if args.views and (args.camera != 'default' or args.fov is not None or args.elevation):
    raise InputError('--camera, --fov and --elevation are for single images: --views has --cameras')
  if args.layout and args.cameras:
    raise InputError('give either --layout or --cameras')
  for name in ('size', 'num_frames', 'max_pixels', 'batch_size'):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise InputError(f'--{name}={getattr(args, name)} must be at least 1')
  args.images = inputs.find_images(args.images)
  args.formats, args.keep = mesh_files.parse_formats(args.formats), cleanup.parse_keep(args.keep)
  if args.threshold not in (None, 'auto'):
    args.threshold = _number('threshold', args.threshold)
  if args.texture is not None:
    texture.check(args.texture)
  return args


def options_of(args: argparse.Namespace) -> dict:
  """Returns the options of `reconstruct` that the command line gives."""
  names = ('resolution', 'threshold', 'dense', 'keep', 'faces', 'formats', 'size', 'num_frames', 'elevation')
  return {name: getattr(args, name) for name in names} | {'texture_size': args.texture}


def main() -> int | None:
  args = parse()
  phases = Phases()
  phases.done('imports')
  enable_compilation_cache()
  model = from_pretrained(args.checkpoint)
  phases.done('weights')
  if not args.views:
    return _all_images(model, args, phases)
  _one_object(model, args, phases)
  return None


def _one_object(model: Reconstructor, args: argparse.Namespace, phases: Phases) -> None:
  """Reconstructs one object from several views."""
  count = len(args.views)
  poses, intrinsics = (
    several_views.read_cameras(args.cameras, count, model.intrinsics) if args.cameras else (None, None)
  )
  result = model.reconstruct_views(
    args.views,
    poses,
    intrinsics,
    layout=args.layout,
    remove_background=args.remove_background,
    segmenter=args.segmenter,
    max_pixels=args.max_pixels,
  )
  assert result.image is not None  # It is that of the first view.
  log = functools.partial(print, f'{count} views:')
  files = reconstruct(
    model,
    result.image,
    args.out,
    result.name,
    planes=jax.numpy.asarray(result.planes),
    phases=phases,
    log=log,
    **options_of(args),
  )
  print(f'{count} views: ' + ', '.join(map(str, files.values())))
  print(phases, file=sys.stderr)


def _all_images(model: Reconstructor, args: argparse.Namespace, phases: Phases) -> int | None:
  """Reconstructs the object in each image; returns the exit code."""
  # Read all images before the first reconstruction, so that a bad one is reported at once.
  prepared, problems = prepare_all(
    model,
    args.images,
    masks.find(args.mask, args.images) if args.mask else None,
    remove_background=args.remove_background,
    segmenter=segmenters.load(args.segmenter) if args.segmenter else None,
    camera=args.camera,
    fov=args.fov,
    max_pixels=args.max_pixels,
  )
  if len(args.images) > 1:
    for problem in problems.values():
      print(f'skipped: {problem}', file=sys.stderr)
  names = names_of(args.images)
  encoded = model.encode_each([image.image for image in prepared.values()], args.batch_size)
  for (number, image), planes in zip(prepared.items(), encoded):
    path, name = args.images[number], names[number]
    for note in image.notes:
      print(f'note: {note}', file=sys.stderr)
    if image.doubt is not None:
      print(f'{path}: cut out by GrabCut; a second start changes {image.doubt:.0%} of the object', file=sys.stderr)
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
        planes=planes,
        phases=phases,
        log=functools.partial(print, f'{path}:'),
        **options_of(args),
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
