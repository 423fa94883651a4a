"""Protocols of geometry evaluation. Each has a name and a version, which every result states.

The same model gets different numbers in every paper, because papers differ in normalisation, alignment and the number
of points, and leave some of it open. A protocol here follows what its paper states; what the paper leaves open is our
choice and listed in `choices`. Numbers of different protocols, or versions of one, must not be compared.
Surfaces are in the world of the dataset, z up. docs/evaluation.md explains the choices.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.evaluation import alignment, geometry_metrics
from lrm_jax.evaluation.surfaces import Surface
from lrm_jax.geometry import cameras

# Moves the truth, and the prediction, before they are compared: (prediction, truth) -> two similarities [4, 4].
Normalise = Callable[[Surface, Surface], tuple[np.ndarray, np.ndarray]]
_MANY = 10_000  # points, to find the centre and the size of a surface


def keep(prediction: Surface, truth: Surface) -> tuple[np.ndarray, np.ndarray]:
  """Leaves both where they are."""
  del prediction, truth
  return np.eye(4), np.eye(4)


def both_to_unit_sphere(prediction: Surface, truth: Surface) -> tuple[np.ndarray, np.ndarray]:
  """Moves the mean point of each surface to the origin and scales its farthest point to distance 1."""

  def similarity(surface):
    points, _ = surface.sample(_MANY)
    centre = points.mean(axis=0)
    radius = np.linalg.norm(points - centre, axis=-1).max()
    return _scale_about(centre, 1 / radius if radius > 0 else 1.0)

  return similarity(prediction), similarity(truth)


def truth_to_box(prediction: Surface, truth: Surface) -> tuple[np.ndarray, np.ndarray]:
  """Moves both by the similarity that makes the truth fill the box [-1, 1]^3 along its longest side."""
  del prediction
  points = truth.vertices if truth.vertices is not None else truth.sample(_MANY)[0]
  low, high = points.min(axis=0), points.max(axis=0)
  similarity = _scale_about((low + high) / 2, 2 / np.max(high - low))
  return similarity, similarity


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How a predicted surface is compared with the true one.

  `num_points` points are sampled on each, where `views` cameras see them if there are any. With `num_starts`, the
  prediction is aligned rigidly, from this many rotations. `chamfer` is multiplied by `chamfer_scale`.
  """

  name: str
  version: int
  source: str
  num_points: int
  normalise: Normalise
  chamfer: geometry_metrics.ChamferDistance
  thresholds: tuple[float, ...]
  choices: tuple[str, ...]
  num_starts: int = 0
  chamfer_scale: float = 1.0
  views: np.ndarray | None = None
  solids: bool = False  # Also volumetric IoU and normal consistency.

  @property
  def rules(self) -> tuple:
    """What determines the numbers: protocols with equal rules give equal numbers."""
    views = None if self.views is None else self.views.tobytes()
    about = (self.num_points, self.normalise, self.chamfer, self.chamfer_scale, self.thresholds, self.num_starts)
    return (*about, views, self.solids)

  @property
  def needs_mesh(self) -> bool:
    """Whether the truth must be a mesh."""
    return self.views is not None

  def score(self, prediction: Surface, truth: Surface, seed: int = 0, true_seed: int | None = None) -> dict[str, float]:
    """Returns {metric: value}; equal meshes have equal points, so that a perfect prediction scores perfectly.

    With another `true_seed`, the points of the truth are drawn independently. A metric is NaN where the truth does not
    define it. Raises InputError if the protocol needs meshes.
    """
    if self.needs_mesh and not truth.is_mesh:
      raise InputError(f'{self.name} needs the meshes of the objects: give --meshes=DIR')
    to_common, truth_to_common = self.normalise(prediction, truth)
    prediction, truth = prediction.transformed(to_common), truth.transformed(truth_to_common)
    points, normals = self._sample(prediction, seed)
    true_points, true_normals = self._sample(truth, seed if true_seed is None else true_seed)
    if self.num_starts:
      motion = alignment.align(points, true_points, num_starts=self.num_starts, seed=seed)
      points = points @ motion[:3, :3].T + motion[:3, 3]
      normals = None if normals is None else normals @ motion[:3, :3].T
      prediction = prediction.transformed(motion)
    distances, indices = geometry_metrics.nearest(points, true_points)
    result = {'chamfer': self.chamfer_scale * self.chamfer(distances)}
    result |= {f'f_score_{t:g}': geometry_metrics.f_score(distances, t) for t in self.thresholds}
    if self.solids:
      known = normals is not None and true_normals is not None
      result['normal_consistency'] = (
        geometry_metrics.normal_consistency((normals, true_normals), indices) if known else float('nan')  # type: ignore[arg-type]
      )
      result['volume_iou'] = geometry_metrics.volume_iou(prediction, truth)
    return result

  def _sample(self, surface: Surface, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    if self.views is None:
      return surface.sample(self.num_points, seed)
    if not surface.is_mesh:  # The place of a prediction that failed.
      return surface.sample(self.num_points, seed)
    try:
      return surface.visible(self.num_points, self.views, _FOV, _VIEW_SIZE, seed), None
    except InputError:  # The prediction lies outside of all views.
      return surface.sample(self.num_points, seed)


_FOV, _VIEW_SIZE, _DISTANCE = 50.0, 320, 4.2
_AZIMUTHS, _POLAR = range(0, 360, 45), (60, 90, 120)


def _meshlrm_views() -> np.ndarray:
  """Returns the poses [24, 4, 4]: 8 azimuths at each of 3 polar angles."""
  azimuth, polar = (np.deg2rad(x).ravel() for x in np.meshgrid(_AZIMUTHS, _POLAR))
  direction = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], axis=-1)
  return cameras.look_at(_DISTANCE * direction)


_SAME_SEED = 'points are uniform on the triangles, drawn with the same seed on both surfaces'
_SPHERE = (
  'each surface is normalised on its own: mean point to the origin, farthest point to distance 1, which, unlike a box, '
  'does not depend on its rotation'
)
_ROTATIONS = (
  'the rotation search has 64 evenly spread rotations and the identity, each refined by ICP over rotation and '
  'translation, and keeps the lowest Chamfer distance'
)
_HALF = 'Chamfer is half the mean distance in each direction, not squared'
_COARSE = (0.1, 0.2, 0.5)


def _aligned(name: str, source: str, *choices: str) -> Protocol:
  """Returns a protocol that aligns the prediction by a rotation search; `choices` are what its paper leaves open."""
  return Protocol(
    name,
    1,
    source,
    num_points=10_000,
    normalise=both_to_unit_sphere,
    chamfer=geometry_metrics.chamfer_half,
    thresholds=_COARSE,
    num_starts=64,
    choices=choices,
  )


PROTOCOLS = {
  protocol.name: protocol
  for protocol in (
    Protocol(
      'geometry',
      1,
      'ours',
      num_points=10_000,
      normalise=keep,
      chamfer=geometry_metrics.chamfer_half,
      thresholds=(0.01, 0.02, 0.05, *_COARSE),
      solids=True,
      choices=(
        'metric: in the world of the dataset (rendered objects lie in a sphere of radius 0.634), no alignment, because '
        'the camera of the input is known',
        _HALF,
        _SAME_SEED,
        'volumetric IoU on 96^3 points where the truth is watertight; a prediction that is not watertight gets 0',
        'normal consistency is the mean |cosine|, half in each direction',
      ),
    ),
    _aligned('geometry-triposr', 'TripoSR, arXiv 2403.02151', _SPHERE, _ROTATIONS, _HALF, _SAME_SEED),
    _aligned('geometry-sf3d', 'SF3D, arXiv 2408.00653', '10,000 points', _SPHERE, _ROTATIONS, _HALF, _SAME_SEED),
    _aligned('geometry-spar3d', 'SPAR3D, arXiv 2501.04689', '10,000 points', _SPHERE, _ROTATIONS, _SAME_SEED),
    Protocol(
      'geometry-meshlrm',
      1,
      'MeshLRM, arXiv 2404.12385',
      num_points=100_000,
      normalise=truth_to_box,
      chamfer=geometry_metrics.chamfer_squared,
      chamfer_scale=1000.0,
      thresholds=_COARSE,
      views=_meshlrm_views(),
      choices=(
        'the truth fills the box [-1, 1]^3 along its longest side, the prediction moves with it; no alignment',
        f'views of {_FOV:g} degrees from distance {_DISTANCE:g}, polar angles {", ".join(map(str, _POLAR))} degrees',
        'Chamfer is the sum of the mean squared distances in both directions, x 1000',
        'F-scores are added',
        'the points are drawn at random from all hits, with the same seed on both surfaces',
      ),
    ),
  )
}


def _scale_about(centre: np.ndarray, scale: float) -> np.ndarray:
  """Returns the similarity [4, 4] x -> scale (x - centre)."""
  similarity = np.diag([scale, scale, scale, 1.0])
  similarity[:3, 3] = -scale * centre
  return similarity
