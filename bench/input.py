"""Measures the input pipeline: python bench/input.py --data=DIR [--config=base] [--seconds=10]

DIR is a dataset (data/build.py). First, one process makes examples for the configuration, as a worker would, and the
time of each part is printed. Then the whole pipeline runs with 0 (a thread), 1 and 2 workers. Its objects per CPU
second count the time of all its processes, so that they can be compared on a busy machine. For comparison, the rate at
which an accelerator consumes examples is computed from the operations of a training step and an assumed utilisation.
With --memory, only the peak memory of the pipeline is measured, of this process, all workers and shared memory:
python bench/input.py --data=DIR --memory --batch_size=128 --workers 8
"""

import argparse
import importlib
import os
from pathlib import Path
import threading
import time

import numpy as np

from lrm_jax.datasets import pipeline
from lrm_jax.datasets.records import open_split
from lrm_jax.geometry import images
from lrm_jax.training import cost

# Peak of dense bfloat16 in TFLOP/s, from the data sheets, and the assumed utilisation.
ACCELERATORS = {'A100': (312, 0.4), 'H100': (989, 0.4)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', required=True, help='directory of a dataset')
  parser.add_argument('--split', default='train', help='split to read (default: train)')
  parser.add_argument('--config', type=Path, default=Path('base'), help='name of a configuration (default: base)')
  parser.add_argument('--seconds', type=float, default=10, help='seconds per measurement (default: 10)')
  parser.add_argument('--workers', type=int, nargs='*', default=[0, 1, 2], help='numbers of workers (default: 0 1 2)')
  parser.add_argument('--batch_size', type=int, default=8, help='objects per batch (default: 8)')
  parser.add_argument('--memory', action='store_true', help='measure only the peak memory, while reading 4 batches')
  args = parser.parse_args()
  config = importlib.import_module(f'lrm_jax.configs.{args.config.stem}').get_config()
  config.data.path, config.data.train_split = args.data, args.split
  source = pipeline.training_sources(
    config.data.to_dict(), image_size=config.model.image_size, input_position=(0.0, -2.0, 0.0)
  )[0]
  if args.memory:
    for workers in args.workers:
      peak, before = peak_memory(source, workers, args.batch_size)
      print(
        f'{workers} workers, batches of {args.batch_size}: peak {peak / 1e9:.2f} GB, of which '
        f'{before / 1e9:.2f} GB before the pipeline started'
      )
    return
  print(f'{args.data}: {parts(source, args.seconds)}')
  for workers in args.workers:
    rate, per_cpu_second = throughput(source, workers, args.seconds, args.batch_size)
    name = '1 worker' if workers == 1 else f'{workers} workers'
    print(f'pipeline, {name}: {rate:.1f} objects/s, {per_cpu_second:.1f} per CPU second')
  operations = cost.step_operations(config) / config.batch_size
  for name, (peak, utilisation) in ACCELERATORS.items():
    print(
      f'{name} at {utilisation:.0%} of {peak} TFLOP/s consumes {peak * 1e12 * utilisation / operations:.1f} objects/s '
      f'({operations / 1e12:.1f} TFLOP per object)'
    )


def parts(source, seconds: float) -> str:
  """Returns a line with the objects per second of one process, and the milliseconds of each part of an example."""
  records = open_split(source.path, source.split)
  spent = {'read': 0.0, 'decode': 0.0, 'resize': 0.0, 'over': 0.0}

  def timed(name, function):
    def wrapped(*args, **kwargs):
      began = time.perf_counter()
      result = function(*args, **kwargs)
      spent[name] += time.perf_counter() - began
      return result

    return wrapped

  originals = images.decode, images.resize, images.over
  images.decode, images.resize, images.over = (
    timed(name, function) for name, function in zip(('decode', 'resize', 'over'), originals)
  )
  read = timed('read', records.__getitem__)
  rng, count, size = np.random.default_rng(0), 0, 0
  try:
    source.make(records[0], rng)  # Warm-up.
    began, cpu, spent = time.perf_counter(), time.process_time(), dict.fromkeys(spent, 0.0)
    while time.perf_counter() - began < seconds:
      record = read(int(rng.integers(len(records))))
      source.make(record, rng)
      count, size = count + 1, size + sum(map(len, record['views']))
    total, cpu = time.perf_counter() - began, time.process_time() - cpu
  finally:
    images.decode, images.resize, images.over = originals
  spent['other'] = total - sum(spent.values())
  times = ', '.join(f'{name} {1e3 * value / count:.1f}' for name, value in spent.items())
  return (
    f'{count / total:.1f} objects/s in one process with one thread, {count / cpu:.1f} per CPU second; ms per '
    f'object: {times}; {size / count / 1e6:.2f} MB per record'
  )


def throughput(source, workers: int, seconds: float, batch_size: int) -> tuple[float, float]:
  """Returns the objects (per second, per CPU second of all processes) of the whole pipeline with this many workers."""
  batches = pipeline.make_dataset([source], batch_size=batch_size, num_workers=workers)
  try:
    for _ in range(4):  # The workers start and fill their buffers.
      next(batches)
    began, cpu, count = time.perf_counter(), _cpu_seconds(), 0
    while time.perf_counter() - began < seconds:
      next(batches)
      count += batch_size
    return count / (time.perf_counter() - began), count / (_cpu_seconds() - cpu)
  finally:
    batches.close()


def peak_memory(source, workers: int, batch_size: int, batches: int = 4) -> tuple[float, float]:
  """Returns the bytes in use (at the peak, before the pipeline starts), while a slow reader takes some batches."""
  used = [_memory()]
  stopped = threading.Event()

  def watch():
    while not stopped.wait(0.2):
      used.append(_memory())

  before, watcher = used[0], threading.Thread(target=watch)
  watcher.start()
  dataset = pipeline.make_dataset([source], batch_size=batch_size, num_workers=workers)
  try:
    for _ in range(batches):
      batch = next(dataset)  # One batch is in use while the next is made.
      time.sleep(2)
    del batch
  finally:
    stopped.set()
    watcher.join()
    dataset.close()
  return max(used), before


def _memory() -> float:
  """Returns the bytes of this process and its descendants (each shared page once), and of all shared memory."""
  total = 0.0
  for pid in _processes():
    try:
      lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    except OSError:  # It has ended.
      continue
    total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(('Pss_Anon', 'Pss_File')))
  shared = os.statvfs('/dev/shm')
  return total + (shared.f_blocks - shared.f_bfree) * shared.f_frsize


def _cpu_seconds() -> float:
  """Returns the CPU time of this process and of its living descendants."""
  return sum(sum(map(int, stat[11:13])) for stat in _processes().values()) / os.sysconf('SC_CLK_TCK')


def _processes() -> dict[int, list[str]]:
  """Returns {pid: the fields of /proc/PID/stat after the name} of this process and its descendants."""
  stats: dict[int, list[str]] = {}
  for path in Path('/proc').glob('[0-9]*/stat'):
    try:
      stats[int(path.parent.name)] = path.read_text().rpartition(')')[2].split()
    except OSError:  # It has ended.
      continue
  found = {os.getpid()}
  while more := {pid for pid, stat in stats.items() if int(stat[1]) in found} - found:
    found |= more
  return {pid: stats[pid] for pid in found}


if __name__ == '__main__':
  from absl import flags

  flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags.
  main()
