"""Makers of goods: boxes with prints, books, bags, appliances, electronics, tools, toys, instruments, shoes."""

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
  skin,
  smooth,
  spun,
  squircle,
  star,
  sweep,
  torus,
  tube,
)
from .vehicles import hull


@maker(0.35, weight=3)
def carton(rng, look):
  w, d, h = rng.uniform(0.08, 0.4), rng.uniform(0.05, 0.3), rng.uniform(0.08, 0.4)
  kind = rng.integers(4)
  body = pick(rng, look.printed(w, h), look.printed(w, h), look.wood, look.skin(0), look.photo())
  if kind == 0:  # A gift.
    t = 0.12 * w
    yield box(w, d, h), look.skin(0)
    yield box(w * 1.06, d * 1.06, 0.22 * h).moved(0, 0, 0.81 * h), look.skin(0)
    yield box(t, 1.08 * d, 1.04 * h).moved(0, 0, 0), look.plain(2)
    yield box(1.08 * w, t, 1.038 * h).moved(0, 0, 0.0005), look.plain(2)
    for one in both(torus(0.8 * t, 0.2 * t, 20, 8).scaled(1.3, 1, 1).turned('x', 70).moved(t, 0, 1.04 * h + 0.6 * t)):
      yield one, look.plain(2)
    yield ball(0.4 * t, 5).moved(0, 0, 1.05 * h), look.plain(2)
  elif kind == 1:  # Open, with flaps.
    t = 0.012
    yield box(w, d, t), body
    for one in both(box(t, d, h).moved(w / 2 - t / 2)):
      yield one, body
    for one in both(box(w - 0.001, t, h - 0.001).moved(0, d / 2 - t / 2), 'y'):
      yield one, body
    for one in both(
      box(0.45 * w, 0.98 * d, 0.7 * t).moved(0.22 * w).turned('y', rng.uniform(0, 60)).moved(w / 2 - t, 0, h - t)
    ):
      yield one, body
    for _ in range(rng.integers(0, 5)):
      r = rng.uniform(0.2, 0.4) * min(w, d)
      yield ball(r, 6).moved(*rng.uniform(-0.5, 0.5, 2) * (np.array([w, d]) - 2 * r), 0.8 * h), look.skin(2)
  elif kind == 2:  # Milk: a gable top.
    d = w = min(w, d)
    h = 2.2 * w
    yield box(w, w, h), look.printed(w, h)
    yield (
      prism([(-w / 2, 0), (w / 2, 0), (0.02 * w, 0.55 * w), (-0.02 * w, 0.55 * w)], w)
      .turned('x', 90)
      .turned('z', 90)
      .moved(-w / 2, 0, h),
      look.plain(0),
    )
    yield box(w, 0.03 * w, 0.2 * w).moved(0, 0, h + 0.52 * w), look.plain(1)
    yield cylinder(0.16 * w, 0.15 * w, 18).turned('x', 45).moved(0, -0.28 * w, h + 0.2 * w), look.plain(2)
  else:
    yield box(w, d, h, pick(rng, 0, 0.003, 0.02)), body
    if chance(rng, 0.5):
      yield box(1.005 * w, 1.01 * d, 0.2 * h).moved(0, 0, 0.5 * h), look.plain(1)
    if chance(rng, 0.3):
      yield box(0.2 * w, 1.004 * d, 1.004 * h).moved(0, 0, 0), look.plain(2)


@maker(0.4, weight=1.5)
def books(rng, look):
  z, standing = 0.0, chance(rng, 0.35)
  for i in range(rng.integers(1, 7)):
    w, d, t = rng.uniform(0.12, 0.22), rng.uniform(0.18, 0.28), rng.uniform(0.012, 0.06)
    cover = pick(rng, look.printed(w, d, flat=True), look.skin(i % 3))
    parts = [
      (box(w, d, 0.004), cover),
      (box(w, d, 0.004).moved(0, 0, t - 0.004), cover),
      (box(0.006, d, t - 0.001).moved(-w / 2 + 0.003, 0, 0.0005), cover),
      (box(w - 0.012, d - 0.012, t - 0.006).moved(0, 0, 0.003), look.plain(1)),
    ]
    turn, shift = rng.uniform(-20, 20), rng.normal(0, 0.01, 2)
    for solid, material in parts:
      if standing:
        yield solid.turned('x', -90).moved(0, 0, d / 2).turned('z', 90).moved(-z, 0, 0), material
      else:
        yield solid.turned('z', turn).moved(*shift, z), material
    z += t - 0.0005
  if standing:
    yield box(z + 0.1, 0.26, 0.012).moved(-z / 2, 0, -0.0115), look.wood
    for x in (0.04, -z - 0.03):
      yield box(0.012, 0.2, 0.18).moved(x, 0, -0.002), look.wood


@maker(0.5, weight=1.5)
def bag(rng, look):
  w, d, h = rng.uniform(0.25, 0.45), rng.uniform(0.1, 0.2), rng.uniform(0.2, 0.5)
  cloth = pick(rng, look.fabric, look.skin(0))
  kind = rng.integers(3)
  if kind == 0:  # A handbag.
    yield (
      hull(
        [
          (-w / 2, 0.85 * d, 0.8 * h, 0.42 * h),
          (-0.4 * w, d, h, 0.5 * h),
          (0.4 * w, d, h, 0.5 * h),
          (w / 2, 0.85 * d, 0.8 * h, 0.42 * h),
        ],
        power=3,
      ).turned('z', 90),
      cloth,
    )
    angle = np.linspace(0, np.pi, 16)
    for y in (-0.2 * d, 0.2 * d):
      yield (
        sweep(np.stack([0.3 * w * np.cos(angle), y + 0 * angle, 0.95 * h + 0.5 * h * np.sin(angle)], axis=-1), 0.012),
        look.dark,
      )
    yield box(0.14 * w, 0.05, 0.1 * h, 0.01).moved(0, -d / 2, 0.6 * h), look.metal
    yield box(0.8 * w, 1.04 * d, 0.35 * h, 0.03).moved(0, 0, 0.6 * h), look.plain(1)
  elif kind == 1:  # A backpack.
    yield box(w, d, 1.2 * h, 0.08, steps=3), cloth
    yield box(0.75 * w, 0.5 * d, 0.5 * h, 0.04).moved(0, -0.55 * d, 0.06 * h), look.plain(1)
    yield box(0.98 * w, 1.06 * d, 0.3 * h, 0.05).moved(0, -0.02 * d, 0.92 * h), look.plain(2)
    for x in (-0.25 * w, 0.25 * w):
      yield box(0.05 * w, 0.02, 0.5 * h).moved(x, -0.55 * d, 0.5 * h), look.dark
      strap = smooth(
        [(x, 0.4 * d, 1.1 * h), (x, 0.9 * d, 0.8 * h), (1.3 * x, 0.8 * d, 0.3 * h), (1.4 * x, 0.4 * d, 0.1 * h)], 12
      )
      yield sweep(strap, squircle(0.07, 0.02, 4, 10)), look.dark
    yield torus(0.04, 0.008, 18, 6).turned('x', 90).moved(0, 0.2 * d, 1.22 * h), look.dark
  else:  # A suitcase.
    yield box(w, d, 1.3 * h, 0.05).moved(0, 0, 0.04), cloth
    for i in range(rng.integers(0, 7)):
      yield box(0.04 * w, 1.03 * d, 1.1 * h).moved(w * (0.13 * i - 0.39), 0, 0.04 + 0.1 * h), look.plain(0)
    for one in four(cylinder(0.025, 0.03, 14).turned('y', 90).moved(0.4 * w, 0.35 * d, 0.025)):
      yield one, look.dark
    for one in four(box(0.03, 0.04, 0.05).moved(0.415 * w, 0.35 * d, 0.02)):
      yield one, look.dark
    for one in both(bar((0.2 * w, 0.3 * d, h), (0.2 * w, 0.3 * d, 1.9 * h), 0.009, 8)):
      yield one, look.metal
    yield box(0.45 * w, 0.03, 0.035, 0.01).moved(0, 0.3 * d, 1.88 * h), look.dark


@maker(0.6, weight=2)
def screen(rng, look):
  """A television, a monitor, a laptop, a phone or a tablet."""
  kind, w = rng.integers(4), rng.uniform(0.3, 1.2)
  h, t, edge = w * rng.uniform(0.5, 0.75), rng.uniform(0.015, 0.05), rng.uniform(0.02, 0.05) * w
  frame = pick(rng, look.dark, look.plain(0), look.metal)
  display = look.printed(w - 2 * edge, h - 2 * edge, screen=True)
  panel = [(box(w, t, h, 0.4 * t, steps=1), frame), (box(w - 2 * edge, 0.3 * t, h - 2 * edge), display)]

  def placed(transform):
    yield transform(panel[0][0]), panel[0][1]
    yield transform(panel[1][0].moved(0, -0.4 * t, edge)), panel[1][1]

  if kind == 0:
    z = rng.uniform(0.1, 0.5) * h
    yield from placed(lambda solid: solid.turned('x', -4).moved(0, 0, z))
    yield bar((0, 0.6 * t, 0.01), (0, 0.6 * t, z + 0.4 * h), 0.03 * w, pick(rng, 4, 14)), look.metal
    yield box(rng.uniform(0.3, 0.6) * w, 0.25 * w, 0.02, 0.005, steps=1).moved(0, 0.02), look.metal
  elif kind == 1:
    yield from placed(lambda solid: solid.moved(0, 0, 0.1 * h))
    for one in both(bar((0.36 * w, -0.1 * w, 0.01), (0.33 * w, 0, 0.15 * h), 0.012 * w, 8)):
      yield one, look.metal
    for one in both(bar((0.36 * w, 0.1 * w, 0.01), (0.33 * w, 0, 0.15 * h), 0.012 * w, 8)):
      yield one, look.metal
    yield box(0.5 * w, 1.6 * t, 0.5 * h).moved(0, 0.9 * t, 0.3 * h), frame
  elif kind == 2:  # A laptop.
    depth = 0.95 * h
    yield box(w, depth, 0.03 * w, 0.01 * w, steps=1), frame
    yield box(0.9 * w, 0.45 * depth, 0.01 * w).moved(0, 0.14 * depth, 0.025 * w), look.dark
    rows, columns = 4, 10
    for i in range(rows):
      for j in range(columns):
        yield (
          box(0.075 * w, 0.085 * depth, 0.008 * w).moved(
            0.088 * w * (j - 4.5), 0.14 * depth + 0.11 * depth * (i - 1.5), 0.032 * w
          ),
          look.plain(1),
        )
    yield box(0.25 * w, 0.25 * depth, 0.006 * w).moved(0, -0.28 * depth, 0.027 * w), look.dark
    lean = rng.uniform(5, 35)
    yield from placed(lambda solid: solid.turned('x', -lean).moved(0, depth / 2 - 0.3 * t, 0.022 * w))
    yield cylinder(0.014 * w, 0.8 * w, 12).turned('y', 90).moved(-0.4 * w, depth / 2 - 0.2 * t, 0.025 * w), look.dark
  else:  # A phone in a stand.
    yield from placed(lambda solid: solid.turned('x', -18).moved(0, 0, 0.04 * w))
    yield (
      prism([(-0.08 * w, 0), (0.4 * h, 0), (0.25 * h, 0.5 * h)], 0.5 * w, bevel=0.008 * w)
      .turned('x', 90)
      .turned('z', 90)
      .moved(-0.25 * w, 0.4 * t, 0),
      look.plain(2),
    )
    yield box(0.5 * w, 0.16 * w, 0.05 * w).moved(0, -0.04 * w), look.plain(2)


@maker(0.8, weight=1.5)
def appliance(rng, look):
  w, d, h = rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.6), rng.uniform(0.2, 1.0)
  r, body = rng.uniform(0.0, 0.05), pick(rng, look.plain(0), look.plain(1), look.metal)
  foot, front = 0.02, -d / 2
  for one in four(cylinder(0.02, 0.03, 12).moved(0.42 * w, 0.42 * d)):
    yield one, look.dark
  yield box(w, d, h, r).moved(0, 0, foot), body
  kind = rng.integers(4)
  if kind == 0:  # A washing machine.
    ring = 0.36 * min(w, h)
    z = foot + 0.42 * h
    yield torus(ring, 0.14 * ring, 32, 10).turned('x', 90).moved(0, front, z), look.metal
    yield ellipsoid(1.9 * ring, 0.4 * ring, 1.9 * ring).moved(0, front, z), look.glass
    yield box(0.96 * w, 0.02, 0.12 * h).moved(0, front, foot + 0.85 * h), look.plain(2)
    for i in range(3):
      yield (
        cylinder(0.04 * w, 0.04, 16).turned('x', 90).moved(w * (0.15 * i + 0.1), front + 0.01, foot + 0.91 * h),
        look.dark,
      )
  elif kind == 1:  # An oven: a door with a window and a handle, knobs.
    yield box(0.9 * w, 0.03, 0.66 * h, 0.01, steps=1).moved(0, front, foot + 0.06 * h), look.plain(2)
    yield box(0.65 * w, 0.02, 0.4 * h).moved(0, front - 0.01, foot + 0.15 * h), look.glass
    yield (
      bar((-0.35 * w, front - 0.05, foot + 0.67 * h), (0.35 * w, front - 0.05, foot + 0.67 * h), 0.012, 8),
      look.metal,
    )
    for one in both(bar((0.32 * w, front, foot + 0.67 * h), (0.32 * w, front - 0.05, foot + 0.67 * h), 0.009, 6)):
      yield one, look.metal
    count = rng.integers(2, 6)
    for i in range(count):
      yield (
        cylinder(0.035 * w, 0.04, 14)
        .turned('x', 90)
        .moved(w * 0.8 * ((i + 0.5) / count - 0.5), front + 0.01, foot + 0.87 * h),
        look.dark,
      )
  elif kind == 2:  # A refrigerator.
    split = rng.uniform(0.3, 0.7)
    for low, high in ((0.02, split), (split + 0.01, 0.98)):
      yield box(0.98 * w, 0.06, (high - low) * h, 0.012, steps=1).moved(0, front - 0.01, foot + low * h), body
      yield (
        box(0.03, 0.05, 0.5 * (high - low) * h, 0.008, steps=1).moved(
          0.4 * w, front - 0.05, foot + (low + 0.25 * (high - low)) * h
        ),
        look.metal,
      )
    if chance(rng, 0.5):
      yield box(0.3 * w, 0.01, 0.2 * h).moved(-0.15 * w, front - 0.042, foot + 0.7 * h), look.printed(0.3 * w, 0.2 * h)
  else:  # A radio, a speaker, a toaster.
    count = rng.integers(1, 3)
    for i in range(count):
      x, ring = w * ((i + 0.5) / count - 0.5), 0.32 * min(w / count, h)
      yield cylinder(ring, 0.03, 32).turned('x', 90).moved(x, front + 0.015, foot + 0.4 * h), look.dark
      yield torus(0.95 * ring, 0.1 * ring, 28, 8).turned('x', 90).moved(x, front - 0.01, foot + 0.4 * h), look.metal
      yield ellipsoid(0.7 * ring, 0.2 * ring, 0.7 * ring).moved(x, front - 0.02, foot + 0.4 * h), look.plain(2)
    yield box(0.6 * w, 0.03, 0.12 * h).moved(0, front, foot + 0.8 * h), look.printed(0.6 * w, 0.12 * h)
    yield (
      sweep(
        np.array(
          [
            (-0.4 * w, 0, foot + 0.98 * h),
            (-0.4 * w, 0, foot + 1.15 * h),
            (0.4 * w, 0, foot + 1.15 * h),
            (0.4 * w, 0, foot + 0.98 * h),
          ]
        ),
        0.015,
      ),
      look.dark,
    )


@maker(0.15)
def camera(rng, look):
  w, h, d = rng.uniform(0.1, 0.14), rng.uniform(0.06, 0.09), rng.uniform(0.03, 0.05)
  yield box(w, d, h, 0.008), look.dark
  yield box(1.01 * w, 1.02 * d, 0.5 * h).moved(0, 0, 0.2 * h), look.skin(0)
  r, x = 0.36 * h, rng.uniform(-0.1, 0.1) * w
  reach = rng.uniform(0.3, 1.4) * h
  lens = lathe(
    [
      (r, 0),
      (r, 0.2 * reach),
      (1.08 * r, 0.25 * reach),
      (1.08 * r, 0.6 * reach),
      (0.9 * r, 0.62 * reach),
      (0.95 * r, reach),
      (0.85 * r, reach),
      (0.8 * r, 0.9 * reach),
    ],
    32,
  )
  yield lens.turned('x', 90).moved(x, -0.45 * d, 0.5 * h), look.metal
  yield ellipsoid(1.5 * r, 0.3 * r, 1.5 * r).moved(x, -0.45 * d - 0.92 * reach, 0.5 * h), look.glass
  yield (
    prism([(-0.2 * w, 0), (0.2 * w, 0), (0.12 * w, 0.25 * h), (-0.12 * w, 0.25 * h)], 0.9 * d)
    .turned('x', 90)
    .moved(x, 0.45 * d, 0.97 * h),
    look.dark,
  )
  yield cylinder(0.07 * w, 0.1 * h, 16).moved(0.36 * w, 0, 0.98 * h), look.metal
  yield cylinder(0.1 * w, 0.08 * h, 20).moved(-0.34 * w, 0, 0.98 * h), look.metal
  if chance(rng, 0.5):  # On a tripod.
    for leg in spun(bar((0.9 * w, 0, -1.6 * w), (0, 0, -0.1 * w), 0.03 * w, 8), 3, phase=0.25):
      yield leg, look.dark
    yield cylinder(0.12 * w, 0.2 * w, 14).moved(0, 0, -0.19 * w), look.metal


@maker(0.4, weight=2)
def tool(rng, look):
  """A hammer, an axe, a screwdriver, a brush, a spade or a knife; upright in a block, or leaning on it."""
  long = rng.uniform(0.2, 0.4)
  handle = pick(rng, look.wood, look.plain(2), look.skin(0))
  yield box(0.5 * long, 0.4 * long, 0.08 * long, 0.01 * long, steps=1), pick(rng, look.wood, look.stone, look.dark)
  base, kind = 0.06 * long, rng.integers(6)
  grip = smooth(
    [
      (0.04 * long, base),
      (0.05 * long, base + 0.15 * long),
      (0.035 * long, base + 0.4 * long),
      (0.03 * long, base + 0.9 * long),
    ],
    12,
  )
  yield lathe(grip, 16), handle
  top = base + 0.9 * long
  if kind == 0:
    yield (
      cylinder(0.07 * long, 0.35 * long, 18, bevel=0.01 * long).turned('y', 90).moved(-0.15 * long, 0, top),
      look.metal,
    )
    if chance(rng, 0.5):
      yield (
        prism([(0, -0.06 * long), (0.2 * long, -0.1 * long), (0, 0.06 * long)], 0.1 * long)
        .turned('x', 90)
        .moved(0.18 * long, 0.05 * long, top),
        look.metal,
      )
  elif kind == 1:
    yield (
      prism(
        [
          (-0.06 * long, -0.08 * long),
          (0.25 * long, -0.2 * long),
          (0.3 * long, 0),
          (0.25 * long, 0.2 * long),
          (-0.06 * long, 0.08 * long),
        ],
        0.07 * long,
        bevel=0.015 * long,
      )
      .turned('x', 90)
      .moved(0, 0.035 * long, top - 0.03 * long),
      look.metal,
    )
  elif kind == 2:
    yield cylinder(0.02 * long, 0.6 * long, 12).moved(0, 0, top - 0.05 * long), look.metal
    yield box(0.05 * long, 0.015 * long, 0.06 * long).moved(0, 0, top + 0.52 * long), look.metal
  elif kind == 3:
    yield box(0.22 * long, 0.1 * long, 0.15 * long, 0.02 * long, steps=1).moved(0, 0, top - 0.02 * long), look.metal
    yield (
      hull([(top, 0.2 * long, 0.08 * long, 0), (top + 0.3 * long, 0.24 * long, 0.06 * long, 0)], 16).turned('x', 90),
      look.plain(1),
    )
  elif kind == 4:
    blade = [
      (-0.14 * long, 0),
      (0.14 * long, 0),
      (0.15 * long, 0.3 * long),
      (0.0, 0.45 * long),
      (-0.15 * long, 0.3 * long),
    ]
    yield prism(blade, 0.025 * long).turned('x', 90).moved(0, 0.0125 * long, top - 0.04 * long), look.metal
  else:
    blade = [
      (-0.05 * long, 0),
      (0.05 * long, 0),
      (0.06 * long, 0.6 * long),
      (0.0, 0.75 * long),
      (-0.04 * long, 0.55 * long),
    ]
    yield prism(blade, 0.016 * long).turned('x', 90).moved(0, 0.008 * long, top - 0.04 * long), look.metal
    yield box(0.3 * long, 0.06 * long, 0.04 * long, 0.01 * long, steps=1).moved(0, 0, top - 0.03 * long), look.plain(1)


@maker(0.3, weight=1.5)
def ball_toy(rng, look):
  r = rng.uniform(0.04, 0.15)
  kind = rng.integers(4)
  if kind == 0:
    yield ellipsoid(2 * r, 2 * r, 2 * r, cells=14).moved(0, 0, r), look.skin(0)
    for axis, angle in (('x', 90), ('y', 90), ('z', 0)):
      yield torus(0.995 * r, 0.035 * r, 40, 8).turned(axis, angle).moved(0, 0, r), look.dark
  elif kind == 1:  # A beach ball.
    count = 6
    for i in range(count):
      yield wedge(r, count).turned('z', 360 * i / count).moved(0, 0, r), look.plain(i % 3)
    for z in (0.02 * r, 1.98 * r):
      yield ellipsoid(0.4 * r, 0.4 * r, 0.08 * r, cells=5).moved(0, 0, z if z < r else z - 0.005 * r), look.plain(1)
  elif kind == 2:  # A globe.
    stand = 0.5 * r
    yield cylinder(0.7 * r, 0.1 * r, 28, bevel=0.02 * r), look.wood
    yield cylinder(0.08 * r, stand, 14).moved(0, 0, 0.05 * r), look.metal
    arc = np.linspace(-np.pi / 2, np.pi / 2, 20)
    yield (
      sweep(np.stack([1.12 * r * np.cos(arc), 0 * arc, 1.12 * r * np.sin(arc)], axis=-1), 0.05 * r)
      .turned('y', 20)
      .moved(0, 0, stand + 1.2 * r),
      look.metal,
    )
    yield ellipsoid(2 * r, 2 * r, 2 * r, cells=14).moved(0, 0, stand + 1.2 * r), look.skin(0)
    yield cylinder(0.04 * r, 2.2 * r, 10).moved(0, 0, -1.1 * r).turned('y', 20).moved(0, 0, stand + 1.2 * r), look.metal
  else:  # Dice.
    for i in range(rng.integers(1, 4)):
      yield from die(look, r, i)


def wedge(radius: float, count: int):
  """Returns one of `count` segments of a ball."""
  theta = np.linspace(0.04, np.pi - 0.04, 14)
  phi = np.linspace(0, 2 * np.pi / count, 6)
  rings = []
  for t in theta:
    edge = np.stack([np.sin(t) * np.cos(phi), np.sin(t) * np.sin(phi), np.full(len(phi), np.cos(t))], axis=-1)
    rings.append(np.concatenate([edge, [[0, 0, np.cos(t)]]]) * radius)
  return skin(rings)


def die(look, r, number):
  place = [(0, 0, 0), (1.7 * r, 0.5 * r, 0), (0.7 * r, 0.2 * r, 1.39 * r)][number]
  turn = (10, -35, 25)[number]
  parts = [(box(1.4 * r, 1.4 * r, 1.4 * r, 0.2 * r), look.plain(0))]
  pips = [(0, -1, 0, 1), (1, 0, 0, 2), (0, 0, 1, 3)]
  for x, y, z, count in pips:
    for k in range(count):
      offset = 0.38 * r * (k - (count - 1) / 2)
      across = np.array([y != 0, z != 0, x != 0], float) * offset + np.array(
        [z != 0, x != 0, y != 0], float
      ) * offset * (count > 1)
      pip = ellipsoid(*(0.28 * r * np.where(np.abs([x, y, z]) > 0, 0.3, 1)), cells=4)
      parts.append((pip.moved(*(0.7 * r * np.array([x, y, z]) + across)).moved(0, 0, 0.7 * r), look.plain(3)))
  for solid, material in parts:
    yield solid.turned('z', turn).moved(*place), material


@maker(0.4, weight=1.5)
def blocks(rng, look):
  """A tower of toy blocks."""
  z, unit, wide = 0.0, rng.uniform(0.03, 0.05), 2.0
  colors = [look.plain(0), look.plain(1), look.plain(2), look.wood, look.skin(0)]
  for _ in range(rng.integers(2, 8)):
    kind = rng.integers(5)
    h = unit * rng.uniform(0.8, 1.6)
    if kind == 0 and wide >= 1.5:
      for one in both(pick(rng, cylinder(0.5 * unit, h, 20), box(unit, unit, h)).moved(0.7 * unit)):
        yield one.moved(0, 0, z), pick(rng, *colors)
      yield box(3 * unit, 1.2 * unit, 0.5 * unit).moved(0, 0, z + h - 0.0005), pick(rng, *colors)
      h += 0.5 * unit
      wide = 2.0
    elif kind == 1:
      yield cylinder(unit * rng.uniform(0.6, 1.0), h, 24, bevel=0.05 * unit).moved(0, 0, z), pick(rng, *colors)
      wide = 1.2
    elif kind == 2:
      bow = np.r_[
        np.c_[circle(24, 0.6 * unit)[:13]],
        [(-1.2 * unit, 0), (-1.2 * unit, 1.1 * unit), (1.2 * unit, 1.1 * unit), (1.2 * unit, 0)],
      ]
      yield prism(bow, 1.1 * unit).turned('x', 90).moved(0, 0.55 * unit, z), pick(rng, *colors)
      h, wide = 1.1 * unit, 2.0
    else:
      w = unit * rng.uniform(1.2, 2.6)
      yield (
        box(w, w * rng.uniform(0.6, 1), h, 0.06 * unit, steps=1)
        .turned('z', pick(rng, 0, rng.uniform(-15, 15)))
        .moved(0, 0, z),
        pick(rng, *colors, look.printed(w, h)),
      )
      wide = w / unit
    z += h - 0.0005
  roof = rng.integers(3)
  if roof == 0:
    yield (
      prism([(-unit, 0), (unit, 0), (0, 1.1 * unit)], 1.2 * unit).turned('x', 90).moved(0, 0.6 * unit, z),
      pick(rng, *colors),
    )
  elif roof == 1:
    yield cylinder(0.9 * unit, 1.4 * unit, pick(rng, 4, 24), top=0).moved(0, 0, z), pick(rng, *colors)
  else:
    yield ball(0.7 * unit, 8).moved(0, 0, z + 0.68 * unit), pick(rng, *colors)


@maker(1.0)
def instrument(rng, look):
  kind = rng.integers(3)
  if kind == 0:  # A guitar on a stand.
    s = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    waist, t = rng.uniform(0.05, 0.12), 0.09
    x = (0.17 + 0.03 * np.cos(s) - waist * 0.5 * np.cos(2 * s) ** 2 + waist * 0.25) * np.sin(s)
    body = np.c_[x, 0.27 * -np.cos(s) + 0.27]
    yield prism(body, t, bevel=0.008).turned('x', 90).moved(0, t / 2, 0.1), look.wood
    yield cylinder(0.05, 0.006, 28).turned('x', 90).moved(0, -t / 2 + 0.003, 0.42), look.dark
    yield box(0.05, 0.03, 0.6).moved(0, -t / 2, 0.5), look.dark
    yield box(0.075, 0.025, 0.16, 0.008, steps=1).moved(0, -t / 2, 1.09), look.plain(2)
    yield box(0.13, 0.02, 0.02).moved(0, -t / 2 - 0.005, 0.24), look.dark
    for i in range(6):
      yield (
        bar((0.006 * (i - 2.5), -t / 2 - 0.017, 0.25), (0.006 * (i - 2.5), -t / 2 - 0.017, 1.2), 0.0012, 4),
        look.metal,
      )
    for side in (-1, 1):
      for i in range(3):
        yield (
          cylinder(0.008, 0.03, 10).turned('y', 90).moved(side * 0.045 - 0.015, -t / 2 + 0.01, 1.12 + 0.045 * i),
          look.metal,
        )
    for one in both(
      sweep(
        np.array([(0.12, 0.25, 0.012), (0.12, -0.12, 0.012), (0.12, -0.12, 0.06), (0.1, 0.0, 0.13), (0.02, 0.06, 0.6)]),
        0.011,
      )
    ):
      yield one, look.metal
    yield bar((-0.12, 0.24, 0.012), (0.12, 0.24, 0.012), 0.011, 8), look.metal
  elif kind == 1:  # A drum.
    r, h = rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.4)
    yield cylinder(r, h, 36).moved(0, 0, 0.0), look.skin(0)
    yield cylinder(0.97 * r, 0.03 * h + h, 36).moved(0, 0, 0.001), look.plain(1)
    for z in (0.03 * h, 0.97 * h):
      yield torus(r, 0.05 * r, 36, 8).moved(0, 0, z + 0.02 * r), look.metal
    for one in spun(bar((1.03 * r, 0, 0.05 * h), (1.03 * r, 0, 0.97 * h), 0.02 * r, 7), rng.integers(5, 10)):
      yield one, look.metal
    for y, turn in ((-0.2 * r, 10), (0.15 * r, -20)):
      stick = bar((-0.9 * r, 0, 0), (0.8 * r, 0, 0), 0.03 * r, 8)
      yield stick.turned('z', turn).moved(0, y, 1.03 * h + 0.03 * r), look.wood
  else:  # A piano.
    w, d, h = 1.4, 0.55, 1.15
    yield box(w, 0.5 * d, h, 0.01).moved(0, 0.25 * d), look.plain(0)
    yield box(w, 0.6 * d, 0.12).moved(0, -0.2 * d, 0.62), look.plain(0)
    for one in both(box(0.09, 0.5 * d, 0.63).moved(0.45 * w, -0.22 * d)):
      yield one, look.plain(0)
    for i in range(24):
      yield (
        box(0.86 * w / 24 * 0.9, 0.3 * d, 0.02).moved(0.86 * w * ((i + 0.5) / 24 - 0.5), -0.3 * d, 0.735),
        look.plain(1),
      )
      if i % 7 not in (2, 6):
        yield box(0.02, 0.18 * d, 0.025).moved(0.86 * w * ((i + 1) / 24 - 0.5), -0.22 * d, 0.745), look.dark
    yield box(0.5 * w, 0.02, 0.25).turned('x', -12).moved(0, -0.03 * d, 0.82), look.plain(2)


@maker(0.3, weight=1.5)
def clothing(rng, look):
  """A shoe or a boot, a hat, a helmet."""
  kind = rng.integers(4)
  if kind < 2:
    long, w, h = 0.28, rng.uniform(0.09, 0.11), rng.uniform(0.07, 0.12)
    sole = rng.uniform(0.015, 0.05)
    shaft = rng.uniform(0.0, 0.25) if kind else 0.0
    stations = [
      (-0.5, 0.5, 0.35),
      (-0.45, 0.85, 0.5),
      (-0.3, 1.0, 0.62),
      (-0.1, 0.95, 0.8),
      (0.1, 0.85, 1.0),
      (0.35, 0.8, 1.0),
      (0.47, 0.7, 0.95),
      (0.5, 0.5, 0.8),
    ]
    places = (-0.06, 0.06)
    for x in places:
      yield (
        hull([(y * long, a * w, b * h, sole * 0.8 + b * h / 2) for y, a, b in stations], 20, 2.6).moved(x),
        look.fabric,
      )
      outline = np.array([(a * w * 0.56, y * long * 1.03) for y, a, _ in stations])
      yield prism(np.r_[outline, outline[::-1] * [-1, 1]], sole, bevel=0.1 * sole).moved(x), look.plain(1)
      cuff = lathe(
        [(0.34 * w, 0.6 * h), (0.46 * w, 0.62 * h), (0.46 * w, h + shaft + 0.03), (0.36 * w, h + shaft + 0.03)],
        24,
        ring=True,
      )
      yield cuff.scaled(1, 1.25, 1).moved(x, 0.27 * long, sole), pick(rng, look.fabric, look.plain(2))
      yield ellipsoid(0.7 * w, w, 0.02).moved(x, 0.27 * long, sole + 0.7 * h), look.dark
      for i in range(4):
        yield (
          bar(
            (x - 0.2 * w, long * (-0.16 + 0.07 * i), sole + h * (0.74 + 0.07 * i)),
            (x + 0.2 * w, long * (-0.16 + 0.07 * i), sole + h * (0.74 + 0.07 * i)),
            0.005,
            6,
          ),
          look.plain(2),
        )
      yield ellipsoid(0.3 * w, 0.02, 0.4 * h).moved(x, 0.49 * long, sole + 0.6 * h), look.plain(2)
  elif kind == 2:
    r, h, brim = 0.09, rng.uniform(0.08, 0.3), rng.uniform(1.2, 2.2)
    top = r * rng.uniform(0.1, 1.0)
    yield (
      lathe(
        [(brim * r, 0), (brim * r, 0.006), *smooth([(1.02 * r, 0.012), (0.98 * r, 0.4 * h), (top, h)], 12)], 36
      ).scaled(0.88, 1, 1),
      look.fabric,
    )
    yield tube(1.05 * r, 0.9 * r, 0.025, 36).scaled(0.88, 1, 1).moved(0, 0, 0.012), look.plain(2)
    if chance(rng, 0.3):
      yield ball(0.03, 6).moved(0, 0, h + 0.01), look.plain(1)
  else:
    yield ellipsoid(0.22, 0.27, 0.3, 2.4, cells=10).moved(0, 0, 0.15), look.skin(0)
    yield ellipsoid(0.2, 0.2, 0.11, 3).moved(0, -0.05, 0.16), look.glass
    yield torus(0.09, 0.012, 28, 8).scaled(1, 1.2, 1).moved(0, 0, 0.012), look.dark
    yield box(0.03, 0.24, 0.2, 0.012).moved(0, 0.0, 0.11), look.plain(2)


@maker(0.6, weight=0.8)
def dumbbell_rack(rng, look):
  """Weights: dumbbells or a barbell with discs."""
  long, discs = rng.uniform(0.25, 1.0), rng.integers(1, 4)
  r = rng.uniform(0.06, 0.18)
  sides = pick(rng, 6, 32)
  yield bar((-long / 2, 0, r), (long / 2, 0, r), 0.014, 12), look.metal
  for i in range(discs):
    disc = cylinder(r * (1 - 0.18 * i), rng.uniform(0.036, 0.05), sides, bevel=0.004).turned('z', 30)
    material = pick(rng, look.dark, look.plain(i))
    for one in both(disc.turned('y', 90).moved(0.3 * long - 0.02 + 0.035 * i, 0, r)):
      yield one, material
  for one in both(cylinder(0.02, 0.03, 14).turned('y', 90).moved(0.3 * long - 0.045, 0, r)):
    yield one, look.metal


@maker(1.0, weight=0.8)
def umbrella(rng, look):
  r, h, count = rng.uniform(0.5, 1.4), rng.uniform(1.0, 2.4), rng.integers(6, 11)
  rise = 0.35 * r
  outer = smooth([(r, h - rise), (0.6 * r, h - 0.3 * rise), (0.02 * r, h)], 10)
  inner = outer[::-1] * [0.985, 1] - [0, 0.012]
  yield lathe(np.r_[[(0, h - 0.02)], inner[1:], outer, [(0, h + 0.002)]], count * 2), look.skin(0)
  yield bar((0, 0, 0.02), (0, 0, h + 0.06), 0.018, 10), look.metal
  yield cylinder(0.25 * r, 0.05, 24, bevel=0.01), pick(rng, look.stone, look.dark)
  for one in spun(bar((0, 0, h - 0.8 * rise), (0.9 * r, 0, h - 0.85 * rise), 0.008, 6), count):
    yield one, look.metal
  if chance(rng, 0.4):
    yield cylinder(0.45 * r, 0.03, 28).moved(0, 0, 0.45 * h), look.wood


@maker(0.3, weight=0.6)
def ornament(rng, look):
  """A star, a heart or a gear on a foot."""
  r, t = rng.uniform(0.08, 0.15), rng.uniform(0.02, 0.06)
  s = np.linspace(0, 2 * np.pi, 48, endpoint=False) + 0.05
  heart = np.c_[16 * np.sin(s) ** 3, 13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s)] * r / 17
  sign = pick(
    rng,
    star(int(rng.integers(4, 9)), r, r * rng.uniform(0.4, 0.75)),
    heart,
    circle(int(rng.integers(3, 9)), r, phase=0.25),
  )
  holes = [circle(20, 0.25 * r)] if chance(rng, 0.4) else []
  yield (
    prism(sign, t, holes, bevel=pick(rng, 0.0, 0.1 * t)).turned('x', 90).moved(0, t / 2, 1.5 * r),
    pick(rng, look.metal, look.skin(0), look.plain(2)),
  )
  yield cylinder(0.12 * r, 0.75 * r, 12).moved(0, 0, 0.05 * r), look.metal
  yield cylinder(0.6 * r, 0.12 * r, 28, bevel=0.02 * r), look.wood
