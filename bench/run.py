"""What the machine here does: python bench/run.py [--config=configs/base.py] [--json=FILE] [--markdown=FILE]

Image -> planes, rendering, meshes by resolution, a training step, on whatever backend JAX has: medians, operations counted
from the sizes (lrm_jax/training/cost.py), and what share they are of a large matrix product measured in the same run (MFU against
it, and against the maker's peak where the device is known). A large copy stands beside it. Peak memory is the device's where it tells, the
process's on a CPU. Weights are random, and meshes and renderings are of the solid of bench/typical.py, at the config's sizes.
"""

import argparse
import importlib
import json
from pathlib import Path
import resource
import statistics
import sys
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jax  # pylint: disable=wrong-import-position
import jax.numpy as jnp  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position

NAMES = ('roofline', 'planes', 'render', 'mesh', 'train_step')


def timed(run, repeats: int) -> dict:
  """Returns seconds of the first call and the median of others; `run` returns arrays that are waited for."""
  began = time.perf_counter()
  jax.block_until_ready(run())
  first, times = time.perf_counter() - began, []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - began)
  return {'seconds': statistics.median(times), 'first': first, 'spread': max(times) / min(times)}


def roofline(config, repeats: int, smoke: bool) -> dict:
  """A product of large matrices in the config's dtype, and a copy of a large array."""
  side = 256 if smoke else 4096 if jax.default_backend() == 'cpu' else 8192
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
  """One picture, and a batch where the device is an accelerator."""
  from flax import nnx

  from lrm_jax.models import registry
  from lrm_jax.reconstruction.reconstructor import Reconstructor
  from lrm_jax.training import cost

  del smoke
  model = Reconstructor(registry.build_model(config.model.to_dict(), nnx.Rngs(0)))
  parts, rows = cost.forward_operations(config.model, 0), {}
  for batch in (1,) if jax.default_backend() == 'cpu' else (1, 8):
    pictures = (
      np.random.default_rng(0).uniform(size=(batch,) + (config.model.image_size,) * 2 + (3,)).astype(np.float32)
    )
    rows[f'planes of {batch}'] = timed(lambda: model.encode(pictures), repeats) | {  # pylint: disable=cell-var-from-loop
      'operations': batch * (parts['encoder'] + parts['decoder'])
    }
  return rows


def _solid(config):
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
  """A picture with every sample, and with those that are not seen left out."""
  from bench import torch_reference
  from lrm_jax.training import cost

  small, model, tri = _solid(config)
  pose, intrinsics = map(jnp.asarray, torch_reference.camera())
  rows = {}
  for size in (16,) if smoke else (128, 256):
    for skip in (False, True):
      run = jax.jit(lambda tri, size=size, skip=skip: model.render(tri, pose, intrinsics, size, skip=skip).color)
      row = timed(lambda: run(tri), repeats)  # pylint: disable=cell-var-from-loop
      row |= {
        'rays_per_second': size**2 / row['seconds'],
        'samples_per_second': size**2 * small.model.num_samples / row['seconds'],
      }
      if not skip:
        row['operations'] = cost.forward_operations(small.model, size**2)['renderer']
      rows[f'render {size} x {size}' + ', skipping' * skip] = row
  return rows


def mesh(config, repeats: int, smoke: bool) -> dict:
  """Surfaces with colours, coarse to fine, and every point."""
  from lrm_jax.reconstruction.reconstructor import Reconstructor

  _, model, tri = _solid(config)
  model, rows = Reconstructor(model), {}
  for size, dense in ((24, True), (32, False)) if smoke else ((128, False), (256, False), (256, True), (512, False)):

    def run(size=size, dense=dense):
      model.mesh(tri, resolution=size, threshold=10.0, dense=dense)
      return ()

    rows[f'mesh {size}^3' + ', every point' * dense] = timed(run, min(repeats, 3))
  return rows


def train_step(config, repeats: int, smoke: bool) -> dict:
  """Forward, backward and update with the config's sizes, on one device, with as many objects as are asked for."""
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
  batch = {name: rng.uniform(size=x.shape).astype(np.float32) for name, x in shapes.items()}

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


def peak_bytes() -> int:
  """Returns the greatest memory so far: the device's where it tells, else this process's."""
  stats = jax.devices()[0].memory_stats() if jax.default_backend() != 'cpu' else None
  return stats['peak_bytes_in_use'] if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(config, names, repeats: int, smoke: bool = False, deadline: float = float('inf')) -> dict:
  """Returns {row: figures}; what would begin after the deadline (time.monotonic) is left out, and said so."""
  rows = {}
  for name in names:
    if time.monotonic() > deadline:
      rows[name] = {'error': 'left out: no time was left'}
      continue
    try:
      found = globals()[name](config.copy_and_resolve_references(), repeats, smoke)
    except jax.errors.JaxRuntimeError as error:  # Out of memory: the others are still worth knowing.
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
  """Returns the table, with what it was measured on."""
  device = jax.devices()[0]
  lines = [
    f'`{config_name}` on {jax.device_count()} x {device.device_kind} ({device.platform}), jax {jax.__version__}, '
    f'{time.strftime("%Y-%m-%d")}',
    '',
    '| | median, s | first call, s | GFLOP | GFLOP/s or GB/s | share of the product | peak so far, GB | |',
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
      more.append(f"{row['mfu_of_makers_peak']:.1%} of the maker's peak")

    def cell(value, form):
      return '' if not value else format(value, form)

    lines.append(
      f'| {label} | {seconds:.4g} | {row["first"]:.3g} | {cell((operations or 0) / 1e9, ",.1f")} | {cell(rate, ",.0f")} | '
      f'{cell(row.get("share_of_product"), ".0%")} | {row["peak_bytes_so_far"] / 1e9:.2f} | {"; ".join(more)} |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='configs/base.py')
  parser.add_argument('--only', nargs='*', choices=NAMES, default=NAMES)
  parser.add_argument('--objects', type=int, default=1, help='of the training step')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--json', type=Path)
  parser.add_argument('--markdown', type=Path)
  parser.add_argument('--smoke', action='store_true', help='tiny sizes, to see that it runs')
  args = parser.parse_args()
  began = time.monotonic()
  config = importlib.import_module(f'lrm_jax.configs.{Path(args.config).stem}').get_config()
  config.batch_size = args.objects * jax.device_count()
  rows = measure(config, args.only, args.repeats, args.smoke)
  text = as_markdown(rows, args.config) + f'\n\n{time.monotonic() - began:.0f} s in all.'
  print(text)
  if args.json:
    args.json.write_text(json.dumps(rows, indent=2) + '\n')
  if args.markdown:
    args.markdown.write_text(text + '\n')


if __name__ == '__main__':
  main()
