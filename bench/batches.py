"""Encoding and rendering in batches against one object at a time: python bench/batches.py [--checkpoint=demo]

Prints seconds of the clock and of the CPU, as medians of the repetitions; the first call, which compiles, is left out.
"""

import argparse
from collections.abc import Callable
import time

import jax
import numpy as np

import lrm_jax
from lrm_jax.datasets.views import load_views


def seconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
  """Returns the median (seconds of the clock, seconds of the CPU) of a call."""
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    start = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
  return tuple(np.median(times, axis=0).tolist())  # type: ignore[return-value]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--checkpoint', default='demo')
  parser.add_argument('--objects', type=int, default=8)
  parser.add_argument('--views', type=int, default=8, help='of each object')
  parser.add_argument('--size', type=int, default=128, help='pixels along a side of a view')
  parser.add_argument('--repeats', type=int, default=3)
  args = parser.parse_args()
  model = lrm_jax.from_pretrained(args.checkpoint)
  images = load_views('embedded', 'test', image_size=model.image_size, size=16, indices=range(args.objects))['image']
  planes = model.encode(images)
  poses, intrinsics = (np.repeat(x, len(images), axis=0) for x in model.turntable(args.views))

  def render(part):
    return model.render(planes[part], poses[part], intrinsics[part], args.size, skip=True).color

  single = [slice(number, number + 1) for number in range(len(images))]
  rows = {
    'encode, one at a time': lambda: [model.encode(images[part]) for part in single],
    'encode, one batch': lambda: model.encode(images),
    'render, one at a time': lambda: [render(part) for part in single],
    'render, one batch': lambda: render(slice(None)),
  }
  for name, call in rows.items():
    wall, cpu = seconds(call, args.repeats)
    print(f'{name}: {wall:.2f} s, {cpu:.2f} s of CPU', flush=True)


if __name__ == '__main__':
  main()
