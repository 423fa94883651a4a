"""Measures the image metrics of an evaluation: compiled, view by view, against plain NumPy. Time and memory.

  python bench/metrics.py [--objects=100] [--views=31] [--size=128] [--plain]

Prints the seconds and the peak memory of the process beyond the images: for the compiled metrics of novel_views, whose
result is [O, V] numbers, or with --plain for SSIM and PSNR in NumPy (float64), which training used before. Run
each in a process of its own.
"""

import argparse
import resource
import time

import jax
import numpy as np

from lrm_jax.evaluation import novel_views


def plain(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns PSNR and SSIM [O, V] of images [O, V, s, s, 3], computed in NumPy at once."""
  window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  window /= window.sum()

  def blur(x):
    for axis in (-3, -2):
      x = np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, 11, axis=axis) @ window, axis, axis)
    return x

  x, y = image.astype(np.float64), reference.astype(np.float64)
  mean_x, mean_y = blur(x), blur(y)
  var_x, var_y, covariance = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
  c1, c2 = 0.01**2, 0.03**2
  ssim = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / (mean_x**2 + mean_y**2 + c1) / (var_x + var_y + c2)
  error = np.mean((x - y) ** 2, axis=(-3, -2, -1))
  return -10 * np.log10(np.maximum(error, 1e-10)), np.mean(ssim, axis=(-3, -2, -1))


def predict(state, batch, rays_per_chunk):
  """Returns the views of the batch, darker, so that only the metrics cost time."""
  del rays_per_chunk
  return novel_views.Prediction(state * batch['color'], batch['opacity'], batch['opacity'])


class Images:
  """Stands in for the batches of an evaluation: 4 objects at a time, random images."""

  def __init__(self, objects: int, views: int, size: int):
    rng = np.random.default_rng(0)
    self.rgba = rng.integers(0, 255, (objects, views, size, size, 4), dtype=np.uint8)

  def __iter__(self):
    for first in range(0, len(self.rgba), 4):
      rgba = self.rgba[first : first + 4]
      number = np.tile(np.arange(rgba.shape[1], dtype=np.int32), (len(rgba), 1))
      yield {'rgba': rgba, 'number': number, 'valid': number >= 0}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--objects', type=int, default=100)
  parser.add_argument('--views', type=int, default=31)
  parser.add_argument('--size', type=int, default=128)
  parser.add_argument('--plain', action='store_true', help='plain NumPy')
  args = parser.parse_args()
  images = Images(args.objects, args.views, args.size)
  if args.plain:
    reference = images.rgba[..., :3].astype(np.float32) / 255
    before, start, cpu = _peak(), time.monotonic(), time.process_time()
    values = plain(0.9 * reference, reference)
  else:
    batches = iter(images)
    jax.block_until_ready(novel_views.metrics_of(predict, np.float32(0.9), next(batches)))  # Compiles.
    before, start, cpu = _peak(), time.monotonic(), time.process_time()
    values = [novel_views.metrics_of(predict, np.float32(0.9), batch) for batch in images]
    values = [{name: np.asarray(x) for name, x in value.items()} for value in values]
  print(
    f'{"NumPy" if args.plain else "compiled"}: {args.objects} objects x {args.views} views of {args.size} px: '
    f'{time.monotonic() - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU, '
    f'{(_peak() - before) / 2**30:.2f} GiB beyond the images'
  )


def _peak() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == '__main__':
  main()
