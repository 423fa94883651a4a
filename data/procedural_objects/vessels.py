"""Makers of vessels: surfaces of revolution with walls, handles, spouts, lids and labels."""

import dataclasses

import numpy as np

from .grammar import chance, maker, pick
from .shapes import ball, bar, both, box, circle, cylinder, ellipsoid, lathe, smooth, spun, sweep, torus, tube


def vessel(outer, wall: float, sides: int = 32, floor: float | None = None):
  """Returns a vessel, open at the top, from its outer profile [N, 2] of (radius, z), and a wall thickness."""
  outer = np.asarray(outer, float)
  floor = outer[0, 1] + (wall if floor is None else floor)
  inner = outer[::-1] - [wall, 0]
  inner = inner[(inner[:, 1] > floor + 0.2 * wall) & (inner[:, 0] > 0.1 * wall)]
  last = max(inner[-1, 0] * 0.98, 0.1 * wall)
  return lathe(np.concatenate([[(0, outer[0, 1])], outer, inner, [(last, floor)], [(0, floor)]]), sides)


def ear(x: float, low: float, high: float, reach: float, thickness: float, sides: int = 10):
  """Returns a handle in the plane y = 0 from (x, low) to (x, high) that reaches outwards."""
  angle = np.linspace(-np.pi / 2, np.pi / 2, 14)
  path = np.stack([x + reach * np.cos(angle), 0 * angle, (low + high) / 2 + (high - low) / 2 * np.sin(angle)], axis=-1)
  return sweep(path, squashed(thickness, sides))


def squashed(thickness: float, sides: int = 10) -> np.ndarray:
  return circle(sides, thickness) * [1.3, 0.8]


def wrapped(material, around: float):
  """Returns a print that goes once around a vessel."""
  return dataclasses.replace(material, tile=(around, material.tile[1]))


@maker(0.4, weight=2)
def vase(rng, look):
  h, count = rng.uniform(0.15, 0.6), rng.integers(3, 6)
  radius = h * np.clip(rng.uniform(0.08, 0.35, count), 0.06, None)
  radius[0] = max(radius[0], 0.12 * h)
  profile = smooth(np.c_[radius, np.linspace(0, h, count)], 26)
  wall = 0.025 * h
  yield vessel(profile, wall, pick(rng, 6, 8, 32, 40)), look.skin(0)
  if chance(rng, 0.35):
    at = profile[[8, 20], 0]
    x = min(at) - wall / 2
    for one in both(ear(x, profile[8, 1], profile[20, 1], rng.uniform(0.12, 0.25) * h + max(at) - x, 0.02 * h)):
      yield one, look.plain(1)
  for i in rng.choice(np.arange(3, 24), rng.integers(0, 3), replace=False):
    yield torus(profile[i, 0], 0.018 * h, 36, 8).moved(0, 0, profile[i, 1]), look.plain(2)
  if chance(rng, 0.3):
    for _ in range(rng.integers(3, 8)):
      top = np.array([*rng.normal(0, 0.18 * h, 2), h * rng.uniform(1.2, 1.8)])
      yield sweep(smooth([(0, 0, 0.1 * h), (0, 0, h), top], 8), 0.008 * h), look.leaves
      yield ball(h * rng.uniform(0.05, 0.1), 5).moved(*top), look.plain(int(rng.integers(1, 3)))


@maker(0.3, weight=2)
def bottle(rng, look):
  h, r = rng.uniform(0.15, 0.35), rng.uniform(0.03, 0.05)
  neck, shoulder, up = r * rng.uniform(0.25, 0.5), rng.uniform(0.45, 0.7), rng.uniform(0.75, 0.85)
  body = pick(rng, look.glass, look.plain(0), look.plain(1))
  curve = smooth([(r, shoulder * h), (0.8 * r, (0.6 * shoulder + 0.4 * up) * h), (neck, up * h)], 10)
  sides = pick(rng, 4, 8, 32, 32, 32)
  yield lathe([(0.9 * r, 0), (r, 0.05 * r), *curve, (neck, 0.95 * h), (neck, 0.99 * h)], sides), body
  yield (
    cylinder(1.15 * neck, 0.1 * h, 20, bevel=0.1 * neck).moved(0, 0, 0.93 * h),
    pick(rng, look.plain(2), look.metal, look.dark),
  )
  if chance(rng, 0.8) and sides == 32:
    tall = shoulder * h * rng.uniform(0.4, 0.8)
    label = wrapped(look.printed(2.5 * r, tall), 2 * np.pi * r / pick(rng, 1, 2, 3))
    yield tube(1.015 * r, 0.95 * r, tall, 32).moved(0, 0, 0.08 * h), label
  elif chance(rng, 0.6):
    yield box(1.2 * r, 2.0 * r, 0.3 * h).moved(0, -0.1 * r, 0.1 * h), look.printed(1.2 * r, 0.3 * h)
  if chance(rng, 0.15):
    yield (
      sweep(np.array([(0, 0, 1.02 * h), (0, 0, 1.1 * h), (0.3 * r, 0, 1.13 * h), (1.2 * r, 0, 1.12 * h)]), 0.15 * r),
      look.plain(2),
    )


@maker(0.12, weight=2)
def can(rng, look):
  r, ratio = rng.uniform(0.03, 0.06), rng.uniform(0.8, 3.5)
  h, bevel = r * ratio, 0.08 * r
  yield (
    lathe([(r - bevel, 0), (r, bevel), (r, h - bevel), (r - bevel, h), (0.85 * r, h), (0.84 * r, 0.97 * h)], 36),
    look.metal,
  )
  tall = h - 3 * bevel
  yield (
    tube(1.01 * r, 0.95 * r, tall, 36).moved(0, 0, 1.5 * bevel),
    wrapped(look.printed(2 * r, tall), 2 * np.pi * r / pick(rng, 1, 2, 2, 3)),
  )
  if chance(rng, 0.4):
    yield box(0.25 * r, 0.6 * r, 0.03 * r).moved(0, -0.2 * r, 0.97 * h), look.metal


@maker(0.3)
def bowl(rng, look):
  r, h = rng.uniform(0.07, 0.18), rng.uniform(0.04, 0.12)
  wall = 0.05 * h + 0.002
  profile = smooth([(0.4 * r, 0), (0.75 * r, 0.3 * h), (r, h)], 16) if chance(rng, 0.6) else [(0.6 * r, 0), (r, h)]
  yield vessel(profile, wall, pick(rng, 8, 36, 36)), look.skin(0)
  kind = rng.integers(3)
  if kind == 0:  # With fruit.
    size = 0.32 * r
    for angle in range(0, 360, 72):
      place = 0.5 * r * np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
      yield (
        ball(size * rng.uniform(0.9, 1.1), 6).moved(*place, 0.75 * h + 0.3 * size),
        look.skin(int(rng.integers(1, 3))),
      )
    yield ball(1.1 * size, 6).moved(0, 0, h + size), look.plain(2)
  elif kind == 1:
    level = np.interp(0.7 * h, np.asarray(profile)[:, 1], np.asarray(profile)[:, 0])
    yield cylinder(level - 0.5 * wall, 0.01, 32).moved(0, 0, 0.7 * h - 0.01), look.skin(1)
  if chance(rng, 0.3):
    yield bar((-0.3 * r, 0, 0.6 * h), (1.3 * r, 0, 1.8 * h), 0.025 * r + 0.002, 8), look.metal


@maker(0.12, weight=2)
def mug(rng, look):
  r, h = rng.uniform(0.035, 0.05), rng.uniform(0.07, 0.13)
  taper, wall = rng.uniform(0.7, 1.15), 0.08 * r
  body = pick(rng, look.skin(0), wrapped(look.printed(2 * r, h), np.pi * r * 2 / pick(rng, 1, 2)))
  profile = smooth([(0.9 * taper * r, 0), (taper * r, 0.1 * h), (r, h)], 10)
  yield vessel(profile, wall, 36), body
  if chance(rng, 0.85):
    side = min(taper, 1.0) * r - 0.5 * wall
    yield ear(side, 0.25 * h, 0.8 * h, rng.uniform(0.5, 0.9) * r, 0.1 * r), pick(rng, look.plain(0), look.plain(2))
  if chance(rng, 0.6):
    yield cylinder((0.2 * taper + 0.8) * r - 0.5 * wall, 0.01 * h, 28).moved(0, 0, 0.8 * h), look.dark
  if chance(rng, 0.3):
    yield lathe([(0.9 * r, 0), (1.9 * r, 0.1 * h), (1.9 * r, 0.13 * h), (0.9 * r, 0.06 * h)], 36), look.plain(1)


@maker(0.25)
def teapot(rng, look):
  r = rng.uniform(0.07, 0.11)
  h, body = r * rng.uniform(1.2, 2.2), look.skin(0)
  belly = smooth([(0.6 * r, 0), (r, 0.4 * h), (0.45 * r, h)], 20)
  yield lathe(belly, 36), body
  yield (
    lathe(
      [
        (0.5 * r, 0.97 * h),
        (0.5 * r, h),
        *smooth([(0.45 * r, 1.01 * h), (0.25 * r, 1.1 * h), (0.05 * r, 1.14 * h)], 8),
      ],
      32,
    ),
    look.plain(1),
  )
  yield ball(0.12 * r, 5).moved(0, 0, 1.14 * h + 0.1 * r), look.plain(2)
  spout = smooth([(0.8 * r, 0, 0.35 * h), (1.35 * r, 0, 0.55 * h), (1.7 * r, 0, rng.uniform(0.9, 1.1) * h)], 12)
  yield sweep(spout, circle(14, 0.2 * r), np.linspace(1.2, 0.5, 12)), body
  if chance(rng, 0.7):
    yield ear(0.75 * r, 0.3 * h, 0.8 * h, 0.8 * r, 0.09 * r).turned('z', 180), pick(rng, body, look.plain(2))
  else:
    angle = np.linspace(0, np.pi, 14)
    hoop = np.stack([0.6 * r * np.cos(angle), 0 * angle, 0.85 * h + 0.9 * r * np.sin(angle)], axis=-1)
    yield sweep(hoop, squashed(0.07 * r)), look.wood


@maker(0.3)
def jug(rng, look):
  r, h = rng.uniform(0.06, 0.1), rng.uniform(0.2, 0.32)
  profile = smooth([(0.7 * r, 0), (r, 0.35 * h), (0.5 * r, 0.8 * h), (0.6 * r, h)], 22)
  yield vessel(profile, 0.06 * r, 32), look.skin(0)
  yield (
    sweep(
      np.array([(0, -0.4 * r, 0.9 * h), (0, -0.62 * r, 0.96 * h), (0, -0.9 * r, 1.02 * h)]),
      circle(10, 0.25 * r),
      [1.2, 1, 0.6],
    ),
    look.plain(0),
  )
  yield ear(0.52 * r, 0.4 * h, 0.85 * h, 0.9 * r, 0.08 * r).turned('z', 90), look.plain(1)


@maker(0.2)
def goblet(rng, look):
  h, r = rng.uniform(0.12, 0.25), rng.uniform(0.03, 0.05)
  stem, cup = rng.uniform(0.3, 0.6) * h, pick(rng, look.metal, look.glass, look.skin(0))
  yield (
    lathe(
      [
        (r, 0),
        (r, 0.02 * h),
        (0.12 * r, 0.08 * h),
        (0.12 * r, stem),
        (0.4 * r, stem + 0.03 * h),
        (0.2 * r, stem + 0.05 * h),
      ],
      28,
    ),
    cup,
  )
  profile = smooth(
    [(0.3 * r, stem + 0.02 * h), (r * rng.uniform(0.9, 1.3), stem + 0.4 * (h - stem)), (r * rng.uniform(0.7, 1.3), h)],
    14,
  )
  yield vessel(profile, 0.06 * r, 32), cup
  if chance(rng, 0.4):
    yield torus(0.22 * r, 0.12 * r, 20, 8).moved(0, 0, 0.6 * stem), look.plain(2)


@maker(0.4)
def cooking_pot(rng, look):
  r, h = rng.uniform(0.08, 0.16), rng.uniform(0.04, 0.2)
  body = pick(rng, look.metal, look.plain(0), look.dark)
  yield vessel([(0.95 * r, 0), (r, 0.05 * h), (r, h)], 0.04 * r, 40), body
  if h < 0.09 or chance(rng, 0.4):
    yield (
      sweep(smooth([(0.95 * r, 0, 0.85 * h), (1.6 * r, 0, 0.95 * h), (2.6 * r, 0, h + 0.02)], 8), squashed(0.08 * r)),
      pick(rng, look.dark, look.wood),
    )
  else:
    for one in both(
      sweep(
        np.array(
          [
            (0.97 * r, -0.25 * r, 0.8 * h),
            (1.2 * r, -0.22 * r, 0.8 * h),
            (1.2 * r, 0.22 * r, 0.8 * h),
            (0.97 * r, 0.25 * r, 0.8 * h),
          ]
        ),
        0.05 * r,
      )
    ):
      yield one, look.dark
  if chance(rng, 0.6):
    yield (
      lathe(
        [
          (1.03 * r, 0.98 * h),
          (1.03 * r, 1.02 * h),
          *smooth([(0.9 * r, h + 0.05 * r), (0.5 * r, h + 0.15 * r), (0.1 * r, h + 0.2 * r)], 6),
        ],
        40,
      ),
      pick(rng, body, look.glass),
    )
    yield (
      lathe([(0.06 * r, h + 0.17 * r), (0.06 * r, h + 0.26 * r), (0.15 * r, h + 0.3 * r), (0.1 * r, h + 0.36 * r)], 16),
      look.dark,
    )


@maker(1.0)
def barrel(rng, look):
  r, h = rng.uniform(0.2, 0.4), rng.uniform(0.5, 1.1)
  bulge = rng.uniform(1.0, 1.3)
  profile = smooth([(r, 0), (bulge * r, h / 2), (r, h)], 15)
  yield lathe([*profile, (0.92 * r, h), (0.92 * r, 0.97 * h)], 32), pick(rng, look.wood, look.plain(0))
  for level in (0.12, 0.35, 0.65, 0.88):
    at = np.interp(level * h, profile[:, 1], profile[:, 0])
    yield (
      tube(at * 1.02, 0.9 * at, 0.05 * h, 32).moved(0, 0, level * h - 0.025 * h),
      pick(rng, look.metal, look.metal, look.plain(1)),
    )
  if chance(rng, 0.3):
    yield cylinder(0.1 * r, 0.4 * r, 10).turned('x', 90).moved(0, -0.95 * r, 0.2 * h), look.metal


@maker(0.4)
def bucket(rng, look):
  r, h = rng.uniform(0.1, 0.18), rng.uniform(0.18, 0.32)
  body = pick(rng, look.metal, look.skin(0), look.plain(0))
  yield vessel([(0.75 * r, 0), (r, h)], 0.03 * r, 32), body
  yield torus(r, 0.035 * r, 36, 8).moved(0, 0, h), look.plain(1)
  angle, tilt = np.linspace(0, np.pi, 18), pick(rng, 0, rng.uniform(30, 80))
  hoop = np.stack([1.03 * r * np.cos(angle), 0 * angle, 1.0 * r * np.sin(angle)], axis=-1)
  yield sweep(hoop, 0.02 * r + 0.001).turned('x', tilt).moved(0, 0, 0.93 * h), look.metal
  if chance(rng, 0.4):
    yield cylinder(0.93 * r, 0.01, 32).moved(0, 0, 0.8 * h), look.skin(1)


@maker(0.3)
def plates(rng, look):
  z, r = 0.0, rng.uniform(0.09, 0.15)
  for i in range(rng.integers(2, 9)):
    h = 0.16 * r
    yield vessel(smooth([(0.55 * r, z), (0.7 * r, z + 0.3 * h), (r, z + h)], 10), 0.035 * r, 36), look.skin(i % 2)
    z += 0.06 * r
    r *= rng.uniform(0.9, 1.0)
  if chance(rng, 0.5):
    cup = 0.4 * r
    yield (
      vessel(
        smooth([(0.6 * cup, z - 0.035 * r + 0.002), (cup, z + 0.6 * cup), (1.05 * cup, z + 1.3 * cup)], 10),
        0.05 * cup,
        28,
      ),
      look.skin(2),
    )
    yield ear(0.95 * cup, z + 0.3 * cup, z + 1.0 * cup, 0.5 * cup, 0.08 * cup), look.skin(2)


@maker(0.25)
def jar(rng, look):
  r, h = rng.uniform(0.04, 0.08), rng.uniform(0.08, 0.25)
  yield (
    lathe([(0.92 * r, 0), (r, 0.06 * h), (r, 0.75 * h), (0.8 * r, 0.86 * h), (0.8 * r, 0.95 * h)], 32),
    pick(rng, look.skin(0), look.glass),
  )
  if chance(rng, 0.5):
    yield (
      cylinder(0.88 * r, 0.14 * h, 28, bevel=0.02 * h).moved(0, 0, 0.88 * h),
      pick(rng, look.metal, look.wood, look.plain(2)),
    )
  else:
    yield ellipsoid(1.7 * r, 1.7 * r, 0.3 * h).moved(0, 0, 0.95 * h), look.plain(1)
    yield ball(0.2 * r, 5).moved(0, 0, 1.12 * h), look.plain(2)
  if chance(rng, 0.6):
    yield (
      tube(1.015 * r, 0.94 * r, 0.4 * h, 32).moved(0, 0, 0.2 * h),
      wrapped(look.printed(2 * r, 0.4 * h), np.pi * 2 * r / 2),
    )


@maker(0.3, weight=0.7)
def candle_holder(rng, look):
  h, r = rng.uniform(0.08, 0.3), rng.uniform(0.04, 0.07)
  yield (
    lathe([(r, 0), (r, 0.015), (0.25 * r, 0.03), (0.2 * r, h), (0.5 * r, h + 0.01), (0.5 * r, h + 0.02)], 28),
    look.metal,
  )
  arms = rng.integers(0, 3)
  places = [(0.0, 0.0)]
  for i in range(1, arms + 1):
    reach = 1.3 * r * i
    for one in both(
      sweep(smooth([(0, 0, 0.4 * h), (0.8 * reach, 0, 0.35 * h + 0.1 * h * i), (reach, 0, h)], 10), 0.1 * r)
    ):
      yield one, look.metal
    for side in (-1, 1):
      yield cylinder(0.45 * r, 0.02, 20).moved(side * reach, 0, h), look.metal
      places.append((side * reach, 0))
  for x, y in places:
    tall = rng.uniform(0.08, 0.2)
    yield cylinder(0.25 * r, tall, 20).moved(x, y, h + 0.015), look.skin(1)
    yield cylinder(0.025 * r, 0.02, 6).moved(x, y, h + 0.01 + tall), look.dark


@maker(0.5, weight=0.8)
def watering_can(rng, look):
  r, h = rng.uniform(0.08, 0.12), rng.uniform(0.16, 0.26)
  body = pick(rng, look.metal, look.plain(0), look.skin(0))
  yield vessel([(r, 0), (0.95 * r, h)], 0.04 * r, 32), body
  tip = np.array([2.6 * r, 0, 1.15 * h])
  yield (
    sweep(
      smooth([(0.9 * r, 0, 0.2 * h), (1.7 * r, 0, 0.6 * h), tip], 10), circle(12, 0.16 * r), np.linspace(1.2, 0.7, 10)
    ),
    body,
  )
  yield (
    cylinder(0.12 * r, 0.25 * r, 16, top=0.35 * r).turned('y', 50).moved(*tip - [0.04 * r, 0, 0.04 * r]),
    look.plain(1),
  )
  yield ear(0.9 * r, 0.2 * h, 0.95 * h, 1.0 * r, 0.07 * r).turned('z', 180), look.plain(1)
  for one in spun(ball(0.05 * r, 3).moved(0.96 * r, 0, 0.9 * h), 8):
    yield one, look.metal
