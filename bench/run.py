"""Measures this machine: python bench/run.py [--config=base] [--json=FILE] [--markdown=FILE]

Times image -> planes, rendering, meshes of several resolutions, the three forms of the gradient of planes
(lrm_jax/models/triplane.py), a training step, reading examples, and an evaluation, on any backend of JAX. Prints
medians and the rate of operations, counted from the sizes (lrm_jax/training/cost.py). Rates are compared with that of a
large matrix product measured in the same run, and, for a training step on a known device, with the data sheet's peak
(MFU). A large copy measures the memory bandwidth. Peak memory is the device's if it reports it, else the process's.
Weights are random. Meshes and renders show the solid of bench/typical.py, at the sizes of the configuration.
"""

import argparse
import functools
import importlib
import json
from pathlib import Path
import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For `bench`, which is not installed.
NAMES = ('roofline', 'planes', 'render', 'mesh', 'plane_gradient', 'train_step', 'examples', 'evaluation')


def timed(run, repeats: int) -> dict:
  """Returns the seconds of the first call of `run`, and of `repeats` more the median and the ratio of extremes."""
  began = time.perf_counter()
  jax.block_until_ready(run())
  first, times = time.perf_counter() - began, []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - began)
  return {'seconds': statistics.median(times), 'first': first, 'spread': max(times) / min(times)}


def roofline(config, repeats: int, smoke: bool) -> dict:
  """Measures a product of large matrices in the configuration's dtype, and a copy of a large array."""
  if smoke:
    side = 256
  else:
    side = 4096 if jax.default_backend() == 'cpu' else 8192
  a, b = (
    jax.random.normal(key, (side, side), jnp.dtype(config.model.dtype)) for key in jax.random.split(jax.random.key(0))
  )
  product = jax.jit(jnp.matmul)
  rows = {
    f'product {side}^3, {config.model.dtype}': timed(lambda: product(a, b), repeats) | {'operations': 2 * side**3}
  }
  large = jnp.ones(2**16 if smoke else 2**27, jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  rows['copy'] = timed(lambda: copy(large), repeats) | {'bytes': 2 * large.nbytes}
  return rows


def planes(config, repeats: int, smoke: bool) -> dict:
  """Measures image -> planes for one image, and, on accelerators, for a batch."""
  from flax import nnx

  from lrm_jax.models import registry
  from lrm_jax.reconstruction.reconstructor import Reconstructor
  from lrm_jax.training import cost

  del smoke
  model = Reconstructor(registry.build_model(config.model.to_dict(), nnx.Rngs(0)))
  parts, rows = cost.forward_operations(config.model, 0), {}
  for batch in (1,) if jax.default_backend() == 'cpu' else (1, 8):
    size = config.model.image_size
    images = np.random.default_rng(0).uniform(size=(batch, size, size, 3)).astype(np.float32)
    rows[f'planes of {batch}'] = timed(lambda images=images: model.encode(images), repeats) | {
      'operations': batch * (parts['encoder'] + parts['decoder'])
    }
  return rows


def _solid(config):
  """Returns (configuration, model, planes) of the solid of bench/typical.py, at the sizes of a configuration."""
  from bench import typical

  sizes = {
    name: config.model[name]
    for name in (
      'triplane_resolution',
      'triplane_upsample',
      'triplane_channels',
      'nerf_width',
      'nerf_depth',
      'num_samples',
      'dtype',
    )
  }
  small = typical.small_model_config(**sizes)
  return small, *typical.solid(small)


def render(config, repeats: int, smoke: bool) -> dict:
  """Measures the rendering of an image with all samples, and with unseen samples skipped."""
  from bench import torch_reference
  from lrm_jax.distributed import accelerators
  from lrm_jax.training import cost

  small, model, tri = _solid(config)
  pose, intrinsics = map(jnp.asarray, torch_reference.camera())
  rays_per_chunk = model.rays_that_fit(accelerators.memory(jax.local_devices()[0]), 1)
  rows = {}
  for size in (16,) if smoke else (128, 256):
    for skip in (False, True):

      @jax.jit
      def run(tri, size=size, skip=skip):
        return model.render(tri, pose, intrinsics, size, skip=skip, rays_per_chunk=rays_per_chunk).color

      row = timed(lambda run=run: run(tri), repeats)
      row |= {
        'rays_per_second': size**2 / row['seconds'],
        'samples_per_second': size**2 * small.model.num_samples / row['seconds'],
      }
      if not skip:
        row['operations'] = cost.forward_operations(small.model, size**2)['renderer']
      label = f'render {size} x {size}'
      rows[f'{label}, skipping' if skip else label] = row
  return rows


def mesh(config, repeats: int, smoke: bool) -> dict:
  """Measures the extraction of coloured meshes, coarse to fine and densely."""
  from lrm_jax.reconstruction.reconstructor import Reconstructor

  _, model, tri = _solid(config)
  model, rows = Reconstructor(model), {}
  for size, dense in ((24, True), (32, False)) if smoke else ((128, False), (256, False), (256, True), (512, False)):

    def run(size=size, dense=dense):
      model.mesh(tri, resolution=size, threshold=10.0, dense=dense)
      return ()

    label = f'mesh {size}^3'
    rows[f'{label}, every point' if dense else label] = timed(run, min(repeats, 3))
  return rows


def plane_gradient(config, repeats: int, smoke: bool) -> dict:
  """Measures each form of the gradient of the planes, for the samples of rays through the whole cube."""
  from lrm_jax.models import triplane

  model = config.model
  num_rays, size = 64 if smoke else 4096, model.triplane_resolution * model.triplane_upsample
  ends = np.random.default_rng(0).uniform(-1, 1, (2, num_rays, 1, 3)).astype(np.float32)
  along = np.linspace(0, 1, model.num_samples, dtype=np.float32)[:, None]
  points = jnp.asarray((ends[0] + along * (ends[1] - ends[0])).reshape(-1, 3))
  gradient, rows = jnp.ones((len(points), model.nerf_width), jnp.dtype(model.dtype)), {}
  for form in triplane.PLANE_GRADIENTS:
    run = jax.jit(functools.partial(triplane.plane_gradient, size=size, form=form))
    row = timed(lambda run=run: run(points, gradient), repeats)
    rows[f'plane gradient by {form}'] = row | {'samples_per_second': len(points) / row['seconds']}
  return rows


def train_step(config, repeats: int, smoke: bool) -> dict:
  """Measures a training step (forward, backward and update) of config.batch_size objects, without LPIPS."""
  from lrm_jax.distributed import accelerators, sharding
  from lrm_jax.geometry import cameras
  from lrm_jax.training import cost
  from lrm_jax.training import trainer as trainer_lib

  del smoke
  config.loss.lpips_weight, config.gradient_accumulation = 0.0, 1
  config.mesh.update(dict(data=1, fsdp=-1))
  trainer = trainer_lib.Trainer(config, lpips=None)
  shapes = cost.abstract_batch(config, sharding.batch_sharding(trainer.mesh))
  rng = np.random.default_rng(0)
  batch = {
    name: rng.integers(0, 256, x.shape, np.uint8)
    if x.dtype == np.uint8
    else rng.uniform(size=x.shape).astype(np.float32)
    for name, x in shapes.items()
  }

  def look(*shape):
    return cameras.look_at(rng.normal(size=shape + (3,)) * [1, 1, 0.4] + [0, -2, 0]).astype(np.float32)

  batch['target_camera_to_world'] = look(*shapes['target_camera_to_world'].shape[:2])
  batch['camera_to_world'] = look(config.batch_size)
  for name in ('intrinsics', 'target_intrinsics'):
    batch[name] = np.broadcast_to(cameras.intrinsics_from_fov(50).astype(np.float32), batch[name].shape)
  batch = {name: jax.device_put(x, shapes[name].sharding) for name, x in batch.items()}
  with jax.set_mesh(trainer.mesh):
    holder, step = [trainer.first_state()], trainer.compile()

    def run():
      holder[0], metrics = step(holder[0], batch, np.float32(5), None)
      return metrics

    row = timed(run, repeats)
  row |= {'operations': cost.useful_operations(config), 'objects_per_second': config.batch_size / row['seconds']}
  known = accelerators.accelerator(jax.devices()[0].device_kind)
  if known is not None:
    row['mfu_of_makers_peak'] = row['operations'] / row['seconds'] / known.peak / jax.device_count()
  return {f'training step, {config.batch_size} objects, remat {config.model.remat}': row}


def examples(config, repeats: int, smoke: bool) -> dict:
  """Measures how fast the host makes examples of the shipped dataset, without a model (see also bench/input.py)."""
  from absl import flags

  from bench import input as bench_input
  from lrm_jax.datasets import pipeline

  del repeats
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read flags.
  config.data.path = 'embedded'
  [source] = pipeline.training_sources(
    config.data.to_dict(), image_size=config.model.image_size, input_position=(0.0, -2.0, 0.0)
  )
  workers, seconds = (0, 0.5) if smoke else (config.data.num_workers, 10)
  began = time.perf_counter()
  rate, per_cpu_second = bench_input.throughput(source, workers, seconds, 8)
  row = {'seconds': 1 / rate, 'first': time.perf_counter() - began - seconds, 'objects_per_second': rate}
  return {f'input, an example by {workers} workers': row | {'objects_per_cpu_second': per_cpu_second}}


def evaluation(config, repeats: int, smoke: bool) -> dict:
  """Measures an evaluation on objects of the shipped dataset, and its metrics alone, without rendering."""
  from flax import nnx

  from lrm_jax.datasets.views import HeldOut, ViewRules
  from lrm_jax.distributed import sharding
  from lrm_jax.evaluation import novel_views
  from lrm_jax.models import registry

  count, size = (1, 16) if smoke else (8, config.data.eval_size)
  rules = ViewRules(image_size=config.model.image_size, size=size)
  mesh = sharding.make_mesh(-1)
  with jax.set_mesh(mesh):
    batches = novel_views.Batches(HeldOut('embedded', 'validation', rules, range(count)), keep=True)
    model = jax.device_put(registry.build_model(config.model.to_dict(), nnx.Rngs(0)), sharding.replicated(mesh))
    rows = {
      'evaluation': timed(lambda: novel_views.evaluate_model(batches, model)[0].values, repeats),
      'its metrics': timed(lambda: novel_views.evaluate(batches, _darker, np.float32(0.9))[0].values, repeats),
    }
  return {
    f'{name}, {count} x {batches.num_views} views of {size} px': row | {'objects_per_second': count / row['seconds']}
    for name, row in rows.items()
  }


def _darker(state, batch, rays_per_chunk):
  """Returns the true views, darker, as the prediction of an evaluation."""
  from lrm_jax.evaluation import novel_views

  del rays_per_chunk
  return novel_views.Prediction(state * batch['color'], batch['opacity'], batch['opacity'])


def peak_bytes() -> int:
  """Returns the peak memory so far: the device's if it reports it, else this process's."""
  stats = jax.devices()[0].memory_stats() if jax.default_backend() != 'cpu' else None
  return stats['peak_bytes_in_use'] if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(config, names, repeats: int, smoke: bool = False, deadline: float = float('inf')) -> dict:
  """Returns {row: results} of the measurements `names`, each a function of this module.

  Measurements that would start after the deadline (of time.monotonic) are left out; their rows have an `error`.
  """
  rows = {}
  for name in names:
    if time.monotonic() > deadline:
      rows[name] = {'error': 'left out: the time limit was reached'}
      continue
    try:
      found = globals()[name](config.copy_and_resolve_references(), repeats, smoke)
    except jax.errors.JaxRuntimeError as error:  # Mostly out of memory; the other measurements may still fit.
      found = {name: {'error': str(error).splitlines()[0][:200]}}
    for row in found.values():
      row['peak_bytes_so_far'] = peak_bytes()
    rows |= found
    for label, row in found.items():
      print(f'{label}: {row.get("error") or round(row["seconds"], 5)}', file=sys.stderr, flush=True)
  best = max(
    (row['operations'] / row['seconds'] for label, row in rows.items() if label.startswith('product')), default=None
  )
  for row in rows.values():
    if best and 'operations' in row:
      row['share_of_product'] = row['operations'] / row['seconds'] / best
  return rows


def as_markdown(rows: dict, config_name: str) -> str:
  """Returns a Markdown table of the rows, with the device and the version of JAX."""
  device = jax.devices()[0]
  lines = [
    f'`{config_name}` on {jax.device_count()} x {device.device_kind} ({device.platform}), jax {jax.__version__}, '
    f'{time.strftime("%Y-%m-%d")}',
    '',
    '| | median, s | first call, s | GFLOP | GFLOP/s or GB/s | relative to the product | peak memory so far, GB | |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for label, row in rows.items():
    if 'error' in row:
      lines.append(f'| {label} | {row["error"]} | | | | | | |')
      continue
    seconds, operations = row['seconds'], row.get('operations')
    rate = (operations or row.get('bytes', 0)) / seconds / 1e9
    more = []
    if 'rays_per_second' in row:
      more.append(f'{row["rays_per_second"]:,.0f} rays/s, {row["samples_per_second"] / 1e6:.1f} M samples/s')
    if 'objects_per_second' in row:
      more.append(f'{row["objects_per_second"]:.2f} objects/s')
    if 'mfu_of_makers_peak' in row:
      more.append(f"{row['mfu_of_makers_peak']:.1%} of the data sheet's peak")

    def cell(value, form):
      return '' if not value else format(value, form)

    lines.append(
      f'| {label} | {seconds:.4g} | {row["first"]:.3g} | {cell((operations or 0) / 1e9, ",.1f")} | '
      f'{cell(rate, ",.0f")} | {cell(row.get("share_of_product"), ".0%")} | {row["peak_bytes_so_far"] / 1e9:.2f} | '
      f'{"; ".join(more)} |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='base', help='name of a configuration (default: base)')
  parser.add_argument('--only', nargs='*', choices=NAMES, default=NAMES, help='measurements to run (default: all)')
  parser.add_argument('--objects', type=int, default=1, help='objects per device in the training step (default: 1)')
  parser.add_argument('--repeats', type=int, default=5, help='repetitions of each measurement (default: 5)')
  parser.add_argument('--json', type=Path, help='file for the results')
  parser.add_argument('--markdown', type=Path, help='file for the table')
  parser.add_argument('--smoke', action='store_true', help='runs tiny sizes, to test this script')
  args = parser.parse_args()
  began = time.monotonic()
  config = importlib.import_module(f'lrm_jax.configs.{Path(args.config).stem}').get_config()
  config.batch_size = args.objects * jax.device_count()
  rows = measure(config, args.only, args.repeats, args.smoke)
  text = as_markdown(rows, args.config) + f'\n\nTotal time: {time.monotonic() - began:.0f} s.'
  print(text)
  if args.json:
    args.json.write_text(json.dumps(rows, indent=2) + '\n')
  if args.markdown:
    args.markdown.write_text(text + '\n')


if __name__ == '__main__':
  main()
