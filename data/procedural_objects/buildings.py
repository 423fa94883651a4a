"""Makers of buildings and street furniture: houses, towers, castles, bridges, fences, lamps, signs."""

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
  lathe,
  prism,
  smooth,
  spun,
  sweep,
  torus,
  tube,
)


def windows(look, width: float, height: float, columns: int, rows: int, front: float, base: float):
  """Yields panes in frames on the front of a wall at y = front."""
  w, h = width / columns, height / rows
  for i in range(columns):
    for j in range(rows):
      x, z = width * ((i + 0.5) / columns - 0.5), base + h * (j + 0.25)
      yield box(0.6 * w, 0.06, 0.55 * h).moved(x, front, z), look.plain(1)
      yield box(0.48 * w, 0.09, 0.44 * h).moved(x, front, z + 0.055 * h), look.glass


def roof(width: float, depth: float, height: float, over: float):
  """Returns a saddle roof whose ridge runs along x."""
  return (
    prism([(-depth / 2 - over, 0), (depth / 2 + over, 0), (0.02, height), (-0.02, height)], width + 2 * over)
    .turned('x', 90)
    .turned('z', 90)
    .moved(-width / 2 - over)
  )


@maker(8.0, weight=2)
def house(rng, look):
  w, d, floors = rng.uniform(4, 9), rng.uniform(4, 7), rng.integers(1, 4)
  h, rise = floors * rng.uniform(2.3, 2.8), rng.uniform(1.0, 3.0)
  wall, top = (
    pick(rng, look.stone, look.plain(0), look.skin(0), look.wood),
    pick(rng, look.skin(2), look.plain(2), look.dark),
  )
  yield box(w, d, h), wall
  if chance(rng, 0.3):
    yield box(w + 0.4, d + 0.4, 0.3).moved(0, 0, 0), look.stone
  kind = rng.integers(4)
  if kind == 0:
    yield roof(w, d, rise, 0.3).moved(0, 0, h - 0.01), top
  elif kind == 1:
    yield roof(d, w, rise, 0.3).turned('z', 90).moved(0, 0, h - 0.01), top
  elif kind == 2:
    yield lathe([(1.0, 0), (0.1, rise)], 4).scaled((w + 0.6) / 1.414, (d + 0.6) / 1.414, 1).moved(0, 0, h - 0.01), top
  else:
    yield box(w + 0.3, d + 0.3, 0.3).moved(0, 0, h - 0.01), top
  columns = max(2, int(w / 2))
  story = h / floors
  for side in (0, 180):
    for solid, material in (
      windows(look, 0.94 * w, h - story, columns, max(1, floors - 1), -d / 2, story) if floors > 1 else ()
    ):
      yield solid.turned('z', side), material
  for angle in (90, -90):
    for solid, material in windows(look, 0.9 * d, h, max(1, int(d / 2.5)), floors, -w / 2, 0):
      yield solid.turned('z', angle), material
  door = rng.uniform(-0.3, 0.3) * w
  yield box(1.0, 0.12, 2.0).moved(door, -d / 2), look.plain(2)
  yield box(1.3, 0.6, 0.18).moved(door, -d / 2 - 0.28), look.stone
  for x in (door - w / 3, door + w / 3):
    if abs(x) < 0.38 * w:
      yield box(1.1, 0.06, 1.1).moved(x, -d / 2, 0.8), look.plain(1)
      yield box(0.9, 0.09, 0.9).moved(x, -d / 2, 0.9), look.glass
  if chance(rng, 0.6):
    yield box(0.6, 0.6, rise + 0.5).moved(0.3 * w, 0.2 * d, h - 0.1), look.stone
  if chance(rng, 0.3):
    yield box(0.4 * w, 2.0, 0.15).moved(door, -d / 2 - 0.95, 2.3), top
    for one in both(box(0.14, 0.14, 2.35).moved(0.18 * w)):
      yield one.moved(door, -d / 2 - 1.8), look.wood
  if chance(rng, 0.25):
    yield box(0.5 * w, 0.7 * d, 0.6 * story).moved(0.7 * w, 0), wall
    yield box(0.55 * w, 0.75 * d, 0.2).moved(0.7 * w, 0, 0.59 * story), top


@maker(60.0, weight=1.5)
def tower_block(rng, look):
  w, z, sides = rng.uniform(8, 16), 0.0, pick(rng, 0, 0, 0, 6, 8, 32)
  wall = pick(rng, look.glass, look.stone, look.plain(0))
  for _ in range(rng.integers(1, 5)):
    h = rng.uniform(6, 24)
    yield (box(w, w * rng.uniform(0.7, 1.0), h) if not sides else cylinder(w / 2, h, sides)).moved(0, 0, z), wall
    bands = int(h / rng.uniform(1.5, 3.0))
    for i in range(bands):
      band = box(1.02 * w, 1.02 * w, 0.4 * h / bands) if not sides else cylinder(0.515 * w, 0.4 * h / bands, sides)
      yield band.moved(0, 0, z + h * (i + 0.5) / bands), look.plain(1)
    z += h - 0.02
    w *= rng.uniform(0.6, 1.0)
  if chance(rng, 0.6):
    yield cylinder(0.3, rng.uniform(3, 10), 8, top=0.06).moved(0, 0, z - 0.05), look.metal
  if chance(rng, 0.3):
    yield cylinder(0.4 * w, 0.8 * w, pick(rng, 4, 24), top=0).moved(0, 0, z - 0.01), look.plain(2)


@maker(20.0)
def castle(rng, look):
  w, h, r, sides = rng.uniform(8, 14), rng.uniform(3, 5), rng.uniform(1.2, 2.0), pick(rng, 6, 8, 24)
  tall = h * rng.uniform(1.2, 2.0)
  for x, y, length, along in ((0, -w / 2, w, 'x'), (0, w / 2, w, 'x'), (-w / 2, 0, w, 'y'), (w / 2, 0, w, 'y')):
    wall = box(length, 1.0, h) if along == 'x' else box(1.0, length, h)
    yield wall.moved(x, y), look.stone
    for i in range(6):
      shift = length * ((i + 0.5) / 6 - 0.5) * 0.85
      yield (
        box(0.8, 0.8, 0.7).moved(x + (shift if along == 'x' else 0), y + (shift if along == 'y' else 0), h - 0.01),
        look.stone,
      )
  for tower in four(cylinder(r, tall, sides).moved(w / 2, w / 2)):
    yield tower, look.stone
  yield box(1.05 * w, 1.05 * w, 0.2), look.leaves
  pointed = chance(rng, 0.6)
  cap = cylinder(1.25 * r, r * rng.uniform(1.5, 2.5), sides, top=0) if pointed else tube(1.2 * r, 0.8 * r, 0.9, sides)
  for one in four(cap.moved(w / 2, w / 2, tall - 0.05)):
    yield one, look.plain(2)
  yield (
    prism(np.r_[[(1.0, 0)], [(x, y + 1.6) for x, y in circle(16, 1.0)[:9]], [(-1.0, 0)]], 0.3)
    .turned('x', 90)
    .moved(0, -w / 2 - 0.4, 0),
    look.wood,
  )
  keep = rng.uniform(0.3, 0.45) * w
  yield box(keep, keep, 1.6 * h), look.stone
  yield (
    lathe([(1.0, 0), (0.05, 0.6 * keep)], 4).scaled(0.78 * keep, 0.78 * keep, 1).moved(0, 0, 1.6 * h - 0.02),
    look.plain(2),
  )
  yield from windows(look, 0.8 * keep, 0.6 * h, 2, 1, -keep / 2, h)


@maker(12.0)
def temple(rng, look):
  w, d, h, count = rng.uniform(6, 12), rng.uniform(4, 10), rng.uniform(2.5, 4.5), rng.integers(3, 7)
  steps = rng.integers(1, 4)
  for i in range(steps):
    yield box(w + 0.8 * (steps - i), d + 0.8 * (steps - i), 0.32).moved(0, 0, 0.3 * i), look.stone
  base, r = 0.3 * steps, rng.uniform(0.2, 0.35)
  column = lathe(
    [(1.4 * r, 0), (1.4 * r, 0.1), (r, 0.2), (0.85 * r, h - 0.25), (1.4 * r, h - 0.1), (1.4 * r, h + 0.01)],
    pick(rng, 8, 20),
  )
  for i in range(count):
    x = (w - 1.2) * (i / (count - 1) - 0.5)
    for y in (-d / 2 + 0.5, d / 2 - 0.5):
      yield column.moved(x, y, base), look.plain(1)
  deep = max(2, int(d / 2))
  for j in range(1, deep):
    for x in (-w / 2 + 0.6, w / 2 - 0.6):
      yield column.moved(x, (d - 1.0) * (j / deep - 0.5), base), look.plain(1)
  yield box(w, d, 0.5).moved(0, 0, base + h), look.stone
  yield roof(d, w, rng.uniform(1.0, 2.0), 0.3).turned('z', 90).moved(0, 0, base + h + 0.49), look.plain(2)
  if chance(rng, 0.6):
    yield box(0.6 * w, 0.6 * d, h).moved(0, 0, base), look.skin(0)


@maker(3.0)
def tent(rng, look):
  w, d, h = rng.uniform(1.5, 3), rng.uniform(2, 4), rng.uniform(1.2, 2.2)
  kind = rng.integers(3)
  if kind == 0:
    yield prism([(-w / 2, 0), (w / 2, 0), (0, h)], d).turned('x', 90).moved(0, d / 2), look.fabric
    yield (
      prism([(-0.2 * w, 0), (0.2 * w, 0), (0, 0.75 * h)], 0.04).turned('x', 90).moved(0, -d / 2 + 0.01, 0),
      look.dark,
    )
    for y in (-d / 2 - 0.05, d / 2 + 0.05):
      yield bar((0, y, 0.02), (0, y, 1.06 * h), 0.03, 8), look.wood
      yield bar((0, 0.9 * y, 1.0 * h), (0, y, 1.0 * h), 0.03, 8), look.wood
  elif kind == 1:
    sides = rng.integers(6, 13)
    yield cylinder(0.8 * w, 1.3 * h, sides, top=0.1), look.skin(0)
    for i in range(5):
      yield bar((0, 0, 1.2 * h), (0.3 * np.cos(1.3 * i), 0.3 * np.sin(1.3 * i), 1.55 * h), 0.03, 6), look.wood
    yield prism([(-0.2 * w, 0), (0.2 * w, 0), (0, 0.7 * h)], 0.1).turned('x', 68).moved(0, -0.79 * w, 0.02), look.dark
  else:
    r = 0.7 * w
    yield (
      lathe(
        [
          (r, 0),
          (r, 0.5 * h),
          (1.1 * r, 0.5 * h),
          *smooth([(1.05 * r, 0.55 * h), (0.4 * r, 0.9 * h), (0.05 * r, 1.3 * h)], 10),
        ],
        16,
      ),
      look.skin(0),
    )
    yield cylinder(0.03, 0.6, 8).moved(0, 0, 1.25 * h), look.wood
    yield prism([(0, 0), (0.5, 0.12), (0, 0.25)], 0.02).turned('x', 90).moved(0.0, 0.01, 1.25 * h + 0.32), look.plain(2)
    yield box(0.7, 0.1, 0.4 * h).moved(0, -r + 0.02), look.dark


@maker(10.0)
def windmill(rng, look):
  h, r, sides = rng.uniform(5, 9), rng.uniform(1.2, 2.0), pick(rng, 6, 8, 28)
  yield cylinder(r, h, sides, top=0.65 * r), pick(rng, look.stone, look.skin(0), look.wood)
  if chance(rng, 0.5):
    yield ellipsoid(1.5 * r, 1.5 * r, 1.2 * r).moved(0, 0, h), look.plain(2)
  else:
    yield cylinder(0.8 * r, 1.0 * r, sides, top=0).moved(0, 0, h - 0.02), look.plain(2)
  hub, blade = h + 0.1 * r, 0.55 * h
  yield cylinder(0.2, 1.2 * r, 14).turned('x', 90).moved(0, 0, hub), look.dark
  count, turn = rng.integers(3, 6), rng.uniform(0, 90)
  for i in range(count):
    angle = turn + 360 * i / count
    yield box(0.12, 0.1, blade).turned('y', angle).moved(0, -1.1 * r, hub), look.wood
    yield (
      box(0.7, 0.05, 0.75 * blade).moved(0.35, 0, 0.22 * blade).turned('y', angle).moved(0, -1.1 * r - 0.01, hub),
      look.plain(1),
    )
  yield box(0.9, 0.3, 1.8).moved(0, -r + 0.1), look.dark
  for level in (0.4, 0.7):
    at = r * (1 - 0.35 * level)
    yield box(0.5, 0.3, 0.6).moved(0, -at + 0.1, level * h), look.glass


@maker(12.0)
def lighthouse(rng, look):
  h, r, bands = rng.uniform(6, 12), rng.uniform(1.0, 1.6), rng.integers(2, 6)
  for i in range(bands):
    low, high = 1 - 0.4 * i / bands, 1 - 0.4 * (i + 1) / bands
    yield cylinder(low * r, h / bands, 28, top=high * r).moved(0, 0, 0.3 + h * i / bands), look.plain(2 if i % 2 else 1)
  yield cylinder(1.5 * r, 0.4, 28), look.stone
  z = 0.3 + h
  yield cylinder(0.85 * r, 0.2, 28).moved(0, 0, z - 0.05), look.dark
  for one in spun(bar((0.8 * r, 0, z), (0.8 * r, 0, z + 0.6), 0.04, 6), 10):
    yield one, look.metal
  yield torus(0.8 * r, 0.05, 28, 6).moved(0, 0, z + 0.6), look.metal
  yield cylinder(0.45 * r, 1.2, 12).moved(0, 0, z), look.glass
  yield cylinder(0.65 * r, 0.7 * r, 24, top=0).moved(0, 0, z + 1.18), look.plain(2)
  yield box(0.7, 0.3, 1.4).moved(0, -r, 0.3), look.dark


@maker(8.0)
def bridge(rng, look):
  long, w, rise = rng.uniform(5, 10), rng.uniform(1.2, 2.5), rng.uniform(0.6, 1.6)
  deck = rise * rng.uniform(1.1, 1.5)
  arches = rng.integers(1, 4)
  span = long / arches
  outline = [(-long / 2, 0)]
  for i in range(arches):
    x = -long / 2 + span * (i + 0.5)
    s = np.linspace(np.pi, 0, 12)
    outline += [(x + 0.38 * span * np.cos(a), max(0.0, rise * np.sin(a))) for a in s]
  outline += [(long / 2, 0), (long / 2, deck), (-long / 2, deck)]
  yield prism(outline, w).turned('x', 90).moved(0, w / 2), pick(rng, look.stone, look.skin(0), look.wood)
  yield box(1.02 * long, 1.12 * w, 0.15).moved(0, 0, deck - 0.01), look.plain(1)
  posts = rng.integers(4, 10)
  for side in both(bar((-long / 2, w / 2, deck + 0.6), (long / 2, w / 2, deck + 0.6), 0.06, 6), 'y'):
    yield side, look.metal
  for i in range(posts):
    for post in both(box(0.1, 0.1, 0.6).moved(long * 0.98 * (i / (posts - 1) - 0.5), w / 2, deck + 0.1), 'y'):
      yield post, look.metal
  if chance(rng, 0.4):
    tall = 0.5 * long
    for x in (-0.25 * long, 0.25 * long):
      for post in both(box(0.25, 0.2, tall).moved(x, w / 2 + 0.15, 0), 'y'):
        yield post, look.plain(2)
      yield box(0.2, w + 0.4, 0.2).moved(x, 0, tall - 0.3), look.plain(2)
      for y in (-w / 2 - 0.12, w / 2 + 0.12):
        for k in (-0.24, -0.16, -0.08, 0.08, 0.16, 0.24):
          yield bar((x, y, tall - 0.2), (x + k * long, y * 0.95, deck), 0.025, 5), look.metal


@maker(3.0)
def fence(rng, look):
  w, h, count = rng.uniform(1.5, 3.5), rng.uniform(0.7, 1.6), rng.integers(5, 14)
  material = pick(rng, look.wood, look.metal, look.plain(1))
  kind, corner = rng.integers(3), chance(rng, 0.3)
  rail = 0.06 * h
  pieces = []
  for z in (0.2 * h, 0.75 * h):
    pieces.append(box(w, 0.05, rail).moved(0, 0.03, z))
  for i in range(count):
    x = w * ((i + 0.5) / count - 0.5)
    wide = 0.6 * w / count
    if kind == 0:
      pieces.append(
        prism([(-wide / 2, 0), (wide / 2, 0), (wide / 2, 0.9 * h), (0, h), (-wide / 2, 0.9 * h)], 0.03)
        .turned('x', 90)
        .moved(x, 0.01)
      )
    elif kind == 1:
      pieces.append(cylinder(0.2 * wide, h, 8).moved(x, 0.03))
      pieces.append(cylinder(0.4 * wide, 0.12 * h, 8, top=0).moved(x, 0.03, h - 0.005))
    else:
      pieces.append(box(wide, 0.03, 0.92 * h).moved(x, -0.002))
  for x in (-w / 2, w / 2):
    pieces.append(box(0.1, 0.1, 1.1 * h).moved(x, 0.03))
    pieces.append(ball(0.07, 5).moved(x, 0.03, 1.13 * h))
  for piece in pieces:
    yield piece, material
    if corner:
      yield piece.moved(w / 2).turned('z', 90).moved(-w / 2, 0.03), material
  if not corner:
    for x in (-0.45 * w, 0.45 * w):
      yield box(0.12, 0.5, 0.05).moved(x, 0.03), look.stone


@maker(2.0)
def well(rng, look):
  r, h = rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.8)
  yield tube(r, 0.75 * r, h, pick(rng, 8, 28)), look.stone
  yield cylinder(0.78 * r, 0.5 * h, 24), look.dark
  for one in both(box(0.1, 0.1, 2.2 * h + 0.3).moved(0.85 * r)):
    yield one, look.wood
  yield roof(2.2 * r, 1.6 * r, 0.6 * r, 0.1).moved(0, 0, 2.2 * h + 0.28), look.skin(2)
  yield cylinder(0.07, 1.8 * r, 14).turned('y', 90).moved(-0.9 * r, 0, 1.7 * h), look.wood
  yield bar((0, 0, h + 0.12), (0, 0, 1.7 * h), 0.012, 6), look.dark
  yield cylinder(0.12, 0.2, 16, top=0.15).moved(0, 0, h - 0.05), look.metal
  yield bar((0.9 * r, 0, 1.7 * h), (1.2 * r, 0, 1.7 * h), 0.03, 8), look.metal


@maker(2.5)
def fountain(rng, look):
  z, r, sides = 0.0, rng.uniform(0.8, 1.4), pick(rng, 6, 8, 32)
  for i in range(rng.integers(1, 4)):
    h = 0.28 * r + 0.1
    if i:
      yield lathe([(0.3 * r, z - 0.02), (0.18 * r, z + 0.5), (0.3 * r, z + 0.7)], 20), look.stone
      z += 0.65
    bowl = [(0.25 * r if i else 0.95 * r, z), (r, z + 0.8 * h), (r, z + h), (0.85 * r, z + h), (0.8 * r, z + 0.6 * h)]
    yield lathe(bowl, sides), look.stone
    yield cylinder(0.86 * r, 0.05, sides).moved(0, 0, z + 0.75 * h), look.glass
    z += 0.6 * h
    r *= rng.uniform(0.45, 0.6)
  yield lathe(smooth([(0.5 * r, z), (0.8 * r, z + 0.8 * r), (0.1 * r, z + 2 * r)], 10), 20), look.plain(1)


@maker(3.0, weight=1.5)
def street_lamp(rng, look):
  h, r = rng.uniform(2.2, 4.5), rng.uniform(0.04, 0.07)
  yield lathe([(4 * r, 0), (4 * r, 0.1), (2 * r, 0.25), (r, 0.5), (r, h), (1.5 * r, h + 0.02)], 16), look.metal
  arms, reach = rng.integers(0, 4), rng.uniform(0.3, 0.7)
  places = [(0.0, 0.0)] if arms == 0 else []
  for i in range(arms):
    angle = 2 * np.pi * i / arms - np.pi / 2
    x, y = reach * np.cos(angle), reach * np.sin(angle)
    yield sweep(smooth([(0, 0, h - 0.3), (0.6 * x, 0.6 * y, h), (x, y, h + 0.05)], 10), 0.7 * r), look.metal
    places.append((x, y))
  kind = rng.integers(3)
  for x, y in places:
    if kind == 0:
      yield ball(0.18, 8).moved(x, y, h + 0.18), look.plain(1)
    elif kind == 1:
      yield lathe([(0.08, 0), (0.15, 0.3)], 6).moved(x, y, h + 0.02), look.glass
      yield cylinder(0.2, 0.15, 6, top=0).moved(x, y, h + 0.31), look.metal
    else:
      yield lathe([(0.06, 0), (0.2, 0.02), (0.1, 0.15), (0.04, 0.2)], 20).moved(x, y, h), look.plain(2)
      yield ball(0.08, 6).moved(x, y, h + 0.0), look.plain(1)


@maker(2.5, weight=1.5)
def sign(rng, look):
  h, t = rng.uniform(1.2, 2.6), 0.03
  kind = rng.integers(4)
  yield cylinder(0.15, 0.06, 20, bevel=0.01), look.stone
  yield cylinder(0.03, h, 12).moved(0, 0, 0.02), look.metal
  if kind == 0:
    sides, r = pick(rng, 3, 4, 8, 28), rng.uniform(0.2, 0.35)
    phase = {3: 0.75, 4: 1.0, 8: 0.5, 28: 0.5}[sides]
    yield prism(circle(sides, r, phase=phase), t).turned('x', 90).moved(0, -0.02, h - 0.5 * r), look.plain(1)
    yield (
      prism(circle(sides, 0.85 * r, phase=phase), t).turned('x', 90).moved(0, -0.03, h - 0.5 * r),
      look.printed(1.7 * r, 1.7 * r, flat=True),
    )
  elif kind == 1:
    w, tall = rng.uniform(0.5, 1.2), rng.uniform(0.3, 0.8)
    yield box(w, t, tall).moved(0, -0.04, h - 0.7 * tall), look.printed(w, tall)
    yield box(w + 0.06, t, tall + 0.06).moved(0, -0.025, h - 0.7 * tall - 0.03), look.metal
  elif kind == 2:  # Arrows.
    for i in range(rng.integers(1, 5)):
      w = rng.uniform(0.4, 0.7)
      arrow = [(-0.2, -0.07), (w, -0.07), (w + 0.12, 0), (w, 0.07), (-0.2, 0.07)]
      yield (
        prism(arrow, t)
        .turned('x', 90)
        .turned('z', rng.uniform(-40, 40) + pick(rng, 0, 180))
        .moved(0, 0, h - 0.08 - 0.18 * i),
        look.plain(i % 3) if i % 2 else look.wood,
      )
  else:  # Traffic lights.
    yield box(0.24, 0.18, 0.7, 0.03).moved(0, -0.05, h - 0.2), look.dark
    for i in range(3):
      yield tube(0.085, 0.07, 0.12, 20).turned('x', 90).moved(0, -0.13, h - 0.08 + 0.21 * i), look.dark
      yield ellipsoid(0.15, 0.06, 0.15, cells=6).moved(0, -0.14, h - 0.08 + 0.21 * i), look.plain(i)


@maker(0.8, weight=1.5)
def street_object(rng, look):
  """A traffic cone, a hydrant, a mailbox or a litter bin."""
  kind = rng.integers(4)
  if kind == 0:
    r, h = rng.uniform(0.14, 0.2), rng.uniform(0.4, 0.8)
    yield box(2.6 * r, 2.6 * r, 0.04, 0.015, steps=1), look.dark
    yield cylinder(r, h, 28, top=0.2 * r).moved(0, 0, 0.03), look.plain(2)
    for level in (0.3, 0.6)[: rng.integers(1, 3)]:
      at = r * (1 - 0.8 * level)
      yield (
        cylinder(1.03 * at, 0.14 * h, 28, top=1.03 * (at - 0.8 * r * 0.14)).moved(0, 0, 0.03 + level * h),
        look.plain(1),
      )
  elif kind == 1:
    body = look.plain(2)
    yield (
      lathe(
        [
          (0.2, 0),
          (0.2, 0.05),
          (0.14, 0.06),
          (0.14, 0.55),
          (0.17, 0.56),
          (0.17, 0.6),
          *smooth([(0.15, 0.61), (0.1, 0.7), (0.03, 0.74)], 8),
        ],
        24,
      ),
      body,
    )
    for one in both(cylinder(0.06, 0.1, 16).turned('y', 90).moved(0.12, 0, 0.42)):
      yield one, body
    for one in both(cylinder(0.045, 0.04, 6).turned('y', 90).moved(0.21, 0, 0.42)):
      yield one, look.metal
    yield cylinder(0.08, 0.12, 18).turned('x', 90).moved(0, -0.11, 0.38), look.plain(1)
    yield cylinder(0.04, 0.06, 6).moved(0, 0, 0.73), look.metal
  elif kind == 2:
    yield cylinder(0.04, 0.8, 4), look.wood
    yield (
      prism(np.r_[[(-0.14, 0), (0.14, 0)], circle(20, 0.14)[:11] + [0, 0.14]], 0.45, bevel=0.006)
      .turned('x', 90)
      .moved(0, 0.22, 0.78),
      look.skin(0),
    )
    yield box(0.2, 0.02, 0.16).moved(0, -0.235, 0.85), look.printed(0.2, 0.16)
    yield box(0.02, 0.03, 0.16).moved(0.148, 0.05, 0.88), look.plain(2)
    yield box(0.02, 0.1, 0.06).moved(0.148, 0.08, 1.02), look.plain(2)
    yield cylinder(0.16, 0.03, 16), look.stone
  else:
    r, h = rng.uniform(0.18, 0.26), rng.uniform(0.5, 0.8)
    yield lathe([(0.8 * r, 0), (r, h), (0.93 * r, h), (0.8 * r, 0.3 * h)], pick(rng, 4, 8, 28)), look.skin(0)
    yield (
      lathe(
        [
          (1.06 * r, h - 0.01),
          (1.06 * r, h + 0.03),
          *smooth([(0.9 * r, h + 0.05), (0.4 * r, h + 0.14), (0.05 * r, h + 0.16)], 6),
        ],
        28,
      ),
      look.dark,
    )
    yield torus(0.92 * r, 0.03 * r, 28, 8).moved(0, 0, 0.6 * h), look.metal
