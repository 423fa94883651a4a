"""How fast examples are made: python bench/input.py --data=DIR [--config=configs/base.py] [--seconds=10]

DIR is a dataset (data/build.py). One process makes examples by the rules of the configuration, as its workers would, and
the time of each part is told; then the whole pipeline runs with 1 and 2 workers. Beside it stands what an accelerator
eats: the operations of a training step an object, from the sizes, at a stated rate.
"""

import argparse
import importlib
from pathlib import Path
import sys
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np  # pylint: disable=wrong-import-position

from lrm_jax.datasets import pipeline
from lrm_jax.datasets.records import open_split
from lrm_jax.geometry import images
from lrm_jax.training import cost  # pylint: disable=wrong-import-position

# Peak of dense bfloat16 in TFLOP/s, by the makers' sheets, and the share of it that a training is taken to reach.
ACCELERATORS = {'A100': (312, 0.4), 'H100': (989, 0.4)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', required=True)
  parser.add_argument('--split', default='train')
  parser.add_argument('--config', type=Path, default=Path('configs/base.py'))
  parser.add_argument('--seconds', type=float, default=10, help='each measurement takes')
  parser.add_argument('--workers', type=int, nargs='*', default=[1, 2])
  args = parser.parse_args()
  config = importlib.import_module(f'lrm_jax.configs.{args.config.stem}').get_config()
  config.data.path, config.data.train_split = args.data, args.split
  source = pipeline.training_sources(
    config.data.to_dict(), image_size=config.model.image_size, input_position=(0.0, -2.0, 0.0)
  )[0]
  print(f'{args.data}: {parts(source, args.seconds)}')
  for workers in args.workers:
    rate = throughput(source, workers, args.seconds)
    print(f'pipeline, {workers} worker{"s" * (workers > 1)}: {rate:.1f} objects/s, {rate / workers:.1f} a worker')
  operations = cost.step_operations(config) / config.batch_size
  for name, (peak, share) in ACCELERATORS.items():
    print(
      f'{name} at {share:.0%} of {peak} TFLOP/s eats {peak * 1e12 * share / operations:.1f} objects/s '
      f'({operations / 1e12:.1f} TFLOP an object)'
    )


def parts(source, seconds: float) -> str:
  """Returns a line: objects a second in one process, and milliseconds of each part of an example."""
  records = open_split(source.path, source.split)
  spent = {'read': 0.0, 'decode': 0.0, 'resize': 0.0, 'over': 0.0}

  def timed(name, function):
    def wrapped(*args, **kwargs):
      began = time.perf_counter()
      result = function(*args, **kwargs)
      spent[name] += time.perf_counter() - began
      return result

    return wrapped

  kept = images.decode, images.resize, images.over
  images.decode, images.resize, images.over = (
    timed(name, function) for name, function in zip(('decode', 'resize', 'over'), kept)
  )
  read = timed('read', records.__getitem__)
  rng, count, size = np.random.default_rng(0), 0, 0
  try:
    source.make(records[0], rng)  # What is read once is read.
    began, spent = time.perf_counter(), dict.fromkeys(spent, 0.0)
    while time.perf_counter() - began < seconds:
      record = read(int(rng.integers(len(records))))
      source.make(record, rng)
      count, size = count + 1, size + sum(map(len, record['views']))
    total = time.perf_counter() - began
  finally:
    images.decode, images.resize, images.over = kept
  spent['the rest'] = total - sum(spent.values())
  told = ', '.join(f'{name} {1e3 * value / count:.1f}' for name, value in spent.items())
  return (
    f'{count / total:.1f} objects/s in one process of one thread; ms an object: {told}; '
    f'{size / count / 1e6:.2f} MB a record'
  )


def throughput(source, workers: int, seconds: float, batch_size: int = 8) -> float:
  """Returns the objects a second of the whole pipeline with this many workers."""
  batches = pipeline.make_dataset([source], batch_size=batch_size, num_workers=workers)
  try:
    for _ in range(4):  # Workers start, and fill their buffers.
      next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
      next(batches)
      count += batch_size
    return count / (time.perf_counter() - began)
  finally:
    batches.close()


if __name__ == '__main__':
  from absl import flags

  flags.FLAGS.mark_as_parsed()  # Grain's workers read flags.
  main()
