"""Runs geometry protocols: the true surface of each object, those of the systems, and baselines that learn nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lrm_jax.datasets.records import uid
from lrm_jax.datasets.views import HeldOut
from lrm_jax.errors import InputError
from lrm_jax.evaluation import surfaces
from lrm_jax.evaluation.baselines import Nearest
from lrm_jax.evaluation.finished import Part
from lrm_jax.evaluation.geometry_protocols import Protocol
from lrm_jax.evaluation.results import Row, Section
from lrm_jax.evaluation.surfaces import Surface

SPHERE = 0.4  # world units, the radius of the baseline
System = Callable[[int], Surface]  # place of an object -> its surface in the world of the dataset

# From the axes of `lrm_jax.reconstruct`'s GLB files (y up, the input camera at +z) to those of the normalised frame.
_FROM_GLTF = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
FRAMES = ('world', 'input', 'gltf')


class NoSurfaceError(InputError):
  """A system has no surface for an object. It is recorded, and the object scored as a single point at the origin."""


def true_surface(record: Mapping, meshes: Path | None) -> Surface:
  """Returns the true surface of a record's object in the world: its mesh in a directory, or its surface points.

  Meshes are the source files that were rendered: `object_to_world` of the record moves them to the world, if it is
  known. Raises InputError if there is neither.
  """
  if meshes is not None:
    surface = surfaces.read(surfaces.find(meshes, uid(record)))
    to_world = np.asarray(record.get('object_to_world', np.full((4, 4), np.nan)), np.float64)
    return surface.transformed(to_world) if np.all(np.isfinite(to_world)) else surface
  points = record.get('surface_points', ())
  if not len(points):
    raise InputError(
      f'{uid(record)} has no surface points in the dataset: give the meshes with --meshes=DIR, or build the dataset '
      'from renders that have surface.npy'
    )
  return surfaces.of_points(points)


def folder_system(held_out: HeldOut, directory: Path, frame: str = 'world') -> System:
  """Returns the system whose meshes are DIRECTORY/UID.glb (or .obj, .ply, .stl, .off).

  `frame` is that of their coordinates: 'world', the world of the dataset; 'input', normalised to the input view, z up;
  'gltf', the same with y up and the input camera at +z, as lrm_jax.reconstruct writes.
  """

  def surface(place):
    found = surfaces.read(surfaces.find(directory, held_out.uids[place]))
    if frame == 'gltf':
      found = found.transformed(_FROM_GLTF)
    return found if frame == 'world' else found.transformed(np.linalg.inv(held_out.similarity(place)))

  return surface


def nearest_system(held_out: HeldOut, nearest: Nearest, meshes: Path | None) -> System:
  """Returns the baseline whose surface is that of the training object that looks most like the input.

  It is placed so that the view of the training object that looks alike is the input view.
  """

  def surface(place):
    views = held_out.load([place])
    found = nearest.of({'rgba': views['rgba'][0]})
    move = np.linalg.inv(held_out.similarity(place)) @ nearest.similarity(found)
    try:
      return true_surface(nearest.record(found), meshes).transformed(move)
    except InputError as error:
      raise InputError(
        f'the nearest training object: {error}; --no_nearest_surface leaves this baseline out'
      ) from error

  return surface


def run(
  protocols: Sequence[Protocol],
  held_out: HeldOut,
  systems: Mapping[str, System],
  meshes: Path | None,
  *,
  baselines: bool = True,
  progress: Callable[[Iterable], Iterable] = iter,
  finished: Part | None = None,
) -> list[Section]:
  """Returns a section for each protocol, with a row for each system; the first is the one that is evaluated.

  With `baselines`, there are two more rows: a sphere and, if the truth is a mesh, the truth with other points, which is
  the best that points can measure. Objects in `finished` are not computed again, and the others are added to it. Raises
  InputError, naming the object, if its truth or a prediction is broken.
  """
  finished = Part() if finished is None else finished
  scores: dict[str, dict[str, dict]] = {protocol.name: {} for protocol in protocols}
  failed: dict[str, dict[str, str]] = {}
  kinds = set()
  for place in progress(range(len(held_out))):
    if place not in finished:
      finished.add({place: _object(protocols, held_out, place, systems, meshes, baselines)})
    name, one = held_out.uids[place], finished[place]
    kinds.add(one['truth'])
    for system, reason in one['failed'].items():
      failed.setdefault(system, {})[name] = reason
    for protocol, rows in one['scores'].items():
      for system, value in rows.items():
        scores[protocol].setdefault(system, {})[name] = value
  return [
    Section(
      protocol.name,
      protocol.version,
      {
        'after': protocol.source,
        'points': protocol.num_points,
        'rotation starts': protocol.num_starts,
        'truth': sorted(kinds),
        'our choices': list(protocol.choices),
      },
      {system: Row(objects, failed=failed.get(system, {})) for system, objects in scores[protocol.name].items()},
    )
    for protocol in protocols
  ]


def _object(
  protocols: Sequence[Protocol],
  held_out: HeldOut,
  place: int,
  systems: Mapping[str, System],
  meshes: Path | None,
  baselines: bool,
) -> dict:
  """Returns {truth: its kind, failed: {system: reason}, scores: {protocol: {system: {metric: value}}}} of an object."""
  truth = true_surface(held_out.record(place), meshes)
  predictions, failed = {}, {}
  for system, surface_of in systems.items():
    try:
      predictions[system] = surface_of(place)
    except NoSurfaceError as error:
      failed[system] = str(error)
      predictions[system] = surfaces.of_points(np.zeros((1, 3)))
  if baselines:
    predictions['sphere'] = surfaces.sphere(SPHERE)
  known: dict[tuple, dict[str, dict[str, float]]] = {}  # Alignment is slow, and several protocols share their rules.
  for protocol in protocols:
    if protocol.rules not in known:
      values = {system: protocol.score(surface, truth) for system, surface in predictions.items()}
      if baselines and truth.is_mesh:
        values['truth_with_other_points'] = protocol.score(truth, truth, true_seed=1)
      known[protocol.rules] = {
        system: {metric: float(x) for metric, x in value.items()} for system, value in values.items()
      }
  return {
    'truth': _kind(truth),
    'failed': failed,
    'scores': {protocol.name: known[protocol.rules] for protocol in protocols},
  }


def _kind(truth: Surface) -> str:
  """Returns what is known of a true surface."""
  return 'meshes' if truth.points is None else f'{len(truth.points)} surface points of the dataset'
