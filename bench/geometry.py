"""Measures the alignment of geometry protocols against its plain statement: trimesh's ICP from each start, in a loop.

  python bench/geometry.py [--points=10000] [--starts=64] [--objects=3]

The objects are those in tests/objects. The prediction is a smoothed, noisy copy at a random rotation. Both sides start
from the same rotations; the plain side keeps the one of lowest Chamfer distance. Prints seconds and Chamfer distances,
which must not be higher than those of the plain side. The time of the plain side is that of --plain_starts starts times
the number of starts, because all of them take minutes.
"""

import argparse
from pathlib import Path
import time

import numpy as np
from scipy.spatial.transform import Rotation
from trimesh import registration

from lrm_jax.evaluation import alignment, geometry_metrics, surfaces

OBJECTS = Path(__file__).parents[1] / 'tests/objects'


def plain(source: np.ndarray, target: np.ndarray, starts: np.ndarray) -> list[float]:
  """Returns the Chamfer distance after ICP from each start [S, 3, 3], with all points and trimesh's defaults."""
  result = []
  for rotation in starts:
    start = np.eye(4)
    start[:3, :3] = rotation
    start[:3, 3] = target.mean(axis=0) - rotation @ source.mean(axis=0)
    motion, _, _ = registration.icp(source, target, initial=start, reflection=False, scale=False)
    moved = source @ motion[:3, :3].T + motion[:3, 3]
    result.append(geometry_metrics.chamfer_half(geometry_metrics.nearest(moved, target)[0]))
  return result


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--points', type=int, default=10_000)
  parser.add_argument('--starts', type=int, default=64)
  parser.add_argument('--plain_starts', type=int, default=8, help='starts that the plain side runs')
  parser.add_argument('--objects', type=int, default=3)
  args = parser.parse_args()
  ratios = []
  for number, path in enumerate(sorted(OBJECTS.glob('*.glb'))[: args.objects]):
    surface = surfaces.read(path)
    size = np.linalg.norm(np.ptp(surface.sample(args.points)[0], axis=0)) / 2
    target = surface.sample(args.points)[0] / size
    rng = np.random.default_rng(number)
    source = surface.sample(args.points, seed=1)[0] / size + 0.02 * rng.normal(size=(args.points, 3))
    source = source @ Rotation.random(random_state=number).as_matrix().T
    start = time.monotonic()
    motion = alignment.align(source, target, num_starts=args.starts)
    ours = time.monotonic() - start
    moved = source @ motion[:3, :3].T + motion[:3, 3]
    chamfer = geometry_metrics.chamfer_half(geometry_metrics.nearest(moved, target)[0])
    starts = alignment.rotations(args.starts)
    # The nearest starts decide the result; the others only cost time.
    order = np.argsort([-np.trace(motion[:3, :3].T @ rotation) for rotation in starts])
    some = starts[
      np.concatenate([order[:2], order[2 :: max(1, args.starts // args.plain_starts)]])[: args.plain_starts]
    ]
    start = time.monotonic()
    best = min(plain(source, target, some))
    seconds = (time.monotonic() - start) / len(some) * args.starts
    ratios.append(seconds / ours)
    print(
      f'{path.stem}: ours {ours:.2f} s, Chamfer {chamfer:.4f}; plain {seconds:.1f} s (from {len(some)} starts), '
      f'Chamfer {best:.4f}; {ratios[-1]:.0f} times faster'
    )
  print(f'median: {np.median(ratios):.0f} times faster')


if __name__ == '__main__':
  main()
