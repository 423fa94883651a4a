"""Inspects records of training data: cameras, images, and whether the two are consistent.

The strongest check of the cameras needs no ground truth. In each view, the object lies behind its silhouette. The
points of the cube [-1, 1]^3 that lie behind the silhouettes of all views form the visual hull (space carving). If the
cameras are right, the projections of the hull cover the silhouettes. If an axis is flipped or a matrix is inverted,
little of the hull is left; the mistake is then identified by trying corrections.
The hull is in lrm_jax/datasets/visual_hull.py; what single views do wrong is in lrm_jax/datasets/consistency.py.
Legend: V views, P points, S pixels along a side.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import io

import numpy as np
from PIL import Image

from lrm_jax.datasets import consistency
from lrm_jax.datasets.records import check_cameras, decode, uid
from lrm_jax.datasets.visual_hull import coverage, visual_hull
from lrm_jax.geometry import cameras, images

_SILHOUETTE_SIZE = 32  # pixels along a side of the silhouettes that are compared
_GRID = 40  # points along a side of the cube: denser than the pixels of a silhouette
_VIEWS = 12  # largest number of views of an object that are compared
_AGREE = 0.9  # least share of the silhouettes that the hull must cover; with right cameras it covers all of them
_MOSTLY_AGREE = 0.8  # the same: below it all cameras are suspect, not single views
_OFF_AIM = 3.0  # largest angle in degrees between a camera's axis and the direction to the origin
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_MISTAKES = {  # Common mistakes in camera_to_world, and the function that corrects them.
  'the poses have OpenCV axes (y down, looking along +z): flip the second and third column': lambda pose: pose @ _FLIP,
  'the poses are world-to-camera matrices: invert them': np.linalg.inv,
  'the poses are world-to-camera matrices with OpenCV axes: invert them, then flip the second and third column': (
    lambda pose: np.linalg.inv(pose) @ _FLIP
  ),
}


@dataclasses.dataclass(frozen=True)
class Findings:
  """The findings for one object. Angles are in degrees, distances in the units of the object's own world.

  `sizes` and `formats` are those of the encoded images, `bytes` is their total size. `distances` [V] are from the
  cameras to the origin, `normalised` [V] the same after normalisation to view 0, the input view, as in training. `aims`
  [V] are the angles between the ray through the centre of the image and the direction to the origin. `agreement` is the
  share of the silhouettes that the visual hull covers. `problems` maps the kind of each problem to its description.
  """

  uid: str
  sizes: tuple[int, ...]
  formats: tuple[str, ...]
  bytes: int
  distances: np.ndarray
  normalised: np.ndarray
  fovs: np.ndarray
  elevations: np.ndarray
  aims: np.ndarray
  agreement: float
  problems: Mapping[str, str]


def inspect(
  record: Mapping, *, input_position: Sequence[float] = cameras.INPUT_POSITION, keep_distance: bool = False
) -> Findings:
  """Returns the findings for a record; raises BrokenRecordError if the record cannot be used at all."""
  check_cameras(record)
  poses, intrinsics = (np.asarray(record[name], np.float64) for name in ('camera_to_world', 'intrinsics'))
  views = [decode(record, view) for view in range(len(poses))]
  problems = {**dict(_image_problems(views)), **dict(_camera_problems(poses, intrinsics))}

  def normalise(poses):
    return cameras.normalise_to_input_view(poses, position=input_position, keep_distance=keep_distance)[0]

  silhouettes = np.stack([images.resize(view[..., 3:], _SILHOUETTE_SIZE)[..., 0] for view in views])
  agreement, mistake = _silhouette_agreement(normalise, poses, intrinsics, silhouettes)
  problems |= dict(consistency.one_color(views))
  if agreement >= _MOSTLY_AGREE:
    problems |= dict(consistency.find_problems(normalise(poses), intrinsics, views))
  if agreement < _AGREE and 'odd view' not in problems:
    problems['silhouettes'] = (
      f'the silhouettes of the views are inconsistent with their cameras (the visual hull covers {agreement:.0%} of '
      f'them): {mistake}'
    )
  position = poses[:, :3, 3]
  distances = np.linalg.norm(position, axis=-1)
  formats, sizes = zip(*(_format_and_width(encoded) for encoded in record['views']))
  return Findings(
    uid=uid(record),
    sizes=tuple(sorted(set(sizes))),
    formats=tuple(sorted(set(formats))),
    bytes=sum(map(len, record['views'])),
    distances=distances,
    normalised=np.linalg.norm(normalise(poses)[:, :3, 3], axis=-1),
    fovs=np.rad2deg(2 * np.arctan(0.5 / intrinsics[:, 0])),
    elevations=np.rad2deg(np.arcsin(np.clip(position[:, 2] / distances, -1, 1))),
    aims=_aims(poses, intrinsics),
    agreement=agreement,
    problems=problems,
  )


def _silhouette_agreement(normalise, poses, intrinsics, silhouettes) -> tuple[float, str]:
  """Returns (share of the silhouettes that the visual hull covers, the likely mistake if it is too small)."""
  views = np.unique(np.linspace(0, len(poses) - 1, _VIEWS).round().astype(int))
  axis = np.linspace(-1, 1, _GRID)
  points = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1).reshape(-1, 3)

  def agreement(poses):
    poses = normalise(poses)[views]
    hull = points[visual_hull(poses, intrinsics[views], silhouettes[views], points)]
    compared = zip(poses, intrinsics[views], silhouettes[views] > 0.5)
    shares = [coverage(hull, *view) for view in compared if view[2].any()]
    return float(np.mean(shares)) if shares else 1.0

  share = agreement(poses)
  if share >= _AGREE:
    return share, ''
  corrected = {}
  for mistake, correct in _MISTAKES.items():
    try:
      corrected[mistake] = agreement(np.stack([correct(pose) for pose in poses]))
    except np.linalg.LinAlgError:
      continue
  mistake = max(corrected, key=corrected.get)  # type: ignore[arg-type]
  if corrected[mistake] >= max(_AGREE, share + 0.1):
    return share, mistake
  return (
    share,
    'poses or focal lengths are wrong, the object leaves the cube [-1, 1]^3, or it is not the same in all views',
  )


def _aims(poses, intrinsics) -> np.ndarray:
  """Returns the angles [V], in degrees, between the ray through the image centre and the direction to the origin."""
  x, y = ((0.5 - intrinsics[:, 2:]) / intrinsics[:, :2]).T
  middle = np.einsum('vij,vj->vi', poses[:, :3, :3], np.stack([x, -y, -np.ones_like(x)], axis=-1))
  cosine = (
    -np.sum(middle * poses[:, :3, 3], axis=-1)
    / np.linalg.norm(middle, axis=-1)
    / np.linalg.norm(poses[:, :3, 3], axis=-1)
  )
  return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


def _camera_problems(poses, intrinsics) -> Iterable[tuple[str, str]]:
  """Yields (kind, description) of problems with the cameras."""
  aims = _aims(poses, intrinsics)
  if np.median(aims) > _OFF_AIM:
    yield (
      'aim',
      f'cameras miss the origin by {np.median(aims):.0f} degrees (median; {aims.max():.0f} at most): move the world so '
      'that the object is at the origin',
    )
  if np.any(intrinsics[:, :2] > 20):
    yield (
      'focal length',
      f'a focal length is {intrinsics[:, :2].max():g} image widths: intrinsics must be divided by the image size',
    )
  if np.any((intrinsics[:, 2:] < 0) | (intrinsics[:, 2:] > 1)):
    yield (
      'principal point',
      'a principal point is outside of the image: intrinsics must be (fx, fy, cx, cy), divided by the image size',
    )
  up = poses[:, :3, 1].mean(axis=0)
  if np.linalg.norm(up) > 0.3 and up[2] < 0.5 * np.linalg.norm(up):
    yield (
      'up',
      f'the mean up direction of the cameras is ({up[0]:.1f}, {up[1]:.1f}, {up[2]:.1f}): the world must have z up',
    )
  if len(poses) > 1 and np.ptp(poses[:, :3, 3], axis=0).max() < 1e-6:
    yield 'one place', 'all cameras have the same position'


def _image_problems(views) -> Iterable[tuple[str, str]]:
  """Yields (kind, description) of problems with the images."""
  opacity = [view[..., 3] for view in views]

  def count(which):
    return f'{len(which)} of {len(views)} views (the first is {which[0]})'

  if opaque := [i for i, a in enumerate(opacity) if a.min() > 0.99]:
    yield 'opaque', f'{count(opaque)} have no transparency: remove the background'
  if empty := [i for i, a in enumerate(opacity) if a.max() < 0.01]:
    yield 'empty', f'{count(empty)} are fully transparent'

  def border(a):
    return max(a[0].max(), a[-1].max(), a[:, 0].max(), a[:, -1].max())

  if cut := [i for i, a in enumerate(opacity) if a.min() <= 0.99 and border(a) > 0.5]:
    yield 'cut off', f'{count(cut)} are cut off: the object reaches the border of the image'


def _format_and_width(encoded: bytes) -> tuple[str, int]:
  with Image.open(io.BytesIO(encoded)) as image:
    return str(image.format), image.size[0]
