"""Makers of vehicles: wheels, bodies of rounded boxes and lofted hulls, wings."""

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
  skin,
  smooth,
  spun,
  squircle,
  sweep,
  torus,
)


def wheel(rng, look, radius: float, width: float, spokes: int | None = None):
  """Yields a wheel whose axis is x, around the origin."""
  edge = 0.2 * width
  tyre = lathe(
    [
      (0.62 * radius, -width / 2),
      (radius - edge, -width / 2),
      (radius, -width / 2 + edge),
      (radius, width / 2 - edge),
      (radius - edge, width / 2),
      (0.62 * radius, width / 2),
    ],
    28,
    ring=True,
  )
  yield tyre.turned('y', 90), look.dark
  spokes = rng.integers(0, 8) if spokes is None else spokes
  if spokes < 3:
    yield cylinder(0.65 * radius, 0.8 * width, 24).moved(0, 0, -0.4 * width).turned('y', 90), look.metal
  else:
    for spoke in spun(box(0.12 * radius, 0.3 * width, 0.66 * radius).turned('y', 90), spokes):
      yield spoke.turned('y', 90), look.metal
  yield cylinder(0.2 * radius, 0.95 * width, 16).moved(0, 0, -0.475 * width).turned('y', 90), look.metal


def wheels(rng, look, radius, width, places, spokes=None):
  """Yields copies of one wheel with their middles at (x, y)."""
  one = list(wheel(rng, look, radius, width, spokes))
  for x, y in places:
    for solid, material in one:
      yield (solid if x > 0 else solid.mirrored('x')).moved(x, y, radius), material


def hull(stations, sides: int = 24, power: float = 3.0):
  """Returns a body along y from stations (y, width, height, z of its middle)."""
  rings = []
  for y, width, height, z in stations:
    outline = squircle(width, height, power, sides)
    rings.append(np.stack([outline[:, 0], np.full(sides, y), outline[:, 1] + z], axis=-1))
  return skin(rings)


@maker(4.0, weight=3)
def car(rng, look):
  w, long, h = rng.uniform(1.5, 1.9), rng.uniform(2.8, 4.8), rng.uniform(0.5, 0.75)
  r, clear = rng.uniform(0.28, 0.42), rng.uniform(0.15, 0.3)
  body = pick(rng, look.plain(0), look.plain(0), look.plain(2), look.skin(0))
  yield box(w, long, h, rng.uniform(0.06, 0.25), steps=3).moved(0, 0, clear), body
  cabin, back, tall = long * rng.uniform(0.4, 0.65), long * rng.uniform(-0.1, 0.1), rng.uniform(0.45, 0.7)
  slope = rng.uniform(0.1, 0.35)
  z = clear + h - 0.03
  outline = [
    (back - cabin / 2, 0),
    (back + cabin / 2, 0),
    (back + cabin / 2 * (1 - slope * 0.7), tall),
    (back - cabin / 2 * (1 - slope), tall),
  ]
  yield prism(outline, 0.86 * w, bevel=0.06).turned('x', 90).turned('z', 90).moved(-0.43 * w, 0, z), body
  glass = [(y * 0.92 + 0.08 * back, 0.12 + 0.72 * q) for y, q in outline]
  yield prism(glass, 0.88 * w).turned('x', 90).turned('z', 90).moved(-0.44 * w, 0, z), look.glass
  steep = np.rad2deg(np.arctan2(cabin / 2 * slope, tall))
  for y, angle in (
    (back - cabin / 2, -steep),
    (back + cabin / 2, np.rad2deg(np.arctan2(cabin / 2 * slope * 0.7, tall))),
  ):
    yield box(0.72 * w, 0.04, 0.72 * tall).moved(0, 0, 0.14 * tall).turned('x', angle).moved(0, y, z), look.glass
  yield from wheels(rng, look, r, 0.22, [(sx * (w / 2 - 0.08), sy * long * 0.32) for sx in (-1, 1) for sy in (-1, 1)])
  for light in both(ellipsoid(0.28, 0.12, 0.16, 3, cells=6).moved(0.36 * w, -long / 2 + 0.01, clear + 0.65 * h)):
    yield light, look.plain(1)
  for light in both(box(0.25, 0.08, 0.12).moved(0.36 * w, long / 2 - 0.02, clear + 0.6 * h)):
    yield light, look.plain(2)
  yield box(0.4 * w, 0.06, 0.2 * h).moved(0, -long / 2 - 0.01, clear + 0.25 * h), look.dark
  for bumper in (-1, 1):
    yield (
      box(0.95 * w, 0.12, 0.14, 0.04, steps=1).moved(0, bumper * (long / 2 - 0.02), clear + 0.05),
      pick(rng, look.dark, look.metal),
    )
  if chance(rng, 0.25):
    yield box(0.7 * w, 0.25, 0.04).moved(0, long / 2 - 0.12, z + 0.2), body
    for post in both(box(0.05, 0.1, 0.25).moved(0.3 * w, long / 2 - 0.14, z)):
      yield post, look.dark
  if chance(rng, 0.25):
    yield box(0.5 * w, 0.2, 0.12, 0.03, steps=1).moved(0, back, z + tall - 0.01), look.plain(2)


@maker(6.0, weight=1.5)
def truck(rng, look):
  w, cab, load = rng.uniform(1.8, 2.4), rng.uniform(1.2, 1.8), rng.uniform(2.2, 5.0)
  r, tall = rng.uniform(0.38, 0.5), rng.uniform(1.4, 2.0)
  long, z = cab + load, 1.1 * r
  yield box(0.7 * w, long, 0.25).moved(0, 0, z), look.dark
  front = -long / 2
  yield box(w, cab, tall, 0.12).moved(0, front + cab / 2, z + 0.2), look.plain(0)
  yield box(0.85 * w, 0.05, 0.38 * tall).moved(0, front - 0.005, z + 0.2 + 0.5 * tall), look.glass
  yield box(1.01 * w, 0.5 * cab, 0.35 * tall).moved(0, front + 0.5 * cab, z + 0.2 + 0.52 * tall), look.glass
  yield box(0.95 * w, 0.15, 0.3).moved(0, front, z + 0.05), look.metal
  for light in both(cylinder(0.12, 0.1, 14).turned('x', 90).moved(0.36 * w, front + 0.02, z + 0.55)):
    yield light, look.plain(1)
  kind, y = rng.integers(4), front + cab + load / 2 + 0.05
  if kind == 0:
    h = rng.uniform(1.5, 2.4)
    yield box(1.03 * w, load, h).moved(0, y, z + 0.22), pick(rng, look.skin(1), look.printed(load, h))
  elif kind == 1:
    yield (
      cylinder(0.46 * w, load, 32, bevel=0.1).turned('x', 90).moved(0, y + load / 2, z + 0.2 + 0.46 * w),
      pick(rng, look.metal, look.plain(1)),
    )
  elif kind == 2:  # An open bed with cargo.
    yield box(w, load, 0.15).moved(0, y, z + 0.22), look.wood
    for side in both(box(0.08, load, 0.5).moved(w / 2 - 0.04, 0, z + 0.3)):
      yield side.moved(0, y), look.plain(1)
    for end in (-1, 1):
      yield box(w, 0.08, 0.5).moved(0, y + end * (load / 2 - 0.04), z + 0.3), look.plain(1)
    for i in range(rng.integers(1, 4)):
      yield (
        box(0.5 * w, 0.25 * load, rng.uniform(0.5, 1.0)).moved(
          rng.uniform(-0.15, 0.15) * w, y + load * (0.3 * i - 0.3), z + 0.35
        ),
        look.skin(2),
      )
  else:  # A mixer.
    drum = lathe([(0.25 * w, 0), (0.45 * w, 0.3 * load), (0.45 * w, 0.55 * load), (0.2 * w, 0.95 * load)], 28)
    yield drum.turned('x', -78).moved(0, y - load / 2, z + 0.55 * w), look.skin(1)
    yield box(0.4 * w, 0.3, 0.6 * w).moved(0, y + 0.35 * load, z + 0.2), look.dark
    yield box(0.4 * w, 0.3, 0.45 * w).moved(0, y - 0.35 * load, z + 0.2), look.dark
  for row in (long / 2 - 0.2 * load - 2.2 * r, long / 2 - 0.2 * load):
    yield box(0.8 * w, 0.2, 0.7 * r).moved(0, row, 0.6 * r), look.dark
  rows = [front + 0.55 * cab, long / 2 - 0.2 * load] + ([long / 2 - 0.2 * load - 2.2 * r] if load > 3 else [])
  yield from wheels(rng, look, r, 0.3, [(sx * (w / 2 - 0.12), row) for sx in (-1, 1) for row in rows])


@maker(8.0)
def bus(rng, look):
  w, long, h = rng.uniform(2.2, 2.6), rng.uniform(5, 11), rng.uniform(2.2, 3.8)
  r, z = 0.48, 0.35
  yield box(w, long, h, 0.25).moved(0, 0, z), look.plain(0)
  yield box(1.01 * w, 0.999 * long, 0.18 * h).moved(0, 0, z + 0.2 * h), pick(rng, look.plain(1), look.plain(2))
  count = max(3, int(long / rng.uniform(0.9, 1.4)))
  for level in [0.5] if h < 3 else [0.45, 0.75]:
    for i in range(count):
      y = long * 0.92 * ((i + 0.5) / count - 0.5)
      yield box(1.015 * w, 0.75 * long / count, 0.22 * h).moved(0, y, z + level * h), look.glass
  yield box(0.85 * w, 1.01 * long, 0.28 * h).moved(0, 0, z + 0.47 * h), look.glass
  if chance(rng, 0.5):
    yield box(1.02 * w, 0.3 * long, 0.14 * h).moved(0, 0.1 * long, z + 0.23 * h), look.printed(0.3 * long, 0.14 * h)
  for light in both(cylinder(0.14, 0.1, 14).turned('x', 90).moved(0.38 * w, -long / 2 + 0.03, z + 0.12 * h)):
    yield light, look.plain(1)
  yield from wheels(rng, look, r, 0.35, [(sx * (w / 2 - 0.14), sy * long * 0.32) for sx in (-1, 1) for sy in (-1, 1)])


@maker(6.0)
def locomotive(rng, look):
  w, long, r = 1.6, rng.uniform(4, 6), rng.uniform(0.45, 0.6)
  boiler, z = rng.uniform(0.5, 0.75), 2.1 * r
  yield box(w, long, 0.25).moved(0, 0, 1.5 * r), look.dark
  yield cylinder(boiler, 0.7 * long, 32, bevel=0.06).turned('x', 90).moved(0, 0.22 * long, z + boiler), look.plain(0)
  for y in (-0.35, -0.1):
    yield box(boiler, 0.1 * long, z + 0.3 * boiler - 1.5 * r).moved(0, y * long, 1.5 * r), look.dark
  cabin = 0.3 * long
  yield box(w, cabin, 2.2 * boiler).moved(0, long / 2 - cabin / 2, z - 0.25), look.plain(2)
  yield (
    box(1.2 * w, 1.25 * cabin, 0.12, 0.05, steps=1).moved(0, long / 2 - cabin / 2, z - 0.27 + 2.2 * boiler),
    look.plain(1),
  )
  yield box(1.02 * w, 0.5 * cabin, 0.6 * boiler).moved(0, long / 2 - cabin / 2, z + boiler), look.glass
  yield lathe([(0.18, 0), (0.18, 0.6), (0.3, 0.8), (0.3, 0.9)], 20).moved(0, -0.36 * long, z + 1.9 * boiler), look.dark
  yield ellipsoid(0.5, 0.5, 0.7).moved(0, -0.1 * long, z + 2 * boiler), look.metal
  for y in (-0.3, -0.05, 0.15):
    yield torus(boiler, 0.035, 32, 8).turned('x', 90).moved(0, y * long, z + boiler), look.metal
  yield cylinder(0.18, 0.15, 16).turned('x', 90).moved(0, -0.47 * long, z + boiler), look.plain(1)
  yield (
    prism([(-0.8, 0), (0.8, 0), (0.5, 0.7), (-0.5, 0.7)], 0.1).turned('x', 65).moved(0, -long / 2 - 0.05, 0.3),
    look.plain(2),
  )
  count = rng.integers(2, 5)
  places = [(sx * 0.45 * w, long * 0.8 * ((i + 0.5) / count - 0.5)) for sx in (-1, 1) for i in range(count)]
  yield from wheels(rng, look, r, 0.14, places, spokes=8)
  for rod in both(box(0.06, 0.8 * long * (count - 1) / count + 0.2, 0.12).moved(0.45 * w + 0.09, 0, r - 0.15)):
    yield rod, look.metal


@maker(8.0, weight=2)
def airplane(rng, look):
  long, r = rng.uniform(6, 10), rng.uniform(0.5, 0.9)
  z, body = rng.uniform(1.2, 1.8), pick(rng, look.plain(0), look.plain(1), look.skin(0))
  yield (
    hull(
      [
        (-long / 2, 0.5 * r, 0.5 * r, z),
        (-0.45 * long, 1.4 * r, 1.4 * r, z),
        (-0.3 * long, 2 * r, 2 * r, z),
        (0.15 * long, 2 * r, 2 * r, z),
        (0.4 * long, 0.9 * r, 0.9 * r, z + 0.4 * r),
        (0.5 * long, 0.3 * r, 0.3 * r, z + 0.6 * r),
      ],
      power=2.2,
    ),
    body,
  )
  span, chord, swept = rng.uniform(0.4, 0.6) * long, rng.uniform(0.12, 0.25) * long, rng.uniform(0, 0.25) * long
  height = z + pick(rng, -0.6, 0.0, 0.75) * r

  def wing(span, chord, swept, thick):
    return prism(
      [(0, -chord / 2), (span, -chord * 0.25 + swept), (span, chord * 0.25 + swept), (0, chord / 2)],
      thick,
      bevel=0.3 * thick,
    )

  thick = 0.16 * chord
  for one in both(wing(span, chord, swept, thick).turned('y', -rng.uniform(0, 6))):
    yield one.moved(0, -0.05 * long, height), pick(rng, body, look.plain(2))
  if chance(rng, 0.2):
    for one in both(wing(span, chord, swept, thick)):
      yield one.moved(0, -0.05 * long, height + 1.7 * r), look.plain(2)
    for post in both(
      bar(
        (0.6 * span, -0.05 * long + 0.6 * swept, height),
        (0.6 * span, -0.05 * long + 0.6 * swept, height + 1.8 * r),
        0.05,
        8,
      )
    ):
      yield post, look.metal
  for one in both(wing(0.4 * span, 0.6 * chord, 0.4 * swept, 0.7 * thick)):
    yield one.moved(0, 0.42 * long, z + 0.5 * r), look.plain(2)
  fin = prism([(0.3 * long, 0), (0.46 * long, 0), (0.49 * long, 1.9 * r), (0.42 * long, 1.9 * r)], 0.1 * chord)
  yield fin.turned('x', 90).turned('z', 90).moved(-0.05 * chord, 0, z + 0.5 * r), pick(rng, look.plain(2), look.skin(2))
  yield ellipsoid(1.3 * r, 2.4 * r, 1.3 * r).moved(0, -0.28 * long, z + 0.7 * r), look.glass
  if chance(rng, 0.5):
    yield ellipsoid(0.5 * r, 0.6 * r, 0.5 * r).moved(0, -0.5 * long, z), look.metal
    blades = rng.integers(2, 5)
    for i in range(blades):
      yield box(0.2 * r, 0.06 * r, r).turned('y', 360 * i / blades).moved(0, -0.51 * long - 0.1 * r, z), look.dark
  else:
    engine = lathe([(0.25 * r, 0), (0.45 * r, 0.3 * r), (0.45 * r, 1.2 * r), (0.3 * r, 1.8 * r)], 20).turned('x', -90)
    for one in both(engine.moved(0.4 * span, -0.05 * long + 0.3 * swept - r, height - 0.3 * r)):
      yield one, look.metal
  for x, y in ((0, -0.35 * long), (-0.8 * r, 0.02 * long), (0.8 * r, 0.02 * long)):
    yield bar((x, y, 0.25), (x * 0.7, y, z - 0.4 * r), 0.07, 8), look.metal
    yield cylinder(0.26, 0.18, 18, bevel=0.04).turned('y', 90).moved(x - 0.09, y, 0.26), look.dark


@maker(6.0)
def boat(rng, look):
  long, w, h = rng.uniform(3, 8), rng.uniform(1.2, 2.4), rng.uniform(0.6, 1.2)
  rings = []
  for share, width, keel in (
    (-0.5, 0.06, 0.5),
    (-0.42, 0.35, 0.2),
    (-0.25, 0.8, 0.02),
    (0.05, 1.0, 0.0),
    (0.35, 0.95, 0.0),
    (0.5, 0.75, 0.1),
  ):
    angle = np.linspace(np.pi, 2 * np.pi, 15)
    x = width * w / 2 * np.cos(angle)
    z = h + (h - keel * h) * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.7
    rim = h * (1 + 0.4 * max(0, -share) ** 2 * 4)
    rings.append(np.r_[np.c_[x, np.full(15, share * long), z + (rim - h) * (z / h)], [[0, share * long, rim - 0.001]]])
  yield skin(rings), pick(rng, look.plain(0), look.wood, look.skin(0))
  for one in both(sweep(np.array([ring[14] for ring in rings]), 0.05)):
    yield one, look.plain(2)
  yield box(0.5 * w, 0.3 * long, 0.04).moved(0, 0.2 * long, h), look.wood
  for support in both(box(0.1, 0.6 * long, 0.12).moved(0.25 * w, 0.08 * long, 0)):
    yield support, look.wood
  for end in (-0.15, 0.3):
    yield box(0.6 * w, 0.1, 0.3 * h).moved(0, end * long, 0), look.wood
  if chance(rng, 0.5):
    tall = rng.uniform(0.8, 1.2) * long
    yield cylinder(0.06, tall, 12).moved(0, -0.05 * long, 0.5 * h), look.wood
    sail = prism([(0, 0), (0.45 * long, 0), (0.03 * long, 0.8 * tall)], 0.03)
    yield sail.turned('x', 90).turned('z', 90).moved(0, -0.05 * long, h + 0.12 * tall), look.skin(1)
    yield bar((0, -0.06 * long, h + 0.11 * tall), (0, 0.42 * long, h + 0.11 * tall), 0.04, 8), look.wood
  else:
    tall = rng.uniform(0.7, 1.4)
    yield box(0.55 * w, 0.3 * long, tall, 0.1).moved(0, 0.15 * long, h - 0.05), look.plain(1)
    yield box(0.57 * w, 0.26 * long, 0.3 * tall).moved(0, 0.15 * long, h + 0.5 * tall), look.glass
    if chance(rng, 0.6):
      yield cylinder(0.16, 0.9, 16).moved(0, 0.22 * long, h + tall - 0.1), look.plain(2)


@maker(5.0)
def rocket(rng, look):
  h, r = rng.uniform(4, 8), rng.uniform(0.4, 0.8)
  z = rng.uniform(0.3, 0.8)
  if chance(rng, 0.5):
    profile = smooth([(0.6 * r, z), (1.0 * r, 0.35 * h), (0.55 * r, 0.8 * h), (0.03 * r, h)], 24)
  else:
    profile = [(r, z), (r, 0.7 * h), *smooth([(0.95 * r, 0.73 * h), (0.5 * r, 0.9 * h), (0.03 * r, h)], 10)]
  yield lathe(profile, 32), look.skin(0)
  yield lathe([(0.75 * r, 0.5 * z), (0.4 * r, z + 0.1)], 24), look.metal
  count = rng.integers(3, 6)
  fin = prism(
    [(0.3 * r, z), (0.3 * r, z + 0.25 * h), (0.8 * r, z + 0.22 * h), (2.0 * r, 0.1), (2.0 * r, 0), (1.7 * r, 0)],
    0.14 * r,
    bevel=0.02 * r,
  )
  for one in spun(fin.turned('x', 90).moved(0, 0.07 * r), count):
    yield one, look.plain(2)
  for level in (0.5, 0.6)[: rng.integers(0, 3)]:
    at = float(np.interp(level * h, np.asarray(profile)[:, 1], np.asarray(profile)[:, 0]))
    yield torus(0.3 * r, 0.07 * r, 20, 8).turned('x', 90).moved(0, -at, level * h), look.metal
    yield ellipsoid(0.5 * r, 0.2 * r, 0.5 * r, cells=6).moved(0, -at, level * h), look.glass
  if chance(rng, 0.5):
    at = float(np.interp(0.42 * h, np.asarray(profile)[:, 1], np.asarray(profile)[:, 0]))
    yield torus(at, 0.06 * r, 32, 8).moved(0, 0, 0.42 * h), look.plain(1)


@maker(5.0, weight=0.8)
def tank(rng, look):
  w, long = rng.uniform(2.2, 3.0), rng.uniform(4, 6)
  paint = pick(rng, look.plain(0), look.skin(0))
  r = 0.42
  for side in (-1, 1):
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False) + 0.1
    outline = np.c_[np.sign(np.cos(angle)) * (long / 2 - r) + r * np.cos(angle), r + r * np.sin(angle)]
    yield prism(outline, 0.45).turned('x', 90).turned('z', 90).moved(side * (w / 2 - 0.2) - 0.225, 0, 0), look.dark
    for y in np.linspace(-long / 2 + r, long / 2 - r, rng.integers(4, 7)):
      yield cylinder(0.32, 0.52, 18).turned('y', 90).moved(side * (w / 2 - 0.2) - 0.26, y, r), look.metal
  hull_outline = [
    (-long / 2, 0.5),
    (-0.4 * long, 0.3),
    (0.42 * long, 0.3),
    (long / 2, 0.8),
    (0.42 * long, 1.05),
    (-0.35 * long, 1.05),
  ]
  yield prism(hull_outline, 0.98 * w, bevel=0.03).turned('x', 90).turned('z', 90).moved(-0.49 * w, 0, 0.15), paint
  yield cylinder(0.36 * w, 0.6, pick(rng, 6, 8, 28), top=0.28 * w).moved(0, 0.05 * long, 1.18), paint
  yield bar((0, -0.15 * w, 1.5), (0, -0.2 * long - 0.35 * long, 1.55), 0.09, 14), look.metal
  yield bar((0, -0.5 * long, 1.54), (0, -0.56 * long, 1.55), 0.14, 14), look.dark
  yield cylinder(0.25, 0.15, 16).moved(0.2, 0.1 * long, 1.75), look.plain(1)


@maker(7.0, weight=0.8)
def helicopter(rng, look):
  r, long = rng.uniform(0.7, 1.0), rng.uniform(3, 4.5)
  z = 0.5 + r
  yield ellipsoid(1.8 * r, 2.8 * r, 1.9 * r, 2.5, cells=10).moved(0, 0, z), look.skin(0)
  yield ellipsoid(1.6 * r, 1.8 * r, 1.5 * r, 2.2).moved(0, -0.6 * r, z + 0.15 * r), look.glass
  yield sweep(np.array([(0, r, z + 0.3 * r), (0, long, z + 0.5 * r)]), circle(14, 0.28 * r), [1.2, 0.5]), look.plain(0)
  yield (
    prism([(0, 0), (0.5, 0), (0.7, 1.1), (0.4, 1.1)], 0.08)
    .turned('x', 90)
    .turned('z', 90)
    .moved(-0.04, long - 0.35, z + 0.4 * r),
    look.plain(2),
  )
  yield cylinder(0.12, 0.5, 12).moved(0, 0, z + 0.85 * r), look.metal
  for blade in spun(box(0.22, 0.3 * long + 2, 0.04).moved(0, 0.15 * long + 1), rng.integers(2, 6), phase=rng.random()):
    yield blade.moved(0, 0, z + 0.85 * r + 0.4), look.dark
  for blade in range(2):
    yield (
      box(0.03, 0.1, 1.1).moved(0, 0, -0.55).turned('x', 90 * blade + 30).moved(0.12, long + 0.1, z + 0.8 * r),
      look.dark,
    )
  yield cylinder(0.06, 0.2, 8).turned('y', 90).moved(-0.05, long + 0.1, z + 0.8 * r), look.metal
  for side in (-1, 1):
    x = side * 0.9 * r
    yield sweep(smooth([(x, -1.7 * r, 0.25), (x, -1.3 * r, 0.06), (x, 1.3 * r, 0.06)], 10), 0.06), look.metal
    for y in (-0.6 * r, 0.6 * r):
      yield bar((x, y, 0.05), (0.6 * x, y, z - 0.5 * r), 0.05, 8), look.metal


@maker(1.8)
def bicycle(rng, look):
  r, base = rng.uniform(0.3, 0.36), rng.uniform(0.5, 0.58)
  frame, t = pick(rng, look.plain(0), look.plain(2)), 0.017
  for y in (-base, base):
    yield torus(r - 0.022, 0.022, 40, 8).turned('y', 90).moved(0, y, r), look.dark
    yield torus(r - 0.05, 0.012, 40, 6).turned('y', 90).moved(0, y, r), look.metal
    yield cylinder(0.03, 0.1, 12).moved(0, 0, -0.05).turned('y', 90).moved(0, y, r), look.metal
    for i in range(8):
      yield bar((0, 0, 0), (0, 0, r - 0.045), 0.004, 4).turned('x', 45 * i).moved(0, y, r), look.metal
  seat, crank, head = (0, 0.18, 0.78), (0, 0.05, r - 0.04), (0, -base + 0.22, 0.76)
  rear, front = (0, base, r), (0, -base, r)
  for a, b in (
    (seat, crank),
    (crank, head),
    (np.array(seat) - [0, 0.02, 0.08], head),
    (seat, rear),
    (crank, rear),
    (head, front),
  ):
    for x in (-0.05, 0.05) if b in (rear, front) else (0,):
      yield bar(np.array(a) + [0.5 * x, 0, 0], np.array(b) + [x, 0, 0], t * (0.7 if x else 1.2), 8), frame
  yield bar(seat, (0, 0.21, 0.9), t, 8), look.metal
  yield ellipsoid(0.14, 0.28, 0.06, 2.5, cells=6).moved(0, 0.19, 0.92), look.dark
  yield bar(head, (0, -base + 0.25, 0.93), t, 8), look.metal
  yield (
    sweep(
      smooth(
        [
          (-0.28, -base + 0.38, 0.95),
          (-0.15, -base + 0.27, 0.94),
          (0, -base + 0.25, 0.93),
          (0.15, -base + 0.27, 0.94),
          (0.28, -base + 0.38, 0.95),
        ],
        14,
      ),
      t,
    ),
    look.metal,
  )
  yield cylinder(0.09, 0.02, 24).turned('y', 90).moved(0.03, 0.05, r - 0.04), look.metal
  for side in (-1, 1):
    yield (
      bar((side * 0.04, 0.05, r - 0.04), (side * 0.06, 0.05 + side * 0.12, r - 0.04 - side * 0.11), 0.012, 8),
      look.metal,
    )
    yield box(0.1, 0.07, 0.025).moved(side * 0.11, 0.05 + side * 0.12, r - 0.05 - side * 0.11), look.dark


@maker(1.5, weight=0.8)
def cart(rng, look):
  w, long, h, r = rng.uniform(0.6, 1.2), rng.uniform(0.8, 1.6), rng.uniform(0.25, 0.6), rng.uniform(0.12, 0.4)
  z = r + 0.05
  yield box(w, long, 0.06).moved(0, 0, z), look.wood
  planks = rng.integers(1, 4)
  for i in range(planks):
    for side in both(box(0.03, long, 0.85 * h / planks).moved(w / 2 - 0.015, 0, z + 0.055 + h * i / planks)):
      yield side, look.skin(0)
    for end in both(box(w - 0.02, 0.03, 0.85 * h / planks).moved(0, long / 2 - 0.015, z + 0.055 + h * i / planks), 'y'):
      yield end, look.skin(0)
  for post in four(box(0.05, 0.05, h + 0.05).moved(w / 2 - 0.045, long / 2 - 0.045, z)):
    yield post, look.wood
  places = [(sx * (w / 2 + 0.03), sy * 0.33 * long) for sx in (-1, 1) for sy in (-1, 1)]
  yield from wheels(rng, look, r, 0.06, places, spokes=pick(rng, 0, 6, 8))
  for y in (-0.33 * long, 0.33 * long):
    yield cylinder(0.025, w, 10).turned('y', 90).moved(-w / 2, y, r), look.metal
    yield box(0.5 * w, 0.06, 0.1).moved(0, y, r - 0.02), look.wood
  yield bar((0, -long / 2 + 0.05, z + 0.03), (0, -long / 2 - 0.6, z + 0.5), 0.025, 8), look.wood
  yield cylinder(0.02, 0.4, 8).turned('y', 90).moved(-0.2, -long / 2 - 0.6, z + 0.5), look.wood
  if chance(rng, 0.6):
    for _ in range(rng.integers(2, 7)):
      yield (
        ball(rng.uniform(0.1, 0.2), 5).moved(rng.uniform(-0.3, 0.3) * w, rng.uniform(-0.35, 0.35) * long, z + 0.15),
        look.skin(2),
      )


@maker(2.0, weight=0.7)
def machine(rng, look):
  """Gear wheels and pulleys between two plates on a base."""
  yield box(1.0, 0.6, 0.1).moved(0, 0, 0), look.metal
  yield box(0.9, 0.04, 0.9).moved(0, 0.16, 0.09), look.plain(0)
  for i in range(rng.integers(2, 5)):
    r, teeth = rng.uniform(0.12, 0.28), int(rng.integers(8, 20))
    x, z = rng.uniform(-0.35, 0.35), rng.uniform(0.4, 0.85)
    yield (
      prism(gear(teeth, r, 0.85 * r), 0.08, bevel=0.005).turned('x', 90).moved(x, 0.06 - 0.09 * i, z),
      pick(rng, look.metal, look.plain(2), look.plain(1)),
    )
    yield cylinder(0.03, 0.35 + 0.09 * i, 12).turned('x', 90).moved(x, 0.17, z), look.dark
