"""Solids: closed triangle meshes with bounded texture stretch, and the checks that they are exact.

World: metres, z up; the front of an object looks along -y, as view 0 sees it. Texture coordinates `uv` are in metres on
the surface, u to the right and v up as seen from outside, so that a pattern has the same size on every part.
Legend: K vertices, T triangles.
"""

import dataclasses

import numpy as np

MAX_STRETCH = 2.0  # of uv against the surface: singular values stay within [1 / MAX_STRETCH, MAX_STRETCH]
_SMOOTH_DEGREES = 40.0  # Faces that meet at a smaller angle are shaded as one smooth surface.
_THINNEST = 1e-6  # The smallest height of a triangle, as a share of the extent of its solid.


@dataclasses.dataclass(frozen=True, eq=False)
class Solid:
  """Welded `vertices` [K, 3], `faces` [T, 3] wound counter-clockwise from outside, `uv` [T, 3, 2] per corner.

  `surface` [T] numbers the sides that may have materials of their own. `period` is the length in metres after which u
  closes around the solid, 0 if it does not.
  """

  vertices: np.ndarray
  faces: np.ndarray
  uv: np.ndarray
  surface: np.ndarray
  period: float = 0.0

  @property
  def bounds(self) -> np.ndarray:
    """Smallest and largest coordinates [2, 3]."""
    return np.stack([self.vertices.min(0), self.vertices.max(0)])

  @property
  def volume(self) -> float:
    """Signed volume: positive if the faces are wound outwards."""
    return signed_volume(self.vertices, self.faces)

  def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> 'Solid':
    return dataclasses.replace(self, vertices=self.vertices + [x, y, z])

  def turned(self, axis: str, degrees: float) -> 'Solid':
    """Returns the solid rotated around a coordinate axis, counter-clockwise as seen from the axis's tip."""
    i, j = {'x': (1, 2), 'y': (2, 0), 'z': (0, 1)}[axis]
    rotation, angle = np.eye(3), np.deg2rad(degrees)
    rotation[i, i] = rotation[j, j] = np.cos(angle)
    rotation[j, i], rotation[i, j] = np.sin(angle), -np.sin(angle)
    return self.rotated(rotation)

  def rotated(self, rotation: np.ndarray) -> 'Solid':
    """Returns the solid with a rotation matrix [3, 3] applied."""
    return dataclasses.replace(self, vertices=self.vertices @ rotation.T)

  def scaled(self, x: float, y: float | None = None, z: float | None = None) -> 'Solid':
    """Returns the solid scaled by positive factors, all by the first one if only that is given."""
    if y is None:
      return dataclasses.replace(self, vertices=self.vertices * x, uv=self.uv * x, period=self.period * x)
    factors = np.array([x, y, z])
    mean = float(np.prod(factors) ** (1 / 3))
    return make(self.vertices * factors, self.faces, self.uv * mean, self.surface, self.period * mean)

  def mirrored(self, axis: str = 'x') -> 'Solid':
    """Returns the mirror image at the plane through the origin, wound outwards again."""
    factors = np.where(np.arange(3) == 'xyz'.index(axis), -1.0, 1.0)
    return Solid(self.vertices * factors, self.faces[:, ::-1], self.uv[:, ::-1], self.surface[:], self.period)


def make(vertices, faces, uv=None, surface=None, period: float = 0.0) -> Solid:
  """Returns a solid wound outwards. Faces without `uv`, or with too much stretch, are projected along an axis.

  The projection along the axis that is closest to a face's normal shortens lengths by sqrt(3) at most.
  """
  vertices, faces = np.asarray(vertices, float), np.asarray(faces)
  surface = np.zeros(len(faces), int) if surface is None else np.asarray(surface)
  uv = None if uv is None else np.asarray(uv, float)
  if signed_volume(vertices, faces) < 0:
    faces, uv = faces[:, ::-1], None if uv is None else uv[:, ::-1]
  projected = box_uv(vertices, faces)
  if uv is None:
    return Solid(vertices, faces, projected, surface, 0.0)
  values = stretch(vertices, faces, uv)
  good = (values[:, 0] <= MAX_STRETCH) & (values[:, 1] >= 1 / MAX_STRETCH)
  return Solid(vertices, faces, np.where(good[:, None, None], uv, projected), surface, period)


def box_uv(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """Returns uv [T, 3, 2] by projection of each face along the axis closest to its normal."""
  corners = vertices[faces]
  normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  axis = np.abs(normal).argmax(axis=1)
  positive = normal[np.arange(len(faces)), axis] > 0
  x, y, z = corners[..., 0], corners[..., 1], corners[..., 2]
  is_x, is_z = (axis == 0)[:, None], (axis == 2)[:, None]
  sign = np.where(positive, 1.0, -1.0)[:, None]
  u = np.where(is_x, sign * y, np.where(is_z, sign * x, -sign * x))
  v = np.where(is_z, y, z)
  return np.stack([u, v], axis=-1)


def stretch(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray) -> np.ndarray:
  """Returns the larger and the smaller singular value [T, 2] of the map from the surface to uv, per face."""
  corners = vertices[faces]
  a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
  p, q = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
  # In the face's own plane, a = (length, 0) and b = (along, height).
  length = np.maximum(np.linalg.norm(a, axis=-1), 1e-300)
  along = np.sum(a * b, axis=-1) / length
  height = np.maximum(np.linalg.norm(np.cross(a, b), axis=-1) / length, 1e-300)
  first = p / length[:, None]
  second = (q - first * along[:, None]) / height[:, None]
  trace = np.sum(first**2 + second**2, axis=-1)
  determinant = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
  root = np.sqrt(np.maximum(trace**2 / 4 - determinant**2, 0))
  return np.sqrt(np.maximum(np.stack([trace / 2 + root, trace / 2 - root], axis=-1), 0))


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
  """Returns the volume that the faces enclose, negative if they are wound inwards."""
  a, b, c = (vertices[faces[:, i]] - vertices.mean(axis=0) for i in range(3))
  return float(np.sum(a * np.cross(b, c)) / 6)


def problem(solid: Solid) -> str | None:
  """Returns why a solid is not exact (open, wound inwards, thin faces, stretched texture), or None if it is."""
  if not np.all(np.isfinite(solid.vertices)):
    return 'vertices are not finite'
  edges = np.concatenate([solid.faces[:, [i, (i + 1) % 3]] for i in range(3)]).astype(np.int64)
  count = len(solid.vertices)
  forward = np.sort(edges[:, 0] * count + edges[:, 1])
  backward = np.sort(edges[:, 1] * count + edges[:, 0])
  if np.any(forward[1:] == forward[:-1]) or not np.array_equal(forward, backward):
    return 'it is not watertight'
  if solid.volume <= 0:
    return 'its faces are wound inwards'
  if np.any(thin_faces(solid.vertices, solid.faces)):
    return 'it has degenerate faces'
  values = stretch(solid.vertices, solid.faces, solid.uv)
  if values[:, 0].max() > 1.001 * MAX_STRETCH or values[:, 1].min() < 0.999 / MAX_STRETCH:
    return f'its texture is stretched by {values[:, 0].max():.2f} and {values[:, 1].min():.2f}'
  return None


def thin_faces(vertices: np.ndarray, faces: np.ndarray, extent: float | None = None) -> np.ndarray:
  """Returns which faces [T] have no area once rounded to float32, the precision of a GLB file.

  `extent` is the size of the object in metres (default: that of the vertices).
  """
  vertices = vertices.astype(np.float32).astype(float)
  corners = vertices[faces]
  sides = corners - np.roll(corners, 1, axis=1)
  longest = np.linalg.norm(sides, axis=-1).max(axis=1)
  height = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=-1) / np.maximum(longest, 1e-300)
  return height < _THINNEST * (np.ptp(vertices, axis=0).max() if extent is None else extent)


def without_thin_faces(vertices: np.ndarray, faces: np.ndarray, surface: np.ndarray, extent: float):
  """Returns (vertices, faces, surface) of a closed mesh with its thin faces removed, as far as possible.

  `extent` is the size of the object in metres. A vertex on the opposite edge is joined to the vertex beyond that edge
  (flip); a short edge is contracted. Both keep the mesh closed.
  """
  faces, surface = np.array(faces), np.array(surface)
  for _ in range(40):
    thin = np.flatnonzero(thin_faces(vertices, faces, extent))
    if not len(thin):
      break
    changed = False
    for number in thin:
      face = faces[number]
      lengths = np.linalg.norm(vertices[np.roll(face, -1)] - vertices[face], axis=-1)
      i = int(lengths.argmax())
      a, b, v = np.roll(face, -i)
      j = int(lengths.argmin())
      p, q = face[j], face[(j + 1) % 3]
      if lengths[j] > 0.2 * lengths[i]:
        changed = _flip(faces, surface, number, a, b, v)
      else:
        shared = np.intersect1d(faces[np.any(faces == p, axis=1)], faces[np.any(faces == q, axis=1)])
        if len(shared) == 4:  # p, q and one vertex on each side of the edge: contracting it keeps a manifold.
          faces[faces == p] = q
          kept = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
          faces, surface, changed = faces[kept], surface[kept], True
        else:
          changed = _flip(faces, surface, number, a, b, v)
      if changed:
        break
    if not changed:
      break
  used, inverse = np.unique(faces, return_inverse=True)
  return vertices[used], inverse.reshape(-1, 3), surface


def _flip(faces: np.ndarray, surface: np.ndarray, number: int, a: int, b: int, v: int) -> bool:
  """Replaces faces (a, b, v) and (b, a, c) by (a, c, v) and (c, b, v); returns whether that was possible."""
  pairs = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1)
  found = np.argwhere((pairs[..., 0] == b) & (pairs[..., 1] == a))
  if len(found) != 1:
    return False
  other, corner = found[0]
  c = faces[other, (corner + 2) % 3]
  if c == v or np.any(np.any(faces == c, axis=1) & np.any(faces == v, axis=1)):
    return False
  faces[number], faces[other] = (a, c, v), (c, b, v)
  surface[number] = surface[other]
  return True


def corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """Returns unit normals [T, 3, 3]: at each corner the area-weighted mean over the faces that meet it smoothly."""
  corners = vertices[faces]
  weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  normal = weighted / np.maximum(np.linalg.norm(weighted, axis=-1, keepdims=True), 1e-300)
  # All pairs of corners (i, j) that share a vertex.
  vertex = faces.ravel()
  order = np.argsort(vertex, kind='stable')
  counts = np.bincount(vertex, minlength=len(vertices))
  first = np.cumsum(counts) - counts
  repeats = counts[vertex[order]]
  i = np.repeat(order, repeats)
  within = np.arange(len(i)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
  j = order[first[vertex[i]] + within]
  smooth = np.einsum('nc,nc->n', normal[i // 3], normal[j // 3]) > np.cos(np.deg2rad(_SMOOTH_DEGREES))
  i, j = i[smooth], j[smooth]
  total = np.stack([np.bincount(i, weighted[j // 3, axis], minlength=len(vertex)) for axis in range(3)], axis=-1)
  total /= np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-300)
  return total.reshape(-1, 3, 3)
