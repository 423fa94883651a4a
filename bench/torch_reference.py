"""Compares lrm_jax with plain PyTorch in one run: python bench/torch_reference.py [--only NAME ...] [--json=FILE]

The PyTorch side, lrm_jax/export/torch_lrm.py, is a plain implementation of the same operations: grid_sample, MLP and
compositing; attention by scaled_dot_product_attention; the dense grid in chunks. It has the same weights, sizes, dtype
(float32) and threads, and uses the chunk size, of rays or points, that is fastest for it. Both sides run alternately; a
ratio is PyTorch's median time over ours. Peak memory is measured in separate processes: it is the increase of resident
memory in a second run (VmHWM), after compilation, when the memory of the first run has been released to the system.
Needs `torch`.

  render           128 x 128 rays x 128 samples, planes 3 x 64 x 64 x 80, MLP 10 x 64: every sample
  render_skipping  the same; ours skips unseen samples (finding them is included), PyTorch computes all
  render_train     the same with every sample, forward and backward to planes and MLP
  mesh_dense       256^3 densities -> marching cubes -> colours: every point
  mesh             the same; ours coarse to fine
  planes           one image -> planes, configs/base.py
  train_step       forward, backward and AdamW: 2 objects, 4 views of 32 x 32, sizes in the paper's proportions
"""

import argparse
import ctypes
import gc
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For `bench`, which is not installed.
THREADS = len(os.sched_getaffinity(0))
NAMES = ('render', 'render_skipping', 'render_train', 'mesh_dense', 'mesh', 'planes', 'train_step')
SIZES = dict(view=128, resolution=256, samples=128)
SMOKE = dict(view=16, resolution=24, samples=16)  # Tiny sizes for the tests.


def as_torch(config, model):
  """Returns the PyTorch implementation of a model, with the same weights."""
  import torch

  from lrm_jax.export import torch_lrm
  from lrm_jax.weights import plain_torch, pretrained

  torch.set_num_threads(THREADS)
  with tempfile.TemporaryDirectory() as folder:
    sections = {name: config[name].to_dict() for name in ('model', 'data')}
    plain_torch.write(Path(folder), sections, pretrained.flat_parameters(model))
    return torch_lrm.load(folder)


def camera():
  """Returns (camera_to_world [1, 1, 4, 4], intrinsics [1, 1, 4]) of a camera above the object."""
  import numpy as np

  from lrm_jax.geometry import cameras

  pose = cameras.look_at([[[1.2, -1.6, 0.7]]]).astype(np.float32)
  return pose, cameras.intrinsics_from_fov(50).astype(np.float32)[None, None]


class Render:
  """Rows `render`, `render_skipping` and `render_train`."""

  chunks = (64, 128, 256)  # Chunk sizes to try with PyTorch, in rays.

  def __init__(self, name, sizes):
    from bench import typical

    self.name, self.size = name, sizes['view']
    self.config = typical.small_model_config(num_samples=sizes['samples'])
    self.model, self.planes = typical.solid(self.config)

  def ours(self):
    import jax
    import jax.numpy as jnp

    from lrm_jax.distributed import accelerators
    from lrm_jax.models import registry

    pose, intrinsics = map(jnp.asarray, camera())
    skip = self.name == 'render_skipping'
    rays_per_chunk = self.model.rays_that_fit(accelerators.memory(jax.local_devices()[0]), 1)

    def render(model, planes):
      return model.render(planes, pose, intrinsics, self.size, skip=skip, rays_per_chunk=rays_per_chunk).color

    if self.name != 'render_train':
      run = jax.jit(lambda planes: render(self.model, planes))
      return lambda: jax.block_until_ready(run(self.planes))

    def loss(nerf, planes):
      model = registry.with_parameters(self.model, registry.parameters(self.model) | {'nerf': nerf})
      return jnp.mean(jnp.square(render(model, planes)))

    run, nerf = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), registry.parameters(self.model)['nerf']
    return lambda: jax.block_until_ready(run(nerf, self.planes))

  def torchs(self, chunk):
    import numpy as np
    import torch

    model = as_torch(self.config, self.model)
    planes, pose, intrinsics = (torch.from_numpy(np.array(x)) for x in (self.planes, *camera()))

    def render():
      return model.render(planes, pose, intrinsics, self.size, rays_per_chunk=chunk).color

    def forward():
      with torch.no_grad():
        return render()

    def backward():
      model.zero_grad(set_to_none=True)
      planes.grad = None
      self._backward(model, planes, pose, intrinsics, chunk)

    planes.requires_grad_(self.name == 'render_train')
    return backward if self.name == 'render_train' else forward

  def _backward(self, model, planes, pose, intrinsics, chunk):
    """Runs forward and backward on one chunk after the other, which takes the least memory and stays in the caches."""
    import torch

    from lrm_jax.export import torch_lrm

    origins, directions = (x.flatten(1, 3) for x in torch_lrm._pixel_rays(pose, intrinsics, self.size))
    for rays in zip(origins.split(chunk, dim=1), directions.split(chunk, dim=1)):
      color, _, opacity = model._trace(torch_lrm._table(planes), *rays, False)
      (torch.square(color + (1 - opacity[..., None])).sum() / (3 * origins.shape[1])).backward()


class Mesh:
  """Rows `mesh_dense` and `mesh`."""

  chunks = (2**15,)  # Points.

  def __init__(self, name, sizes):
    from bench import typical

    self.dense, self.resolution = name == 'mesh_dense', sizes['resolution']
    self.config = typical.small_model_config()
    self.model, self.planes = typical.solid(self.config)

  def ours(self):
    from lrm_jax.reconstruction.reconstructor import Reconstructor

    model = Reconstructor(self.model)
    return lambda: model.mesh(self.planes, resolution=self.resolution, threshold=10.0, dense=self.dense)

  def torchs(self, chunk):
    import numpy as np
    from skimage import measure
    import torch

    model = as_torch(self.config, self.model)
    planes = torch.from_numpy(np.array(self.planes))
    axis = torch.linspace(-1, 1, self.resolution)

    def run():
      with torch.no_grad():
        density = torch.empty(self.resolution**3)
        rest = torch.stack(torch.meshgrid(axis, axis, indexing='ij'), dim=-1).reshape(-1, 2)
        for i, x in enumerate(axis):
          layer = torch.cat([x.expand(len(rest), 1), rest], dim=1)
          for first in range(0, len(layer), chunk):
            part = layer[first : first + chunk]
            density[i * len(layer) + first :][: len(part)] = model.query(planes, part[None])[0][0]
        grid = np.pad(density.reshape((self.resolution,) * 3).numpy(), 1)
        vertices, faces, _, _ = measure.marching_cubes(grid, 10.0, gradient_direction='ascent')
        points = torch.from_numpy((vertices - 1) / (self.resolution - 1) * 2 - 1).float()
        colors = torch.cat([model.query(planes, part[None])[1][0] for part in points.split(chunk)])
        return points, faces, colors

    return run


class Planes:
  """Row `planes`."""

  chunks = (0,)

  def __init__(self, name, sizes):
    from flax import nnx
    import numpy as np

    from bench import typical
    from lrm_jax.configs import base
    from lrm_jax.models import registry

    del name
    self.config = typical.small_model_config() if sizes is SMOKE else base.get_config()
    self.config.model.dtype = 'float32'
    self.model = registry.build_model(self.config.model.to_dict(), nnx.Rngs(0))
    size = self.config.model.image_size
    self.image = np.random.default_rng(0).uniform(size=(1, size, size, 3)).astype(np.float32)

  def ours(self):
    import jax

    from lrm_jax.reconstruction.reconstructor import Reconstructor

    model = Reconstructor(self.model)
    return lambda: jax.block_until_ready(model.encode(self.image))

  def torchs(self, chunk):
    import torch

    del chunk
    model, image = as_torch(self.config, self.model), torch.from_numpy(self.image)
    self.model = None  # Frees the memory.

    def run():
      with torch.no_grad():
        return model.encode(image)

    return run


class TrainStep:
  """Row `train_step`: a quarter of the paper's widths and depths."""

  chunks = (256, 1024)  # Chunk sizes to try with PyTorch, in rays.

  def __init__(self, name, sizes):
    import numpy as np

    from lrm_jax.configs import base
    from lrm_jax.geometry import cameras

    del name
    self.config = config = base.get_config()
    config.batch_size, config.data.window = 2, 8 if sizes is SMOKE else 32
    config.loss.lpips_weight = 0.0
    config.model.update(
      dict(
        image_size=128,
        encoder_width=192,
        encoder_depth=4,
        encoder_num_heads=3,
        camera_width=256,
        decoder_width=256,
        decoder_depth=4,
        decoder_num_heads=4,
        triplane_resolution=16,
        triplane_channels=40,
        num_samples=sizes['samples'] // 2,
        remat='none',
        dtype='float32',
      )
    )
    rng = np.random.default_rng(0)
    window, views = config.data.window, 4
    poses = cameras.look_at(rng.normal(size=(2, views, 3)) * [1, 1, 0.4] + [0, -2, 0])

    def uniform(*shape):
      return rng.uniform(size=shape).astype(np.float32)

    intrinsics = np.tile(cameras.intrinsics_from_fov(50), (2, views, 1)).astype(np.float32)
    self.batch = {
      'image': uniform(2, 128, 128, 3),
      'camera_to_world': poses[:, 0].astype(np.float32),
      'intrinsics': intrinsics[:, 0],
      'target_color': uniform(2, views, window, window, 3),
      'target_opacity': uniform(2, views, window, window),
      'target_camera_to_world': poses.astype(np.float32),
      'target_intrinsics': intrinsics,
      'background': np.ones((2, views, 3), np.float32),
    }

  def _model(self):
    from flax import nnx

    from lrm_jax.models import registry

    return registry.build_model(self.config.model.to_dict(), nnx.Rngs(0))

  def ours(self):
    import jax

    from lrm_jax.distributed import accelerators
    from lrm_jax.models import registry
    from lrm_jax.training import step as step_lib
    from lrm_jax.training.optimizer import make_optimizer

    model = self._model()
    transform, schedule = make_optimizer(num_train_steps=10_000, **self.config.optimizer)
    train_step = step_lib.make_train_step(
      model,
      transform,
      schedule,
      window=self.config.data.window,
      rays_per_chunk=model.rays_that_fit(accelerators.memory(jax.local_devices()[0]), self.config.batch_size),
      loss_weights={},
    )
    step = jax.jit(train_step, donate_argnums=0)
    params = registry.parameters(model)
    guard = {'loss': jax.numpy.float32(jax.numpy.nan), 'skipped': jax.numpy.int32(0)}
    holder = [{'step': jax.numpy.int32(0), 'params': params, 'opt_state': transform.init(params), 'guard': guard}]
    batch = jax.device_put(self.batch)

    def run():
      holder[0], metrics = step(holder[0], batch, 5.0)
      jax.block_until_ready(metrics)

    return run

  def torchs(self, chunk):
    import torch

    model = as_torch(self.config, self._model()).train()
    batch = {name: torch.from_numpy(x) for name, x in self.batch.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)

    def run():
      optimizer.zero_grad(set_to_none=True)
      planes = model.encode(batch['image'], batch['camera_to_world'], batch['intrinsics'])
      pixels = model.render(
        planes,
        batch['target_camera_to_world'],
        batch['target_intrinsics'],
        self.config.data.window,
        jitter=True,
        rays_per_chunk=chunk,
      )
      torch.square(pixels.color - batch['target_color']).mean().backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()

    return run


ROWS = {
  'render': Render,
  'render_skipping': Render,
  'render_train': Render,
  'mesh_dense': Mesh,
  'mesh': Mesh,
  'planes': Planes,
  'train_step': TrainStep,
}


def measure(name: str, sizes: dict, repeats: int) -> dict:
  """Returns the results of a row."""
  row = ROWS[name](name, sizes)
  ours = row.ours()
  ours()
  best = min(row.chunks, key=lambda chunk: _seconds(row.torchs(chunk))) if len(row.chunks) > 1 else row.chunks[0]
  theirs = row.torchs(best)
  theirs()
  times = {'ours': [], 'torch': []}
  for _ in range(repeats):
    times['torch'].append(_seconds(theirs))
    times['ours'].append(_seconds(ours))
  medians = {side: statistics.median(values) for side, values in times.items()}
  del row, ours, theirs
  gc.collect()
  return {
    'ratio': medians['torch'] / medians['ours'],
    'ours_seconds': medians['ours'],
    'torch_seconds': medians['torch'],
    'torch_chunk': best,
    'repeats': repeats,
    'threads': THREADS,
    'ours_spread': max(times['ours']) / min(times['ours']),
    'torch_spread': max(times['torch']) / min(times['torch']),
  }


def _seconds(run) -> float:
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


def peak(name: str, side: str, chunk: int, sizes: dict) -> int:
  """Returns by how many bytes a second run increases the resident memory of this process."""
  row = ROWS[name](name, sizes)
  run = row.ours() if side == 'ours' else row.torchs(chunk)
  run()
  gc.collect()
  ctypes.CDLL('libc.so.6').malloc_trim(0)
  Path('/proc/self/clear_refs').write_text('5')  # Resets the peak.
  before = _status('VmRSS')
  run()
  return _status('VmHWM') - before


def _status(key: str) -> int:
  """Returns a value of /proc/self/status in bytes."""
  line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key))
  return int(line.split()[1]) * 1024


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', nargs='*', choices=NAMES, default=NAMES, help='rows to run (default: all)')
  parser.add_argument('--json', type=Path, help='file for the results')
  parser.add_argument('--repeats', type=int, default=5, help='repetitions of each measurement (default: 5)')
  parser.add_argument('--smoke', action='store_true', help='runs tiny sizes, to test this script')
  parser.add_argument('--peak', nargs=3, metavar=('NAME', 'SIDE', 'CHUNK'), help=argparse.SUPPRESS)
  args = parser.parse_args()
  sizes = SMOKE if args.smoke else SIZES
  if args.peak:
    print(peak(args.peak[0], args.peak[1], int(args.peak[2]), sizes))
    return
  results = {}
  print(
    f'{"":16}{"ratio":>8}{"ours, s":>10}{"PyTorch, s":>12}{"chunk":>8}{"ours, MB":>10}{"PyTorch, MB":>13}   '
    f'{THREADS} threads, medians of {args.repeats}'
  )
  for name in args.only:
    result = measure(name, sizes, args.repeats)
    for side in ('ours', 'torch'):
      command = [sys.executable, __file__, '--peak', name, side, str(result['torch_chunk'])]
      if args.smoke:
        command.append('--smoke')
      done = subprocess.run(command, capture_output=True, text=True, check=True)
      result[f'{side}_peak_bytes'] = int(done.stdout.split()[-1])
    results[name] = result
    peaks = f'{result["ours_peak_bytes"] / 1e6:10.0f}{result["torch_peak_bytes"] / 1e6:13.0f}'
    print(
      f'{name:16}{result["ratio"]:8.2f}{result["ours_seconds"]:10.3f}{result["torch_seconds"]:12.3f}'
      f'{result["torch_chunk"]:8}{peaks}',
      flush=True,
    )
    if args.json:
      args.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  main()
