"""The file that runs our models in plain PyTorch gives our numbers: image tokens, planes, points and pixels to 1e-4.

Skipped where PyTorch is not installed: pip install '.[torch]'.
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
MODELS = {  # TINY_MODEL has pictures of 16 px and patches of 8: 2 x 2, of a table that is made for 2 x 2.
  'lrm': TINY_MODEL,
  'lrm_table_up': TINY_MODEL | dict(image_size=40, encoder_interpolate_offset=0.1, encoder_norm_epsilon=1e-12),
  'lrm_table_down': TINY_MODEL
  | dict(encoder_table_size=5, density_scale=3.0, color_padding=0.01, plane_axes=('xy', 'xz', 'zy'), nerf_depth=4),
  'lrm_dinov2': TINY_MODEL | DINOV2 | dict(encoder_table_size=5),
  'lrm_dinov2_registers': TINY_MODEL | DINOV2 | dict(encoder_table_size=5, encoder_registers=4),
  'openlrm': OPENLRM | dict(num_samples=16, image_size=24),
  'openlrm_dinov2': OPENLRM | DINOV2 | dict(encoder_registers=4, encoder_table_size=3),
  'triposr': TRIPOSR | dict(image_size=24),
}


@pytest.fixture(scope='module', params=MODELS)
def pair(request, tmp_path_factory):
  """(our model, that of PyTorch) with the same random parameters."""
  folder = tmp_path_factory.mktemp(request.param)
  run = random_run(MODELS[request.param], folder / 'run')
  return lrm_jax.from_pretrained(run), load_torch_lrm(export(run, folder / 'out', format='torch'))


def close(theirs, ours, bound=1e-4):
  theirs, ours = theirs.detach().numpy(), np.asarray(ours)
  assert theirs.shape == ours.shape
  np.testing.assert_allclose(theirs, ours, rtol=0, atol=bound * max(np.abs(ours).max(), 1e-3))


def pictures_and_planes(pair, rng):
  ours, theirs = pair
  images = rng.uniform(size=(2, ours.image_size, ours.image_size, 3)).astype(np.float32)
  return images, np.asarray(ours.encode(images)), theirs.encode(torch.from_numpy(images))


def test_image_tokens_and_planes(pair, rng):
  ours, theirs = pair
  images, our_planes, their_planes = pictures_and_planes(pair, rng)
  close(theirs.encoder(torch.from_numpy(images)), ours.model.encoder(jnp.asarray(images)))
  close(their_planes, our_planes)
  assert np.abs(our_planes).max() > 0.1
  other = cameras.look_at([[1.0, -1.5, 0.5], [0.3, 2.0, 0.1]]).astype(np.float32)
  intrinsics = np.array([[1.0, 1.1, 0.4, 0.6]] * 2, np.float32)
  close(theirs.encode(*map(torch.from_numpy, (images, other, intrinsics))), ours.encode(images, other, intrinsics))


def test_points_inside_and_outside_of_the_cube(pair, rng):
  ours, theirs = pair
  _, planes, _ = pictures_and_planes(pair, rng)
  points = rng.uniform(-1.3, 1.3, (2, 200, 3)).astype(np.float32)
  for a, b in zip(theirs.query(*map(torch.from_numpy, (planes.copy(), points))), ours.query(planes, points)):
    close(a, b)


def test_pixels(pair, rng):
  ours, theirs = pair
  planes = pictures_and_planes(pair, rng)[1].copy()
  planes *= {'LRM': 1.0, 'OpenLRM': 0.3, 'TripoSR': 4.0}[type(theirs).__name__] / planes.std()
  poses = np.stack([cameras.look_at([[0.0, -2.0, 0.0], [1.2, 1.0, 0.8], [0.4, 0.3, 0.1]])] * 2).astype(np.float32)
  intrinsics = np.tile(np.array([1.0, 1.1, 0.5, 0.45], np.float32), (2, 3, 1))
  for background in (1.0, rng.uniform(size=(2, 3, 3)).astype(np.float32)):
    expected = ours.render(planes, poses, intrinsics, size=16, background=background)
    if not isinstance(background, float):
      background = torch.from_numpy(background)
    with torch.no_grad():
      found = theirs.render(*map(torch.from_numpy, (planes, poses, intrinsics)), 16, background, rays_per_chunk=100)
    for a, b in zip(found, expected):
      close(a, b)
  assert np.ptp(np.asarray(expected.opacity)) > 0.1, 'neither empty nor opaque all over'


def test_jitter_is_noise_around_the_same_picture_and_all_parameters_learn(pair, rng):
  _, theirs = pair
  images, _, _ = pictures_and_planes(pair, rng)
  pose = torch.from_numpy(cameras.look_at([[[1.2, 1.0, 0.8]]] * 2).astype(np.float32))
  intrinsics = torch.tensor([1.0, 1.0, 0.5, 0.5]).expand(2, 1, 4)
  planes = theirs.encode(torch.from_numpy(images))
  calm = theirs.render(planes, pose, intrinsics, 12)
  noisy = torch.stack([theirs.render(planes, pose, intrinsics, 12, jitter=True).color for _ in range(4)])
  assert (noisy[0] - noisy[1]).abs().max() > 0 and (noisy.mean(0) - calm.color).abs().mean() < 0.1
  theirs.zero_grad()
  noisy.square().mean().backward()
  still = [name for name, x in theirs.named_parameters() if x.grad is None or not x.grad.isfinite().all()]
  assert all(name.startswith('pooler.') for name in still), still


def test_the_model_that_ships_runs_without_us(tmp_path):
  """In a process that cannot import lrm_jax, JAX or NumPy's own readers: only what was written, and torch."""
  out = export('quickstart', tmp_path / 'out', format='torch')
  ours = lrm_jax.from_pretrained('quickstart')
  picture = np.linspace(0, 1, ours.image_size**2 * 3, dtype=np.float32).reshape(1, ours.image_size, ours.image_size, 3)
  pose, intrinsics = ours.turntable(3)
  expected = ours.render(ours.encode(picture), pose, intrinsics, size=32)
  code = (
    'import sys, torch; import torch_lrm\n'
    'class Refuse:\n'
    '  def find_spec(self, name, *rest):\n'
    '    assert name.split(".")[0] not in ("jax", "lrm_jax", "flax", "safetensors"), name\n'
    'sys.meta_path.insert(0, Refuse())\n'
    f'model = torch_lrm.load({str(out)!r}); s = model.image_size\n'
    'picture = torch.linspace(0, 1, s * s * 3).reshape(1, s, s, 3)\n'
    f'pose, intrinsics = torch.tensor({pose.tolist()}), torch.tensor({intrinsics.tolist()})\n'
    'with torch.no_grad(): views = model.render(model.encode(picture), pose, intrinsics, 32)\n'
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
