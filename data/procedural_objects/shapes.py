"""Shapes that things are made of: boxes, surfaces of revolution, extrusions, sweeps, blobs, bars.

All are watertight solids with texture coordinates in metres. Shapes that stand (box, cylinder, lathe, prism) have their
base at z = 0 and the z axis through their middle; ball and ellipsoid have their centre in the origin.
Legend: N rings, M points of a ring.
"""

import functools

from manifold3d import triangulate
import numpy as np

from .solids import Solid, make


def skin(rings, start=None, end=None, *, loop: bool = False) -> Solid:
  """Returns the solid whose skin runs over closed rings [N, M, 3], from one to the next.

  The ends are closed by fans around the points `start` and `end` [3] (default: the middle of the first and the last
  ring); with `loop`, the last ring is joined to the first one instead.
  """
  rings = np.asarray(rings, float)
  count, points = rings.shape[:2]
  if loop:
    rings = np.concatenate([rings, rings[:1]])
  around = np.linalg.norm(np.diff(rings, axis=1, append=rings[:, :1]), axis=-1)
  around = np.exp(np.log(np.maximum(around.sum(axis=1), 1e-9)).mean()) / points
  u = np.arange(points + 1) * around
  v = np.r_[0, np.cumsum(np.linalg.norm(np.diff(rings, axis=0), axis=-1).mean(axis=1))]
  i, j = np.meshgrid(np.arange(len(rings) - 1), np.arange(points), indexing='ij')
  i, j = i.ravel(), j.ravel()

  def corner(di, dj):
    return (i + di) % count * points + (j + dj) % points, np.stack([u[j + dj], v[i + di]], axis=-1)

  quad = [corner(0, 0), corner(0, 1), corner(1, 1), corner(1, 0)]
  triangles = [(0, 1, 2), (0, 2, 3)]
  faces = [np.stack([quad[k][0] for k in triangle], axis=-1) for triangle in triangles]
  uv = [np.stack([quad[k][1] for k in triangle], axis=1) for triangle in triangles]
  vertices, surface = [rings[:count].reshape(-1, 3)], [np.zeros(2 * len(i), int)]
  if not loop:
    k = np.arange(points)
    for number, (ring, apex) in enumerate(((0, start), (count - 1, end))):
      pole = count * points + number
      vertices.append(np.asarray(rings[ring].mean(axis=0) if apex is None else apex, float)[None])
      fan = [np.full(points, pole), ring * points + (k + 1) % points, ring * points + k]
      faces.append(np.stack(fan if number == 0 else [fan[0], fan[2], fan[1]], axis=-1))
      uv.append(np.zeros((points, 3, 2)))  # Replaced by a projection.
      surface.append(np.full(points, number + 1))
  return make(*map(np.concatenate, (vertices, faces, uv, surface)), period=float(u[-1]))


def circle(sides: int, radius: float = 1.0, *, phase: float = 0.0) -> np.ndarray:
  """Returns the corners [M, 2] of a regular polygon, counter-clockwise; `phase` in units of a side."""
  angle = 2 * np.pi * (np.arange(sides) + phase) / sides
  return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def squircle(width: float, depth: float, power: float = 4.0, sides: int = 24) -> np.ndarray:
  """Returns a superellipse [M, 2]: power 2 is an ellipse, 4 a rounded rectangle, 1 a diamond."""
  direction = circle(sides, phase=0.5)
  return direction / np.sum(np.abs(direction) ** power, axis=-1, keepdims=True) ** (1 / power) * [width / 2, depth / 2]


def lathe(profile, sides: int = 28, *, ring: bool = False) -> Solid:
  """Returns the surface of revolution around z of a profile [N, 2] of (radius, z).

  The profile runs from the axis to the axis and gets points there if it has none; with `ring`, it is a closed loop.
  """
  profile = np.asarray(profile, float)
  if ring:
    return skin(_revolved(profile, sides), loop=True)
  start, end = (0.0, 0.0, profile[0, 1]), (0.0, 0.0, profile[-1, 1])
  inner = profile[profile[:, 0] > 1e-9]
  return skin(_revolved(inner, sides), start, end)


def _revolved(profile: np.ndarray, sides: int) -> np.ndarray:
  around = circle(sides, phase=0.5)
  flat = profile[:, None, :1] * around[None]
  return np.concatenate([flat, np.broadcast_to(profile[:, None, 1:], flat[..., :1].shape)], axis=-1)


def smooth(points, count: int = 24) -> np.ndarray:
  """Returns `count` points of a curve through `points` [N, D]: monotone cubic, spaced evenly along the polygon."""
  from scipy.interpolate import PchipInterpolator

  points = np.asarray(points, float)
  place = np.r_[0, np.cumsum(np.maximum(np.linalg.norm(np.diff(points, axis=0), axis=-1), 1e-9))]
  return PchipInterpolator(place, points)(np.linspace(0, place[-1], count))


def cylinder(radius: float, height: float, sides: int = 24, *, top: float | None = None, bevel: float = 0.0) -> Solid:
  """Returns a cylinder or, with another radius at the `top`, a frustum or a cone (0); edges may be bevelled."""
  top = radius if top is None else top
  if top < 1e-6:
    return lathe([(radius, 0), (0, height)], sides)
  bevel = min(bevel, 0.4 * height, 0.4 * radius, 0.4 * top)
  if not bevel:
    return lathe([(radius, 0), (top, height)], sides)
  return lathe([(radius - bevel, 0), (radius, bevel), (top, height - bevel), (top - bevel, height)], sides)


def tube(outer: float, inner: float, height: float, sides: int = 28) -> Solid:
  """Returns a hollow cylinder, open at both ends."""
  return lathe([(inner, 0), (outer, 0), (outer, height), (inner, height)], sides, ring=True)


def torus(radius: float, thickness: float, sides: int = 28, section: int = 12) -> Solid:
  """Returns a torus around z: `radius` to the middle of the tube, whose own radius is `thickness`."""
  return lathe(circle(section, thickness) + [radius, 0], sides, ring=True)


def box(width: float, depth: float, height: float, radius: float = 0.0, *, steps: int = 2) -> Solid:
  """Returns a box; edges are rounded by `radius`, which is limited to 45 % of the shortest side."""
  half = np.array([width, depth, height]) / 2
  lift = np.array([0, 0, half[2]])
  radius = min(radius, 0.9 * half.min())
  if radius <= 1e-4 * half.max():
    corner, _, faces, side = cube_grid(1)
    return make(np.sign(corner - 0.5) * half + lift, faces, surface=side)
  index, _, faces, side = cube_grid(2 * steps + 1)
  upper = index > steps
  place = np.where(upper, index - steps - 1, index - steps) / steps
  direction = np.tan(np.pi / 4 * place)
  direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
  return make(np.where(upper, 1, -1) * (half - radius) + radius * direction + lift, faces, surface=side)


def ellipsoid(width: float, depth: float, height: float, power: float = 2.0, cells: int = 8) -> Solid:
  """Returns an ellipsoid or, with a power above 2, a rounder or boxier superellipsoid such as a cushion."""
  index, _, faces, _ = cube_grid(cells)
  direction = np.tan(np.pi / 4 * (index / cells * 2 - 1))
  norm = np.sum(np.abs(direction) ** power, axis=-1, keepdims=True) ** (1 / power)
  return make(direction / norm * np.array([width, depth, height]) / 2, faces)


def ball(radius: float, cells: int = 8) -> Solid:
  return ellipsoid(2 * radius, 2 * radius, 2 * radius, cells=cells)


def blob(radius: float, roughness: float, rng: np.random.Generator, cells: int = 10, waves: float = 3.0) -> Solid:
  """Returns a ball whose radius varies smoothly by about `roughness` of itself: rocks, fruit, foliage."""
  solid = ball(radius, cells)
  direction = solid.vertices / radius
  change = sum(
    np.sin(direction @ rng.normal(size=3) * waves * octave + rng.uniform(0, 2 * np.pi)) / octave
    for octave in (1, 1, 1, 2, 2)
  )
  return make(solid.vertices * np.clip(1 + roughness / 2 * change, 0.3, 2)[:, None], solid.faces)


@functools.cache
def cube_grid(cells: int):
  """Returns the grid points on a cube's surface: indices [K, 3] from 0 to cells, quads, triangles and their side.

  Sides: 0 left, 1 right, 2 front, 3 back, 4 bottom, 5 top.
  """
  grid = np.arange(cells + 1)
  a, b = (x.ravel() for x in np.meshgrid(grid, grid, indexing='ij'))
  corners = []
  for axis in range(3):
    for value in (0, cells):
      sheet = np.empty((len(a), 3), int)
      others = [(axis + 1) % 3, (axis + 2) % 3]
      sheet[:, axis], sheet[:, others[0]], sheet[:, others[1]] = value, a, b
      corners.append(sheet)
  i, j = (x.ravel() for x in np.meshgrid(np.arange(cells), np.arange(cells), indexing='ij'))
  quad = np.stack([i * (cells + 1) + j, (i + 1) * (cells + 1) + j, (i + 1) * (cells + 1) + j + 1], axis=-1)
  quad = np.concatenate([quad, (i * (cells + 1) + j + 1)[:, None]], axis=-1)
  quads = np.concatenate([(quad if n % 2 else quad[:, ::-1]) + n * len(a) for n in range(6)])
  index, welded = np.unique(np.concatenate(corners), axis=0, return_inverse=True)
  quads = welded.reshape(-1)[quads]
  faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
  side = np.repeat(np.arange(6), cells * cells)
  return index, quads, faces, np.concatenate([side, side])


def prism(outline, height: float, holes=(), *, bevel: float = 0.0) -> Solid:
  """Returns an outline [M, 2], counter-clockwise, extruded along z; `holes` are outlines too. Edges may be bevelled.

  Bevels move corners inwards along their bisectors: keep them smaller than the details of the outline.
  """
  loops = [_oriented(outline, 1)] + [_oriented(hole, -1) for hole in holes]
  levels = (
    [(0.0, bevel), (bevel, 0.0), (height - bevel, 0.0), (height, bevel)] if bevel else [(0.0, 0.0), (height, 0.0)]
  )
  flat = np.concatenate(loops)
  inwards = np.concatenate([_inwards(loop) for loop in loops])
  vertices = np.concatenate([np.c_[flat + inset * inwards, np.full(len(flat), z)] for z, inset in levels])
  top = (len(levels) - 1) * len(flat)
  cap = np.asarray(triangulate([np.asarray(loop, np.float64) for loop in loops]))
  faces, uv, surface = [cap[:, ::-1], cap + top], [np.zeros((2 * len(cap), 3, 2))], [1] * len(cap) + [2] * len(cap)
  first = 0
  for loop in loops:
    k, count = np.arange(len(loop)), len(loop)
    u = np.r_[0, np.cumsum(np.linalg.norm(np.roll(loop, -1, axis=0) - loop, axis=-1))]
    for level in range(len(levels) - 1):
      low, high = level * len(flat) + first, (level + 1) * len(flat) + first
      quad = [low + k, low + (k + 1) % count, high + (k + 1) % count, high + k]
      v = [levels[level][0]] * 2 + [levels[level + 1][0]] * 2
      corner = [np.stack([u[k + d], np.full(count, z)], axis=-1) for d, z in zip((0, 1, 1, 0), v)]
      for triangle in ((0, 1, 2), (0, 2, 3)):
        faces.append(np.stack([quad[i] for i in triangle], axis=-1))
        uv.append(np.stack([corner[i] for i in triangle], axis=1))
        surface += [0] * count
    first += count
  return make(vertices, np.concatenate(faces), np.concatenate(uv), np.array(surface))


def _oriented(loop, sign: int) -> np.ndarray:
  loop = np.asarray(loop, float)
  x, y = loop.T
  area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
  return loop if area * sign > 0 else loop[::-1]


def _inwards(loop: np.ndarray) -> np.ndarray:
  """Returns the offsets [M, 2] that move every edge of a counter-clockwise loop inwards by 1."""
  edge = np.roll(loop, -1, axis=0) - loop
  edge /= np.linalg.norm(edge, axis=-1, keepdims=True)
  normal = np.stack([-edge[:, 1], edge[:, 0]], axis=-1)
  both = normal + np.roll(normal, 1, axis=0)
  return both / np.maximum(np.sum(both * normal, axis=-1, keepdims=True), 0.5)


def star(points: int, outer: float, inner: float) -> np.ndarray:
  """Returns the outline of a star, or of a gear if both radii are close."""
  radius = np.where(np.arange(2 * points) % 2, inner, outer)
  return circle(2 * points, phase=points / 2) * radius[:, None]


def gear(teeth: int, outer: float, inner: float) -> np.ndarray:
  """Returns the outline of a gear wheel."""
  radius = np.tile([inner, outer, outer, inner], teeth)
  return circle(4 * teeth) * radius[:, None]


def sweep(path, section, scale=1.0, *, loop: bool = False) -> Solid:
  """Returns a section moved along a path [N, 3]: handles, wires, legs, bodies.

  The section is a radius (then it has 10 sides) or an outline [M, 2]; `scale` may be [N] or [N, 2]. Frames are carried
  along without twist; the section's first axis starts as level as it can be.
  """
  path = np.asarray(path, float)
  section = circle(10, section) if np.isscalar(section) else np.asarray(section, float)
  ahead = np.roll(path, -1, axis=0) - path
  if loop:
    tangent = path - np.roll(path, 1, axis=0) + ahead
  else:
    ahead = ahead[:-1]
    tangent = np.concatenate([ahead[:1], ahead[:-1] + ahead[1:], ahead[-1:]])
  tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
  side = np.cross(tangent[0], [0, 0, 1.0])
  side = np.array([1.0, 0, 0]) if np.linalg.norm(side) < 1e-3 else side / np.linalg.norm(side)
  sides = []
  for direction in tangent:
    side = side - direction * np.dot(side, direction)
    side /= np.linalg.norm(side)
    sides.append(side)
  sides = np.array(sides)
  up = np.cross(sides, tangent)
  scale = np.broadcast_to(np.asarray(scale, float).reshape(-1, 1) if np.ndim(scale) < 2 else scale, (len(path), 2))
  local = section[None] * scale[:, None]
  rings = path[:, None] + local[..., :1] * sides[:, None] + local[..., 1:] * up[:, None]
  return skin(rings, loop=loop)


def bar(start, end, radius: float, sides: int = 8, *, top: float | None = None) -> Solid:
  """Returns a straight bar between two points; 4 sides make it square."""
  scale = [1.0, 1.0 if top is None else top / radius]
  return sweep([start, end], circle(sides, radius / np.cos(np.pi / sides), phase=0.5), scale)


def arch(width: float, height: float, count: int = 14) -> np.ndarray:
  """Returns a half ellipse [N, 2] from (-width / 2, 0) over (0, height) to (width / 2, 0)."""
  angle = np.linspace(np.pi, 0, count)
  return np.stack([width / 2 * np.cos(angle), height * np.sin(angle)], axis=-1)


def spun(solid: Solid, count: int, *, phase: float = 0.0) -> list[Solid]:
  """Returns `count` copies of a solid, evenly turned around z."""
  return [solid.turned('z', 360 * (i + phase) / count) for i in range(count)]


def both(solid: Solid, axis: str = 'x') -> list[Solid]:
  """Returns a solid and its mirror image."""
  return [solid, solid.mirrored(axis)]


def four(solid: Solid) -> list[Solid]:
  """Returns a solid and its images in the other three quadrants of x and y."""
  return [other for one in both(solid) for other in both(one, 'y')]
