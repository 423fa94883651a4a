"""The LRM model: output shapes and ranges, precision, attention, position tables, and the paper's sizes."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import TINY_MODEL
from lrm_jax.configs import base, quickstart, small
from lrm_jax.geometry import cameras
from lrm_jax.models import attention, layers, registry
from lrm_jax.models.encoder import ViT
from lrm_jax.models.lrm import LRM
from lrm_jax.models.position_tables import cubic_matrix
from lrm_jax.training import cost


def scene(batch=2, views=3, size=16):
  rng = np.random.default_rng(0)
  intrinsics = np.tile(cameras.intrinsics_from_fov(50), (batch, 1)).astype(np.float32)
  return (
    jnp.array(rng.uniform(size=(batch, size, size, 3)), jnp.float32),
    jnp.array(np.tile(cameras.input_camera(), (batch, 1, 1)), jnp.float32),
    jnp.array(intrinsics),
    jnp.array(np.tile(cameras.orbit(views, elevation=20), (batch, 1, 1, 1)), jnp.float32),
    jnp.array(np.tile(intrinsics[:, None], (1, views, 1))),
  )


@pytest.fixture(scope='module')
def model():
  return LRM(**TINY_MODEL, rngs=nnx.Rngs(0))


def test_call_renders_target_views_in_range(model):
  pixels = model(*scene(), size=8)
  assert pixels.color.shape == (2, 3, 8, 8, 3) and pixels.depth.shape == pixels.opacity.shape == (2, 3, 8, 8)
  assert np.all((pixels.color >= 0) & (pixels.color <= 1)) and np.all((pixels.opacity >= 0) & (pixels.opacity <= 1))


def test_call_equals_encode_then_render(model):
  image, pose, intrinsics, poses, all_intrinsics = scene()
  whole = model(image, pose, intrinsics, poses, all_intrinsics, 8)
  parts = model.render(model.encode(image, pose, intrinsics), poses, all_intrinsics, 8)
  for a, b in zip(whole, parts):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_rendering_is_deterministic_without_key_and_stratified_with_key(model):
  image, pose, intrinsics, poses, all_intrinsics = scene()
  planes = 3 * model.encode(image, pose, intrinsics)

  def render(key):
    return model.render(planes, poses, all_intrinsics, 8, 1.0, key).color

  np.testing.assert_array_equal(render(None), render(None))
  assert np.abs(render(jax.random.key(0)) - render(jax.random.key(1))).max() > 1e-4


def test_query_returns_nonnegative_density_and_colour_in_range(model):
  planes = model.encode(*scene()[:3])
  density, color = model.query(planes, jnp.zeros((2, 5, 3)))
  assert density.shape == (2, 5) and color.shape == (2, 5, 3)
  assert np.all(density >= 0) and np.all((color >= 0) & (color <= 1))


def test_smaller_cube_with_nearer_cameras_and_higher_density_gives_the_same_pixels(model):
  image, pose, intrinsics, poses, all_intrinsics = scene()
  planes = 3 * model.encode(image, pose, intrinsics)
  small = LRM(**TINY_MODEL | dict(half_size=0.5, density_scale=2.0), rngs=nnx.Rngs(0))
  expected = model.render(planes, poses, all_intrinsics, 8)
  found = small.render(planes, poses.at[..., :3, 3].multiply(0.5), all_intrinsics, 8)
  assert np.ptp(expected.opacity) > 0.1
  np.testing.assert_allclose(found.color, expected.color, atol=1e-5)
  np.testing.assert_allclose(found.depth, expected.depth / 2, atol=1e-5)
  with pytest.raises(ValueError, match='half_size=0.0 must be positive'):
    LRM(**TINY_MODEL | {'half_size': 0.0}, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_rematerialisation_does_not_change_gradients():
  def gradients(remat):
    graphdef, params = nnx.split(LRM(**TINY_MODEL, remat=remat, rngs=nnx.Rngs(0)), nnx.Param)
    return jax.grad(lambda p: nnx.merge(graphdef, p)(*scene(), 8).color.var())(params)

  expected = jax.tree.leaves(gradients('none'))
  for policy in ('dots', 'full'):
    for a, b in zip(jax.tree.leaves(gradients(policy)), expected, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)


def test_unknown_remat_policy_raises():
  with pytest.raises(ValueError, match="config.model.remat = 'some' is unknown: use one of none, dots, full"):
    LRM(**TINY_MODEL, remat='some', rngs=nnx.Rngs(0))


def test_camera_affects_planes_only_after_modulation_is_trained(model):
  image, pose, intrinsics, *_ = scene()
  other = jnp.array(cameras.look_at([1.0, -1.5, 0.8]), jnp.float32)[None].repeat(2, 0)
  np.testing.assert_array_equal(model.encode(image, pose, intrinsics), model.encode(image, other, intrinsics))
  trained = LRM(**TINY_MODEL, rngs=nnx.Rngs(0))
  kernel = trained.decoder.blocks.norm1.modulation.kernel
  kernel[...] = 0.1 * jax.random.normal(jax.random.key(0), kernel.shape)
  assert np.abs(trained.encode(image, pose, intrinsics) - trained.encode(image, other, intrinsics)).max() > 1e-3


def test_bfloat16_planes_are_close_to_float32():
  inputs = scene()
  planes = [LRM(**TINY_MODEL, dtype=dtype, rngs=nnx.Rngs(0)).encode(*inputs[:3]) for dtype in ('float32', 'bfloat16')]
  assert planes[1].dtype == jnp.float32
  assert np.abs(planes[0] - planes[1]).max() < 0.03 * np.abs(planes[0]).max()


def test_plain_and_blocked_attention_equal_reference(monkeypatch, rng):
  q, k, v = (jnp.array(rng.normal(size=(2, n, 4, 8)), jnp.float32) for n in (64, 48, 48))
  whole = attention._plain(q, k, v)
  reference = jax.nn.dot_product_attention(q, k, v)
  np.testing.assert_allclose(whole, reference, atol=1e-5)
  monkeypatch.setattr(attention, '_CPU_SCORES', 4 * 48 * 16)
  np.testing.assert_allclose(attention._blocks(q, k, v), whole, atol=1e-5)


def test_stacked_layers_are_initialised_independently():
  stack = layers.stack(3, lambda rngs: nnx.Linear(4, 4, rngs=rngs), rngs=nnx.Rngs(0))
  assert stack.kernel.shape == (3, 4, 4) and not np.allclose(stack.kernel[0], stack.kernel[1])


def test_position_tables_are_interpolated_to_other_sizes():
  matrix = cubic_matrix(14, 32)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  np.testing.assert_allclose(cubic_matrix(7, 7), np.eye(7), atol=1e-7)
  centres = (np.arange(32) + 0.5) * 14 / 32 - 0.5
  inside = (centres > 1) & (centres < 12)
  np.testing.assert_allclose((matrix @ np.arange(14))[inside], centres[inside], atol=0.05)
  vit = ViT(
    patch_size=8,
    width=8,
    depth=1,
    num_heads=2,
    table_size=3,
    sinusoidal_positions=False,
    remat='none',
    dtype=jnp.float32,
    rngs=nnx.Rngs(0),
  )
  assert vit.positions(5).shape == (1, 26, 8)
  assert vit(jnp.zeros((1, 40, 40, 3))).shape == (1, 26, 8)


@pytest.mark.parametrize(
  'name, value, message',
  [('decoder_num_heads', 5, 'multiple'), ('image_size', 17, 'patch_size'), ('nerf_depth', 2, 'at least 3')],
)
def test_inconsistent_sizes_raise(name, value, message):
  with pytest.raises(ValueError, match=message):
    LRM(**{**TINY_MODEL, name: value}, rngs=nnx.Rngs(0))


def test_base_config_has_the_sizes_of_the_paper():
  kwargs = base.get_config().model.to_dict()
  abstract = registry.abstract_model(kwargs)
  params = registry.parameters(abstract)
  assert params['decoder']['tokens'].shape == (1, 3072, 1024)

  def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)

  tokens = jax.eval_shape(lambda model, x: model.encoder(x), abstract, shape(1, 512, 512, 3))
  planes = jax.eval_shape(
    lambda model, *x: model.encode(*x), abstract, shape(1, 512, 512, 3), shape(1, 4, 4), shape(1, 4)
  )
  assert tokens.shape == (1, 1025, 768)
  assert planes.shape == (1, 3, 64, 64, 80)
  assert 450e6 < cost.count(params) < 550e6


@pytest.mark.parametrize('config', [small, quickstart])
def test_configs_build_a_model(config):
  assert cost.count(registry.parameters(registry.abstract_model(config.get_config().model.to_dict()))) > 1e6


@pytest.mark.slow
def test_base_model_encodes_in_float32_and_bfloat16():
  kwargs = base.get_config().model.to_dict()
  encode = jax.jit(lambda model, *inputs: model.encode(*inputs))
  inputs = scene(batch=1, size=512)[:3]
  planes = {}
  for dtype in ('float32', 'bfloat16'):
    sizes = {**kwargs, 'dtype': dtype}
    model = jax.jit(lambda sizes=sizes: registry.build_model(sizes, nnx.Rngs(0)))()
    planes[dtype] = np.asarray(encode(model, *inputs))
    del model
  assert planes['float32'].shape == (1, 3, 64, 64, 80)
  error = np.linalg.norm(planes['bfloat16'] - planes['float32']) / np.linalg.norm(planes['float32'])
  assert error < 0.03
