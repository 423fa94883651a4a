"""Image tokens and a camera -> a triplane.

Learned triplane tokens attend to the image tokens, to each other, and pass an MLP, layer after layer; the
camera modulates every norm. A transposed convolution then turns each token into a few texels of its plane.
Source: LRM (arXiv 2311.04400), section 3.2.
Legend: B batch, N triplane tokens (3 R R, plane by plane, row by row), M image tokens, D width, P texels, C channels.
"""

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lrm_jax.models import layers
from lrm_jax.models.encoder import sinusoids
from lrm_jax.models.triplane import PLANE_AXES, PlaneAxes


def camera_feature(
  camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4'], rows: int = 4
) -> Float[Array, 'B F']:
  """Returns the numbers that tell a camera: the first `rows` rows of its pose, then fx, fy, cx, cy; F = 4 rows + 4."""
  return jnp.concatenate([rearrange(camera_to_world[:, :rows], 'b i j -> b (i j)'), intrinsics], axis=-1)


class Block(nnx.Module):
  """Cross-attention, self-attention, MLP; before each a modulated norm, around each a residual."""

  def __init__(self, width: int, context_width: int, camera_width: int, num_heads: int, *, dtype, rngs: nnx.Rngs):
    def norm():
      return layers.ModulatedLayerNorm(width, camera_width, dtype=dtype, rngs=rngs)

    self.norm1 = norm()
    self.cross_attention = layers.CrossAttention(width, context_width, num_heads, bias=False, dtype=dtype, rngs=rngs)
    self.norm2 = norm()
    self.self_attention = layers.SelfAttention(width, num_heads, bias=False, dtype=dtype, rngs=rngs)
    self.norm3 = norm()
    self.mlp = layers.MLP(width, 4 * width, activation=layers.exact_gelu, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, 'B N D'], context: Float[Array, 'B M E'], camera: Float[Array, 'B K']
  ) -> Float[Array, 'B N D']:
    x = x + self.cross_attention(self.norm1(x, camera), context)
    x = x + self.self_attention(self.norm2(x, camera))
    return x + self.mlp(self.norm3(x, camera))


class TriplaneDecoder(nnx.Module):
  """Triplane tokens -> blocks -> planes of `upsample` times their resolution.

  Of a pose the first `pose_rows` rows are told: 4 in the paper, 3 where the last, which is always 0, 0, 0, 1, is left
  out. `plane_axes` are the planes' axes, which only `sinusoidal_tokens` asks for: they start the learned tokens at
  sines of where their plane's texels lie in the cube, and not at noise N(0, 1 / width) as the paper does: a small
  model in minutes has no time to find that out.
  """

  def __init__(
    self,
    *,
    context_width: int,
    camera_width: int,
    width: int,
    depth: int,
    num_heads: int,
    resolution: int,
    upsample: int,
    channels: int,
    pose_rows: int = 4,
    plane_axes: PlaneAxes = PLANE_AXES,
    sinusoidal_tokens: bool = False,
    remat: str,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.resolution, self.upsample, self.remat, self.dtype = resolution, upsample, remat, dtype
    self.pose_rows = pose_rows
    self.camera_embedding = layers.MLP(
      4 * pose_rows + 4, camera_width, camera_width, activation=nnx.silu, dtype=dtype, rngs=rngs
    )
    noise = jax.random.normal(rngs.params(), (1, 3 * resolution**2, width)) * width**-0.5
    self.tokens = nnx.Param(noise + _where_texels_lie(resolution, width, plane_axes) if sinusoidal_tokens else noise)
    self.blocks = layers.stack(
      depth, lambda rngs: Block(width, context_width, camera_width, num_heads, dtype=dtype, rngs=rngs), rngs=rngs
    )
    self.norm = layers.LayerNorm(width, rngs=rngs)
    # With kernel = stride no two tokens touch the same texel: the transposed convolution is one linear map.
    self.upsampler = nnx.Linear(width, upsample**2 * channels, use_bias=False, dtype=dtype, rngs=rngs)
    self.upsampler_bias = nnx.Param(jnp.zeros(channels))

  def __call__(
    self, context: Float[Array, 'B M E'], camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4']
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes [B, plane, row, column, channel], float32."""
    x = self.transform(context, self.embed_camera(camera_to_world, intrinsics))
    x = self.upsampler(x.astype(self.dtype)).astype(jnp.float32)
    return to_planes(x, self.resolution, self.upsample) + self.upsampler_bias[...]

  def embed_camera(
    self, camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4']
  ) -> Float[Array, 'B K']:
    """Returns the camera embedding."""
    return self.camera_embedding(camera_feature(camera_to_world, intrinsics, self.pose_rows).astype(self.dtype))

  def transform(self, context: Float[Array, 'B M E'], camera: Float[Array, 'B K']) -> Float[Array, 'B N D']:
    """Returns the triplane tokens after all blocks and the last norm, float32."""
    x = jnp.broadcast_to(self.tokens[...], (len(context), *self.tokens.shape[1:])).astype(self.dtype)
    return self.norm(layers.scan(self.blocks, x, context, camera, remat=self.remat))


def to_planes(x: Float[Array, 'B N T'], resolution: int, upsample: int) -> Float[Array, 'B 3 P P C']:
  """Returns the planes of tokens that each hold the texels of their place, row by row, T = upsample^2 C."""
  return rearrange(x, 'b (plane h w) (p q c) -> b plane (h p) (w q) c', plane=3, h=resolution, p=upsample, q=upsample)


def _where_texels_lie(resolution: int, width: int, plane_axes: PlaneAxes) -> np.ndarray:
  """Returns [1, N, width]: sines of each token's position in the cube, and a marker of the axis it lacks."""
  centre = (np.arange(resolution) + 0.5) / resolution * 2 - 1
  row, column = np.meshgrid(centre, centre, indexing='ij')
  tokens = []
  for along_width, along_height in plane_axes:
    position = np.zeros((resolution, resolution, 3))
    position[..., along_width], position[..., along_height] = column, row
    waves = sinusoids(position, width // 6 * 6).reshape(resolution, resolution, 3, -1)
    missing = 3 - along_width - along_height
    waves[..., missing, :] = 0.0
    flat = waves.reshape(resolution**2, -1)
    tokens.append(np.pad(flat, ((0, 0), (0, width - flat.shape[-1]))))
  return np.concatenate(tokens)[None]
