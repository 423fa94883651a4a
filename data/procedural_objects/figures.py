"""Makers of figures: people, robots, animals, snowmen, plush toys, chess pieces."""

import numpy as np

from .grammar import chance, maker, pick
from .shapes import ball, bar, both, box, circle, cylinder, ellipsoid, four, lathe, prism, smooth, sweep, torus


def capsule(start, end, radius: float, end_radius: float | None = None):
  """Yields a limb with round ends."""
  end_radius = radius if end_radius is None else end_radius
  yield bar(start, end, radius, 12, top=end_radius)
  yield ball(1.02 * radius, 6).moved(*start)
  yield ball(1.02 * end_radius, 6).moved(*end)


def face(look, radius: float, z: float, y: float, *, eye: float = 0.12, apart: float = 0.35):
  """Yields eyes and a nose on the front of a head."""
  for one in both(ball(eye * radius, 5).moved(apart * radius, y - 0.9 * radius, z + 0.2 * radius)):
    yield one, look.dark
  yield (
    ellipsoid(0.2 * radius, 0.3 * radius, 0.2 * radius, cells=5).moved(0, y - 0.98 * radius, z - 0.08 * radius),
    look.plain(2),
  )


@maker(1.7, weight=3)
def person(rng, look):
  h = rng.uniform(0.9, 1.8)
  head, wide = h * rng.uniform(0.075, 0.14), h * rng.uniform(0.1, 0.16)
  hip, neck = 0.46 * h, h - 2.1 * head
  limb, skin = 0.035 * h, look.plain(1)
  shirt, trousers, shoe = look.fabric, pick(rng, look.plain(2), look.dark), look.dark
  stride = rng.uniform(0, 0.08) * h
  for side in (-1, 1):
    knee = (side * 0.55 * wide, -0.3 * side * stride, 0.25 * hip + 0.3 * hip)
    foot = (side * 0.6 * wide, side * stride, 0.05 * h)
    for one in (
      *capsule((side * 0.5 * wide, 0, hip), knee, 1.35 * limb, 1.1 * limb),
      *capsule(knee, foot, 1.1 * limb, 0.8 * limb),
    ):
      yield one, trousers
    yield box(2.2 * limb, 4.5 * limb, 0.055 * h, limb, steps=2).moved(foot[0], foot[1] - limb, 0), shoe
  torso = smooth(
    [
      (0.8 * wide, hip - 0.03 * h),
      (0.85 * wide, hip + 0.06 * h),
      (wide, neck - 0.1 * h),
      (0.6 * wide, neck - 0.02 * h),
      (0.35 * wide, neck),
    ],
    14,
  )
  yield lathe(torso, 24).scaled(1, 0.62, 1), shirt
  pose = rng.integers(4)
  for side in (-1, 1):
    shoulder = np.array([side * 0.92 * wide, 0, neck - 0.07 * h])
    lift = [rng.uniform(5, 30), rng.uniform(60, 90), rng.uniform(120, 160), rng.uniform(10, 40)][
      pose if side > 0 or pose == 1 else 0
    ]
    angle, bend = np.deg2rad(lift), rng.uniform(-0.1, 0.1)
    elbow = shoulder + 0.17 * h * np.array([side * np.sin(angle), -0.2, -np.cos(angle)])
    hand = elbow + 0.15 * h * np.array([side * np.sin(angle + bend), -0.35 - bend, -np.cos(angle + bend)])
    for one in (*capsule(shoulder, elbow, 1.05 * limb, 0.85 * limb), *capsule(elbow, hand, 0.8 * limb, 0.7 * limb)):
      yield one, pick(rng, shirt, shirt, skin)
    yield ball(1.1 * limb, 6).moved(*hand), skin
    if side > 0 and chance(rng, 0.25):
      yield bar(hand - [0, 0, min(0.3 * h, hand[2])], hand + [0, 0, 0.25 * h], 0.012 * h, 8), look.wood
  yield cylinder(0.45 * head, 0.6 * head, 12).moved(0, 0, neck - 0.2 * head), skin
  z = h - head
  yield ellipsoid(1.7 * head, 1.8 * head, 2.1 * head, 2.2).moved(0, 0, z), skin
  yield from face(look, head, z, 0)
  kind = rng.integers(4)
  if kind == 0:
    yield ellipsoid(1.85 * head, 1.9 * head, 1.7 * head).moved(0, 0.15 * head, z + 0.3 * head), look.dark
  elif kind == 1:
    yield (
      lathe(
        [
          (1.6 * head, z + 0.55 * head),
          (1.6 * head, z + 0.65 * head),
          (0.9 * head, z + 0.7 * head),
          (0.8 * head, z + 1.3 * head),
          (0.7 * head, z + 1.35 * head),
        ],
        24,
      ),
      look.plain(2),
    )
  elif kind == 2:
    yield ellipsoid(1.8 * head, 2.0 * head, 1.3 * head, 2.5).moved(0, 0.03 * head, z + 0.6 * head), look.plain(0)
    yield box(1.3 * head, head, 0.14 * head, 0.05 * head, steps=1).moved(0, -1.2 * head, z + 0.5 * head), look.plain(0)
  if chance(rng, 0.2):
    yield box(1.5 * wide, 0.7 * wide, 0.25 * h, 0.05 * h).moved(0, 0.85 * wide, hip + 0.1 * h), look.skin(2)
  if chance(rng, 0.3):
    yield torus(0.84 * wide, 0.012 * h, 24, 8).scaled(1, 0.63, 1.5).moved(0, 0, hip + 0.03 * h), look.dark


@maker(1.0, weight=1.5)
def robot(rng, look):
  w, h = rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.6)
  d, leg, r = 0.7 * w, rng.uniform(0.15, 0.5), rng.uniform(0.0, 0.08)
  paint = pick(rng, look.metal, look.plain(0), look.skin(0))
  wide = 0.2 * w
  if chance(rng, 0.3):
    for one in both(cylinder(0.5 * leg, 0.1, 20, bevel=0.01).turned('y', 90).moved(0.42 * w, 0, 0.5 * leg)):
      yield one, look.dark
    yield box(0.9 * w, 0.4 * d, 0.6 * leg).moved(0, 0, 0.45 * leg), look.metal
    yield ball(0.25 * leg, 5).moved(0, 0.45 * d, 0.25 * leg), look.dark
    yield box(0.1, 0.1, leg).moved(0, 0.43 * d, 0.3 * leg), look.metal
  else:
    for one in both(box(wide, wide, leg + 0.02).moved(0.25 * w, 0, 0)):
      yield one, look.metal
    for one in both(box(1.6 * wide, 0.9 * d, 0.25 * leg, 0.02).moved(0.27 * w, -0.1 * d, 0)):
      yield one, look.plain(2)
  yield box(w, d, h, r).moved(0, 0, leg), paint
  yield box(0.7 * w, 0.04, 0.5 * h).moved(0, -d / 2, leg + 0.35 * h), look.printed(0.7 * w, 0.5 * h)
  for i in range(rng.integers(0, 4)):
    yield (
      cylinder(0.05 * w, 0.04, 14).turned('x', 90).moved(w * (0.2 * i - 0.3), -d / 2 + 0.01, leg + 0.15 * h),
      look.plain(1 + i % 2),
    )
  top = leg + h
  yield cylinder(0.12 * w, 0.12, 14).moved(0, 0, top - 0.02), look.metal
  head, tall = w * rng.uniform(0.55, 0.9), w * rng.uniform(0.45, 0.7)
  z = top + 0.08
  if chance(rng, 0.3):
    yield ellipsoid(head, head, tall * 1.2).moved(0, 0, z + 0.55 * tall), paint
    front = -0.38 * head
  else:
    yield box(head, 0.85 * d, tall, r).moved(0, 0, z), paint
    front = -0.425 * d
  for one in both(
    cylinder(0.13 * head, 0.06, 18, bevel=0.01).turned('x', 90).moved(0.22 * head, front + 0.02, z + 0.6 * tall)
  ):
    yield one, pick(rng, look.plain(1), look.dark, look.glass)
  yield box(0.4 * head, 0.06, 0.08 * tall).moved(0, front + 0.01, z + 0.2 * tall), look.dark
  for i in range(rng.integers(0, 3)):
    x = (0.0, 0.3 * head, -0.3 * head)[i]
    yield cylinder(0.012, 0.14, 8).moved(x, 0, z + 0.95 * tall), look.metal
    yield ball(0.03, 5).moved(x, 0, z + 0.95 * tall + 0.15), look.plain(2)
  swing = rng.uniform(-50, 50)
  for side, angle in ((-1, swing), (1, pick(rng, swing, -swing))):
    arm = 0.75 * h
    parts = [
      (ball(0.09 * w + 0.02, 6), look.metal),
      (box(0.16 * w, 0.16 * w, arm, 0.02, steps=1).moved(0, 0, -arm), paint),
      (torus(0.09 * w, 0.035 * w, 16, 8).turned('y', 90).moved(0, 0, -arm - 0.07 * w), look.plain(2)),
    ]
    for solid, material in parts:
      yield solid.turned('x', angle).moved(side * (w / 2 + 0.06 * w), 0, leg + 0.82 * h), material


@maker(1.0, weight=3)
def quadruped(rng, look):
  long, r = rng.uniform(0.4, 0.9), rng.uniform(0.1, 0.2)
  leg, coat = rng.uniform(0.15, 0.6), pick(rng, look.fabric, look.skin(0), look.plain(0))
  t, z = rng.uniform(0.25, 0.5) * r, leg + 0.75 * r
  yield (
    sweep(
      smooth([(0, -long / 2, z + 0.1 * r), (0, -0.2 * long, z), (0, 0.2 * long, z), (0, long / 2, z + 0.05 * r)], 14),
      circle(18, r),
      np.array([0.35, 0.75, 0.95, 1.02, 1.05, 1.02, 1.0, 1.0, 1.0, 1.02, 1.0, 0.92, 0.75, 0.35]),
    ),
    coat,
  )
  for y in (-0.36 * long, 0.36 * long):
    shift = rng.uniform(-0.1, 0.1) * long
    for side in (-1, 1):
      foot = (side * 0.6 * r, y + side * shift, 1.0 * t)
      for one in capsule((side * 0.5 * r, y, z - 0.3 * r), foot, 1.5 * t, t):
        yield one, coat
      yield cylinder(1.15 * t, 1.2 * t, 12, top=0.9 * t).moved(*foot[:2], 0), look.dark
  neck, head = rng.uniform(0.1, 0.9) * r * 2.5, r * rng.uniform(0.6, 1.0)
  base, top = np.array([0, -0.42 * long, z + 0.2 * r]), np.array([0, -0.5 * long - 0.4 * neck, z + 0.4 * r + neck])
  yield (
    sweep(np.stack([base, (base + top) / 2 + [0, -0.1 * neck, 0], top]), circle(14, 0.55 * head), [1.3, 1.0, 0.9]),
    coat,
  )
  yield ellipsoid(1.4 * head, 1.6 * head, 1.4 * head).moved(*top), coat
  snout = rng.uniform(0.4, 1.2) * head
  mouth = top + [0, -0.7 * head, -0.15 * head]
  yield bar(mouth, mouth + [0, -snout, -0.15 * head], 0.5 * head, 14, top=0.36 * head), pick(rng, coat, look.plain(1))
  yield ball(0.37 * head, 6).moved(*(mouth + [0, -snout, -0.15 * head])), pick(rng, look.dark, look.plain(1))
  for one in both(ball(0.13 * head, 5).moved(0.42 * head, top[1] - 0.62 * head, top[2] + 0.2 * head)):
    yield one, look.dark
  kind = rng.integers(4)
  if kind == 0:
    ears = (
      lathe([(0.3 * head, 0), (0, 0.7 * head)], 12).scaled(1, 0.5, 1).turned('y', 15).moved(0.45 * head, 0, 0.5 * head)
    )
  elif kind == 1:
    ears = ellipsoid(0.25 * head, 0.5 * head, 0.9 * head, cells=6).turned('y', -12).moved(0.72 * head, 0, -0.05 * head)
  elif kind == 2:
    ears = ellipsoid(0.3 * head, 0.15 * head, 1.5 * head, cells=6).turned('y', 12).moved(0.4 * head, 0, 1.1 * head)
  else:
    ears = ball(0.35 * head, 6).scaled(1, 0.4, 1).moved(0.6 * head, 0, 0.6 * head)
  for one in both(ears):
    yield one.moved(*top), pick(rng, coat, look.plain(1))
  if chance(rng, 0.2):
    for one in both(
      sweep(
        smooth([(0.3 * head, 0, 0.5 * head), (0.7 * head, 0, 1.1 * head), (0.5 * head, -0.2 * head, 1.7 * head)], 9),
        circle(8, 0.14 * head),
        np.linspace(1, 0.3, 9),
      )
    ):
      yield one.moved(*top), look.plain(1)
  tail = rng.uniform(0.2, 0.6) * long
  up = rng.uniform(-0.7, 0.8)
  yield (
    sweep(
      smooth(
        [
          (0, 0.44 * long, z + 0.2 * r),
          (0, 0.5 * long + 0.4 * tail, z + 0.3 * r + 0.2 * up * tail),
          (0, 0.5 * long + 0.6 * tail, max(0.1, z + 0.3 * r + up * tail)),
        ],
        9,
      ),
      circle(10, 0.2 * r),
      np.linspace(1, rng.uniform(0.3, 1.4), 9),
    ),
    coat,
  )


@maker(0.5, weight=1.5)
def bird(rng, look):
  r = rng.uniform(0.08, 0.15)
  leg = rng.uniform(0.3, 2.5) * r
  z = leg + 0.8 * r
  yield ellipsoid(1.7 * r, 2.8 * r, 1.8 * r).turned('x', -rng.uniform(5, 30)).moved(0, 0, z), look.skin(0)
  neck = rng.uniform(0.7, 2.0) * r
  head = np.array([0, -1.05 * r - 0.1 * neck, z + neck + 0.3 * r])
  yield (
    sweep(
      np.array([(0, -0.7 * r, z + 0.2 * r), (head + [0, 0.1 * r, -0.4 * r - 0.1 * neck]), head]),
      circle(12, 0.42 * r),
      [1.2, 0.9, 0.9],
    ),
    look.plain(0),
  )
  yield ball(0.62 * r, 7).moved(*head), look.plain(pick(rng, 0, 1))
  yield (
    lathe([(0.25 * r, 0), (0, rng.uniform(0.5, 1.3) * r)], 10)
    .scaled(pick(rng, 0.8, 1.4), 1, 1)
    .turned('x', 95)
    .moved(*head - [0, 0.5 * r, 0.05 * r]),
    look.plain(2),
  )
  for one in both(ball(0.11 * r, 5).moved(0.32 * r, head[1] - 0.48 * r, head[2] + 0.15 * r)):
    yield one, look.dark
  spread = rng.uniform(0, 60)
  for one in both(
    ellipsoid(0.3 * r, 2.3 * r, 1.1 * r, 2.5)
    .moved(0, 0.4 * r, -0.2 * r)
    .turned('y', -spread)
    .moved(0.85 * r, 0, z + 0.2 * r)
  ):
    yield one, look.skin(1)
  yield (
    prism([(-0.3 * r, 0), (0.3 * r, 0), (0.6 * r, 1.3 * r), (-0.6 * r, 1.3 * r)], 0.15 * r)
    .turned('x', 15)
    .moved(0, 1.0 * r, z - 0.1 * r),
    look.plain(1),
  )
  for side in (-1, 1):
    yield bar((side * 0.4 * r, 0, 0.05 * r), (side * 0.4 * r, 0, z - 0.5 * r), 0.08 * r, 8), look.plain(2)
    yield (
      prism([(-0.35 * r, -0.9 * r), (0.35 * r, -0.9 * r), (0.1 * r, 0.4 * r), (-0.1 * r, 0.4 * r)], 0.1 * r).moved(
        side * 0.4 * r
      ),
      look.plain(2),
    )
  if chance(rng, 0.3):
    yield lathe([(0.14 * r, 0), (0, 0.7 * r)], 8).turned('x', -25).moved(*head + [0, 0.1 * r, 0.45 * r]), look.plain(2)


@maker(0.5)
def fish(rng, look):
  long = rng.uniform(0.2, 0.5)
  h, w = long * rng.uniform(0.3, 0.7), long * rng.uniform(0.15, 0.3)
  z = h / 2 + 0.25 * long
  y = np.linspace(-0.5, 0.5, 14) * long
  body = np.clip(np.sin(np.pi * np.linspace(0.06, 0.93, 14)) ** 0.7, 0.1, 1)
  yield sweep(np.stack([0 * y, y, z + 0 * y], axis=-1), circle(18, 0.5), body[:, None] * [[w, h]]), look.skin(0)
  tail = [
    (0, -0.03 * long),
    (0, 0.03 * long),
    (0.25 * long, 0.22 * long),
    (0.17 * long, 0),
    (0.25 * long, -0.22 * long),
  ]
  yield prism(tail, 0.03 * long).turned('x', 90).turned('z', 90).moved(-0.015 * long, 0.45 * long, z), look.plain(2)
  fin = [(-0.2 * long, 0), (0.25 * long, 0), (0.3 * long, 0.18 * long), (0.05 * long, 0.25 * long)]
  yield prism(fin, 0.02 * long).turned('x', 90).turned('z', 90).moved(-0.01 * long, 0, z + 0.42 * h), look.plain(2)
  for one in both(
    prism([(0, 0), (0.2 * long, 0.1 * long), (0.18 * long, 0.2 * long), (0, 0.08 * long)], 0.02 * long)
    .turned('y', 30)
    .moved(0.45 * w, -0.15 * long, z - 0.1 * h)
  ):
    yield one, look.plain(2)
  for one in both(ball(0.035 * long, 5).moved(0.3 * w, -0.37 * long, z + 0.1 * h)):
    yield one, look.dark
  yield bar((0, 0, 0.01 * long), (0, 0, z - 0.3 * h), 0.02 * long, 10), look.metal
  yield cylinder(0.22 * long, 0.04 * long, 28, bevel=0.005 * long), look.wood


@maker(1.5, weight=0.8)
def snowman(rng, look):
  z, r = 0.0, rng.uniform(0.3, 0.45)
  snow = pick(rng, look.plain(1), look.stone)
  radii = [r * s for s in ((1, 0.72, 0.5), (1, 0.65))[rng.integers(2)]]
  for i, radius in enumerate(radii):
    middle = z + 0.85 * radius
    yield (
      ellipsoid(2 * radius, 2 * radius, 1.9 * radius, cells=10).moved(0, 0, middle + (0.1 * radius if i == 0 else 0)),
      snow,
    )
    if i == len(radii) - 2:
      for k in range(3):
        angle = np.deg2rad(-10 + 25 * k)
        yield (
          ball(0.08 * radius, 4).moved(0, -radius * np.cos(angle), middle + 0.95 * radius * np.sin(angle)),
          look.dark,
        )
      for one in both(
        bar(
          (0.8 * radius, 0, middle + 0.2 * radius),
          (2.0 * radius, -0.1 * radius, middle + radius * rng.uniform(0.2, 1.0)),
          0.04 * radius,
          7,
        )
      ):
        yield one, look.wood
      yield torus(0.62 * radius, 0.14 * radius, 24, 10).moved(0, 0, middle + 0.85 * radius), look.fabric
    z = middle + 0.75 * radius
  head = radii[-1]
  for one in both(ball(0.1 * head, 4).moved(0.32 * head, -0.9 * head, middle + 0.25 * head)):
    yield one, look.dark
  yield lathe([(0.12 * head, 0), (0, 0.9 * head)], 12).turned('x', 90).moved(0, -0.9 * head, middle), look.plain(2)
  if chance(rng, 0.7):
    yield (
      lathe([(head, 0), (head, 0.08 * head), (0.65 * head, 0.1 * head), (0.62 * head, 0.9 * head)], 24).moved(
        0, 0, middle + 0.68 * head
      ),
      look.dark,
    )


@maker(0.4, weight=1.5)
def plush(rng, look):
  r = rng.uniform(0.09, 0.14)
  coat, soft = pick(rng, look.fabric, look.plain(0)), look.plain(1)
  yield ellipsoid(1.8 * r, 1.6 * r, 2.1 * r, cells=10).moved(0, 0, 1.05 * r), coat
  yield ellipsoid(1.2 * r, 0.5 * r, 1.4 * r).moved(0, -0.66 * r, 1.0 * r), soft
  for one in both(ellipsoid(0.75 * r, 1.5 * r, 0.7 * r).turned('z', 25).moved(0.65 * r, -0.75 * r, 0.35 * r)):
    yield one, coat
  for one in both(ball(0.3 * r, 6).scaled(1, 0.4, 1).turned('z', 25).moved(1.0 * r, -1.4 * r, 0.4 * r)):
    yield one, soft
  for one in both(
    ellipsoid(0.5 * r, 0.55 * r, 1.3 * r).turned('y', -rng.uniform(20, 110)).moved(1.0 * r, -0.1 * r, 1.35 * r)
  ):
    yield one, coat
  z, head = 2.5 * r, r * rng.uniform(0.75, 1.0)
  yield ellipsoid(2.1 * head, 1.8 * head, 1.9 * head, cells=10).moved(0, 0, z), coat
  yield ellipsoid(0.9 * head, 0.8 * head, 0.7 * head).moved(0, -0.75 * head, z - 0.2 * head), soft
  yield ellipsoid(0.3 * head, 0.25 * head, 0.2 * head, cells=5).moved(0, -1.13 * head, z - 0.05 * head), look.dark
  for one in both(ball(0.11 * head, 5).moved(0.42 * head, -0.78 * head, z + 0.25 * head)):
    yield one, look.dark
  kind = rng.integers(3)
  ears = [
    ball(0.4 * head, 7).scaled(1, 0.4, 1).moved(0.75 * head, 0, z + 0.75 * head),
    ellipsoid(0.45 * head, 0.25 * head, 1.9 * head)
    .turned('y', rng.uniform(-5, 25))
    .moved(0.45 * head, 0, z + 1.4 * head),
    lathe([(0.4 * head, 0), (0, 0.8 * head)], 16)
    .scaled(1, 0.5, 1)
    .turned('y', 20)
    .moved(0.6 * head, 0, z + 0.55 * head),
  ][kind]
  for one in both(ears):
    yield one, coat
  if chance(rng, 0.4):
    for one in both(
      prism([(0, 0), (0.5 * r, 0.3 * r), (0.5 * r, -0.3 * r)], 0.15 * r).turned('x', 90).moved(0, -0.7 * r, 1.75 * r)
    ):
      yield one, look.plain(2)


@maker(0.1)
def chess_piece(rng, look):
  r, h = 0.018, rng.uniform(0.04, 0.08)
  body = pick(rng, look.wood, look.plain(0), look.stone, look.dark)
  count = rng.integers(2, 5)
  middle = [(r * rng.uniform(0.35, 0.7), h * (0.2 + 0.6 * i / count)) for i in range(count)]
  yield (
    lathe(
      [
        (r, 0),
        (r, 0.06 * h),
        (0.9 * r, 0.08 * h),
        (0.95 * r, 0.13 * h),
        *smooth([(0.7 * r, 0.16 * h), *middle, (0.6 * r, 0.8 * h)], 18),
      ],
      32,
    ),
    body,
  )
  for level in rng.uniform(0.2, 0.8, rng.integers(1, 3)):
    yield torus(0.6 * r, 0.12 * r, 28, 8).moved(0, 0, level * h), body
  kind, top = rng.integers(5), 0.78 * h
  if kind == 0:
    yield ball(0.75 * r, 8).moved(0, 0, top + 0.6 * r), body
  elif kind == 1:
    yield cylinder(0.8 * r, 0.9 * r, 24).moved(0, 0, top), body
    for i in range(6):
      yield box(0.35 * r, 0.3 * r, 0.4 * r).moved(0.62 * r, 0, top + 0.85 * r).turned('z', 60 * i), body
  elif kind == 2:
    yield lathe(smooth([(0.3 * r, top), (0.75 * r, top + 0.6 * r), (0.1 * r, top + 1.8 * r)], 12), 24), body
    yield ball(0.18 * r, 5).moved(0, 0, top + 1.85 * r), body
  elif kind == 3:
    yield lathe([(0.5 * r, top), (0.9 * r, top + 0.9 * r), (0.6 * r, top + r)], 24), body
    yield box(0.2 * r, 0.2 * r, 1.1 * r).moved(0, 0, top + 0.9 * r), body
    yield box(0.7 * r, 0.19 * r, 0.2 * r).moved(0, 0, top + 1.45 * r), body
  else:  # A knight.
    head = [
      (-0.5 * r, 0),
      (0.55 * r, 0),
      (0.7 * r, 0.9 * r),
      (0.4 * r, 1.9 * r),
      (0.1 * r, 2.2 * r),
      (-0.1 * r, 1.9 * r),
      (-0.9 * r, 1.3 * r),
      (-0.85 * r, 0.95 * r),
      (-0.2 * r, 1.0 * r),
    ]
    yield prism(head, 0.7 * r, bevel=0.08 * r).turned('x', 90).turned('z', 90).moved(-0.35 * r, 0, top - 0.1 * r), body


@maker(1.0, weight=0.8)
def desk_toy(rng, look):
  """A ring stack, a bell, a spinning top or a trophy."""
  kind = rng.integers(4)
  if kind == 0:
    yield cylinder(0.08, 0.025, 28, bevel=0.005), look.wood
    yield cylinder(0.014, 0.22, 14).moved(0, 0, 0.01), look.wood
    z = 0.02
    for i in range(rng.integers(3, 7)):
      t = 0.02 - 0.001 * i
      yield torus(0.07 - 0.007 * i - t, t, 28, 12).moved(0, 0, z + t), look.plain(i % 4) if i % 2 else look.skin(i % 3)
      z += 1.85 * t
    yield ball(0.025, 7).moved(0, 0, max(z, 0.22) + 0.012), look.plain(2)
  elif kind == 1:
    yield lathe([*smooth([(0.1, 0), (0.075, 0.04), (0.055, 0.12), (0.02, 0.15)], 14)], 32), look.metal
    yield cylinder(0.015, 0.06, 12).moved(0, 0, 0.14), look.wood
    yield pick(rng, torus(0.03, 0.01, 20, 8).turned('x', 90), ball(0.03, 7)).moved(0, 0, 0.22), look.plain(2)
    yield torus(0.098, 0.008, 32, 8).moved(0, 0, 0.008), look.plain(1)
  elif kind == 2:
    stand = cylinder(0.05, 0.02, 24, bevel=0.004)
    yield stand, look.wood
    yield (
      lathe([(0.006, 0.015), *smooth([(0.02, 0.03), (0.08, 0.08), (0.075, 0.1), (0.012, 0.13)], 16), (0.01, 0.18)], 32),
      look.skin(0),
    )
    yield torus(0.08, 0.008, 32, 8).moved(0, 0, 0.085), look.plain(2)
  else:
    yield box(0.12, 0.12, 0.06, 0.008).moved(0, 0, 0), pick(rng, look.stone, look.wood, look.dark)
    yield box(0.08, 0.01, 0.03).moved(0, -0.06, 0.015), look.printed(0.08, 0.03)
    yield (
      lathe(
        [
          (0.04, 0.055),
          *smooth([(0.035, 0.07), (0.012, 0.1), (0.02, 0.14), (0.07, 0.2), (0.075, 0.27)], 18),
          (0.068, 0.27),
          (0.06, 0.21),
        ],
        32,
      ),
      look.metal,
    )
    for one in both(sweep(smooth([(0.062, 0, 0.19), (0.11, 0, 0.2), (0.11, 0, 0.25), (0.07, 0, 0.26)], 12), 0.006)):
      yield one, look.metal


@maker(2.0, weight=0.7)
def statue(rng, look):
  """A bust or a figure of one material on a plinth."""
  stone = pick(rng, look.stone, look.metal, look.plain(0))
  w, h = rng.uniform(0.4, 0.6), rng.uniform(0.3, 1.0)
  yield box(1.25 * w, 1.25 * w, 0.08), stone
  yield box(w, w, h).moved(0, 0, 0.075), stone
  yield box(1.15 * w, 1.15 * w, 0.06).moved(0, 0, 0.07 + h), stone
  z, r = h + 0.12, 0.14
  yield (
    lathe(
      smooth([(0.5 * w * 0.6, z), (0.1, z + 0.1), (0.24, z + 0.32), (0.09, z + 0.42), (0.07, z + 0.5)], 16), 24
    ).scaled(1, 0.65, 1),
    stone,
  )
  head = z + 0.62
  yield ellipsoid(1.7 * r, 1.9 * r, 2.2 * r, 2.2).moved(0, 0, head), stone
  yield (
    prism([(0, -0.3 * r), (-0.35 * r, -0.3 * r), (0, 0.4 * r)], 0.25 * r)
    .turned('x', 90)
    .turned('z', 90)
    .moved(-0.125 * r, -0.9 * r, head),
    stone,
  )
  for one in both(ellipsoid(0.2 * r, 0.4 * r, 0.6 * r, cells=5).moved(0.85 * r, 0, head)):
    yield one, stone
  yield ellipsoid(1.8 * r, 1.9 * r, 1.2 * r).moved(0, 0.08 * r, head + 0.6 * r), stone
  if chance(rng, 0.4):
    for one in four(ball(0.06, 6).moved(0.5 * w, 0.5 * w, 0.1)):
      yield one, stone
