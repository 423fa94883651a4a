"""Models exported to plain PyTorch give the same image tokens, planes, point values and pixels, within 1e-4.

Skipped if PyTorch is not installed; install it with pip install '.[torch]'.
"""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import lrm_jax
from lrm_jax.export import export
from lrm_jax.geometry import cameras
from tests.conftest import TINY_MODEL, load_torch_lrm
from tests.test_sources import OPENLRM, TRIPOSR, random_run

torch = pytest.importorskip('torch', reason="PyTorch is not installed: pip install '.[torch]'")

DINOV2 = dict(encoder='dinov2', encoder_width=32)
MODELS = {  # TINY_MODEL has images of 16 px and patches of 8 px: 2 x 2 patches, and a position table of 2 x 2.
  'lrm': TINY_MODEL,
  'lrm_table_up': TINY_MODEL | dict(image_size=40, encoder_interpolate_offset=0.1, encoder_norm_epsilon=1e-12),
  'lrm_table_down': TINY_MODEL
  | dict(encoder_table_size=5, density_scale=3.0, color_padding=0.01, plane_axes=('xy', 'xz', 'zy'), nerf_depth=4)
  | dict(half_size=0.65),
  'lrm_dinov2': TINY_MODEL | DINOV2 | dict(encoder_table_size=5),
  'lrm_dinov2_registers': TINY_MODEL | DINOV2 | dict(encoder_table_size=5, encoder_registers=4),
  'openlrm': OPENLRM | dict(num_samples=16, image_size=24),
  'openlrm_dinov2': OPENLRM | DINOV2 | dict(encoder_registers=4, encoder_table_size=3),
  'triposr': TRIPOSR | dict(image_size=24),
}


@pytest.fixture(scope='module', params=MODELS)
def pair(request, tmp_path_factory):
  """Returns (JAX model, PyTorch model) with the same random parameters."""
  folder = tmp_path_factory.mktemp(request.param)
  run = random_run(MODELS[request.param], folder / 'run')
  return lrm_jax.from_pretrained(run), load_torch_lrm(export(run, folder / 'out', format='torch'))


def assert_close(found, expected, bound=1e-4):
  """Compares a PyTorch tensor with a JAX array, relative to the largest value of the array."""
  found, expected = found.detach().numpy(), np.asarray(expected)
  assert found.shape == expected.shape
  np.testing.assert_allclose(found, expected, rtol=0, atol=bound * max(np.abs(expected).max(), 1e-3))


def images_and_planes(pair, rng):
  """Returns random images and their planes, computed in JAX and in PyTorch."""
  jax_model, torch_model = pair
  images = rng.uniform(size=(2, jax_model.image_size, jax_model.image_size, 3)).astype(np.float32)
  return images, np.asarray(jax_model.encode(images)), torch_model.encode(torch.from_numpy(images))


def test_image_tokens_and_planes(pair, rng):
  jax_model, torch_model = pair
  images, jax_planes, torch_planes = images_and_planes(pair, rng)
  assert_close(torch_model.encoder(torch.from_numpy(images)), jax_model.model.encoder(jnp.asarray(images)))
  assert_close(torch_planes, jax_planes)
  assert np.abs(jax_planes).max() > 0.1
  other = cameras.look_at([[1.0, -1.5, 0.5], [0.3, 2.0, 0.1]]).astype(np.float32)
  intrinsics = np.array([[1.0, 1.1, 0.4, 0.6]] * 2, np.float32)
  assert_close(
    torch_model.encode(*map(torch.from_numpy, (images, other, intrinsics))), jax_model.encode(images, other, intrinsics)
  )


def test_density_and_colour_inside_and_outside_the_cube(pair, rng):
  jax_model, torch_model = pair
  _, planes, _ = images_and_planes(pair, rng)
  points = rng.uniform(-1.3, 1.3, (2, 200, 3)).astype(np.float32)
  for a, b in zip(torch_model.query(*map(torch.from_numpy, (planes.copy(), points))), jax_model.query(planes, points)):
    assert_close(a, b)


def test_pixels(pair, rng):
  jax_model, torch_model = pair
  planes = images_and_planes(pair, rng)[1].copy()
  planes *= {'LRM': 1.0, 'OpenLRM': 0.3, 'TripoSR': 4.0}[type(torch_model).__name__] / planes.std()
  poses = np.stack([cameras.look_at([[0.0, -2.0, 0.0], [1.2, 1.0, 0.8], [0.4, 0.3, 0.1]])] * 2).astype(np.float32)
  intrinsics = np.tile(np.array([1.0, 1.1, 0.5, 0.45], np.float32), (2, 3, 1))
  for background in (1.0, rng.uniform(size=(2, 3, 3)).astype(np.float32)):
    expected = jax_model.render(planes, poses, intrinsics, size=16, background=background)
    if not isinstance(background, float):
      background = torch.from_numpy(background)
    with torch.no_grad():
      found = torch_model.render(
        *map(torch.from_numpy, (planes, poses, intrinsics)), 16, background, rays_per_chunk=100
      )
    for a, b in zip(found, expected):
      assert_close(a, b)
  assert np.ptp(np.asarray(expected.opacity)) > 0.1, 'the views must have empty and opaque pixels'


def test_jitter_averages_out_and_all_parameters_get_gradients(pair, rng):
  _, torch_model = pair
  images, _, _ = images_and_planes(pair, rng)
  pose = torch.from_numpy(cameras.look_at([[[1.2, 1.0, 0.8]]] * 2).astype(np.float32))
  intrinsics = torch.tensor([1.0, 1.0, 0.5, 0.5]).expand(2, 1, 4)
  planes = torch_model.encode(torch.from_numpy(images))
  plain = torch_model.render(planes, pose, intrinsics, 12)
  noisy = torch.stack([torch_model.render(planes, pose, intrinsics, 12, jitter=True).color for _ in range(4)])
  assert (noisy[0] - noisy[1]).abs().max() > 0 and (noisy.mean(0) - plain.color).abs().mean() < 0.1
  torch_model.zero_grad()
  noisy.square().mean().backward()
  without_gradient = [
    name for name, x in torch_model.named_parameters() if x.grad is None or not x.grad.isfinite().all()
  ]
  assert all(name.startswith('pooler.') for name in without_gradient), without_gradient


def test_exported_model_runs_without_lrm_jax(tmp_path):
  """Runs the shipped model in a process that cannot import lrm_jax, JAX, Flax or safetensors."""
  out = export('demo', tmp_path / 'out', format='torch')
  jax_model = lrm_jax.from_pretrained('demo')
  image = np.linspace(0, 1, jax_model.image_size**2 * 3, dtype=np.float32).reshape(
    1, jax_model.image_size, jax_model.image_size, 3
  )
  pose, intrinsics = jax_model.turntable(3)
  expected = jax_model.render(jax_model.encode(image), pose, intrinsics, size=32)
  code = (
    'import sys, torch; import torch_lrm\n'
    'class RejectImports:\n'
    '  def find_spec(self, name, *rest):\n'
    '    assert name.split(".")[0] not in ("jax", "lrm_jax", "flax", "safetensors"), name\n'
    'sys.meta_path.insert(0, RejectImports())\n'
    f'model = torch_lrm.load({str(out)!r}); s = model.image_size\n'
    'image = torch.linspace(0, 1, s * s * 3).reshape(1, s, s, 3)\n'
    f'pose, intrinsics = torch.tensor({pose.tolist()}), torch.tensor({intrinsics.tolist()})\n'
    'with torch.no_grad(): views = model.render(model.encode(image), pose, intrinsics, 32)\n'
    'print(" ".join(f"{x:.6f}" for x in views.color.flatten()))\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', code],
    cwd=out,
    env=os.environ | {'PYTHONPATH': str(out)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  views = np.array(result.stdout.split(), np.float32).reshape(expected.color.shape)
  np.testing.assert_allclose(views, expected.color, atol=1e-4)
