"""What a record of training data shows when it is looked at as training will: cameras, pictures, outlines.

The strongest check of cameras needs no truth: an object lies, in each view, behind its outline. The points of the cube
that do so in all views make up the visual hull (space carving), and where cameras are right, its outlines cover the
object's; where an axis is flipped or a matrix inverted, little is left of it, and the mistake is found by trying which
correction brings it back. Source: Laurentini 1994 (visual hull).
Legend: V views, P points, S pixels along a side.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import io

import numpy as np
from PIL import Image
from scipy import ndimage

from lrm_jax.datasets.records import check_cameras, decode, uid
from lrm_jax.geometry import cameras, images

_OUTLINE = 32  # pixels along a side, in which outlines are compared
_GRID = 40  # points along a side of the cube: closer than the pixels of an outline
_TRACE = 0.02  # of a pixel that the object covers, at least: a blade seen from its edge is thinner than a pixel
_VIEWS = 12  # of an object, at most, are compared
_AGREE = 0.9  # of the outlines that the hull must cover: where cameras are right, it is all of them
_OFF_AIM = 3.0  # degrees that a camera may look past the origin
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_MISTAKES = {  # What may be wrong with camera_to_world, and what undoes it.
  'they have OpenCV axes (y down, looking along +z): flip the second and third column': lambda pose: pose @ _FLIP,
  'they are world-to-camera matrices: invert them': np.linalg.inv,
  'they are world-to-camera matrices with OpenCV axes: invert them, then flip the second and third column': lambda pose: (
    np.linalg.inv(pose) @ _FLIP
  ),
}


@dataclasses.dataclass(frozen=True)
class Findings:
  """Of one object: angles in degrees; distances in the units of its own world.

  `normalised` are the distances [V] once the input view, view 0, stands where it does in training. `agreement` is the
  share of the outlines that the visual hull covers. `problems` are words by kind.
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
  """Returns what there is to say of a record; BrokenRecordError where it cannot be used at all."""
  check_cameras(record)
  poses, intrinsics = (np.asarray(record[name], np.float64) for name in ('camera_to_world', 'intrinsics'))
  views = [decode(record, view) for view in range(len(poses))]
  problems = dict([*_of_pictures(views), *_of_cameras(poses, intrinsics)])

  def normalise(poses):
    return cameras.normalise_to_input_view(poses, position=input_position, keep_distance=keep_distance)[0]

  outlines = np.stack([images.resize(view[..., 3:], _OUTLINE)[..., 0] for view in views])
  agreement, mistake = _outlines_agree(normalise, poses, intrinsics, outlines)
  if agreement < _AGREE:
    problems['outlines'] = (
      f'the outlines of the views do not fit together by their cameras (the visual hull covers '
      f'{agreement:.0%} of them): {mistake}'
    )
  position = poses[:, :3, 3]
  distances = np.linalg.norm(position, axis=-1)
  formats, sizes = zip(*(_kind(encoded) for encoded in record['views']))
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


def visual_hull(poses: np.ndarray, intrinsics: np.ndarray, outlines: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Returns [P], which of the points lie behind the opacity [V, S, S] of all views, or out of the picture."""
  kept = np.ones(len(points), bool)
  for pose, camera, outline in zip(poses, intrinsics, outlines):
    seen, rows, columns = _where_seen(points, pose, camera, len(outline))
    # A pixel's breadth is forgiven: outlines are coarse, and the points stand apart.
    kept &= ~seen | ndimage.binary_dilation(outline > _TRACE, np.ones((3, 3)))[rows, columns]
  return kept


def _outlines_agree(normalise, poses, intrinsics, outlines) -> tuple[float, str]:
  """Returns (share of the outlines that the hull covers, what is wrong where it is small)."""
  some = np.unique(np.linspace(0, len(poses) - 1, _VIEWS).round().astype(int))
  axis = np.linspace(-1, 1, _GRID)
  points = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1).reshape(-1, 3)

  def agreement(poses):
    poses = normalise(poses)[some]
    hull = points[visual_hull(poses, intrinsics[some], outlines[some], points)]
    shares = [_covered(hull, *view) for view in zip(poses, intrinsics[some], outlines[some] > 0.5) if view[2].any()]
    return float(np.mean(shares)) if shares else 1.0

  share = agreement(poses)
  if share >= _AGREE:
    return share, ''
  corrected = {}
  for mistake, undo in _MISTAKES.items():
    try:
      corrected[mistake] = agreement(np.stack([undo(pose) for pose in poses]))
    except np.linalg.LinAlgError:
      continue
  mistake = max(corrected, key=corrected.get)
  if corrected[mistake] >= max(_AGREE, share + 0.1):
    return share, mistake
  return (
    share,
    'poses or focal lengths are wrong, the object leaves the cube [-1, 1]^3, or it is not the same in all views',
  )


def _covered(points, pose, intrinsics, outline) -> float:
  """Returns the share of an outline that points, each as large as their distance, lie in front of."""
  seen, rows, columns = _where_seen(points, pose, intrinsics, len(outline))
  drawn = np.zeros_like(outline)
  drawn[rows[seen], columns[seen]] = True
  return float(np.mean(ndimage.binary_dilation(drawn, np.ones((3, 3)))[outline]))


def _where_seen(points, pose, intrinsics, size):
  """Returns (which points are in the picture, their rows, their columns)."""
  pixels, distance = cameras.project(points, pose, intrinsics)
  with np.errstate(invalid='ignore'):
    seen = (distance > 1e-6) & np.all((pixels >= 0) & (pixels < 1), axis=-1)
  columns, rows = (np.where(seen[:, None], pixels, 0) * size).astype(int).T
  return seen, rows, columns


def _aims(poses, intrinsics) -> np.ndarray:
  """Returns the angles [V], in degrees, between the rays through the middles of pictures and the directions to the origin."""
  x, y = ((0.5 - intrinsics[:, 2:]) / intrinsics[:, :2]).T
  middle = np.einsum('vij,vj->vi', poses[:, :3, :3], np.stack([x, -y, -np.ones_like(x)], axis=-1))
  cosine = (
    -np.sum(middle * poses[:, :3, 3], axis=-1)
    / np.linalg.norm(middle, axis=-1)
    / np.linalg.norm(poses[:, :3, 3], axis=-1)
  )
  return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


def _of_cameras(poses, intrinsics) -> Iterable[tuple[str, str]]:
  aims = _aims(poses, intrinsics)
  if np.median(aims) > _OFF_AIM:
    yield (
      'aim',
      (
        f'cameras look {np.median(aims):.0f} degrees past the origin (median; {aims.max():.0f} at most): move '
        'the world so that the object is in the origin'
      ),
    )
  if np.any(intrinsics[:, :2] > 20):
    yield (
      'focal length',
      (
        f'a focal length is {intrinsics[:, :2].max():g} picture widths: intrinsics must be divided by '
        'the size of the picture'
      ),
    )
  if np.any((intrinsics[:, 2:] < 0) | (intrinsics[:, 2:] > 1)):
    yield (
      'principal point',
      'a principal point lies outside of the picture: intrinsics are (fx, fy, cx, cy), divided by its size',
    )
  up = poses[:, :3, 1].mean(axis=0)
  if np.linalg.norm(up) > 0.3 and up[2] < 0.5 * np.linalg.norm(up):
    yield (
      'up',
      (
        f'cameras have their upper side towards ({up[0]:.1f}, {up[1]:.1f}, {up[2]:.1f}) on average: the world '
        'must have z up'
      ),
    )
  if len(poses) > 1 and np.ptp(poses[:, :3, 3], axis=0).max() < 1e-6:
    yield 'one place', 'all cameras stand in one place'


def _of_pictures(views) -> Iterable[tuple[str, str]]:
  opacity = [view[..., 3] for view in views]

  def several(which):
    return f'{len(which)} of {len(views)} views (the first is {which[0]})'

  if opaque := [i for i, a in enumerate(opacity) if a.min() > 0.99]:
    yield 'opaque', f'{several(opaque)} have no transparency: the background must be cut out'
  if empty := [i for i, a in enumerate(opacity) if a.max() < 0.01]:
    yield 'empty', f'{several(empty)} show nothing'

  def edge(a):
    return max(a[0].max(), a[-1].max(), a[:, 0].max(), a[:, -1].max())

  if cut := [i for i, a in enumerate(opacity) if a.min() <= 0.99 and edge(a) > 0.5]:
    yield 'cut off', f'{several(cut)} are cut off: the object reaches the border of the picture'


def _kind(encoded: bytes) -> tuple[str, int]:
  with Image.open(io.BytesIO(encoded)) as picture:
    return picture.format, picture.size[0]
