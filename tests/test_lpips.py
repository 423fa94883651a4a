"""LPIPS: a distance between pictures, equal to its definition computed plainly in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax.models import lpips

CHANNELS = (64, 128, 256, 512, 512)
# The network is an argument: constants of this size take long to compile.
compare = jax.jit(lambda network, x, y: network(x, y))


@pytest.fixture(scope='module')
def weights():
  """Random weights in the published names and shapes; heads are not negative, as the trained ones."""
  rng = np.random.default_rng(0)
  result, inputs = {}, 3
  for stage, outputs in zip(lpips.STAGES, CHANNELS):
    for layer in stage:
      kernel = rng.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
      result[f'features.{layer}.weight'] = kernel * np.float32(np.sqrt(2 / (9 * inputs)))
      result[f'features.{layer}.bias'] = 0.1 * rng.standard_normal(outputs, dtype=np.float32)
      inputs = outputs
  return result | {
      f'lin{k}.model.1.weight': rng.uniform(0, 1, (1, c, 1, 1)).astype(np.float32) for k, c in enumerate(CHANNELS)}


@pytest.fixture(scope='module')
def distance(weights):
  return functools.partial(compare, lpips.LPIPS(weights))


@pytest.fixture(scope='module')
def pictures():
  return np.random.default_rng(1).uniform(size=(2, 2, 20, 18, 3)).astype(np.float32)


def plain_lpips(weights, x, y):
  """Returns the distance of two pictures [H, W, 3], as the paper defines it, in float64."""
  shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
  x, y = (2 * np.stack([x, y]).astype(np.float64) - 1 - shift) / scale
  total, pair = 0.0, np.stack([x, y])
  for k, stage in enumerate(lpips.STAGES):
    if k:
      height, width = pair.shape[1] // 2 * 2, pair.shape[2] // 2 * 2
      quarters = [pair[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
      pair = np.max(quarters, axis=0)
    for layer in stage:
      padded = np.pad(pair, ((0, 0), (1, 1), (1, 1), (0, 0)))
      windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
      kernel = weights[f'features.{layer}.weight']
      pair = np.tensordot(windows, kernel, axes=((3, 4, 5), (1, 2, 3))) + weights[f'features.{layer}.bias']
      pair = np.maximum(pair, 0)
    unit = pair / np.linalg.norm(pair, axis=-1, keepdims=True)
    head = weights[f'lin{k}.model.1.weight'].reshape(-1)
    total += np.mean(np.square(unit[0] - unit[1]) @ head)
  return total


def test_it_is_the_distance_of_the_paper(weights, distance, pictures):
  expected = [plain_lpips(weights, *pair) for pair in zip(*pictures)]
  np.testing.assert_allclose(distance(*pictures), expected, rtol=1e-4)


def test_it_is_a_distance(distance, pictures):
  x, y = pictures
  np.testing.assert_allclose(distance(x, x), 0, atol=1e-12)
  np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-6)
  slightly = distance(x, 0.95 * x + 0.05 * y)
  assert np.all(slightly > 0) and np.all(slightly < 0.5 * distance(x, y))


def test_gradients_are_finite_and_reach_only_the_pictures(weights, pictures):
  network = lpips.LPIPS(weights)
  gradient = jax.jit(jax.grad(lambda network, x, y: jnp.sum(network(x, y)), argnums=(0, 1)))
  blank = np.ones_like(pictures[0])
  for x, y in ((pictures[0], pictures[1]), (pictures[0], pictures[0]), (blank, blank), (blank, pictures[0])):
    frozen, moving = gradient(network, x, y)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(frozen))
    assert np.all(np.isfinite(moving))
    assert (np.max(np.abs(moving)) > 1e-6) == np.any(x != y)


def test_small_pictures_are_refused(distance):
  with pytest.raises(ValueError, match='at least 16 pixels, not 8 x 8'):
    distance(np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3)))


def test_weights_come_from_a_file(weights, distance, pictures, tmp_path):
  path = tmp_path / 'vgg.npz'
  np.savez(path, **weights, unused=np.zeros(2))
  np.testing.assert_allclose(compare(lpips.load_lpips(path), *pictures), distance(*pictures), rtol=1e-5)


@pytest.mark.parametrize('path', ['', 'nowhere.npz'])
def test_missing_weights_are_said_with_the_cure(path):
  with pytest.raises(ValueError, match=r'VGG16 weights.*describes.*lpips_weight=0'):
    lpips.load_lpips(path)


def test_broken_weights_are_said(weights, tmp_path):
  path = tmp_path / 'vgg.npz'
  np.savez(path, **{'features.0.weight': weights['features.0.weight']})
  with pytest.raises(ValueError, match='lacks features.0.bias'):
    lpips.load_lpips(path)
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match='only part of one'):
    lpips.load_lpips(path)
