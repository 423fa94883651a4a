"""The parts that the encoder and the decoder are made of.

Parameters are float32; `dtype` is what the matrix products compute in. Norms and softmax are float32. What comes out of a
product with a weight is pinned to the devices of its objects: XLA would follow the weight's cut and exchange activations.
Legend: B batch, N tokens, M context tokens, D width, H heads, C camera embedding.
"""

from collections.abc import Callable

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.distributed.sharding import on_batch
from lrm_jax.models.attention import attend


class SelfAttention(nnx.Module):
  """Multi-head attention of tokens to each other."""

  def __init__(self, width: int, num_heads: int, *, bias: bool, out_bias: bool | None = None, dtype, rngs: nnx.Rngs):
    self.num_heads = num_heads
    self.qkv = nnx.Linear(width, 3 * width, use_bias=bias, dtype=dtype, rngs=rngs)
    self.out = nnx.Linear(width, width, use_bias=bias if out_bias is None else out_bias, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    q, k, v = rearrange(on_batch(self.qkv(x)), 'b n (three h d) -> three b n h d', three=3, h=self.num_heads)
    return self.out(rearrange(attend(q, k, v), 'b n h d -> b n (h d)'))


class CrossAttention(nnx.Module):
  """Multi-head attention of tokens to a context of another width."""

  def __init__(
    self,
    width: int,
    context_width: int,
    num_heads: int,
    *,
    bias: bool,
    out_bias: bool | None = None,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.num_heads = num_heads
    self.q = nnx.Linear(width, width, use_bias=bias, dtype=dtype, rngs=rngs)
    self.kv = nnx.Linear(context_width, 2 * width, use_bias=bias, dtype=dtype, rngs=rngs)
    self.out = nnx.Linear(width, width, use_bias=bias if out_bias is None else out_bias, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D'], context: Float[Array, 'B M E']) -> Float[Array, 'B N D']:
    q = rearrange(on_batch(self.q(x)), 'b n (h d) -> b n h d', h=self.num_heads)
    k, v = rearrange(on_batch(self.kv(context)), 'b m (two h d) -> two b m h d', two=2, h=self.num_heads)
    return self.out(rearrange(attend(q, k, v), 'b n h d -> b n (h d)'))


class MLP(nnx.Module):
  """Linear, activation, linear."""

  def __init__(self, width: int, hidden: int, out: int | None = None, *, activation: Callable, dtype, rngs: nnx.Rngs):
    self.activation = activation
    self.expand = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
    self.contract = nnx.Linear(hidden, out or width, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, '*b D']) -> Float[Array, '*b O']:
    return self.contract(self.activation(on_batch(self.expand(x))))


class LayerNorm(nnx.LayerNorm):
  """LayerNorm over the width, in float32, with an affine map."""

  def __init__(self, width: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
    # Two-pass variance: E[x^2] - E[x]^2 cancels where a trained residual stream has large channels.
    super().__init__(width, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)


class ModulatedLayerNorm(nnx.Module):
  """LN(x) * (1 + scale) + shift, where (shift, scale) come from the camera embedding (LRM, equation 5).

  The map from camera to (shift, scale) starts at zero, so that a fresh block ignores the camera.
  """

  def __init__(self, width: int, camera_width: int, *, dtype, rngs: nnx.Rngs):
    self.norm = LayerNorm(width, rngs=rngs)
    self.modulation = nnx.Linear(camera_width, 2 * width, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)
    self.dtype = dtype

  def __call__(self, x: Float[Array, 'B N D'], camera: Float[Array, 'B C']) -> Float[Array, 'B N D']:
    shift, scale = jnp.split(on_batch(self.modulation(nnx.silu(camera)))[:, None].astype(jnp.float32), 2, axis=-1)
    return (self.norm(x) * (1 + scale) + shift).astype(self.dtype)


def exact_gelu(x: Float[Array, '*b D']) -> Float[Array, '*b D']:
  """Returns x * Phi(x) with the error function, not its tanh approximation."""
  return jax.nn.gelu(x, approximate=False)


def stack(depth: int, build: Callable[[nnx.Rngs], nnx.Module], *, rngs: nnx.Rngs) -> nnx.Module:
  """Returns one module whose every parameter has a leading axis of `depth` layers, each drawn anew."""
  return jax.vmap(lambda key: build(nnx.Rngs(key)))(jax.random.split(rngs.params(), depth))


# What of a layer is kept for the backward pass beside its input; the rest is computed again.
REMAT = {
  'none': None,  # Everything is kept.
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # Products with weights; not attention's.
  'full': jax.checkpoint_policies.nothing_saveable,
}


def remat_policy(name: str) -> str:
  """Returns the name of a policy of REMAT. Raises ValueError for another."""
  if name not in REMAT:
    raise ValueError(f'config.model.remat = {name!r} is unknown: one of {", ".join(REMAT)}')
  return name


def scan(layers: nnx.Module, x: Float[Array, 'B N D'], *context, remat: str) -> Float[Array, 'B N D']:
  """Returns x after all layers of a `stack`, one after another: compile time does not grow with depth.

  `remat` names a rule of REMAT: what is kept of each layer for the backward pass.
  """

  def body(x, layer):
    return on_batch(layer(on_batch(x), *context)), None

  if remat != 'none':
    body = jax.checkpoint(body, policy=REMAT[remat])
  return jax.lax.scan(body, x, layers)[0]
