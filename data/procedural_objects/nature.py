"""Makers of plants, fruit and rocks: trunks that branch, crowns of blobs and cones, leaves, pots."""

import numpy as np

from .grammar import chance, maker, pick
from .shapes import ball, bar, blob, circle, cylinder, ellipsoid, lathe, smooth, spun, sweep, torus
from .vessels import vessel


def pot(rng, look, radius: float, height: float):
  """Yields a pot filled with earth up to 0.85 of its height."""
  low = radius * rng.uniform(0.6, 1.0)
  body = pick(rng, look.skin(0), look.stone, look.plain(1))
  sides = pick(rng, 4, 6, 28, 28)
  yield vessel([(low, 0), (radius, height)], 0.06 * radius, sides), body
  if chance(rng, 0.5):
    yield (
      vessel(
        [(0.98 * radius, 0.8 * height), (1.08 * radius, 0.81 * height), (1.08 * radius, height)],
        0.12 * radius,
        sides,
        0.02 * radius,
      ),
      body,
    )
  yield cylinder(0.15 * low + 0.8 * radius, 0.2 * height, sides).moved(0, 0, 0.65 * height), look.dark


def leaf(length: float, width: float, bend: float):
  """Returns a leaf that starts in the origin, rises along x and bends down."""
  t = np.linspace(0, 1, 9)
  path = np.stack([length * t, 0 * t, length * bend * (t - 1.3 * t**2)], axis=-1)
  half = width / 2 * np.clip(np.sin(np.pi * (0.08 + 0.9 * t)) ** 0.8, 0.05, 1)
  return sweep(path, circle(6), np.stack([half, np.full(9, 0.04 * width)], axis=-1))


@maker(5.0, weight=1.5)
def conifer(rng, look):
  h, tiers = rng.uniform(2, 6), rng.integers(2, 6)
  r, sides = h * rng.uniform(0.18, 0.32), pick(rng, 6, 8, 12, 24)
  yield cylinder(0.05 * h, 0.4 * h, 10, top=0.035 * h), look.wood
  z, step = 0.18 * h, 0.82 * h / tiers
  for i in range(tiers):
    share = 1 - i / tiers * rng.uniform(0.75, 0.9)
    top = z + step * 1.5 if i < tiers - 1 else h
    yield lathe([(0.25 * r * share, z + 0.12 * step), (r * share, z), (0, top)], sides).turned('z', 20 * i), look.leaves
    z += step
  if chance(rng, 0.15):
    for _ in range(rng.integers(6, 14)):
      level, angle = rng.uniform(0.2, 0.75), rng.uniform(0, 2 * np.pi)
      reach = 0.85 * r * (1 - level)
      yield (
        ball(0.025 * h, 4).moved(reach * np.cos(angle), reach * np.sin(angle), (0.2 + 0.8 * level) * h),
        look.plain(2),
      )


@maker(5.0, weight=2)
def tree(rng, look):
  h, t = rng.uniform(2.5, 6), rng.uniform(0.08, 0.2)
  lean = rng.normal(0, 0.04 * h, 2)
  trunk = smooth([(0, 0, 0), (0.3 * lean[0], 0.3 * lean[1], 0.25 * h), (*lean, 0.6 * h)], 10)
  yield sweep(trunk, circle(10, t), np.linspace(1.4, 0.6, 10)), look.wood
  yield cylinder(1.9 * t, 0.06 * h, 10, top=1.2 * t), look.wood
  count, rough, crown = rng.integers(1, 9), rng.uniform(0.1, 0.35), rng.uniform(0.5, 0.9)
  for i in range(count):
    angle = 2 * np.pi * i / count + rng.uniform(0, 0.6)
    reach = 0.0 if count == 1 else h * rng.uniform(0.1, 0.22)
    size = h * rng.uniform(0.12, 0.2) if count > 1 else h * rng.uniform(0.22, 0.32)
    place = np.array(
      [lean[0] + reach * np.cos(angle), lean[1] + reach * np.sin(angle), h * (0.62 + rng.uniform(0, 0.2))]
    )
    yield blob(size, rough, rng, 7).scaled(1, 1, crown + 0.2).moved(*place), look.leaves
    yield bar(trunk[6], place, 0.4 * t, 7), look.wood
  if count > 1:
    yield blob(0.18 * h, rough, rng, 7).moved(*lean, 0.75 * h), look.leaves
  if chance(rng, 0.25):
    for _ in range(rng.integers(5, 12)):
      direction = rng.normal(size=3)
      direction /= np.linalg.norm(direction)
      yield ball(0.03 * h, 4).moved(*(np.array([*lean, 0.74 * h]) + 0.22 * h * direction)), look.plain(2)


@maker(5.0)
def palm(rng, look):
  h = rng.uniform(2.5, 6)
  lean = rng.uniform(-0.15, 0.15, 2) * h
  trunk = smooth([(0, 0, 0), (0.2 * lean[0], 0.2 * lean[1], 0.4 * h), (*lean, h)], 12)
  yield sweep(trunk, circle(10, 0.03 * h), np.linspace(1.5, 0.8, 12)), look.wood
  for point in trunk[1:-1]:
    yield torus(0.036 * h, 0.008 * h, 14, 6).moved(*point), look.wood
  count = rng.integers(6, 12)
  for i, one in enumerate(spun(leaf(h * rng.uniform(0.35, 0.5), 0.1 * h, rng.uniform(0.5, 1.0)), count)):
    yield one.moved(*lean, h - 0.01 * h * (i % 2)), look.leaves
  for _ in range(rng.integers(1, 5)):
    yield (
      ball(0.035 * h, 5).moved(lean[0] + rng.normal(0, 0.025 * h), lean[1] + rng.normal(0, 0.025 * h), 0.97 * h),
      look.plain(2),
    )


@maker(0.8, weight=2)
def potted_plant(rng, look):
  r, h = rng.uniform(0.1, 0.2), rng.uniform(0.12, 0.3)
  yield from pot(rng, look, r, h)
  kind, base = rng.integers(5), 0.8 * h
  if kind == 0:
    for i in range(rng.integers(6, 16)):
      one = leaf(rng.uniform(1.5, 3.2) * r, rng.uniform(0.3, 0.8) * r, rng.uniform(0.6, 2.2))
      yield one.turned('y', -rng.uniform(10, 60)).turned('z', 137.5 * i).moved(0, 0, base), look.leaves
  elif kind == 1:
    tall = rng.uniform(2, 4) * r
    yield bar((0, 0, base), (0, 0, base + tall), 0.08 * r, 8), look.wood
    yield blob(rng.uniform(0.9, 1.4) * r, 0.2, rng, 9).moved(0, 0, base + tall), look.leaves
  elif kind == 2:  # Flowers.
    for _ in range(rng.integers(3, 8)):
      top = np.array([*rng.normal(0, 0.6 * r, 2), base + rng.uniform(1.5, 3.5) * r])
      yield (
        sweep(smooth([(0, 0, base), (0.2 * top[0], 0.2 * top[1], (base + top[2]) / 2), top], 8), 0.04 * r),
        look.leaves,
      )
      yield ellipsoid(0.2 * r, 0.2 * r, 0.14 * r, cells=5).moved(*top), look.plain(1)
      for petal in spun(ellipsoid(0.34 * r, 0.2 * r, 0.07 * r, cells=4).moved(0.22 * r), rng.integers(5, 9)):
        yield petal.moved(*top), look.plain(2)
  elif kind == 3:  # Sword-shaped leaves.
    for i in range(rng.integers(4, 10)):
      tall = rng.uniform(1.5, 4) * r
      yield (
        lathe([(0.12 * r, 0), (0.18 * r, 0.4 * tall), (0, tall)], 8)
        .scaled(1, 0.3, 1)
        .turned('y', rng.uniform(2, 25))
        .turned('z', 137.5 * i)
        .moved(0, 0, base),
        look.leaves,
      )
  else:
    tall = rng.uniform(1.5, 3.5) * r
    yield star_cactus(tall, rng.uniform(0.4, 0.8) * r, rng.integers(6, 12)).moved(0, 0, base - 0.05 * r), look.leaves
    yield ball(0.2 * r, 4).moved(0, 0, base + tall), look.plain(2)


def star_cactus(height: float, radius: float, ribs: int):
  """Returns an upright column with ribs and a round top."""
  wave = 1 + 0.16 * np.cos(np.pi * np.arange(2 * ribs))
  outline = circle(2 * ribs) * wave[:, None]
  t = np.linspace(0, 1, 12)
  scale = radius * np.clip((1 - t**4) ** 0.5, 0.05, 1) * (0.8 + 0.2 * np.sin(np.pi * t))
  return sweep(np.stack([0 * t, 0 * t, height * t], axis=-1), outline, scale)


@maker(1.5)
def cactus(rng, look):
  h, r = rng.uniform(0.8, 2.5), rng.uniform(0.1, 0.2)
  ribs = rng.integers(7, 13)
  yield star_cactus(h, r, ribs), look.leaves
  for i in range(rng.integers(1, 4)):
    z, reach, rise = h * rng.uniform(0.3, 0.55), r * rng.uniform(2, 3), h * rng.uniform(0.15, 0.35)
    path = smooth(
      [(0.5 * r, 0, z), (0.85 * reach, 0, z), (reach, 0, z + 0.12 * h), (reach, 0, z + 0.12 * h + rise)], 12
    )
    yield (
      sweep(path, circle(14, 0.55 * r), [1] * 10 + [0.8, 0.3]).turned('z', 180 * i + rng.uniform(-30, 30)),
      look.leaves,
    )
  for _ in range(rng.integers(0, 4)):
    yield ball(0.35 * r, 4).moved(rng.normal(0, 0.3 * r), rng.normal(0, 0.3 * r), h), look.plain(2)
  yield blob(2.6 * r, 0.2, rng, 8).scaled(1, 1, 0.2), look.stone


@maker(0.3)
def mushroom(rng, look):
  for i in range(rng.integers(1, 5)):
    h, cap = rng.uniform(0.08, 0.3), rng.uniform(0.05, 0.14)
    x, y = (0.0, 0.0) if i == 0 else (rng.uniform(0.06, 0.12) * np.array([np.cos(2.1 * i), np.sin(2.1 * i)]))
    stem = smooth([(0.3 * cap, 0), (0.22 * cap, 0.5 * h), (0.25 * cap, h)], 8)
    yield lathe(stem, 18).moved(x, y), look.plain(1)
    dome = smooth(
      [(cap, 0.95 * h), (0.95 * cap, h + 0.15 * cap), (0.55 * cap, h + 0.6 * cap), (0.05 * cap, h + 0.75 * cap)], 12
    )
    yield lathe([(0.2 * cap, 0.97 * h), *dome], 28).moved(x, y), look.skin(0)
    if chance(rng, 0.5):
      for j in range(9):
        k, angle = (3, 6, 8)[j % 3], 2.4 * j
        yield (
          ellipsoid(0.2 * cap, 0.2 * cap, 0.1 * cap, cells=4).moved(
            x + dome[k, 0] * np.cos(angle), y + dome[k, 0] * np.sin(angle), dome[k, 1]
          ),
          look.plain(2),
        )
  yield cylinder(0.17, 0.02, 24, top=0.15), look.leaves


@maker(0.12, weight=2)
def fruit(rng, look):
  kind, r = rng.integers(5), rng.uniform(0.03, 0.06)
  if kind == 0:  # Apple.
    h = 1.8 * r
    body = [
      (0.15 * r, 0.08 * h),
      (0.4 * r, 0),
      *smooth([(0.6 * r, 0.08 * h), (r, 0.6 * h), (0.6 * r, 0.98 * h)], 12),
      (0.3 * r, h),
      (0.08 * r, 0.85 * h),
    ]
    yield lathe(body, 32), look.skin(2)
    yield sweep(smooth([(0, 0, 0.8 * h), (0, 0, h), (0.1 * r, 0, 1.2 * h)], 6), 0.05 * r), look.wood
    if chance(rng, 0.6):
      yield leaf(0.8 * r, 0.4 * r, 0.3).moved(0.05 * r, 0, 1.12 * h), look.leaves
  elif kind == 1:  # Pear.
    yield (
      lathe(smooth([(0.3 * r, 0), (r, 0.8 * r), (0.5 * r, 2 * r), (0.35 * r, 2.5 * r), (0.1 * r, 2.6 * r)], 22), 28),
      look.skin(0),
    )
    yield sweep(smooth([(0, 0, 2.5 * r), (0, 0, 2.8 * r), (0.2 * r, 0, 3.1 * r)], 6), 0.05 * r), look.wood
  elif kind == 2:  # Bananas.
    for i in range(rng.integers(1, 4)):
      angle = np.linspace(-1.2, 1.2, 12)
      path = np.stack([2.4 * r * np.sin(angle), 0 * angle, 2.4 * r * (1 - np.cos(angle)) + 0.5 * r], axis=-1)
      yield (
        sweep(path, circle(8, 0.5 * r), np.clip(1.2 * np.cos(angle * 1.15), 0.25, 1)).moved(0, 0.75 * r * i, 0),
        look.plain(2),
      )
  elif kind == 3:  # Pumpkin.
    ribs = rng.integers(7, 12)
    for one in spun(ellipsoid(r, 4.2 * r / ribs + 0.4 * r, 1.7 * r, cells=8).moved(0.55 * r, 0, 0.85 * r), ribs):
      yield one, look.plain(2)
    yield (
      sweep(
        smooth([(0, 0, 1.3 * r), (0, 0, 1.8 * r), (0.2 * r, 0.1 * r, 2.2 * r)], 7),
        circle(7, 0.14 * r),
        np.linspace(1.3, 0.8, 7),
      ),
      look.leaves,
    )
  else:  # A bunch of grapes, or a pile of oranges.
    for level in range(4):
      count = max(1, 9 - level * 3)
      for i in range(count):
        ring = 0.5 * r * count / 3.3 if count > 1 else 0
        angle = 2 * np.pi * i / count + level
        yield (
          ball(0.5 * r, 6).moved(ring * np.cos(angle), ring * np.sin(angle), 0.5 * r + 0.72 * r * level),
          look.skin(2),
        )
    yield ball(0.5 * r, 6).moved(0, 0, 0.5 * r), look.skin(2)


@maker(1.0)
def rocks(rng, look):
  for i in range(rng.integers(1, 6)):
    r = rng.uniform(0.25, 0.5) * (1 if i == 0 else 0.6)
    one = blob(r, rng.uniform(0.15, 0.5), rng, pick(rng, 4, 8, 12), waves=rng.uniform(1.5, 3.5)).scaled(
      1, rng.uniform(0.6, 1), rng.uniform(0.5, 1)
    )
    angle = rng.uniform(0, 2 * np.pi)
    reach = 0 if i == 0 else 0.45
    yield one.moved(reach * np.cos(angle), reach * np.sin(angle), -one.bounds[0, 2]), look.stone
  if chance(rng, 0.3):
    for i in range(7):
      yield (
        lathe([(0.02, 0), (0.03, 0.15), (0, rng.uniform(0.25, 0.5))], 6)
        .scaled(1, 0.4, 1)
        .turned('y', rng.uniform(0, 30))
        .turned('z', 50 * i)
        .moved(0.3, 0.1),
        look.leaves,
      )


@maker(1.2)
def flower(rng, look):
  h, r = rng.uniform(0.5, 1.3), rng.uniform(0.1, 0.2)
  top = np.array([rng.uniform(-0.08, 0.08), -0.1, h])
  stem = smooth([(0, 0, 0), (0, 0, 0.5 * h), top], 10)
  yield sweep(stem, 0.015), look.leaves
  count, cup = rng.integers(5, 14), rng.uniform(10, 60)
  petal = ellipsoid(r, 0.7 * r * 6 / count + 0.1 * r, 0.06 * r, cells=5).moved(0.55 * r).turned('y', -cup)
  for one in spun(petal, count):
    yield one.turned('x', 35).moved(*top), look.skin(2)
  yield ellipsoid(0.55 * r, 0.55 * r, 0.4 * r).turned('x', 35).moved(*top), look.plain(1)
  for i in range(rng.integers(1, 5)):
    yield leaf(0.25 * h, 0.08 * h, 0.8).turned('z', 137 * i).moved(*stem[2 + i]), look.leaves
  if chance(rng, 0.6):
    yield lathe([(0.09, 0), (0.12, 0.16), (0.1, 0.16), (0.09, 0.14)], 24), look.skin(0)
  else:
    yield cylinder(0.14, 0.03, 20, top=0.12), look.leaves
