# PYTHON_ARGCOMPLETE_OK
"""Evaluates a model on held-out objects, beside baselines that learn nothing; scores other systems; compares results.

  python -m lrm_jax.evaluate [--checkpoint=demo] [--data=DIR] [--protocol=NAME] [--out=DIR]
  python -m lrm_jax.evaluate --predictions=DIR ...     # rendered views or meshes of any other system
  python -m lrm_jax.evaluate --compare A B             # differences of two results, paired by object

Protocols: novel-views (view 0 is the input, all others are novel), lrm (each of several input views in turn),
several-views (--num_input_views at once), geometry and geometry-triposr, -sf3d, -spar3d, -meshlrm (surfaces), full (all
that the data allow). docs/evaluation.md defines them. --out writes results.json, results.md and report.html; if it is
stopped, the same command continues.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from lrm_jax.command_line import enable_compilation_cache, run_main
from lrm_jax.datasets.records import open_split, uid
from lrm_jax.datasets.views import HeldOut, ViewRules
from lrm_jax.distributed import sharding
from lrm_jax.errors import InputError
from lrm_jax.evaluation import baselines, geometry_runs, novel_views, report, results, surfaces, view_protocols
from lrm_jax.evaluation.finished import Finished
from lrm_jax.evaluation.geometry_protocols import PROTOCOLS
from lrm_jax.evaluation.results import Section
from lrm_jax.reconstruction.reconstructor import Reconstructor, from_pretrained
from lrm_jax.storage import paths
from lrm_jax.weights import pretrained
from lrm_jax.weights.clip import load_clip
from lrm_jax.weights.vgg import load_lpips

_NAMES = (*view_protocols.VERSIONS, *PROTOCOLS)
_NETWORKS = {'lpips': 'lpips_network', 'clip_similarity': 'clip'}  # metric -> option
# Options that change values, besides those that name files.
_OPTIONS = (
  'size',
  'input_views',
  'num_input_views',
  'keep_distance',
  'resolution',
  'predictions_frame',
  'no_baselines',
  'nearest_surface',
  'train_split',
  'baseline_views',
  'baseline_objects',
)


def table(rows: dict[str, dict[str, float]]) -> str:
  """Returns a text table with a row per predictor and a column per metric."""
  columns = list(dict.fromkeys(name for values in rows.values() for name in values))
  widths = [max(10, len(name) + 2) for name in columns]
  lines = [f'{"":24}' + ''.join(f'{name:>{width}}' for name, width in zip(columns, widths))]
  for name, values in rows.items():
    cells = (f'{values[c]:{w}.3f}' if values.get(c) is not None else f'{"-":>{w}}' for c, w in zip(columns, widths))
    lines.append(f'{name:24}' + ''.join(cells))
  return '\n'.join(lines)


def main() -> None:
  args = _parse()
  if args.compare:
    _compare(args.compare[0], args.compare[1], args.out)
    return
  enable_compilation_cache()
  reconstructor = None if args.predictions else from_pretrained(args.checkpoint)
  networks: dict = {'lpips': load_lpips(args.lpips_network)} if args.lpips_network else {}
  if args.clip:
    networks['clip_similarity'] = load_clip(args.clip)
  rules = ViewRules(image_size=args.size, size=args.size, keep_distance=args.keep_distance)
  if reconstructor is not None:
    rules = ViewRules(
      image_size=reconstructor.image_size,
      size=args.size,
      input_background=reconstructor.input_background,
      input_position=reconstructor.input_position,
      keep_distance=args.keep_distance,
    )
  held_out = HeldOut(args.data, args.split, rules, _indices(args))
  if args.protocol == 'several-views':
    held_out = _several_views(args, held_out, reconstructor)
  protocols = _protocols(args, held_out)
  nearest = functools.cache(
    lambda: baselines.Nearest(args.data, args.train_split, rules, num_objects=args.baseline_objects)
  )
  mesh = sharding.make_mesh()
  about = _about(args, held_out, reconstructor, networks)
  finished = Finished(args.out, _settings(args, about, held_out, protocols, networks), restart=args.restart)
  if finished.count:
    print(f'{args.out}: continues after {finished.count} finished objects')
  with jax.set_mesh(mesh):  # Shards the objects over all devices of this machine.
    replicated = sharding.replicated(mesh)
    placed = {name: jax.device_put(network, replicated) for name, network in networks.items()}
    model = None if reconstructor is None else jax.device_put(reconstructor.model, replicated)
    sections = _evaluate_views(args, held_out, protocols, nearest, model, placed, finished)
  sections += _evaluate_surfaces(args, held_out, protocols, nearest, reconstructor, finished)
  _print(about, sections)
  if args.out:
    document = results.write(args.out, about, sections)
    report.write(args.out / 'report.html', document, held_out, _renders(args, held_out, reconstructor))
    finished.remove()
    print(f'{args.out}: results.json, results.md, report.html')


def _several_views(args, held_out: HeldOut, reconstructor: Reconstructor | None) -> HeldOut:
  """Returns the objects with several input views."""
  if reconstructor is None:
    raise InputError('--protocol=several-views needs a model: predictions are made from view 0 alone')
  if args.num_input_views > reconstructor.num_input_views:
    raise InputError(
      f'--num_input_views={args.num_input_views}: this model takes 1 to {reconstructor.num_input_views} input views'
    )
  return view_protocols.several_views(held_out, args.num_input_views)


def _evaluate_views(
  args, held_out: HeldOut, protocols: Sequence[str], nearest, model, networks, finished: Finished
) -> list[Section]:
  """Returns the sections of the protocols that compare views."""
  names = [name for name in protocols if name in view_protocols.VERSIONS]
  if not names:
    return []
  if args.predictions:
    systems = {'predictions': view_protocols.folder_system(held_out, args.predictions, networks, finished)}
  else:

    def scores(number):
      name = f'model, input view {number}'
      batches = novel_views.Batches(held_out, input_view=number, progress=_progress(name))
      return novel_views.evaluate_model(batches, model, networks, finished.part(name))[0]

    systems = {'model': scores}
  settings: dict = {}
  if not args.no_baselines:
    mean_view = baselines.mean_training_view(args.data, args.train_split, args.size, num_views=args.baseline_views)
    systems |= view_protocols.trivial_systems(held_out, mean_view, nearest(), networks, finished)
    settings['baselines'] = (
      f'mean view of {args.baseline_views} views and nearest object among {args.baseline_objects} objects, at most, of '
      f'the split {args.train_split}; seed 0'
    )
  inputs = {'novel-views': [0], 'lrm': args.input_views, 'several-views': [0]}
  return [view_protocols.section(name, held_out, inputs[name], systems, settings) for name in names]


def _evaluate_surfaces(
  args, held_out: HeldOut, protocols: Sequence[str], nearest, reconstructor: Reconstructor | None, finished: Finished
) -> list[Section]:
  """Returns the sections of the protocols that compare surfaces."""
  chosen = [PROTOCOLS[name] for name in protocols if name in PROTOCOLS]
  if not chosen:
    return []
  if reconstructor is None:
    systems = {'predictions': geometry_runs.folder_system(held_out, args.predictions, args.predictions_frame)}
  else:
    systems = {'model': _model_surface(reconstructor, held_out, args.resolution)}
  if not args.no_baselines and args.nearest_surface:
    systems['nearest_training_object'] = geometry_runs.nearest_system(held_out, nearest(), args.meshes)
  return geometry_runs.run(
    chosen,
    held_out,
    systems,
    args.meshes,
    baselines=not args.no_baselines,
    progress=_progress('surfaces'),
    finished=finished.part('surfaces'),
  )


def _model_surface(reconstructor: Reconstructor, held_out: HeldOut, resolution: int) -> geometry_runs.System:
  """Returns the meshes of a model, in the world of the dataset."""

  def surface(place):
    views = held_out.load([place])
    planes = reconstructor.encode(views['image'], views['camera_to_world'][:, 0], views['intrinsics'][:, 0])
    try:
      mesh = reconstructor.mesh(planes, resolution=resolution)[0]
    except InputError as error:
      raise geometry_runs.NoSurfaceError(f'{held_out.uids[place]}: {error}') from error
    return surfaces.of_mesh(mesh).transformed(np.linalg.inv(held_out.similarity(place)))

  return surface


def _renders(args, held_out: HeldOut, reconstructor: Reconstructor | None) -> report.Renders:
  """Returns the function that predicts all views of one object for the report: (views, place) -> colours, depth."""

  def renders(views: Mapping, place: int) -> report.Rendered | None:
    if reconstructor is not None:
      pixels = novel_views.predict(reconstructor.model, views)
      return report.Rendered(*(np.asarray(x)[0] for x in (pixels.color, pixels.depth, pixels.opacity)))
    return report.from_folder(args.predictions / held_out.uids[place], views, held_out.rules)

  return renders


def _indices(args) -> Sequence[int] | None:
  """Returns the indices of the objects to evaluate: those of --uids, the first --objects of them; None: all."""
  if not args.uids:
    return None if args.objects is None else range(args.objects)
  lines = args.uids.read_text().splitlines() if args.uids.is_file() else str(args.uids).split(',')
  wanted = [line.split('#')[0].strip() for line in lines]
  wanted = [name for name in wanted if name]
  records = open_split(args.data, args.split)
  found = {uid(records[i]): i for i in range(len(records))}
  if missing := [name for name in wanted if name not in found]:
    raise InputError(
      f'--uids: {len(missing)} objects are not in the split {args.split!r} of {args.data}: {", ".join(missing[:5])}'
    )
  return [found[name] for name in wanted][: args.objects]


def _protocols(args, held_out: HeldOut) -> list[str]:
  """Returns the names of the protocols to run. With `full`, those that the data and the predictions allow."""
  if args.protocol != 'full':
    return [args.protocol]
  has_points = bool(len(held_out.record(0).get('surface_points', ())))
  names = ['novel-views'] + ([] if args.predictions else ['lrm'])
  names += [n for n, p in PROTOCOLS.items() if args.meshes is not None or (has_points and not p.needs_mesh)]
  if args.predictions:
    folder = args.predictions / held_out.uids[0]
    has_views = folder.is_dir() and any(folder.glob('[0-9][0-9][0-9].*'))
    names = [name for name in names if name in PROTOCOLS or has_views]
  return names


def _about(args, held_out: HeldOut, reconstructor: Reconstructor | None, networks: Mapping) -> dict:
  """Returns what the results say of the system, the objects and the networks."""
  about = {
    'system': str(args.predictions or args.checkpoint),
    'hash': _hash(args, reconstructor),
    'data': args.data,
    'split': args.split,
    'objects': f'{len(held_out)}' + (f', chosen by {args.uids}' if args.uids else ''),
  }
  collection = paths.dataset(args.data) / 'collection.json'
  if collection.is_file():  # Of data/scans.py: the list of objects with its SHA-256, and how they were rendered.
    about['collection'] = json.loads(collection.read_text())
  for name, option in _NETWORKS.items():
    if name in networks:
      about[option] = networks[name].source
  return about


def _settings(args, about: Mapping, held_out: HeldOut, protocols: Sequence[str], networks: Mapping) -> dict:
  """Returns everything that the values of objects depend on."""
  return {
    **about,
    'data': str(paths.dataset(args.data)),
    'uids': hashlib.sha256('\n'.join(held_out.uids).encode()).hexdigest(),
    'protocols': {n: view_protocols.VERSIONS.get(n) or PROTOCOLS[n].version for n in protocols},
    'networks': {name: results.hash_of_arrays(dict(enumerate(jax.tree.leaves(x)))) for name, x in networks.items()},
    # Sums on other devices differ in the last bits.
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'versions': results.versions(),
    **{name: getattr(args, name) for name in _OPTIONS},
    'meshes': args.meshes and str(args.meshes.absolute()),
  }


def _hash(args, reconstructor: Reconstructor | None) -> str:
  """Returns a SHA-256 of the parameters of the model, or of the files with the predictions."""
  if reconstructor is None:
    return results.hash_of(args.predictions)
  return results.hash_of_arrays(pretrained.flat_parameters(reconstructor.model))


def _print(about: Mapping, sections: Sequence[Section]) -> None:
  print(f'{about["system"]}: {about["objects"]} objects of {about["data"]}, split {about["split"]}')
  for section in sections:
    columns = {name: row.to_json()['summary'] for name, row in section.rows.items()}
    print(f'\n{section.protocol}, version {section.version}:')
    print(table({n.replace('_', ' '): {m: x['mean'] for m, x in summary.items()} for n, summary in columns.items()}))
    for name, row in section.rows.items():
      for reason in row.failed.values():
        print(f'{name} has no surface: {reason}')
  if 'lpips_network' in about:
    print(f'LPIPS network: {about["lpips_network"]}')
  if 'clip' in about:
    print(f'CLIP: {about["clip"]}')


def _compare(first: Path, second: Path, out: Path | None) -> None:
  a, b = results.read(first), results.read(second)
  text = results.comparison_to_markdown(a, b, results.compare(a, b))
  print(text)
  if out:
    out.mkdir(parents=True, exist_ok=True)
    (out / 'comparison.md').write_text(text)


def _progress(name: str) -> Callable[[Iterable], Iterable]:
  return lambda items: tqdm(items, desc=name, leave=False, disable=None)


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='lrm_jax.evaluate', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  group = parser.add_argument_group('what is scored')
  group.add_argument('--checkpoint', default='demo', help=pretrained.HELP)
  group.add_argument(
    '--predictions',
    type=Path,
    help='instead of a model, a folder: UID/001.png ... are views, UID.glb (.obj, .ply, .stl, .off) meshes',
  )
  group.add_argument(
    '--predictions_frame',
    choices=geometry_runs.FRAMES,
    default='world',
    help='coordinates of predicted meshes: the world of the dataset (default), that of the input view (z up), or gltf: '
    'the same with y up, as lrm_jax.reconstruct writes',
  )
  group.add_argument('--compare', nargs=2, type=Path, metavar=('A', 'B'), help='two results to compare')
  group = parser.add_argument_group('objects')
  group.add_argument(
    '--data',
    default='embedded',
    help="directory of a dataset, or 'embedded', the dataset that ships with the package (default: embedded)",
  )
  group = parser.add_argument_group('protocol and results')
  group.add_argument('--protocol', default='novel-views', choices=(*_NAMES, 'full'), help='default: novel-views')
  group.add_argument('--out', type=Path, help='directory for results.json, results.md and report.html')
  group.add_argument(
    '--restart', action='store_true', help='discard the finished objects of an evaluation that was stopped in --out'
  )
  group.add_argument('--split', default='test', help='split to evaluate (default: test)')
  group.add_argument('--objects', type=int, help='number of objects, the first of the split (default: all)')
  group.add_argument('--uids', type=Path, help='objects to evaluate: a file with a uid a line, or uids with commas')
  group.add_argument('--size', type=int, default=64, help='side of the views, in pixels (default: 64)')
  group.add_argument(
    '--input_views',
    type=_numbers,
    default=[0, 1, 2, 3],
    help='numbers of the input views of the protocol lrm (default: 0,1,2,3)',
  )
  group.add_argument(
    '--num_input_views', type=int, default=1, help='number of input views of the protocol several-views (default: 1)'
  )
  group.add_argument('--keep_distance', action='store_true', help='for videos; see config.data.keep_distance')
  group.add_argument(
    '--lpips_network', help='VGG16 and LPIPS weights: a file, or several separated by commas (docs/weights.md)'
  )
  group.add_argument(
    '--clip', help="weights of CLIP, for the similarity of views: a file, or Hugging Face's directory (docs/weights.md)"
  )
  group.add_argument(
    '--meshes', type=Path, help='folder with the true meshes, UID.glb ... (default: the surface points of the dataset)'
  )
  group.add_argument('--resolution', type=int, default=128, help='grid points along a side of a mesh (default: 128)')
  group = parser.add_argument_group('baselines that learn nothing')
  group.add_argument('--no_baselines', action='store_true', help='leave out the baselines that learn nothing')
  group.add_argument('--train_split', default='train', help='split of which the baselines are made (default: train)')
  group.add_argument(
    '--baseline_views',
    type=int,
    default=baselines.NUM_VIEWS,
    help=f'training views of the mean view, a random sample (default: {baselines.NUM_VIEWS})',
  )
  group.add_argument(
    '--baseline_objects',
    type=int,
    default=baselines.NUM_OBJECTS,
    help=f'training objects among which the nearest is searched, a random sample (default: {baselines.NUM_OBJECTS})',
  )
  group.add_argument(
    '--no_nearest_surface',
    dest='nearest_surface',
    action='store_false',
    help='geometry: leave out the nearest training object, if --meshes has no training objects',
  )
  args = parser.parse_args()
  for name in ('objects', 'baseline_views', 'baseline_objects'):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise InputError(f'--{name}={getattr(args, name)} must be at least 1')
  if args.num_input_views != 1 and args.protocol != 'several-views':
    raise InputError(
      f'--num_input_views={args.num_input_views} is for --protocol=several-views: the others have one input'
    )
  if args.predictions and not args.predictions.is_dir():
    raise InputError(f'--predictions={args.predictions} is not a folder')
  if args.meshes and not args.meshes.is_dir():
    raise InputError(f'--meshes={args.meshes} is not a folder')
  return args


def _numbers(text: str) -> list[int]:
  return [int(part) for part in text.split(',')]


if __name__ == '__main__':
  run_main(main)
