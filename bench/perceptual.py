"""Measures LPIPS with its gradient for windows of several sizes: as it is, against convolutions by XLA alone.

  python bench/perceptual.py [--sizes 16 32 48 64 128] [--batch=16] [--repeats=5]

Prints milliseconds, the least of all repeats; both sides alternate. The network has random weights.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from lrm_jax.models import lpips


def compiled(network: lpips.LPIPS, images: jax.Array, small_map: int):
  """Returns a function that computes the distances of two batches of images and their gradient, compiled."""
  known, lpips.SMALL_MAP = lpips.SMALL_MAP, small_map
  try:
    step = jax.jit(jax.value_and_grad(lambda x, network, y: jnp.sum(network(x, y))))
    return step.lower(images, network, images).compile()
  finally:
    lpips.SMALL_MAP = known


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--sizes', type=int, nargs='+', default=(16, 32, 48, 64, 128), help='pixels along a side')
  parser.add_argument('--batch', type=int, default=16, help='pairs of images')
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args()
  rng = np.random.default_rng(0)
  network = lpips.LPIPS({name: 0.05 * rng.standard_normal(x, np.float32) for name, x in lpips.shapes().items()})
  print('| px | now, ms | convolutions alone, ms | ratio |\n|---|---|---|---|')
  for size in args.sizes:
    x, y = (jnp.asarray(rng.uniform(size=(args.batch, size, size, 3)), jnp.float32) for _ in range(2))
    steps = [compiled(network, x, small_map) for small_map in (lpips.SMALL_MAP, 0)]
    seconds: list[list[float]] = [[], []]
    for _ in range(args.repeats):
      for step, known in zip(steps, seconds):
        begin = time.perf_counter()
        jax.block_until_ready(step(x, network, y))
        known.append(time.perf_counter() - begin)
    now, plain = (1000 * min(known) for known in seconds)
    print(f'| {size} | {now:.0f} | {plain:.0f} | {plain / now:.1f} |', flush=True)


if __name__ == '__main__':
  main()
