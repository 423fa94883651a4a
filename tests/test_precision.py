"""Geometry stays float32 on every backend: its products state their precision, whatever the default and the dtype.

A CPU computes float32 products exactly at any precision, so the test reads the precision off the traced program.
"""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import TINY_MODEL
from lrm_jax.geometry import cameras, rays, volume
from lrm_jax.models import lpips
from lrm_jax.models.lpips import LPIPS
from lrm_jax.models.lrm import LRM

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def products(function, *args):
  """Returns (precision, dtype of the inputs) of all matrix products and convolutions of a traced function."""
  found = []

  def visit(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
        found.append((equation.params['precision'], equation.invars[0].aval.dtype))
      for value in equation.params.values():
        for inner in value if isinstance(value, (tuple, list)) else (value,):
          inner = getattr(inner, 'jaxpr', inner)
          if hasattr(inner, 'eqns'):
            visit(inner)

  with jax.default_matmul_precision('bfloat16'):
    visit(jax.make_jaxpr(function)(*args).jaxpr)
  return found


@pytest.fixture(scope='module')
def model():
  return LRM(**TINY_MODEL | {'dtype': 'bfloat16'}, rngs=nnx.Rngs(0))


def test_rays_are_float32_products():
  pose, intrinsics = jnp.eye(4)[None], jnp.asarray(cameras.intrinsics_from_fov(50), jnp.float32)[None]
  assert products(lambda *x: rays.pixel_rays(*x, 8), pose, intrinsics) == [(HIGHEST, jnp.float32)]


def test_compositing_is_float32_products():
  found = products(volume.composite, jnp.ones((5, 8)), jnp.ones((5, 8, 3)), jnp.ones((5, 8)), jnp.ones((5, 1)))
  assert len(found) == 3 and all(entry == (HIGHEST, jnp.float32) for entry in found)


def test_camera_embedding_is_float32_in_a_bfloat16_model(model):
  pose, intrinsics = jnp.asarray(cameras.input_camera(), jnp.float32)[None], jnp.ones((1, 4))
  found = products(model.decoder.embed_camera, pose, intrinsics)
  assert len(found) == 2 and all(entry == (HIGHEST, jnp.float32) for entry in found)
  assert model.decoder.embed_camera(pose, intrinsics).dtype == jnp.bfloat16


def test_last_layer_of_the_nerf_is_float32_in_a_bfloat16_model(model):
  found = products(model.nerf.after_first, jnp.ones((7, TINY_MODEL['nerf_width'])))
  assert found[-1] == (HIGHEST, jnp.float32)
  assert found[0][1] == jnp.bfloat16  # The others use the compute dtype.


def test_lpips_is_float32_products():
  network = LPIPS({name: np.ones(shape, np.float32) for name, shape in lpips.shapes().items()})
  found = products(network, jnp.ones((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 3)))
  # 7 convolutions, 6 of maps so small that they are 9 products each, of both images; and 5 heads.
  assert len(found) == 2 * (7 + 6 * 9) + 5 and all(entry == (HIGHEST, jnp.float32) for entry in found)


def test_rays_of_bfloat16_products_would_be_off_by_pixels():
  """What the explicit precision prevents: products of numbers rounded to bfloat16, at 384 px."""
  pose = cameras.look_at([1.2, -1.5, 0.8]).astype(np.float32)
  intrinsics = jnp.asarray(cameras.intrinsics_from_fov(50), jnp.float32)
  _, directions = rays.pixel_rays(jnp.asarray(pose), intrinsics, 384)
  rounded = jnp.asarray(pose, jnp.bfloat16).astype(jnp.float32)
  _, wrong = rays.pixel_rays(rounded, intrinsics, 384)
  pixels = jnp.linalg.norm(directions - wrong, axis=-1) * intrinsics[0] * 384
  assert float(jnp.mean(pixels)) > 0.2
