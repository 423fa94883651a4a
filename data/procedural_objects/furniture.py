"""Makers of furniture: seats, tables, shelves, beds, lamps."""

import numpy as np

from .grammar import chance, maker, pick
from .shapes import (
  arch,
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
  tube,
)


def legs(rng, look, width, depth, height, thickness=None, material=None):
  """Yields legs under a rectangle: four posts, splayed rods, side panels, runners, or a pedestal with a foot."""
  material = material or pick(rng, look.wood, look.metal, look.dark)
  t = thickness or 0.5 * rng.uniform(0.05, 0.12) * min(width, depth, 0.8)
  x, y = width / 2 - 1.2 * t, depth / 2 - 1.2 * t
  kind = rng.integers(5)
  if kind == 0:
    for leg in four(box(2 * t, 2 * t, height).moved(x, y)):
      yield leg, material
    if chance(rng, 0.4):  # Stretchers between the posts.
      z = height * rng.uniform(0.2, 0.5)
      for rail in both(box(1.2 * t, 2 * y, 1.2 * t).moved(x, 0, z)):
        yield rail, material
      yield box(2 * x, 1.2 * t, 1.2 * t).moved(0, 0, z), material
  elif kind == 1:
    splay, top = rng.uniform(0.0, 0.25), rng.uniform(1.0, 1.8)
    foot = ((1 + splay) * x, (1 + splay) * y, 0.0)
    for leg in four(
      bar((*foot[:2], 0.3 * t), (x * 0.85, y * 0.85, height + t), 0.7 * t, pick(rng, 4, 10), top=0.7 * t * top)
    ):
      yield leg, material
    for pad in four(cylinder(0.8 * t, 0.6 * t, 12).moved(*foot)):
      yield pad, material
  elif kind == 2:
    for panel in both(box(1.4 * t, depth * 0.92, height).moved(width / 2 - t, 0)):
      yield panel, material
  elif kind == 3:
    for side in (-1, 1):
      loop = [(side * x, -y, height + t), (side * x, -y, t), (side * x, y, t), (side * x, y, height + t)]
      yield sweep(np.array(loop), circle(8, 0.7 * t, phase=0.5)), material
      yield box(1.2 * t, depth * 0.9, 0.7 * t).moved(side * x, 0), material
  else:
    radius = 0.4 * min(width, depth)
    yield (
      lathe([(radius, 0), (radius, 0.3 * t), (2 * t, 1.5 * t), (t, 0.3 * height), (t, height), (2.5 * t, height + t)]),
      material,
    )


@maker(0.9, weight=3)
def chair(rng, look):
  w, d, h = rng.uniform(0.38, 0.55), rng.uniform(0.38, 0.52), rng.uniform(0.38, 0.48)
  t, tall = rng.uniform(0.025, 0.06), rng.uniform(0.3, 0.6)
  frame = pick(rng, look.wood, look.wood, look.metal, look.plain(0))
  seat = pick(rng, frame, look.fabric, look.plain(1))
  yield from legs(rng, look, w, d, h, material=frame)
  if chance(rng, 0.25):
    yield cylinder(min(w, d) / 2, t, 32, bevel=0.2 * t).scaled(w / min(w, d), d / min(w, d), 1).moved(0, 0, h), seat
  else:
    yield box(w, d, t, pick(rng, 0, 0.4 * t)).moved(0, 0, h), seat
  if chance(rng, 0.4):
    yield ellipsoid(0.92 * w, 0.92 * d, 2 * t, 5).moved(0, 0, h + t), look.fabric
  lean, y, base = rng.uniform(0, 14), d / 2 - 0.6 * t, h + 0.5 * t

  def leaning(solid):
    return solid.turned('x', -lean).moved(0, y, base)

  kind = rng.integers(5)
  if kind == 0:
    yield leaning(box(w, 0.7 * t, tall, 0.3 * t)), pick(rng, seat, frame)
  elif kind == 1:  # Posts with slats.
    for post in both(box(0.8 * t, 0.8 * t, tall).moved(w / 2 - 0.5 * t)):
      yield leaning(post), frame
    count = rng.integers(2, 5)
    for i in range(count):
      yield leaning(box(w - 0.6 * t, 0.5 * t, 0.5 * tall / count).moved(0, 0, tall * (0.3 + 0.68 * i / count))), frame
  elif kind == 2:  # Spindles under a rail.
    count = rng.integers(3, 8)
    for x in np.linspace(-0.42, 0.42, count) * w:
      yield leaning(cylinder(0.22 * t, tall, 8).moved(x)), frame
    yield leaning(box(w, 0.8 * t, 1.4 * t, 0.3 * t).moved(0, 0, tall - 0.8 * t)), frame
  elif kind == 3:  # A hoop with a panel.
    hoop = arch(0.9 * w, tall)
    yield leaning(sweep(np.c_[hoop[:, 0], np.zeros(len(hoop)), hoop[:, 1]], 0.35 * t)), frame
    yield leaning(prism(arch(0.82 * w, 0.93 * tall), 0.4 * t).turned('x', 90).moved(0, 0.2 * t)), seat
  else:  # A rounded shell.
    yield leaning(ellipsoid(w, 1.6 * t, tall, pick(rng, 3, 5)).moved(0, 0, tall / 2)), seat
  if chance(rng, 0.35):
    arm = rng.uniform(0.16, 0.24)
    for post in both(box(0.6 * t, 0.6 * t, arm).moved(w / 2 - 0.3 * t, -0.35 * d, h + 0.5 * t)):
      yield post, frame
    for rest in both(box(1.1 * t, 0.95 * d, 0.6 * t, 0.2 * t).moved(w / 2 - 0.3 * t, 0.02 * d, h + 0.45 * t + arm)):
      yield rest, frame


@maker(0.5)
def stool(rng, look):
  w, h, t = rng.uniform(0.28, 0.42), rng.uniform(0.3, 0.8), rng.uniform(0.025, 0.08)
  seat = pick(rng, look.wood, look.fabric, look.plain(0))
  if chance(rng, 0.5):
    yield cylinder(w / 2, t, 32, bevel=0.3 * t).moved(0, 0, h), seat
  else:
    yield box(w, w * rng.uniform(0.7, 1), t, 0.3 * t).moved(0, 0, h), seat
  if chance(rng, 0.5):
    count, foot = rng.integers(3, 5), 0.5 * w * rng.uniform(0.9, 1.2)
    for leg in spun(bar((foot, 0, 0.01), (0.3 * w, 0, h + 0.3 * t), 0.014, 8, top=0.018), count, phase=0.5):
      yield leg, look.metal
    for pad in spun(cylinder(0.018, 0.02, 10).moved(foot), count, phase=0.5):
      yield pad, look.dark
    yield tube(0.5 * foot + 0.16 * w, 0.5 * foot + 0.16 * w - 0.02, 0.015, 24).moved(0, 0, 0.45 * h), look.metal
  else:
    yield from legs(rng, look, 0.8 * w, 0.7 * w, h)


@maker(1.6, weight=2)
def sofa(rng, look):
  seats = rng.integers(1, 4)
  arm, w = rng.uniform(0.1, 0.25), seats * rng.uniform(0.5, 0.7)
  d, h, tall = rng.uniform(0.7, 1.0), rng.uniform(0.2, 0.32), rng.uniform(0.35, 0.65)
  foot, r = rng.uniform(0.04, 0.16), rng.uniform(0.02, 0.1)
  body, cushion = look.fabric, pick(rng, look.fabric, look.plain(1), look.skin(2))
  total, back = w + 2 * arm, rng.uniform(0.15, 0.28)
  for leg in four(cylinder(0.7 * arm * 0.4, foot, 12, top=0.4 * arm).moved(total / 2 - 0.5 * arm, d / 2 - 0.5 * arm)):
    yield leg, pick(rng, look.wood, look.metal)
  yield box(total - 0.02, d - 0.02, h, 0.3 * r).moved(0, 0, 0.95 * foot), body
  yield box(total, back, tall + h, r).turned('x', -rng.uniform(0, 8)).moved(0, d / 2 - back / 2, foot), body
  if chance(rng, 0.85):
    rest = rng.uniform(0.12, 0.3)
    for side in both(box(arm, d, h + rest, r).moved(total / 2 - arm / 2, 0, foot)):
      yield side, body
    if chance(rng, 0.3):  # Rolled arms.
      for roll in both(
        cylinder(0.6 * arm, d, 20, bevel=0.01).turned('x', 90).moved(total / 2 - arm / 2, d / 2, foot + h + rest)
      ):
        yield roll, body
  for i in range(seats):
    x = w * ((i + 0.5) / seats - 0.5)
    yield box(w / seats - 0.01, d - back, 0.16, 0.06, steps=3).moved(x, -back / 2, foot + h - 0.04), cushion
    if chance(rng, 0.7):
      yield (
        ellipsoid(w / seats * 0.95, 0.2, tall * 0.75, 4)
        .turned('x', -12)
        .moved(x, d / 2 - back - 0.03, foot + h + 0.1 + tall * 0.4),
        cushion,
      )
  if chance(rng, 0.4):
    yield (
      ellipsoid(0.4, 0.14, 0.4, 4).turned('x', -20).moved(rng.uniform(-0.3, 0.3) * w, 0, foot + h + 0.28),
      look.skin(2),
    )


@maker(1.2, weight=2)
def table(rng, look):
  h, t = rng.uniform(0.35, 0.8), rng.uniform(0.02, 0.07)
  top = pick(rng, look.wood, look.wood, look.stone, look.plain(0), look.skin(1))
  if chance(rng, 0.4):
    r = rng.uniform(0.3, 0.7)
    yield cylinder(r, t, 40, bevel=0.2 * t).moved(0, 0, h), top
    w = d = 1.3 * r
    if chance(rng, 0.5):
      count = rng.integers(3, 6)
      for leg in spun(box(0.05, 0.05, h + 0.3 * t).moved(0.75 * r), count, phase=0.5):
        yield leg, look.wood
    else:
      yield from legs(rng, look, w, d, h)
  else:
    w, d = rng.uniform(0.6, 1.8), rng.uniform(0.45, 0.9)
    yield box(w, d, t, pick(rng, 0, 0.3 * t)).moved(0, 0, h), top
    yield from legs(rng, look, w, d, h)
    if chance(rng, 0.4):
      yield box(0.85 * w, 0.8 * d, 0.1).moved(0, 0, h - 0.098), look.wood
  if chance(rng, 0.25):
    yield box(0.75 * w, 0.7 * d, 0.02).moved(0, 0, 0.3 * h), top
    for post in four(box(0.03, 0.03, 0.98 * h).moved(0.36 * w, 0.33 * d)):
      yield post, look.metal


@maker(1.3)
def desk(rng, look):
  w, d, h, t = rng.uniform(1.0, 1.6), rng.uniform(0.5, 0.8), rng.uniform(0.68, 0.78), rng.uniform(0.02, 0.05)
  yield box(w, d, t).moved(0, 0, h), look.wood
  body = pick(rng, look.wood, look.plain(0), look.plain(1))
  pw = rng.uniform(0.3, 0.45)
  for side in (1, -1) if chance(rng, 0.4) else (1,):
    x, count = side * (w / 2 - pw / 2 - 0.02), rng.integers(2, 5)
    yield box(pw, 0.94 * d, h + 0.005).moved(x), body
    for i in range(count):
      z = 0.04 + (h - 0.06) * i / count
      yield box(pw - 0.04, 0.03, (h - 0.06) / count - 0.02).moved(x, -0.47 * d - 0.005, z), look.plain(1)
      yield ball(0.018, 4).moved(x, -0.47 * d - 0.03, z + 0.45 * (h - 0.06) / count), look.metal
  if side == 1:
    yield box(0.04, 0.9 * d, h + 0.005).moved(-w / 2 + 0.05), body
  if chance(rng, 0.5):
    sw = rng.uniform(0.4, 0.6)
    yield box(0.2, 0.14, 0.015).moved(0, 0.1 * d, h + t - 0.002), look.dark
    yield box(0.03, 0.03, 0.2).moved(0, 0.12 * d, h + t), look.dark
    yield box(sw, 0.03, 0.6 * sw).moved(0, 0.1 * d, h + t + 0.1), look.dark
    yield (
      box(0.94 * sw, 0.01, 0.54 * sw).moved(0, 0.1 * d - 0.013, h + t + 0.1 + 0.03 * sw),
      look.printed(0.94 * sw, 0.54 * sw, screen=True),
    )


@maker(2.0)
def bed(rng, look):
  w, d, h = rng.uniform(0.9, 1.9), rng.uniform(1.9, 2.15), rng.uniform(0.15, 0.35)
  frame = pick(rng, look.wood, look.metal, look.fabric)
  for leg in four(box(0.07, 0.07, h).moved(w / 2 - 0.04, d / 2 - 0.04)):
    yield leg, frame
  yield box(w, d, 0.14).moved(0, 0, h - 0.05), frame
  yield box(w - 0.06, d - 0.06, 0.22, 0.07).moved(0, 0, h + 0.07), look.plain(1)
  yield box(w, 0.66 * d, 0.2, 0.08, steps=3).moved(0, -0.16 * d, h + 0.13), look.fabric
  tall = rng.uniform(0.4, 0.9)
  if chance(rng, 0.5):
    yield (
      prism(np.r_[arch(w, 0.5 * tall), [(w / 2, -0.5 * tall), (-w / 2, -0.5 * tall)]], 0.06)
      .turned('x', 90)
      .moved(0, d / 2 + 0.05, h + 0.5 * tall),
      frame,
    )
  else:
    yield box(w, 0.06, h + tall).moved(0, d / 2 + 0.02), frame
  count = 1 if w < 1.3 else 2
  for i in range(count):
    yield ellipsoid(0.62, 0.4, 0.18, 4).moved(w * ((i + 0.5) / count - 0.5), 0.36 * d, h + 0.34), look.skin(2)


@maker(1.6, weight=2)
def bookcase(rng, look):
  columns, rows = rng.integers(1, 4), rng.integers(2, 6)
  w, h, d, t = (
    columns * rng.uniform(0.3, 0.6),
    rows * rng.uniform(0.26, 0.38),
    rng.uniform(0.24, 0.4),
    rng.uniform(0.015, 0.035),
  )
  wood = pick(rng, look.wood, look.plain(0))
  for x in np.linspace(-w / 2, w / 2, columns + 1):
    yield box(t, d, h).moved(x), wood
  for z in np.linspace(0, h - t, rows + 1):
    yield box(w + 0.9 * t, d - 0.004, t).moved(0, 0, z + 0.001), wood
  if chance(rng, 0.7):
    yield box(w, 0.012, h - 0.01).moved(0, d / 2 - 0.01, 0.005), look.plain(1)
  colors = [look.plain(i) for i in range(4)] + [look.skin(2)]
  for row in range(rows):
    for column in range(columns):
      left, z = w * (column / columns - 0.5) + t / 2, (h - t) * row / rows + 0.9 * t
      room, tall = w / columns - t, (h - t) / rows - t
      if chance(rng, 0.2):
        continue
      if chance(rng, 0.2):
        yield box(0.8 * room, 0.8 * d, 0.75 * tall, 0.01, steps=1).moved(left + room / 2, 0, z), look.skin(1)
        continue
      x = 0.01
      while x < room * rng.uniform(0.4, 1.0):
        thick = rng.uniform(0.03, 0.06)
        if x + thick > room:
          break
        depth = d * rng.uniform(0.6, 0.85)
        yield (
          box(0.9 * thick, depth, tall * rng.uniform(0.6, 0.92)).moved(
            left + x + thick / 2, d / 2 - depth / 2 - 0.02, z
          ),
          pick(rng, *colors),
        )
        x += thick


@maker(1.2)
def cabinet(rng, look):
  w, d, h, foot = rng.uniform(0.4, 1.6), rng.uniform(0.35, 0.6), rng.uniform(0.4, 1.9), rng.uniform(0.05, 0.2)
  body, front = pick(rng, look.wood, look.plain(0), look.skin(0)), pick(rng, look.wood, look.plain(1), look.skin(1))
  yield from legs(rng, look, 0.95 * w, 0.95 * d, foot + 0.01, 0.02)
  yield box(w, d, h, pick(rng, 0, 0.02)).moved(0, 0, foot), body
  columns, rows, gap = rng.integers(1, 4), rng.integers(1, 5), 0.02
  cw, ch = (w - gap) / columns, (h - gap) / rows
  knob = rng.integers(3)
  for i in range(columns):
    for j in range(rows):
      x, z = -w / 2 + gap / 2 + cw * (i + 0.5), foot + gap / 2 + ch * j
      yield box(cw - gap, 0.03, ch - gap, 0.006, steps=1).moved(x, -d / 2 - 0.01, z + gap / 2), front
      if knob == 0:
        yield ball(0.02, 4).moved(x, -d / 2 - 0.035, z + 0.5 * ch), look.metal
      elif knob == 1:
        yield box(0.4 * cw, 0.02, 0.015).moved(x, -d / 2 - 0.034, z + 0.75 * ch), look.metal
      else:
        yield box(0.015, 0.02, 0.4 * ch).moved(x + 0.38 * cw, -d / 2 - 0.034, z + 0.3 * ch), look.metal
  if chance(rng, 0.5):
    yield box(w + 0.04, d + 0.04, 0.03, 0.008, steps=1).moved(0, 0, foot + h - 0.005), body


@maker(1.4)
def bench(rng, look):
  w, d, h = rng.uniform(1.0, 1.8), rng.uniform(0.35, 0.5), rng.uniform(0.4, 0.48)
  count, frame = rng.integers(3, 7), pick(rng, look.metal, look.stone, look.wood)
  for i in range(count):
    yield box(w, 0.85 * d / count, 0.035).moved(0, d * ((i + 0.5) / count - 0.5), h), look.wood
  for x in (-0.4 * w, 0.4 * w):
    yield box(0.06, 0.9 * d, 0.05).moved(x, 0, h - 0.045), frame
    for y in (-0.38 * d, 0.38 * d):
      yield box(0.06, 0.06, h).moved(x, y), frame
  if chance(rng, 0.7):
    tall, lean = rng.uniform(0.35, 0.5), rng.uniform(0, 12)
    for x in (-0.4 * w, 0.4 * w):
      yield box(0.05, 0.05, tall + 0.05).turned('x', -lean).moved(x, 0.44 * d, h - 0.03), frame
    for i in range(3):
      yield box(w, 0.03, 0.08).moved(0, -0.04, 0.12 + 0.13 * i).turned('x', -lean).moved(0, 0.44 * d, h), look.wood


@maker(1.2, weight=1.5)
def lamp(rng, look):
  h, r = rng.uniform(0.3, 1.5), rng.uniform(0.1, 0.22)
  shade, shade_height = rng.uniform(0.1, 0.25), rng.uniform(0.12, 0.3)
  base = pick(rng, look.metal, look.skin(1), look.wood)
  kind = rng.integers(3)
  if kind == 0:
    yield lathe([(r, 0), (r, 0.015), (0.03, 0.04), (0.012, 0.06), (0.012, h)]), base
  elif kind == 1:
    yield (
      lathe(
        [
          (0.6 * r, 0),
          *smooth([(0.6 * r, 0.01), (r, 0.12 + 0.1 * h), (0.3 * r, 0.5 * h), (0.02, 0.6 * h)], 16),
          (0.012, h),
        ]
      ),
      base,
    )
  else:
    for leg in spun(bar((0.9 * r + 0.1 * h, 0, 0.01), (0, 0, 0.7 * h), 0.012, 8), 3):
      yield leg, base
    for pad in spun(ball(0.02, 4).moved(0.9 * r + 0.1 * h, 0, 0.02), 3):
      yield pad, look.dark
    yield cylinder(0.014, 0.4 * h, 10).moved(0, 0, 0.62 * h), base
  top = shade * rng.uniform(0.4, 1.0)
  z = h - 0.4 * shade_height
  yield (
    lathe([(shade - 0.006, z), (shade, z), (top, z + shade_height), (top - 0.006, z + shade_height)], 32, ring=True),
    look.skin(0),
  )
  for angle in (0, 60, 120):
    yield (
      bar((-0.97 * top, 0, z + 0.9 * shade_height), (0.97 * top, 0, z + 0.9 * shade_height), 0.004, 6).turned(
        'z', angle
      ),
      look.metal,
    )
  yield cylinder(0.012, 0.6 * shade_height, 10).moved(0, 0, h - 0.05), look.metal
  yield ball(0.035, 6).moved(0, 0, h + 0.02), look.plain(1)


@maker(1.7, weight=0.5)
def coat_rack(rng, look):
  h, r = rng.uniform(1.5, 1.9), rng.uniform(0.02, 0.035)
  yield lathe([(0.22, 0), (0.22, 0.03), (r, 0.06), (r, h), (1.6 * r, h + 0.02), (0.6 * r, h + 0.06)]), look.wood
  for level in (0.8, 0.95)[: rng.integers(1, 3)]:
    hook = np.array(
      [(0, 0, level * h), (0.1, 0, level * h - 0.03), (0.17, 0, level * h + 0.03), (0.18, 0, level * h + 0.1)]
    )
    for one in spun(sweep(smooth(hook, 10), 0.012), rng.integers(3, 7), phase=level):
      yield one, look.metal
  if chance(rng, 0.6):
    yield (
      lathe([(0.17, 0.92 * h), (0.16, 0.95 * h), (0.1, 0.955 * h), (0.09, 1.06 * h), (0.06, 1.08 * h)], 24).moved(
        0.0, 0, 0.05
      ),
      look.fabric,
    )


@maker(0.4)
def clock(rng, look):
  r, d = rng.uniform(0.08, 0.2), rng.uniform(0.04, 0.1)
  z, case = 1.25 * r, pick(rng, look.wood, look.metal, look.plain(0))
  yield cylinder(r, d, 36, bevel=0.1 * d).turned('x', 90).moved(0, d / 2, z), case
  yield cylinder(0.88 * r, 0.01, 36).turned('x', 90).moved(0, -d / 2 + 0.005, z), look.plain(1)
  for i in range(12):
    mark = box(0.035 * r, 0.006, 0.14 * r).moved(0, 0, 0.7 * r).turned('y', 30 * i)
    yield mark.moved(0, -d / 2 - 0.006, z), look.dark
  for length, angle in ((0.5, rng.uniform(0, 360)), (0.75, rng.uniform(0, 360))):
    yield box(0.05 * r, 0.008, length * r).turned('y', angle).moved(0, -d / 2 - 0.007, z), look.plain(3)
  for foot in both(bar((0.55 * r, 0, 0), (0.45 * r, 0, 0.6 * r), 0.08 * r, 8)):
    yield box(0.2 * r, 1.1 * d, 0.04).moved(0.55 * r if foot.vertices[:, 0].mean() > 0 else -0.55 * r), case
    yield foot, case
  if chance(rng, 0.5):
    for bell in both(ellipsoid(0.7 * r, 0.7 * r, 0.6 * r).turned('y', 35).moved(0.6 * r, 0, z + 0.9 * r)):
      yield bell, look.metal
