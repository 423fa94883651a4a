"""DINOv2's vision transformer: an image -> the class token, followed by one token per patch.

Differences from DINO (lrm_jax/models/encoder.py): patches are 14 px wide, images in 0..1 are not normalised (as in
OpenLRM), each branch of a block is scaled by a learned vector, and register tokens take part in attention and are
dropped from the output.
Source: Oquab et al. 2023 (DINOv2); Darcet et al. 2023 (registers); Touvron et al. 2021 (layer scale).
Legend: B batch, H W image, N = 1 + patches, D width.
"""

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.models import layers
from lrm_jax.models.encoder import patches, with_class_token
from lrm_jax.models.position_tables import antialiased_cubic_matrix, cubic_matrix, resized


class Block(nnx.Module):
  """x + s1 * attention(LN(x)), then x + s2 * MLP(LN(x))."""

  def __init__(self, width: int, num_heads: int, *, dtype, rngs: nnx.Rngs):
    self.norm1 = layers.LayerNorm(width, rngs=rngs)
    self.attention = layers.SelfAttention(width, num_heads, bias=True, dtype=dtype, rngs=rngs)
    self.scale1 = nnx.Param(jnp.full(width, 1e-5))
    self.norm2 = layers.LayerNorm(width, rngs=rngs)
    self.mlp = layers.MLP(width, 4 * width, activation=layers.exact_gelu, dtype=dtype, rngs=rngs)
    self.scale2 = nnx.Param(jnp.full(width, 1e-5))

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    def scaled(scale, branch):
      return scale[...].astype(x.dtype) * branch

    x = x + scaled(self.scale1, self.attention(self.norm1(x).astype(x.dtype)))
    return x + scaled(self.scale2, self.mlp(self.norm2(x).astype(x.dtype)))


class DINOv2(nnx.Module):
  """DINOv2 ViT of any width and depth, with `num_registers` register tokens (4 as published, or 0).

  `table_size` is the number of patches along a side of the learned position table: 37 as published (518 px). The two
  published families resize it to n patches by different rules: models with registers use antialiasing and the factor
  n / table_size; models without use no antialiasing and the factor (n + 0.1) / table_size.
  """

  def __init__(
    self,
    *,
    patch_size: int,
    width: int,
    depth: int,
    num_heads: int,
    table_size: int,
    num_registers: int,
    remat: str,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.patch_size, self.table_size, self.num_registers = patch_size, table_size, num_registers
    self.remat, self.dtype = remat, dtype
    small = nnx.initializers.truncated_normal(0.02)
    self.patch_embedding = nnx.Linear(3 * patch_size**2, width, dtype=dtype, rngs=rngs)
    self.class_token = nnx.Param(small(rngs.params(), (1, 1, width)))
    self.position_embedding = nnx.Param(small(rngs.params(), (1, 1 + table_size**2, width)))
    if num_registers:
      self.registers = nnx.Param(small(rngs.params(), (1, num_registers, width)))
    self.blocks = layers.stack(depth, lambda rngs: Block(width, num_heads, dtype=dtype, rngs=rngs), rngs=rngs)
    self.norm = layers.LayerNorm(width, rngs=rngs)

  def __call__(self, image: Float[Array, 'B H W 3']) -> Float[Array, 'B N D']:
    """Returns the tokens of images with values in 0..1: the class token, then the patches row by row."""
    x = with_class_token(self.class_token[...], self.patch_embedding(patches(image, self.patch_size)))
    x = x + self.positions(image.shape[1] // self.patch_size)
    if self.num_registers:
      registers = jnp.broadcast_to(self.registers[...], (len(x), *self.registers.shape[1:]))
      x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
    x = layers.scan(self.blocks, x.astype(self.dtype), remat=self.remat)
    x = self.norm(x).astype(self.dtype)
    return jnp.concatenate([x[:, :1], x[:, 1 + self.num_registers :]], axis=1)

  def positions(self, size: int) -> Float[Array, '1 N D']:
    """Returns the position embeddings for size x size patches, resized by bicubic interpolation if needed."""
    if size == self.table_size:
      return self.position_embedding[...]
    if self.num_registers:
      matrix = antialiased_cubic_matrix(self.table_size, size)
    else:
      matrix = cubic_matrix(self.table_size, size, scale=(size + 0.1) / self.table_size)
    return resized(self.position_embedding[...], matrix)
