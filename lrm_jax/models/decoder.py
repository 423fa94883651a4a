"""Triplane decoder: image tokens and a camera -> a triplane.

In each layer, the learned triplane tokens attend to the image tokens, then to each other, and pass through an MLP. The
camera modulates every norm. A transposed convolution then maps each token to upsample x upsample texels of its plane.
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
from lrm_jax.models.position_tables import sinusoids
from lrm_jax.models.triplane import PLANE_AXES, PlaneAxes


def camera_feature(
  camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4'], rows: int = 4
) -> Float[Array, 'B F']:
  """Returns the camera features: the first `rows` rows of the pose, then fx, fy, cx, cy; F = 4 rows + 4."""
  return jnp.concatenate([rearrange(camera_to_world[:, :rows], 'b i j -> b (i j)'), intrinsics], axis=-1)


def camera_network(pose_rows: int, hidden: int, out: int, *, rngs: nnx.Rngs) -> layers.MLP:
  """Returns the network that embeds camera features of `pose_rows` rows.

  In float32 for any compute dtype: bfloat16 has 8 bits, which moves a camera by a hundredth of its distance.
  """
  return layers.MLP(
    4 * pose_rows + 4,
    hidden,
    out,
    activation=nnx.silu,
    precision=jax.lax.Precision.HIGHEST,
    dtype=jnp.float32,
    rngs=rngs,
  )


class Block(nnx.Module):
  """Cross-attention, self-attention and MLP, each with a modulated norm before it and a residual around it."""

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

  The camera feature uses the first `pose_rows` rows of the pose: 4 in the paper, or 3 to omit the last row, which is
  always (0, 0, 0, 1). The learned tokens start at noise N(0, 1 / width), as in the paper. `sinusoidal_tokens` adds
  sinusoids of each token's position in the cube, because a small model that trains for minutes has no time to learn
  the positions; only this option uses `plane_axes`.
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
    self.camera_embedding = camera_network(pose_rows, camera_width, camera_width, rngs=rngs)
    noise = jax.random.normal(rngs.params(), (1, 3 * resolution**2, width)) * width**-0.5
    if sinusoidal_tokens:
      self.tokens = nnx.Param(noise + _triplane_sinusoids(resolution, width, plane_axes))
    else:
      self.tokens = nnx.Param(noise)
    self.blocks = layers.stack(
      depth, lambda rngs: Block(width, context_width, camera_width, num_heads, dtype=dtype, rngs=rngs), rngs=rngs
    )
    self.norm = layers.LayerNorm(width, rngs=rngs)
    # The kernel size equals the stride, so no two tokens write to the same texel, and the transposed convolution is a
    # linear layer.
    self.upsampler = nnx.Linear(width, upsample**2 * channels, use_bias=False, dtype=dtype, rngs=rngs)
    self.upsampler_bias = nnx.Param(jnp.zeros(channels))

  def __call__(
    self, context: Float[Array, 'B M E'], camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4']
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes [B, plane, row, column, channel] in float32."""
    x = self.transform(context, self.embed_camera(camera_to_world, intrinsics))
    x = self.upsampler(x.astype(self.dtype)).astype(jnp.float32)
    return to_planes(x, self.resolution, self.upsample) + self.upsampler_bias[...]

  def embed_camera(
    self, camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4']
  ) -> Float[Array, 'B K']:
    """Returns the camera embedding that modulates the norms."""
    return self.camera_embedding(camera_feature(camera_to_world, intrinsics, self.pose_rows)).astype(self.dtype)

  def transform(self, context: Float[Array, 'B M E'], camera: Float[Array, 'B K']) -> Float[Array, 'B N D']:
    """Returns the triplane tokens after all blocks and the final norm, in float32."""
    x = jnp.broadcast_to(self.tokens[...], (len(context), *self.tokens.shape[1:])).astype(self.dtype)
    return self.norm(layers.scan(self.blocks, x, context, camera, remat=self.remat))


def to_planes(x: Float[Array, 'B N T'], resolution: int, upsample: int) -> Float[Array, 'B 3 P P C']:
  """Returns the planes, given tokens that each hold upsample x upsample texels, row by row; T = upsample^2 C."""
  return rearrange(x, 'b (plane h w) (p q c) -> b plane (h p) (w q) c', plane=3, h=resolution, p=upsample, q=upsample)


def _triplane_sinusoids(resolution: int, width: int, plane_axes: PlaneAxes) -> np.ndarray:
  """Returns sinusoids [1, N, width] of the tokens' 3D positions; those of the axis that a plane lacks are zero."""
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
