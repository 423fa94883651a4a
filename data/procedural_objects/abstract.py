"""Makers of assemblies without a name, for shapes that no other maker has: symmetric, stacked, turned, lattices."""

import numpy as np

from .grammar import chance, maker, pick
from .shapes import (
  ball,
  bar,
  both,
  box,
  circle,
  cylinder,
  ellipsoid,
  four,
  gear,
  lathe,
  prism,
  smooth,
  spun,
  squircle,
  star,
  sweep,
  torus,
  tube,
)


def any_shape(rng, size: float):
  """Returns some shape that stands at z = 0, about `size` large."""
  a, b, c = size * rng.uniform(0.3, 1.0, 3)
  kind = rng.integers(9)
  if kind == 0:
    return box(a, b, c, pick(rng, 0, 0.05 * size, 0.2 * size))
  if kind == 1:
    return ellipsoid(a, b, c, pick(rng, 2, 2, 3, 6)).moved(0, 0, c / 2)
  if kind == 2:
    return cylinder(
      a / 2, c, pick(rng, 3, 4, 5, 6, 8, 28), top=pick(rng, a / 2, b / 2, 0), bevel=pick(rng, 0, 0.04 * size)
    )
  if kind == 3:
    return torus(0.35 * a + 0.1 * size, 0.08 * size, 28, 10).moved(0, 0, 0.08 * size)
  if kind == 4:
    count = rng.integers(3, 7)
    radius = size * np.clip(rng.uniform(0.05, 0.5, count), 0.05, None)
    return lathe(smooth(np.c_[radius, np.linspace(0, c, count)], 18), pick(rng, 6, 28))
  if kind == 5:
    return prism(
      pick(
        rng,
        star(int(rng.integers(3, 9)), a / 2, a / 4),
        gear(int(rng.integers(6, 14)), a / 2, 0.4 * a),
        squircle(a, b, 3, 20),
      ),
      0.4 * c,
    )
  if kind == 6:
    return tube(a / 2, a / 2 * rng.uniform(0.6, 0.9), c, pick(rng, 6, 8, 28))
  if kind == 7:
    path = smooth([(0, 0, 0), (a / 2, 0, c / 2), (0, b / 3, c)], 12)
    solid = sweep(
      path, pick(rng, circle(10), squircle(2, 2, 6, 12)), size * np.linspace(*rng.uniform(0.04, 0.15, 2), 12)
    )
    return solid.moved(0, 0, -solid.bounds[0, 2])
  return prism([(-a / 2, 0), (a / 2, 0), (a / 2 * rng.uniform(-1, 1), c)], b).turned('x', 90).moved(0, b / 2)


def any_turn(rng, solid):
  solid = pick(rng, solid, solid, solid.turned('x', 90), solid.turned('y', 90), solid.turned('x', rng.uniform(-40, 40)))
  return solid.moved(0, 0, -solid.bounds[0, 2])


@maker(1.0, weight=5)
def symmetric(rng, look):
  """Parts on both sides of a core."""
  core = any_turn(rng, any_shape(rng, 1.0))
  yield core, look.skin(0)
  low, high = core.bounds
  for _ in range(rng.integers(1, 5)):
    part = any_turn(rng, any_shape(rng, rng.uniform(0.2, 0.7)))
    z = rng.uniform(0, max(0.01, high[2] - 0.3 * part.bounds[1, 2]))
    material = look.skin(int(rng.integers(0, 3)))
    if chance(rng, 0.3):  # In the plane of symmetry, on top or in front.
      place = pick(rng, (0, 0, high[2] - 0.03), (0, low[1] - 0.3 * part.bounds[0, 1], z))
      yield part.moved(*place), material
    else:
      x = high[0] + rng.uniform(-0.3, 0.2) * np.ptp(part.bounds[:, 0])
      y = rng.uniform(-0.4, 0.4) * (high[1] - low[1])
      copies = both(part.moved(x, y, z)) if chance(rng, 0.7) else four(part.moved(x, y, z))
      for one in copies:
        yield one, material


@maker(1.0, weight=4)
def stack(rng, look):
  """Shapes on top of each other, perhaps on legs."""
  z = 0.0
  if chance(rng, 0.4):
    w, d, z = rng.uniform(0.4, 1.0), rng.uniform(0.4, 1.0), rng.uniform(0.1, 0.6)
    t = rng.uniform(0.02, 0.07)
    leg = pick(rng, box(2 * t, 2 * t, z), cylinder(t, z, 14), cylinder(0.5 * t, z, 14, top=1.3 * t))
    for one in four(leg.moved(w / 2 - 1.2 * t, d / 2 - 1.2 * t)):
      yield one, look.plain(1)
    yield box(w, d, 0.06, 0.015).moved(0, 0, z - 0.01), look.skin(0)
    z += 0.045
  size = rng.uniform(0.5, 0.9)
  for i in range(rng.integers(2, 6)):
    part = any_shape(rng, size)
    low, high = part.bounds
    part = part.moved(-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2])
    yield part.moved(0, 0, z), look.skin(i % 3)
    z += part.bounds[1, 2] - 0.01 * size
    size *= rng.uniform(0.6, 1.1)


@maker(1.0, weight=3)
def rotational(rng, look):
  """Copies of parts around an upright axis."""
  h = rng.uniform(0.4, 1.2)
  core = lathe(
    smooth([(rng.uniform(0.15, 0.4), 0), (rng.uniform(0.05, 0.3), 0.5 * h), (rng.uniform(0.05, 0.3), h)], 14),
    pick(rng, 6, 28),
  )
  yield core, look.skin(0)
  for _ in range(rng.integers(1, 4)):
    count, material = int(rng.integers(3, 10)), look.skin(int(rng.integers(0, 3)))
    part = any_turn(rng, any_shape(rng, rng.uniform(0.15, 0.5)))
    reach, z = rng.uniform(0.1, 0.3), rng.uniform(0, 0.8) * h
    part = part.moved(-part.bounds[0, 0] + reach - 0.05, 0, z)
    for one in spun(part, count):
      yield one, material
    yield cylinder(reach + 0.1, 0.05, 28, bevel=0.01).moved(0, 0, z), material


@maker(1.0, weight=2)
def lattice(rng, look):
  """A grid, a cage or a dome of bars with knots."""
  kind, t = rng.integers(3), rng.uniform(0.012, 0.04)
  material, knot = pick(rng, look.metal, look.wood, look.plain(0)), look.plain(2)
  nodes, edges = [], []
  if kind == 0:
    nx, ny, nz = rng.integers(2, 5), rng.integers(2, 4), rng.integers(2, 5)
    step = rng.uniform(0.2, 0.35, 3)
    grid = {(i, j, k): np.array([i, j, k]) * step for i in range(nx) for j in range(ny) for k in range(nz)}
    nodes = list(grid.values())
    for (i, j, k), point in grid.items():
      edges += [(point, grid[other]) for other in ((i + 1, j, k), (i, j + 1, k), (i, j, k + 1)) if other in grid]
  elif kind == 1:
    r, h, count, rows = rng.uniform(0.25, 0.5), rng.uniform(0.5, 1.2), rng.integers(5, 11), rng.integers(2, 5)
    twist = pick(rng, 0, 0, 0.5)
    taper = rng.uniform(0.5, 1.1)
    rings = [
      np.c_[circle(count, r * (1 + (taper - 1) * k / (rows - 1)), phase=twist * k), np.full(count, h * k / (rows - 1))]
      for k in range(rows)
    ]
    for k, ring in enumerate(rings):
      nodes += list(ring)
      edges += list(zip(ring, np.roll(ring, -1, axis=0)))
      if k:
        edges += list(zip(rings[k - 1], ring))
        if twist:
          edges += list(zip(rings[k - 1], np.roll(ring, 1, axis=0)))
  else:
    r, rows, count = rng.uniform(0.4, 0.6), rng.integers(3, 5), rng.integers(6, 10)
    rings = [
      np.c_[circle(count, r * np.cos(a), phase=0.5 * k), np.full(count, r * np.sin(a))]
      for k, a in enumerate(np.linspace(0, 1.25, rows))
    ]
    top = np.array([0, 0, r])
    for k, ring in enumerate(rings):
      nodes += list(ring)
      edges += list(zip(ring, np.roll(ring, -1, axis=0)))
      if k:
        edges += list(zip(rings[k - 1], ring)) + list(zip(rings[k - 1], np.roll(ring, 1, axis=0)))
    nodes.append(top)
    edges += [(point, top) for point in rings[-1]]
  sides = pick(rng, 4, 6, 8)
  for start, end in edges:
    yield bar(start, end, t, sides), material
  round_knots = chance(rng, 0.7)
  for node in nodes:
    yield (ball(1.6 * t, 4) if round_knots else box(2.6 * t, 2.6 * t, 2.6 * t).moved(0, 0, -1.3 * t)).moved(*node), knot
  if chance(rng, 0.3):
    yield ball(0.15, 8).moved(*np.mean(nodes, axis=0)), look.skin(2)
    yield bar(np.mean(nodes, axis=0), nodes[0], 0.6 * t, 6), material
