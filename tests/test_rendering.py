"""Properties of rays, volume rendering, triplane sampling and the ray marcher."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax.distributed import backend
from lrm_jax.geometry import cameras, rays, volume
from lrm_jax.models import renderer, triplane
from lrm_jax.models.nerf import NeRFMLP
from lrm_jax.models.triposr import bounded_exp
from lrm_jax.training import losses


def test_points_on_rays_project_to_the_pixel_centres(rng):
  pose = cameras.look_at([1.0, -1.8, 0.7])
  intrinsics = np.array([0.9, 1.1, 0.45, 0.52])
  origins, directions = rays.pixel_rays(jnp.array(pose, jnp.float32), jnp.array(intrinsics, jnp.float32), 8)
  points = np.asarray(origins + 1.7 * directions).reshape(-1, 3)
  pixels, _ = cameras.project(points, pose, intrinsics)
  row, column = np.meshgrid(np.arange(8), np.arange(8), indexing='ij')
  np.testing.assert_allclose(pixels.reshape(8, 8, 2) * 8, np.stack([column, row], -1) + 0.5, atol=1e-4)
  np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)
  at_centres = rays.rays_at(*(jnp.array(x, jnp.float32) for x in (pose, intrinsics, pixels.reshape(8, 8, 2))))
  np.testing.assert_allclose(at_centres, (origins, directions), atol=1e-5)


@pytest.mark.parametrize(
  'origin, direction, near, far',
  [
    ((0, -2, 0), (0, 1, 0), 1, 3),
    ((0, 0, 0), (0, 0, 1), 0, 1),  # Starts inside.
    ((0, -2, 3), (0, 1, 0), 0, 0),  # Misses, parallel to a face.
    ((0, -2, 0), (0, -1, 0), 0, 0),  # Points away from the cube.
    ((-2, -2, 0), (2**-0.5, 2**-0.5, 0), 2**0.5, 3 * 2**0.5),  # From edge to edge.
  ],
)
def test_intersect_cube_returns_entry_and_exit_distances(origin, direction, near, far):
  result = rays.intersect_cube(jnp.array(origin, jnp.float32), jnp.array(direction, jnp.float32))
  np.testing.assert_allclose(result, (near, far), atol=1e-4)


def test_samples_are_bin_midpoints_or_stratified(rng):
  near, far = jnp.array([1.0, 0.0]), jnp.array([3.0, 0.0])
  middle, delta = rays.sample_distances(near, far, 4)
  np.testing.assert_allclose(middle, [[1.25, 1.75, 2.25, 2.75], [0] * 4])
  np.testing.assert_allclose(delta, [[0.5], [0]])
  drawn, _ = rays.sample_distances(near, far, 4, jax.random.key(0))
  edges = 1 + 0.5 * np.arange(5)
  assert np.all(drawn[0] >= edges[:-1]) and np.all(drawn[0] <= edges[1:])


def test_weights_of_pixels_weight_the_errors_of_their_means(rng):
  color, target, opacity, mask, weight = (
    jnp.array(rng.uniform(size=(1, 2, 3, 3, *shape)), jnp.float32) for shape in ((3,), (3,), (), (), ())
  )
  weights = dict(mask_weight=1.0, mask_entropy_weight=1.0)
  pixels, planes = volume.Pixels(color, opacity, opacity), jnp.zeros((1, 3, 2, 2, 4))
  _, parts = losses.reconstruction(pixels, target, mask, planes, pixel_weight=weight, **weights)
  np.testing.assert_allclose(parts['mse'], np.mean(weight[..., None] * (color - target) ** 2), rtol=1e-5)
  np.testing.assert_allclose(parts['mask'], np.mean(weight * (opacity - mask) ** 2), rtol=1e-5)
  _, equal = losses.reconstruction(pixels, target, mask, planes, pixel_weight=jnp.ones_like(weight), **weights)
  _, without = losses.reconstruction(pixels, target, mask, planes, **weights)
  for name, value in without.items():
    np.testing.assert_allclose(value, equal[name], rtol=1e-5)


def test_weights_and_background_sum_to_one(rng):
  density = jnp.array(rng.exponential(3, (7, 16)), jnp.float32)
  color = jnp.array(rng.uniform(size=(7, 16, 3)), jnp.float32)
  distances = jnp.sort(jnp.array(rng.uniform(1, 3, (7, 16)), jnp.float32))
  pixels = volume.composite(density, color, distances, jnp.full((7, 1), 0.1))
  np.testing.assert_allclose(volume.ray_weights(density, jnp.full((7, 1), 0.1)).sum(-1), pixels.opacity, atol=1e-6)
  white = volume.composite(density, jnp.ones_like(color), distances, jnp.full((7, 1), 0.1))
  np.testing.assert_allclose(volume.over(white, 1.0).color, 1, atol=1e-6)


def test_homogeneous_fog_has_analytic_opacity():
  pixels = volume.composite(jnp.full((1, 50), 0.7), jnp.ones((1, 50, 3)), jnp.ones((1, 50)), jnp.full((1, 1), 2 / 50))
  np.testing.assert_allclose(pixels.opacity, 1 - np.exp(-0.7 * 2), rtol=1e-5)


def test_opaque_wall_has_correct_depth():
  density = jnp.where(jnp.arange(64) >= 32, 1e4, 0.0)[None]
  distances = 1 + 2 * (jnp.arange(64)[None] + 0.5) / 64
  pixels = volume.composite(density, jnp.ones((1, 64, 3)), distances, jnp.full((1, 1), 2 / 64))
  np.testing.assert_allclose(pixels.depth, 2, atol=0.02)


def test_sampling_reproduces_a_linear_field(rng):
  size = 8
  centre = (np.arange(size) + 0.5) / size * 2 - 1
  u, v = np.meshgrid(centre, centre)  # u runs along the width.
  planes = jnp.array(np.stack([np.stack([u, v], -1)] * 3), jnp.float32)
  points = jnp.array(rng.uniform(-0.85, 0.85, (50, 3)), jnp.float32)
  features = triplane.sample_concatenated(planes, points)
  np.testing.assert_allclose(features, points[:, jnp.array([0, 1, 0, 2, 1, 2])], atol=1e-5)


@pytest.mark.parametrize('axes', [triplane.PLANE_AXES, ((0, 1), (0, 2), (2, 1))])
@pytest.mark.parametrize('form', triplane.PLANE_GRADIENTS)
def test_gradient_of_sample_sum_equals_gradient_of_summed_sample_concatenated(axes, form, rng, monkeypatch):
  monkeypatch.setenv('LRM_JAX_PLANE_GRADIENT', form)
  planes = jnp.array(rng.normal(size=(3, 5, 5, 4)), jnp.float32)
  points = jnp.array(rng.uniform(-1.3, 1.3, (6, 50, 3)), jnp.float32)  # Some are in the frame, some outside of it.
  weight = jnp.array(rng.normal(size=(6, 50, 4)), jnp.float32)

  def summed(planes, points):
    return jnp.sum(weight * triplane.sample_sum(planes, points, axes))

  def reference(planes, points):
    return jnp.sum(weight * triplane.sample_concatenated(planes, points, axes).reshape(6, 50, 3, 4).sum(2))

  for a, b in zip(jax.grad(summed, (0, 1))(planes, points), jax.grad(reference, (0, 1))(planes, points)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('form', triplane.PLANE_GRADIENTS)
def test_gradients_of_bfloat16_planes_are_accumulated_in_float32(form, rng, monkeypatch):
  monkeypatch.setenv('LRM_JAX_PLANE_GRADIENT', form)
  planes = jnp.array(rng.normal(size=(3, 5, 5, 4)), jnp.float32)
  points = jnp.array(rng.uniform(-1, 1, (5000, 3)), jnp.float32)

  def loss(planes):
    return jnp.sum(jnp.sin(triplane.sample_sum(planes, points)))

  half = planes.astype(jnp.bfloat16)
  gradient = jax.grad(loss)(half)
  assert gradient.dtype == jnp.bfloat16
  # Each texel accumulates thousands of small values, which a sum in bfloat16 would lose.
  np.testing.assert_allclose(
    gradient.astype(jnp.float32), jax.grad(loss)(half.astype(jnp.float32)), rtol=2**-7, atol=0.05
  )


def test_features_are_zero_outside_the_cube(rng):
  planes = jnp.ones((3, 4, 4, 2))
  outside = triplane.sample_sum(planes, jnp.array([[2.0, 2.0, 2.0], [-9, 9, 5]]))
  np.testing.assert_array_equal(outside, 0)


def test_folded_nerf_equals_unfolded_nerf(rng):
  nerf = NeRFMLP(6, 16, 4, density_scale=3.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
  nerf.first.bias[...] = jnp.array(rng.normal(size=16), jnp.float32)
  planes = jnp.array(rng.normal(size=(3, 5, 5, 6)), jnp.float32)
  points = jnp.array(rng.uniform(-1.1, 1.1, (100, 3)), jnp.float32)
  folded = nerf.after_first(triplane.sample_sum(nerf.fold(planes), points))
  unfolded = nerf(triplane.sample_concatenated(planes, points))
  for a, b in zip(folded, unfolded):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def field(points):
  """Returns density and colour of a red ball of radius 0.5 with a nearly sharp edge."""
  density = 400 * jax.nn.sigmoid(200 * (0.5 - jnp.linalg.norm(points + 1e-6, axis=-1)))
  return density, jnp.broadcast_to(jnp.array([1.0, 0, 0]), points.shape)


def test_rendered_ball_has_correct_outline_and_depth():
  origins, directions = rays.pixel_rays(
    jnp.array(cameras.input_camera(), jnp.float32), jnp.array(cameras.intrinsics_from_fov(50), jnp.float32), 33
  )

  def march(o, d):
    return renderer.march(field, o, d, *renderer.bins(o, d, None, num_samples=128))

  pixels = jax.vmap(march)(origins, directions)
  assert pixels.opacity[16, 16] > 0.99 and pixels.opacity[0, 0] < 0.01
  np.testing.assert_allclose(pixels.depth[16, 16], 1.5, atol=0.05)
  outline = np.asarray(pixels.opacity[16] > 0.5).sum() / 33
  truth = (
    2 * 0.5 / np.sqrt(2**2 - 0.5**2) * cameras.intrinsics_from_fov(50)[0]
  )  # Width of the tangent cone in the image.
  assert abs(outline - truth) < 1.5 / 33


def tracer(after_first):
  """Returns a `trace` function for render_rays: the pixels of rays through one object's folded planes."""

  def trace(planes, origins, directions, keys):
    def field(points):
      return after_first(triplane.sample_sum(planes, points))

    return renderer.march(field, origins, directions, *renderer.bins(origins, directions, keys, num_samples=8))

  return trace


def test_rendering_does_not_depend_on_chunk_size(rng):
  planes = jnp.array(rng.normal(size=(2, 3, 5, 5, 16)), jnp.float32)
  nerf = NeRFMLP(6, 16, 3, density_scale=3.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
  origins = jnp.tile(jnp.array([0.0, -2, 0]), (2, 50, 1))
  directions = jnp.array(rng.normal(size=(2, 50, 3)) * 0.2 + [0, 1, 0], jnp.float32)
  trace = tracer(nerf.after_first)

  def render(chunk):
    return renderer.render_rays(planes, trace, origins, directions, rays_per_chunk=chunk, num_samples=8)

  for a, b in zip(render(50), render(7)):
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_rendering_objects_sequentially_equals_rendering_them_together(rng, monkeypatch):
  planes = jnp.array(rng.normal(size=(2, 3, 5, 5, 16)), jnp.float32)
  nerf = NeRFMLP(6, 16, 3, density_scale=3.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
  origins = jnp.tile(jnp.array([0.0, -2, 0]), (2, 20, 1))
  directions = jnp.array(rng.normal(size=(2, 20, 3)) * 0.2 + [0, 1, 0], jnp.float32)

  def loss(planes, after_first):
    pixels = renderer.render_rays(
      planes, tracer(after_first), origins, directions, jax.random.key(0), rays_per_chunk=6, num_samples=8
    )
    return jnp.sum(pixels.color * jnp.array([1.0, 2.0, 3.0])) + pixels.depth[:, ::2].sum(), pixels

  results = []
  for alone in (True, False):
    form = dataclasses.replace(backend.current(), one_object_at_a_time=alone)
    monkeypatch.setattr(backend, 'current', lambda form=form: form)
    results.append(jax.value_and_grad(loss, has_aux=True)(planes, nerf.after_first))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


@pytest.mark.parametrize(
  'origin, direction',
  [
    ((0, -2, 3), (0, 1, 0)),  # Misses.
    ((0.1, 0.2, 0.3), (0.6, 0.8, 0)),  # Starts inside.
    ((0, -2, 0), (0, 1, 0)),  # Parallel to four faces.
    ((0, -2, 1), (0, 1, 0)),  # Lies in a face.
    ((1, -2, 1), (0, 1, 0)),  # Lies on an edge.
    ((-2, -2, -2), (3**-0.5, 3**-0.5, 3**-0.5)),  # From corner to corner.
    ((1, 1, 1), (0, 0, 1)),  # Starts at a corner and points away.
  ],
)
@pytest.mark.parametrize('stratified', [False, True])
def test_gradients_are_finite_for_every_kind_of_ray(origin, direction, stratified, rng):
  planes = jnp.array(rng.normal(size=(3, 5, 5, 16)), jnp.float32)
  nerf = NeRFMLP(6, 16, 3, density_scale=3.0, dtype=jnp.float32, rngs=nnx.Rngs(0))

  def loss(planes, origin, direction, after_first):
    def sample(points):
      return after_first(triplane.sample_sum(planes, points))

    keys = jax.random.split(jax.random.key(0), 1) if stratified else None
    rays = origin[None], direction[None]
    pixels = renderer.march(sample, *rays, *renderer.bins(*rays, keys, num_samples=8))
    return pixels.color.sum() + pixels.depth.sum() + pixels.opacity.sum()

  def as_array(x):
    return jnp.array(x, jnp.float32)

  gradients = jax.grad(loss, argnums=(0, 1, 2))(planes, as_array(origin), as_array(direction), nerf.after_first)
  for gradient in jax.tree.leaves(gradients):
    assert np.all(np.isfinite(gradient))


def test_rays_of_an_object_do_not_depend_on_the_others_of_its_batch(rng):
  """Each object has its own key, so gradient accumulation draws the same samples."""
  planes = jnp.array(rng.normal(size=(4, 3, 5, 5, 16)), jnp.float32)
  nerf = NeRFMLP(6, 16, 3, density_scale=3.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
  origins = jnp.tile(jnp.array([0.0, -2, 0]), (4, 10, 1))
  directions = jnp.array(rng.normal(size=(4, 10, 3)) * 0.2 + [0, 1, 0], jnp.float32)
  keys = jax.random.split(jax.random.key(0), 4)

  def render(index, key):
    inputs = planes[index], tracer(nerf.after_first), origins[index], directions[index], key
    return renderer.render_rays(*inputs, rays_per_chunk=6, num_samples=8)

  together, some = render(slice(None), keys), render(slice(1, 3), keys[1:3])
  for a, b in zip(together, some):
    np.testing.assert_allclose(a[1:3], b, rtol=1e-5, atol=1e-6)
  for a, b in zip(together, render(slice(None), jax.random.key(0))):
    np.testing.assert_array_equal(a, b)  # One key is split among the objects.


def test_extreme_densities_have_finite_pixels_and_gradients():
  """TripoSR's density is an exponential, which is infinite in float32 above 88.7."""

  def loss(raw):
    return volume.composite(bounded_exp(raw), jnp.ones((4, 3)), jnp.arange(4.0), jnp.full(1, 0.01))

  for raw in (jnp.array([-200.0, 0, 3, 5]), jnp.array([200.0, 1e30, 90, 0]), jnp.full(4, 1e38)):
    jacobian = jax.jacobian(loss)(raw)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((loss(raw), jacobian)))
  np.testing.assert_array_equal(bounded_exp(jnp.array([-3.0, 0, 79])), jnp.exp(jnp.array([-3.0, 0, 79])))
