"""Chaotic objects after LRM-Zero: primitives with height fields, then holes cut into shells, or wireframes added.

Source: Xie et al., LRM-Zero: Training Large Reconstruction Models with Synthesized Data (arXiv 2406.09371), section 3,
from its text. Values that it does not state are marked [ours].
"""

import functools

from manifold3d import Manifold, Mesh
import numpy as np
from scipy import ndimage

from .materials import Material, mixed, random_color
from .shapes import ball, bar, circle, cube_grid, skin
from .solids import Solid, make, without_thin_faces

COUNT_WEIGHTS = np.array([5, 5, 5, 5, 5, 4, 3, 2, 1]) / 35  # of 1 to 9 primitives
SEMI_AXES = (0.25, 2.0)
HEIGHT_FIELD = 0.5  # probability, per surface
CUT, WIREFRAME = 0.4, 0.2  # probabilities, per object
BODY_SIZE = (0.3, 0.6)  # of the cutter and of the wireframe, once the object has its final size
SHELL = (0.01, 0.02)
STRUT = (0.01, 0.03)
EXTENT = 1.8  # longest side of the bounding box
_HEIGHT = 0.25  # largest height, as a share of a surface's size [ours]
_TOLERANCE = 1e-5  # to which results of boolean operations are simplified [ours]
_CELLS = 14  # along a surface that has a height field [ours]


def make_object(rng: np.random.Generator):
  """Returns (name of the variant, list of (solid, materials by surface))."""
  kinds = rng.choice(list(PRIMITIVES), rng.choice(np.arange(1, 10), p=COUNT_WEIGHTS))
  parts = [(_placed(rng, _primitive(rng, kind)), _materials(rng, kind)) for kind in kinds]
  low, high = (fold([part.bounds[i] for part, _ in parts], axis=0) for i, fold in ((0, np.min), (1, np.max)))
  scale = EXTENT / (high - low).max()
  parts = [(solid.moved(*-(low + high) / 2).scaled(scale), materials) for solid, materials in parts]
  choice = rng.random()
  if choice < CUT:
    return 'cut', _cut(rng, parts)
  if choice < CUT + WIREFRAME:
    return 'wireframe', [*parts, *_wireframe(rng, parts)]
  return 'plain', parts


def _primitive(rng, kind: str) -> Solid:
  """Returns a primitive within the unit cube, with a height field on some of its surfaces."""
  vertices, faces, surface, owner, place, sizes = PRIMITIVES[kind]()
  solid = make(vertices, faces, surface=surface)
  raised = rng.random(len(sizes)) < HEIGHT_FIELD
  if not raised.any():
    return solid
  normals = _vertex_normals(solid)
  vertices = solid.vertices.copy()
  for number in np.flatnonzero(raised):
    mine = owner == number
    cells = rng.integers(4, 9)  # [ours]
    grid = np.zeros((cells + 1, cells + 1))
    grid[1:-1, 1:-1] = rng.uniform(-1, 1, (cells - 1, cells - 1))
    heights = ndimage.map_coordinates(grid, place[mine].T * cells, order=3, mode='nearest')
    edge = np.minimum(place[mine], 1 - place[mine]).min(axis=1)  # The spline overshoots at the border.
    heights *= np.clip(edge * cells, 0, 1)
    vertices[mine] += normals[mine] * (rng.uniform(0.3, 1.0) * _HEIGHT * sizes[number] * heights)[:, None]
  return make(vertices, solid.faces, surface=solid.surface)


def _vertex_normals(solid: Solid) -> np.ndarray:
  corners = solid.vertices[solid.faces]
  weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  total = np.zeros_like(solid.vertices)
  for i in range(3):
    np.add.at(total, solid.faces[:, i], weighted)
  return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)


def _placed(rng, solid: Solid) -> Solid:
  """Returns a primitive with its own length along each axis, turned and moved at random."""
  vertices = (solid.vertices * rng.uniform(*SEMI_AXES, 3)) @ _rotation(rng).T + rng.uniform(-1, 1, 3)
  return make(vertices, solid.faces, surface=solid.surface)


def _rotation(rng) -> np.ndarray:
  """Returns a rotation matrix, uniform over all rotations."""
  q, r = np.linalg.qr(rng.normal(size=(3, 3)))
  q = q * np.sign(np.diag(r))
  return q if np.linalg.det(q) > 0 else q * [1, 1, -1]


def _materials(rng, kind: str) -> tuple[Material, ...]:
  return tuple(_material(rng) for _ in range(len(PRIMITIVES[kind]()[5])))


def _material(rng) -> Material:
  tile = rng.uniform(0.3, 1.5)
  look = dict(metallic=float(rng.random() < 0.15), roughness=rng.uniform(0.2, 1.0))
  if rng.random() < 0.15:
    return Material(random_color(rng), **look)
  return Material(random_color(rng), mixed(rng), (tile, tile), **look)


def _cut(rng, parts):
  """Returns the parts with a primitive cut out at a random vertex: those that it meets become open shells."""
  solid, _ = parts[rng.integers(len(parts))]
  centre = solid.vertices[rng.integers(len(solid.vertices))]
  body = _body(rng, [kind for kind in PRIMITIVES if kind != 'torus'], centre)
  cutter, thickness, result = _manifold(body), rng.uniform(*SHELL), []
  for solid, materials in parts:
    apart = np.any(solid.bounds[0] > body.bounds[1]) or np.any(solid.bounds[1] < body.bounds[0])
    whole = _manifold(solid)
    if apart or (whole ^ cutter).volume() < 1e-5:
      result.append((solid, materials))
      continue
    inner = make(solid.vertices - thickness * _vertex_normals(solid), solid.faces, surface=solid.surface)
    shell = _solid((whole - _manifold(inner) - cutter).set_tolerance(_TOLERANCE), len(materials))
    if shell is not None:
      result.append((shell, materials))
  return result


def _body(rng, kinds, centre) -> Solid:
  kind = rng.choice(kinds)
  vertices, faces, *_ = PRIMITIVES[kind]()
  return make(vertices * rng.uniform(*BODY_SIZE, 3) @ _rotation(rng).T + centre, faces)


def _manifold(solid: Solid) -> Manifold:
  """Returns the solid for boolean operations; its surfaces are runs, numbered by the original ids 0, 1, ..."""
  order = np.argsort(solid.surface, kind='stable')
  counts = np.bincount(solid.surface)
  return Manifold(
    Mesh(
      vert_properties=solid.vertices.astype(np.float32),
      tri_verts=solid.faces[order].astype(np.uint32),
      run_index=np.r_[0, 3 * np.cumsum(counts)].astype(np.uint32),
      run_original_id=np.arange(len(counts), dtype=np.uint32),
    )
  )


def _solid(manifold: Manifold, num_surfaces: int) -> Solid | None:
  """Returns the result of boolean operations, whose faces keep their surfaces; None if nothing is left."""
  if manifold.volume() < 1e-6:
    return None
  mesh = manifold.to_mesh()
  lengths = np.diff(np.asarray(mesh.run_index, int)) // 3
  # The rims, which come from the cutter, get the material of the first surface.
  surface = np.repeat(np.asarray(mesh.run_original_id, int) % num_surfaces, lengths)
  vertices, faces = np.asarray(mesh.vert_properties, float)[:, :3], np.asarray(mesh.tri_verts, int)
  vertices, faces, surface = without_thin_faces(vertices, faces, surface, 1.2 * EXTENT)
  return make(vertices, faces, surface=surface)


def _wireframe(rng, parts):
  """Returns the edges of a primitive as struts with round joints, at a random vertex of the object."""
  solid, _ = parts[rng.integers(len(parts))]
  centre, radius = solid.vertices[rng.integers(len(solid.vertices))], rng.uniform(*STRUT)
  nodes, edges = FRAMES[rng.choice(list(FRAMES))](int(rng.integers(2)))
  nodes = nodes * rng.uniform(*BODY_SIZE, 3) @ _rotation(rng).T + centre
  material = (_material(rng),)
  struts = [bar(nodes[a], nodes[b], radius, 6) for a, b in edges]
  return [(one, material) for one in (*struts, *(ball(1.15 * radius, 3).moved(*node) for node in nodes))]


@functools.cache
def _cube():
  index, _, faces, side = cube_grid(_CELLS)
  place = index / _CELLS
  owner, uv, sizes = np.full(len(index), -1), np.zeros((len(index), 2)), [2.0] * 6
  for number in range(6):
    axis, value = number // 2, number % 2
    others = [i for i in range(3) if i != axis]
    inside = (place[:, axis] == value) & np.all((place[:, others] > 0) & (place[:, others] < 1), axis=1)
    owner[inside] = number
    uv[inside] = place[inside][:, others]
  return 2 * place - 1, faces, side, owner, uv, sizes


def _turned(profile, surfaces, sizes, *, sides: int = 28, loop: bool = False):
  """Returns a primitive from rings of (radius, z, surface of the ring, place along it); see PRIMITIVES."""
  around = circle(sides)
  rings = [np.c_[around * radius, np.full(sides, z)] for radius, z, *_ in profile]
  start, end = (None, None) if loop else ([0, 0, profile[0][1]], [0, 0, profile[-1][1]])
  solid = skin(np.array(rings), start, end, loop=loop)
  bands = len(profile) if loop else len(profile) - 1
  surface = np.repeat(np.array(surfaces)[:bands], sides)
  surface = np.concatenate([surface, surface])
  if not loop:
    surface = np.concatenate([surface, np.full(sides, surfaces[0]), np.full(sides, surfaces[-1])])
  owner, place = [], []
  for radius, _, number, along in profile:
    owner += [number] * sides
    if along is None:  # A flat end: the plane itself is the field.
      place.append(np.clip(0.5 + around * radius / (2 * 2**0.5) * 1.3, 0, 1))
    else:
      place.append(np.c_[np.arange(sides) / sides, np.full(sides, along)])
  if not loop:
    for ring in (0, -1):
      owner.append(profile[ring][2])
      place.append(np.full((1, 2), 0.5) if profile[ring][3] is None else np.array([[0.5, float(ring < 0)]]))
  return solid.vertices, solid.faces, surface, np.array(owner), np.concatenate(place), sizes


@functools.cache
def _sphere():
  angle = np.linspace(-np.pi / 2, np.pi / 2, 2 + _CELLS)[1:-1]
  profile = [(np.cos(a), np.sin(a), 0, (a / np.pi) + 0.5) for a in angle]
  vertices, *rest = _turned(profile, [0] * len(profile), [2.0])
  vertices = vertices.copy()
  vertices[-2:] = [[0, 0, -1], [0, 0, 1]]
  return vertices, *rest


@functools.cache
def _cylinder():
  steps, radii = np.linspace(0, 1, _CELLS + 1), (0.35, 0.7)
  profile = [(r, -1.0, 1, None) for r in radii] + [(1.0, 2 * t - 1, 0 if 0 < t < 1 else -1, t) for t in steps]
  profile += [(r, 1.0, 2, None) for r in radii[::-1]]
  return _turned(profile, [1, 1, *[0] * _CELLS, 2, 2, 2], [2.0, 2.0, 2.0])


@functools.cache
def _cone():
  steps, radii = np.linspace(0, 1, _CELLS + 1)[:-1], (0.35, 0.7)
  profile = [(r, -1.0, 1, None) for r in radii] + [(1 - t, 2 * t - 1, 0 if t > 0 else -1, t) for t in steps]
  vertices, *rest = _turned(profile, [1, 1, *[0] * _CELLS], [2.0, 2.0])
  vertices = vertices.copy()
  vertices[-1] = [0, 0, 1]
  return vertices, *rest


@functools.cache
def _torus():
  section = circle(_CELLS, 0.3)
  profile = [(0.7 + x, y, 0, i / _CELLS) for i, (x, y) in enumerate(section)]
  return _turned(profile, [0] * _CELLS, [0.9], loop=True)


# Each returns (vertices [K, 3], faces, surface of each face, surface of each vertex or -1 at edges, place on it [K, 2]
# in [0, 1], size of each surface).
PRIMITIVES = {'cube': _cube, 'sphere': _sphere, 'cylinder': _cylinder, 'cone': _cone, 'torus': _torus}


def _frame_cube(level: int):
  index, quads, *_ = cube_grid(1 + 2 * level)
  return index / (1 + 2 * level) * 2 - 1.0, _edges(quads)


def _frame_sphere(level: int):
  nodes, edges = _frame_cube(level)
  return nodes / np.linalg.norm(nodes, axis=-1, keepdims=True), edges


def _frame_rings(rows, sides: int, tip: bool):
  nodes = np.concatenate([np.c_[circle(sides, radius), np.full(sides, z)] for radius, z in rows])
  k = np.arange(sides)
  edges = [np.stack([row * sides + k, row * sides + (k + 1) % sides], axis=-1) for row in range(len(rows))]
  edges += [np.stack([row * sides + k, (row + 1) * sides + k], axis=-1) for row in range(len(rows) - 1)]
  if tip:
    edges.append(np.stack([(len(rows) - 1) * sides + k, np.full(sides, len(nodes))], axis=-1))
    nodes = np.concatenate([nodes, [[0, 0, 1.0]]])
  return nodes, np.concatenate(edges)


def _frame_cylinder(level: int):
  return _frame_rings([(1.0, z) for z in np.linspace(-1, 1, 2 + level)], 8, False)


def _frame_cone(level: int):
  return _frame_rings([(1 - t, 2 * t - 1) for t in np.linspace(0, 1, 2 + level)[:-1]], 8, True)


def _edges(quads: np.ndarray) -> np.ndarray:
  pairs = np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)])
  return np.unique(np.sort(pairs, axis=1), axis=0)


FRAMES = {'cube': _frame_cube, 'sphere': _frame_sphere, 'cylinder': _frame_cylinder, 'cone': _frame_cone}
