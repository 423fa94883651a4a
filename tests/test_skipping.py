"""Skipping unseen samples: renderings have a PSNR above 45 dB to the full rendering and need fewer evaluations."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrm_jax
from lrm_jax.datasets.records import open_split
from lrm_jax.evaluation import image_metrics
from lrm_jax.geometry import cameras, images, rays
from lrm_jax.models import registry, renderer, skipping
from tests.conftest import TINY_MODEL
from tests.test_sources import OPENLRM, TRIPOSR

EMBEDDED = 'data/embedded/object_views/1.0.0'


def ball(points, radius=0.5):
  """Returns density and colour of an opaque ball, coloured by position."""
  density = 300 * jax.nn.sigmoid(100 * (radius - jnp.linalg.norm(points, axis=-1)))
  return density, jnp.clip(points / 2 + 0.5, 0, 1)


@pytest.fixture(scope='module')
def view():
  """Returns (origins, directions, distances, delta) of a view with 24 x 24 rays of 40 samples."""
  pose, intrinsics = cameras.look_at([1.0, -1.6, 0.6]), cameras.intrinsics_from_fov(60)
  flat = [
    x.reshape(-1, 3) for x in rays.pixel_rays(jnp.array(pose, jnp.float32), jnp.array(intrinsics, jnp.float32), 24)
  ]
  return *flat, *renderer.bins(*flat, None, num_samples=40)


def seen(pixels):
  """Returns {name: array} of what a renderer that skips samples computes too."""
  return {name: getattr(pixels, name) for name in ('color', 'depth', 'opacity')}


def test_march_skipping_equals_march_if_everything_is_occupied(view):
  def everywhere(points):
    return jnp.ones(points.shape[:-1], bool)

  def haze(points):
    return (0.3 * ball(points)[0] / 300, ball(points)[1])

  pixels = skipping.march_skipping(haze, everywhere, *view)
  for name, expected in seen(renderer.march(haze, *view)).items():
    np.testing.assert_allclose(getattr(pixels, name), expected, rtol=1e-5, atol=1e-5)


def test_field_is_evaluated_only_near_the_visible_surface(view, monkeypatch):
  axis = jnp.linspace(-1, 1, skipping.GRID + 1)
  density, _ = ball(jnp.stack(jnp.meshgrid(axis, axis, axis, indexing='ij'), axis=-1))
  cells = skipping.occupied_cells(density, 1e-3)
  evaluated = []

  def counted(points):
    jax.debug.callback(evaluated.append, len(points))
    return ball(points)

  monkeypatch.setattr(skipping, '_BATCH', 64)
  pixels = skipping.march_skipping(counted, lambda points: skipping.is_occupied(cells, points), *view)
  jax.effects_barrier()
  for name, expected in seen(renderer.march(ball, *view)).items():
    np.testing.assert_allclose(getattr(pixels, name), expected, atol=3e-3)
  assert sum(evaluated) < 0.25 * view[2].size


def test_cells_near_dense_points_are_occupied():
  density = jnp.zeros((9, 9, 9)).at[4, 4, 4].set(1.0)
  cells = skipping.occupied_cells(density, 0.5)
  assert cells.shape == (8, 8, 8)
  np.testing.assert_array_equal(np.argwhere(cells).min(0), 2)
  np.testing.assert_array_equal(np.argwhere(cells).max(0), 5)
  where = skipping.is_occupied(cells, jnp.array([[0.0, 0.0, 0.0], [0.45, 0.0, 0.0], [0.55, 0.0, 0.0], [3.0, 0.0, 0.0]]))
  assert where.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
  'sizes', [TINY_MODEL | {'half_size': 0.8}, pytest.param(TRIPOSR, marks=pytest.mark.slow)], ids=['lrm', 'triposr']
)
def test_models_skip_unseen_samples(sizes, rng):
  model = registry.build_model(sizes, nnx.Rngs(0))
  planes = jnp.asarray(rng.normal(size=(2, 3, 8, 8, 6)) * 3, jnp.float32)
  poses = jnp.asarray(
    cameras.look_at([[[1.0, -1.5, 0.5], [0.2, 0.3, 0.1]]] * 2), jnp.float32
  )  # The second camera is inside the cube.
  intrinsics = jnp.tile(jnp.array([1.0, 1.0, 0.5, 0.5]), (2, 2, 1))
  full, skipped = (model.render(planes, poses, intrinsics, 16, skip=skip) for skip in (False, True))
  assert image_metrics.psnr(np.asarray(skipped.color), np.asarray(full.color)).min() > 45
  np.testing.assert_allclose(skipped.depth, full.depth, atol=0.02)


@pytest.mark.slow
def test_openlrm_never_skips_samples(rng):
  model = registry.build_model(OPENLRM, nnx.Rngs(0))
  planes = jnp.asarray(rng.normal(size=(1, 3, 8, 8, 6)), jnp.float32)
  pose, intrinsics = jnp.asarray(cameras.look_at([[[1.0, -1.5, 0.5]]]), jnp.float32), jnp.full((1, 1, 4), 0.5)
  full, skipped = (model.render(planes, pose, intrinsics, 8, skip=skip) for skip in (False, True))
  np.testing.assert_array_equal(skipped.color, full.color)


@pytest.mark.slow
def test_shipped_model_skips_with_psnr_above_45_db():
  model = lrm_jax.from_pretrained('quickstart')
  source = open_split(EMBEDDED, 'test')
  inputs = [images.resize(images.decode(source[i]['views'][0]), model.image_size) for i in (2, 12, 30)]
  planes = model.encode(images.over(np.stack(inputs), 1.0))
  cameras_ = [np.repeat(x, 3, axis=0) for x in model.turntable(4)]
  full, skipped = (model.render(planes, *cameras_, size=48, skip=skip) for skip in (False, True))
  assert image_metrics.psnr(skipped.color, full.color).min() > 45
