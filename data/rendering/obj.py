"""Reads OBJ files as surfaces, one for each material. Source: Wavefront, Object Files (.obj), 1995.

Read are v (with colours), vt, vn, f, s, usemtl and mtllib; lines, points, curves and groups are ignored. Corners
without a normal are smooth within a smoothing group, else flat. Vertex colours are used where there is no material.
"""

from pathlib import Path

import numpy as np

from . import mtl
from .surfaces import Material, Surface, unit

_PLAIN = Material(metallic=0.0, roughness=0.5)


def read(path: Path) -> list[Surface]:
  """Returns the surfaces of a file; ValueError if it is damaged, or if a material library or texture is missing."""
  try:
    return _Reader(path).surfaces()
  except (LookupError, TypeError) as error:
    raise ValueError(f'the file is not a valid OBJ file ({type(error).__name__}: {error})') from error


class _Reader:
  def __init__(self, path: Path):
    self._path = path
    self._values: dict[str, list[list[str]]] = {'v': [], 'vt': [], 'vn': []}
    self._corners: dict[tuple[int, int, int], int] = {}  # (v, vt, vn), from 0, -1 if absent -> number of the corner
    self._faces: dict[tuple[str | None, bool], list[list[int]]] = {}  # (material, smooth) -> corners of faces
    self._libraries: list[str] = []
    self._read(mtl.text(path))

  def _read(self, text: str) -> None:
    material, smooth, cache = None, False, {}
    for number, line in enumerate(text.splitlines(), 1):
      key, *rest = line.split(maxsplit=1) or ['']
      value = rest[0].strip() if rest else ''
      if key in self._values:
        self._values[key].append(value.split('#')[0].split())
      elif key == 'f':
        face = []
        for word in value.split('#')[0].split():
          if (corner := cache.get(word)) is None:
            corner = self._corner(word, number)
            if '-' not in word:  # Negative indices count from the end, so they change their meaning.
              cache[word] = corner
          face.append(corner)
        self._faces.setdefault((material, smooth), []).append(face)
      elif key == 'usemtl':
        material = value
      elif key == 's':
        smooth = value not in ('', '0', 'off')
      elif key == 'mtllib':
        self._libraries.append(value)

  def _corner(self, word: str, line: int) -> int:
    """Returns the number of a corner v/vt/vn of a face."""
    indices = []
    try:
      for part, name in zip(f'{word}//'.split('/'), self._values):
        index = int(part) if part else 0
        indices.append(index + len(self._values[name]) if index < 0 else index - 1)
    except ValueError:
      raise ValueError(f'line {line} of the file has the corner {word!r}, which is not v/vt/vn') from None
    if indices[0] < 0:
      raise ValueError(f'line {line} of the file has the corner {word!r}, whose vertex does not exist')
    return self._corners.setdefault(tuple(indices), len(self._corners))

  def surfaces(self) -> list[Surface]:
    """Returns the surfaces, one for each material and kind of normals."""
    if not self._faces:
      return []
    corners = np.array(list(self._corners))
    places, uvs, normals = (self._array(name, count) for name, count in (('v', 3), ('vt', 2), ('vn', 3)))
    for name, indices, values in zip(self._values, corners.T, (places, uvs, normals)):
      if indices.max() >= len(values):
        raise ValueError(f'a face of the file uses {name} {indices.max() + 1} of {len(values)}')
    materials = self._materials()
    points = places[corners[:, 0], :3]
    colors = (
      np.pad(places[:, 3:6], ((0, 0), (0, 1)), constant_values=1.0)[corners[:, 0]] if places.shape[1] >= 6 else None
    )
    found = []
    for (name, smooth), faces in self._faces.items():
      triangles = triangulated(faces, points)
      given = (corners[triangles, 2] >= 0).all(axis=1)
      for has_normals in (True, False):
        some = triangles[given == has_normals]
        if not len(some):
          continue
        own = unit(normals[corners[:, 2]]) if has_normals else _smooth(points, corners[:, 0], some) if smooth else None
        uv = np.where(corners[:, 1:2] >= 0, uvs[corners[:, 1]], 0.0) if len(uvs) else np.zeros((len(corners), 2))
        material = materials.get(name)
        found.append(
          Surface(
            points, some, material or _PLAIN, own, {0: uv}, colors if material is None else None
          ).without_unused_vertices()
        )
    return found

  def _array(self, name: str, count: int) -> np.ndarray:
    """Returns the values v, vt or vn [N, at least `count`]; missing ones, as in `vt 0.5`, are 0."""
    rows = self._values[name]
    width = max([count, *map(len, rows)])
    try:
      values = np.array([[*map(float, row), *[0.0] * (width - len(row))] for row in rows]).reshape(len(rows), width)
    except ValueError as error:
      raise ValueError(f'a line `{name}` of the file has a value that is not a number ({error})') from error
    return values[:, : 6 if name == 'v' and width >= 6 else count]  # x y z w, or x y z r g b

  def _materials(self) -> dict[str, Material]:
    """Returns the materials of all libraries; they are needed only if a face uses one."""
    materials: dict[str, Material] = {}
    if not any(name for name, _ in self._faces):
      return materials
    for line in self._libraries:
      try:
        libraries = [mtl.find(line, self._path.parent)]
      except ValueError:  # Several names, or none that exists.
        if len(line.split()) < 2:
          raise
        libraries = [mtl.find(name, self._path.parent) for name in line.split()]
      for library in libraries:
        materials = mtl.read(library) | materials
    return materials


def _smooth(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Returns normals [K, 3] of corners: the mean over the triangles at the same vertex, weighted by area."""
  a, b, c = (points[triangles[:, i]] for i in range(3))
  normals, total = np.cross(b - a, c - a), np.zeros((vertices.max() + 1, 3))
  for i in range(3):
    np.add.at(total, vertices[triangles[:, i]], normals)
  return unit(total)[vertices]


def triangulated(faces: list[list[int]], points: np.ndarray) -> np.ndarray:
  """Returns triangles [T, 3] that cover polygons, which may be concave, in their order."""
  simple = [face for face in faces if len(face) == 3]
  quads = np.array([face for face in faces if len(face) == 4], int).reshape(-1, 4)
  found = [np.array(simple, int).reshape(-1, 3)]
  if len(quads):
    # Split along the diagonal for which both halves have the orientation of the whole.
    a, b, c, d = (points[quads[:, i]] for i in range(4))
    whole, first, second = np.cross(c - a, d - b), np.cross(b - a, c - a), np.cross(c - a, d - a)
    concave = (np.sum(whole * first, axis=-1) < 0) | (np.sum(whole * second, axis=-1) < 0)
    quads[concave] = np.roll(quads[concave], -1, axis=1)
    found += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
  found += [clip_ears(face, points) for face in faces if len(face) > 4]
  return np.concatenate(found)


def clip_ears(face: list[int], points: np.ndarray) -> np.ndarray:
  """Returns triangles [n - 2, 3] of a polygon that may be concave (Meisters 1975, ear clipping)."""
  corners = points[face]
  following = np.roll(corners, -1, axis=0)
  normal = np.cross(corners - corners[0], following - corners[0]).sum(axis=0)  # Newell's normal
  drop = int(np.abs(normal).argmax())
  plane = np.delete(corners, drop, axis=1) * (1, np.sign(normal[drop]) * (-1 if drop == 1 else 1))

  def area(i, j, k):
    (ax, ay), (bx, by), (cx, cy) = plane[i], plane[j], plane[k]
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

  left, triangles = list(range(len(face))), []
  while len(left) > 3:
    for place in range(len(left)):
      i, j, k = left[place - 1], left[place], left[(place + 1) % len(left)]
      others = (m for m in left if m not in (i, j, k))
      if area(i, j, k) > 0 and not any(
        area(i, j, m) >= 0 and area(j, k, m) >= 0 and area(k, i, m) >= 0 for m in others
      ):
        break
    else:
      place = 0  # Degenerate or crossing itself: any ear will do.
      i, j, k = left[-1], left[0], left[1]
    triangles.append((i, j, k))
    left.pop(place)
  return np.array(face)[np.array([*triangles, left])]
