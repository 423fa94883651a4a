"""TripoSR's model. It takes no input camera, and it has its own decoder, NeRF activations and sampling along rays.

The world frame is fixed to the input image: its camera is always at `input_position` and looks along -x.
Source: Tochilkin et al. 2024 (TripoSR) and its code, whose conventions are listed in tests/golden/README.md;
Shazeer 2020 (GEGLU).
Legend: B batch, N triplane tokens (3 R R, plane by plane, row by row), M image tokens, D width, P texels, C channels.
"""

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lrm_jax.distributed.sharding import shard_by_batch
from lrm_jax.errors import InputError
from lrm_jax.models import layers, renderer
from lrm_jax.models.decoder import to_planes
from lrm_jax.models.encoder import ViT
from lrm_jax.models.nerf import NeRFMLP
from lrm_jax.models.triplane_model import TriplaneModel, check_sizes

NUM_GROUPS = 32  # Of the GroupNorm before the decoder's blocks.
_LARGEST_EXPONENT = 80.0  # exp(80) = 5.5e34; the sum along a ray of 1,000 samples is below the largest float32, 3.4e38.


def bounded_exp(x: Float[Array, '*q']) -> Float[Array, '*q']:
  """Returns exp(x), with x limited so that neither densities nor their sums along a ray become infinite.

  Where the limit applies, a sample of any usual length is opaque and its gradient is 0 anyway.
  """
  return jnp.exp(jnp.minimum(x, _LARGEST_EXPONENT))


class GEGLU(nnx.Module):
  """A linear layer to (value, gate), then value * GELU(gate), then a linear layer."""

  def __init__(self, width: int, hidden: int, *, dtype, rngs: nnx.Rngs):
    self.expand = nnx.Linear(width, 2 * hidden, dtype=dtype, rngs=rngs)
    self.contract = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    value, gate = jnp.split(self.expand(x), 2, axis=-1)
    return self.contract(value * layers.exact_gelu(gate))


class Block(nnx.Module):
  """Self-attention, cross-attention and MLP, each with a norm before it and a residual around it."""

  def __init__(self, width: int, context_width: int, num_heads: int, *, dtype, rngs: nnx.Rngs):
    def norm():
      return layers.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    biases = dict(bias=False, out_bias=True)
    self.norm1 = norm()
    self.self_attention = layers.SelfAttention(width, num_heads, **biases, dtype=dtype, rngs=rngs)
    self.norm2 = norm()
    self.cross_attention = layers.CrossAttention(width, context_width, num_heads, **biases, dtype=dtype, rngs=rngs)
    self.norm3 = norm()
    self.mlp = GEGLU(width, 4 * width, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D'], context: Float[Array, 'B M E']) -> Float[Array, 'B N D']:
    x = x + self.self_attention(self.norm1(x).astype(x.dtype))
    x = x + self.cross_attention(self.norm2(x).astype(x.dtype), context)
    return x + self.mlp(self.norm3(x).astype(x.dtype))


class TripoSRDecoder(nnx.Module):
  """Triplane tokens -> GroupNorm, linear layer, blocks, linear layer, residual from the tokens -> planes."""

  def __init__(
    self,
    *,
    context_width: int,
    width: int,
    depth: int,
    num_heads: int,
    resolution: int,
    upsample: int,
    channels: int,
    remat: str,
    dtype,
    rngs: nnx.Rngs,
  ):
    if width % NUM_GROUPS:
      raise InputError(f'decoder_{width=} must be a multiple of {NUM_GROUPS}, the number of groups of its GroupNorm')
    self.resolution, self.upsample, self.remat, self.dtype = resolution, upsample, remat, dtype
    self.tokens = nnx.Param(jax.random.normal(rngs.params(), (1, 3 * resolution**2, width)) * width**-0.5)
    self.norm = nnx.GroupNorm(
      width, num_groups=NUM_GROUPS, epsilon=1e-6, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )
    self.first = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
    self.blocks = layers.stack(
      depth, lambda rngs: Block(width, context_width, num_heads, dtype=dtype, rngs=rngs), rngs=rngs
    )
    self.last = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
    self.upsampler = nnx.Linear(width, upsample**2 * channels, use_bias=False, dtype=dtype, rngs=rngs)
    self.upsampler_bias = nnx.Param(jnp.zeros(channels))

  def __call__(self, context: Float[Array, 'B M E']) -> Float[Array, 'B 3 P P C']:
    """Returns the planes [B, plane, row, column, channel] in float32."""
    x = self.upsampler(self.transform(context).astype(self.dtype)).astype(jnp.float32)
    return to_planes(x, self.resolution, self.upsample) + self.upsampler_bias[...]

  def transform(self, context: Float[Array, 'B M E']) -> Float[Array, 'B N D']:
    """Returns the triplane tokens after all blocks and the final linear layer, plus the initial tokens, in float32."""
    x = self.first(self.norm(self.tokens[...]).astype(self.dtype))  # Does not depend on the image yet.
    x = jnp.broadcast_to(x, (len(context), *x.shape[1:]))
    x = layers.scan(self.blocks, x, context, remat=self.remat)
    return self.last(x).astype(jnp.float32) + self.tokens[...]


class TripoSR(TriplaneModel):
  """TripoSR of any size. configs/triposr.py has the published sizes.

  `radius` is half the side length of the cube. `nerf_depth` counts all linear layers (10 as published).
  """

  any_image_size = True
  surface_density = 25.0
  input_position = (1.9, 0.0, 0.0)
  longest_ray = 1.0  # Steps along a ray count 1 / num_samples each, so they add up to 1.

  def __init__(
    self,
    *,
    image_size: int,
    patch_size: int,
    encoder_width: int,
    encoder_depth: int,
    encoder_num_heads: int,
    encoder_table_size: int,
    decoder_width: int,
    decoder_depth: int,
    decoder_num_heads: int,
    triplane_resolution: int,
    triplane_upsample: int,
    triplane_channels: int,
    nerf_width: int,
    nerf_depth: int,
    num_samples: int,
    radius: float = 0.87,
    remat: str = 'none',
    dtype: str = 'float32',
    rngs: nnx.Rngs,
  ):
    check_sizes(
      image_size, patch_size, encoder=(encoder_width, encoder_num_heads), decoder=(decoder_width, decoder_num_heads)
    )
    self.image_size, self.num_samples = image_size, num_samples
    self.half_size = radius
    dtype, remat = jnp.dtype(dtype), layers.remat_policy(remat)
    self.encoder = ViT(
      patch_size=patch_size,
      width=encoder_width,
      depth=encoder_depth,
      num_heads=encoder_num_heads,
      table_size=encoder_table_size,
      interpolate_offset=0.1,
      norm_epsilon=1e-12,
      remat=remat,
      dtype=dtype,
      rngs=rngs,
    )
    # Published files contain the pooler of the pretrained ViT. It is unused, but kept so that files can be written back
    # completely.
    self.pooler = nnx.Linear(encoder_width, encoder_width, rngs=rngs)
    self.decoder = TripoSRDecoder(
      context_width=encoder_width,
      width=decoder_width,
      depth=decoder_depth,
      num_heads=decoder_num_heads,
      resolution=triplane_resolution,
      upsample=triplane_upsample,
      channels=triplane_channels,
      remat=remat,
      dtype=dtype,
      rngs=rngs,
    )
    self.nerf = NeRFMLP(
      triplane_channels,
      nerf_width,
      nerf_depth,
      activation=jax.nn.silu,
      density_activation=bounded_exp,
      dtype=dtype,
      rngs=rngs,
    )

  def encode(
    self,
    image: Float[Array, 'B H W 3'],
    camera_to_world: Float[Array, 'B 4 4'] | None = None,
    intrinsics: Float[Array, 'B 4'] | None = None,
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes of images with values in 0..1. The camera is ignored."""
    with jax.named_scope('encode'):
      tokens = shard_by_batch(self.encoder(image))
    with jax.named_scope('decode'):
      return shard_by_batch(self.decoder(tokens))

  def samples(
    self, origins: Float[Array, 'R 3'], directions: Float[Array, 'R 3'], keys: Key[Array, 'R'] | None
  ) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
    """Returns (distances, delta) of the samples along each ray; delta is 1 / num_samples (see `normalised_bins`)."""
    return renderer.normalised_bins(origins, directions, keys, num_samples=self.num_samples, half_size=self.half_size)
