"""Layers shared by the encoders and decoders: attention, MLP, norms, and a scan over stacked blocks.

Parameters are float32, and `dtype` is the compute dtype of the matrix products. Norms and softmax are computed in
float32. Outputs of linear layers are constrained to stay sharded by batch (`shard_by_batch`); otherwise XLA follows the
weight's sharding and communicates activations.
Legend: B batch, N tokens, M context tokens, D width, H heads, C camera embedding.
"""

from collections.abc import Callable

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.distributed.sharding import shard_by_batch
from lrm_jax.errors import InputError
from lrm_jax.models.attention import attend
from lrm_jax.models.lora import Projection


class SelfAttention(nnx.Module):
  """Multi-head self-attention. `out_bias` is the bias of the output projection; it defaults to `bias`."""

  def __init__(self, width: int, num_heads: int, *, bias: bool, out_bias: bool | None = None, dtype, rngs: nnx.Rngs):
    self.num_heads = num_heads
    self.qkv = Projection(width, 3 * width, use_bias=bias, dtype=dtype, rngs=rngs)
    self.out = Projection(width, width, use_bias=bias if out_bias is None else out_bias, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    q, k, v = rearrange(shard_by_batch(self.qkv(x)), 'b n (three h d) -> three b n h d', three=3, h=self.num_heads)
    return self.out(rearrange(attend(q, k, v), 'b n h d -> b n (h d)'))


class CrossAttention(nnx.Module):
  """Multi-head attention of tokens to context tokens of any width. `out_bias` defaults to `bias`."""

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
    self.q = Projection(width, width, use_bias=bias, dtype=dtype, rngs=rngs)
    self.kv = Projection(context_width, 2 * width, use_bias=bias, dtype=dtype, rngs=rngs)
    self.out = Projection(width, width, use_bias=bias if out_bias is None else out_bias, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D'], context: Float[Array, 'B M E']) -> Float[Array, 'B N D']:
    q = rearrange(shard_by_batch(self.q(x)), 'b n (h d) -> b n h d', h=self.num_heads)
    k, v = rearrange(shard_by_batch(self.kv(context)), 'b m (two h d) -> two b m h d', two=2, h=self.num_heads)
    return self.out(rearrange(attend(q, k, v), 'b n h d -> b n (h d)'))


class MLP(nnx.Module):
  """Linear layer, activation, linear layer. `precision` is that of the products; None is the backend's default."""

  def __init__(
    self,
    width: int,
    hidden: int,
    out: int | None = None,
    *,
    activation: Callable,
    precision: jax.lax.Precision | None = None,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.activation = activation
    self.expand = nnx.Linear(width, hidden, dtype=dtype, precision=precision, rngs=rngs)
    self.contract = nnx.Linear(hidden, out or width, dtype=dtype, precision=precision, rngs=rngs)

  def __call__(self, x: Float[Array, '*b D']) -> Float[Array, '*b O']:
    return self.contract(self.activation(shard_by_batch(self.expand(x))))


class LayerNorm(nnx.LayerNorm):
  """LayerNorm over the width, in float32, with learned scale and bias."""

  def __init__(self, width: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
    # Two-pass variance: E[x^2] - E[x]^2 suffers from cancellation if a trained residual stream has large channels.
    super().__init__(width, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)


class ModulatedLayerNorm(nnx.Module):
  """LN(x) * (1 + scale) + shift, where a linear layer predicts (shift, scale) from the camera (LRM, equation 5).

  That layer is initialised to zero, so an untrained block ignores the camera.
  """

  def __init__(self, width: int, camera_width: int, *, dtype, rngs: nnx.Rngs):
    self.norm = LayerNorm(width, rngs=rngs)
    self.modulation = nnx.Linear(camera_width, 2 * width, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)
    self.dtype = dtype

  def __call__(self, x: Float[Array, 'B N D'], camera: Float[Array, 'B C']) -> Float[Array, 'B N D']:
    shift, scale = jnp.split(shard_by_batch(self.modulation(nnx.silu(camera)))[:, None].astype(jnp.float32), 2, axis=-1)
    return (self.norm(x) * (1 + scale) + shift).astype(self.dtype)


def exact_gelu(x: Float[Array, '*b D']) -> Float[Array, '*b D']:
  """Returns x * Phi(x), computed with the error function instead of the tanh approximation."""
  return jax.nn.gelu(x, approximate=False)


def stack(depth: int, build: Callable[[nnx.Rngs], nnx.Module], *, rngs: nnx.Rngs) -> nnx.Module:
  """Returns one module whose parameters have a leading axis of `depth` layers, each initialised independently."""
  return jax.vmap(lambda key: build(nnx.Rngs(key)))(jax.random.split(rngs.params(), depth))


# Rematerialisation policies: what is kept of a layer for the backward pass beside its input. The rest is recomputed.
REMAT = {
  'none': None,  # Keeps everything.
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # Keeps products with weights, not attention.
  'full': jax.checkpoint_policies.nothing_saveable,  # Keeps nothing else.
}


def remat_policy(name: str) -> str:
  """Returns `name` if REMAT has a policy of that name. Raises InputError otherwise."""
  if name not in REMAT:
    raise InputError(f'config.model.remat = {name!r} is unknown: use one of {", ".join(REMAT)}')
  return name


def scan(layers: nnx.Module, x: Float[Array, 'B N D'], *context, remat: str) -> Float[Array, 'B N D']:
  """Returns x after all layers of a `stack`, applied in order. Compile time does not grow with depth.

  `remat` is the name of a policy in REMAT.
  """

  def body(x, layer):
    return shard_by_batch(layer(shard_by_batch(x), *context)), None

  if remat != 'none':
    body = jax.checkpoint(body, policy=REMAT[remat])
  return jax.lax.scan(body, x, layers)[0]
