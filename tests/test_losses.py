"""The losses of depth, normals and of the entropy of opacity, and the depth of training examples."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from conftest import encode_png
from lrm_jax.datasets import examples
from lrm_jax.datasets.records import DEPTH_RANGE, BrokenRecordError
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, rays, volume
from lrm_jax.geometry.volume import Pixels
from lrm_jax.training import losses

RADIUS, SIZE = 0.5, 48


def sphere_depth(poses, intrinsics, size, radius):
  """Returns the distances [V, size, size] along the rays to a sphere around the origin; 0 where they miss it."""
  origins, directions = map(np.asarray, rays.pixel_rays(jnp.asarray(poses), jnp.asarray(intrinsics), size))
  middle = -np.sum(origins * directions, axis=-1)
  square = radius**2 - np.sum(origins**2, axis=-1) + middle**2
  return np.where(square > 0, middle - np.sqrt(np.maximum(square, 0)), 0)


@pytest.fixture(scope='module')
def sphere():
  """A record of a sphere with depth, seen from several distances."""
  poses = cameras.look_at(np.array([[0, -1.6, 0.3], [1.4, 1.0, 0.5], [-2.0, 0.6, -0.4], [0.3, 2.4, 0.9]]))
  intrinsics = np.tile(cameras.intrinsics_from_fov(50), (4, 1))
  depth = sphere_depth(poses.astype(np.float32), intrinsics.astype(np.float32), SIZE, RADIUS)
  views, encoded = [], []
  for view in depth:
    color = np.full((SIZE, SIZE, 3), 90)
    views.append(encode_png(np.dstack([color, 255 * (view > 0)]).astype(np.uint8)))
    stream = io.BytesIO()
    Image.fromarray(np.round(view / DEPTH_RANGE * 65535).astype(np.uint16)).save(stream, 'PNG')
    encoded.append(stream.getvalue())
  return {'uid': b'sphere', 'views': views, 'depth': encoded, 'camera_to_world': poses, 'intrinsics': intrinsics}


@pytest.mark.parametrize('keep_distance', [False, True])
@pytest.mark.parametrize('rays_of', ['window', 'foreground'])
def test_depth_of_examples_is_that_of_their_rays_in_their_world(sphere, rays_of, keep_distance):
  make = examples.MakeExample(
    image_size=16,
    window=16,
    resize_min=SIZE,
    resize_max=SIZE,
    num_side_views=2,
    with_depth=True,
    mirror=True,
    keep_distance=keep_distance,
    rays=rays_of,
    foreground_bias=1.0,
  )
  for seed in range(6):
    example = make(sphere, np.random.default_rng(seed))
    depth, poses = example['target_depth'], example['target_camera_to_world']
    assert depth.shape == (3, 16, 16) and depth.dtype == np.float32
    # The sphere was scaled with the cameras.
    distances = np.linalg.norm(poses[:, :3, 3], axis=-1)
    known = np.linalg.norm(sphere['camera_to_world'][:, :3, 3], axis=-1)
    scale = min((distances[0] / d for d in known), key=lambda s: np.abs(distances[:, None] / s - known).min(1).sum())
    expected = sphere_depth(
      poses, example['target_intrinsics'], SIZE if rays_of == 'foreground' else 16, RADIUS * scale
    )
    if rays_of == 'foreground':
      columns, rows = np.moveaxis((example['target_position'] * SIZE).astype(int), -1, 0)
      expected = np.stack([view[r, c] for view, r, c in zip(expected, rows, columns)])
    both = (depth > 0) & (expected > 0)
    assert np.mean((depth > 0) == (expected > 0)) > 0.99 and np.mean(both) > 0.2
    np.testing.assert_allclose(depth[both], expected[both], atol=2 * scale * DEPTH_RANGE / 65535)


def test_records_without_depth_are_broken_for_it(sphere):
  make = examples.MakeExample(image_size=16, window=16, resize_min=16, resize_max=16, num_side_views=1, with_depth=True)
  with pytest.raises(BrokenRecordError, match='sphere has no depth for view'):
    make({name: value for name, value in sphere.items() if name != 'depth'}, np.random.default_rng(0))


def reconstruction(opacity, depth, target_depth=None, **weights):
  shape = (1, 1, 2, 2)
  depth, opacity = (jnp.asarray(x, jnp.float32).reshape(shape) for x in (depth, opacity))
  pixels = Pixels(jnp.zeros((*shape, 3)), depth, opacity, squared_depth=jnp.square(depth))
  target = None if target_depth is None else jnp.asarray(target_depth, jnp.float32).reshape(shape)
  planes = jnp.zeros((1, 3, 2, 2, 1))
  return losses.reconstruction(pixels, jnp.zeros((*shape, 3)), jnp.zeros(shape), planes, target_depth=target, **weights)


def test_depth_loss_is_the_mean_error_where_the_target_is_not_background():
  loss, parts = reconstruction([1.0, 1, 1, 0], [2.0, 1.5, 1, 3], [2.5, 1.5, 0, 0], depth_weight=2.0)
  assert float(parts['depth']) == pytest.approx(0.5 / 4) and float(loss) == pytest.approx(0.25)
  with pytest.raises(InputError, match='depth_weight=1.0, .* need `target_depth`'):
    reconstruction([1.0, 1, 1, 0], [1.0, 1, 1, 1], depth_weight=1.0)


def test_surface_loss_is_the_mean_squared_distance_of_the_samples_to_the_surface():
  rng = np.random.default_rng(0)
  density, distances = rng.uniform(0, 5, (1, 1, 2, 2, 16)), np.sort(rng.uniform(1, 3, (1, 1, 2, 2, 16)))
  density, distances = jnp.asarray(density, jnp.float32), jnp.asarray(distances, jnp.float32)
  pixels = volume.composite(density, jnp.zeros((*density.shape, 3)), distances, jnp.full((1, 1, 2, 2, 1), 0.1))
  target = jnp.asarray([[[[2.0, 1.5], [0.0, 2.5]]]])
  _, parts = losses.reconstruction(
    pixels, pixels.color, pixels.opacity, jnp.zeros((1, 3, 2, 2, 1)), target_depth=target, surface_weight=1.0
  )
  weights = np.asarray(volume.ray_weights(density, jnp.full((1, 1, 2, 2, 1), 0.1)))
  squares = np.sum(weights * (np.asarray(distances) - np.asarray(target)[..., None]) ** 2, axis=-1)
  squares += 1 - weights.sum(axis=-1)  # What passes counts as seen at a distance of 1.
  assert float(parts['surface']) == pytest.approx(np.sum(squares, where=np.asarray(target) > 0) / 4, rel=1e-4)


def test_surface_loss_sees_fog_that_the_depth_loss_does_not():
  def loss(squared_depth, **weights):
    shape = (1, 1, 1, 1)
    pixels = Pixels(jnp.zeros((*shape, 3)), jnp.full(shape, 2.0), jnp.ones(shape), jnp.full(shape, squared_depth))
    planes = jnp.zeros((1, 3, 2, 2, 1))
    return float(
      losses.reconstruction(pixels, pixels.color, pixels.opacity, planes, target_depth=jnp.full(shape, 2.0), **weights)[
        0
      ]
    )

  fog = (1.5**2 + 2.5**2) / 2
  assert loss(4.0, surface_weight=1.0) == pytest.approx(0, abs=1e-6) == loss(fog, depth_weight=1.0)
  assert loss(fog, surface_weight=1.0) == pytest.approx(0.25)


@pytest.fixture(scope='module')
def seen():
  """A function of the image size that returns (directions, depth) of a sphere of radius 0.8, seen from 2 units away."""

  def make(size):
    poses, intrinsics = jnp.eye(4).at[2, 3].set(2.0), jnp.array([1.0, 1.0, 0.5, 0.5])
    depth = sphere_depth(poses[None], intrinsics[None], size, 0.8)[0]
    return rays.pixel_rays(poses, intrinsics, size)[1], jnp.asarray(depth, jnp.float32)

  return make


def test_normals_of_depth_are_those_of_a_sphere(seen):
  directions, depth = seen(128)
  expected = (depth[..., None] * directions + jnp.array([0, 0, 2.0]))[2:-2, 2:-2] / 0.8
  inside = (depth[2:-2, 2:-2] > 0) & (-jnp.sum(expected * directions[2:-2, 2:-2], axis=-1) > 0.4)
  cosine = np.asarray(jnp.sum(losses.normals(depth, directions) * expected, axis=-1))[np.asarray(inside)]
  assert cosine.size > 1000 and cosine.min() > 0.99 and cosine.max() < 1.001


def normal_error(rendered, depth, directions, opacity=1.0):
  opacity = jnp.full(rendered.shape, opacity)
  return losses.normal_error(Pixels(directions, rendered * opacity, opacity), depth, directions)


def test_normal_error_ignores_the_distance_and_sees_the_slope(seen):
  directions, depth = seen(32)
  assert float(normal_error(depth, depth, directions, opacity=0.5)) == pytest.approx(0, abs=1e-6)
  assert float(normal_error(1.1 * depth, depth, directions)) == pytest.approx(0, abs=1e-6)  # a similar surface
  plane = -1.5 / directions[..., 2]
  assert float(normal_error(plane, depth, directions)) > 0.02
  # A plane that is tilted by 30 degrees against the true one has 1 - cos(30) at all pixels but the border.
  tilted = 1.5 / (directions @ jnp.array([np.sin(np.pi / 6), 0.0, -np.cos(np.pi / 6)], jnp.float32))
  share = (28 / 32) ** 2
  assert float(normal_error(tilted, plane, directions)) == pytest.approx(share * (1 - np.cos(np.pi / 6)), rel=1e-3)


def test_normal_error_has_finite_gradients_and_none_across_edges(seen):
  directions, depth = seen(32)

  def loss(rendered, opacity):
    return losses.normal_error(Pixels(directions, rendered, opacity), target, directions)

  target = jnp.where(depth > 0, depth, 8.0)  # something round behind the sphere
  assert float(loss(target, jnp.ones(depth.shape))) == pytest.approx(0, abs=1e-6)
  assert float(loss(jnp.where(depth > 0, depth, 6.0), jnp.ones(depth.shape))) == pytest.approx(0, abs=1e-6)
  noise = 0.01 * np.random.default_rng(0).normal(size=depth.shape).astype(np.float32)
  value, slope = jax.value_and_grad(loss)(target + noise, jnp.ones(depth.shape))
  assert float(value) > 0 and np.isfinite(slope).all() and np.any(slope)
  gradients = jax.grad(loss, argnums=(0, 1))(jnp.zeros(depth.shape), jnp.zeros(depth.shape))
  assert all((np.asarray(x) == 0).all() for x in gradients)  # An empty render is the business of the other terms.


def test_surface_loss_is_not_smaller_without_a_surface():
  """Fog around the surface, up to half a unit from it, is better than nothing: density there gets a gradient."""

  def loss(opacity):
    fog = opacity * (1.5**2 + 2.5**2) / 2
    depth, opacity, squared_depth, target = (jnp.full((1, 1, 1, 1), x) for x in (2 * opacity, opacity, fog, 2.0))
    pixels, planes = Pixels(jnp.zeros((1, 1, 1, 1, 3)), depth, opacity, squared_depth), jnp.zeros((1, 3, 2, 2, 1))
    return losses.reconstruction(pixels, pixels.color, opacity, planes, target_depth=target, surface_weight=1.0)[0]

  assert float(loss(0.0)) == pytest.approx(1) and float(loss(1.0)) == pytest.approx(0.25)
  assert float(jax.grad(loss)(0.0)) == pytest.approx(-0.75)


def test_entropy_of_opacity_is_largest_in_fog_and_zero_without():
  def entropy(opacity):
    return float(reconstruction(opacity, [1.0] * 4, opacity_entropy_weight=1.0)[0])

  assert entropy([0.5] * 4) == pytest.approx(np.log(2), rel=1e-5)
  assert entropy([0.0, 1.0, 0.0, 1.0]) < 0.01
  assert entropy([0.2] * 4) == pytest.approx(-0.2 * np.log(0.2) - 0.8 * np.log(0.8), rel=1e-5)
