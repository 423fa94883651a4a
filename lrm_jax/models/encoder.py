"""DINO's vision transformer: an image -> the class token, followed by one token per patch.

Pre-norm blocks, exact GELU, and a learned table of position embeddings that is interpolated to the image size.
Source: Caron et al. 2021 (DINO); Dosovitskiy et al. 2021 (ViT). LRM uses all tokens and fine-tunes the encoder.
Legend: B batch, H W image, N = 1 + patches, D width.
"""

from einops import rearrange
from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.models import layers
from lrm_jax.models.position_tables import cubic_matrix, resized, sinusoidal_table

# Mean and standard deviation of red, green and blue in 0..1 over ImageNet. DINO and VGG16 were trained with them.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Block(nnx.Module):
  """x + attention(LN(x)), then x + MLP(LN(x))."""

  def __init__(self, width: int, num_heads: int, *, norm_epsilon: float, dtype, rngs: nnx.Rngs):
    self.norm1 = layers.LayerNorm(width, epsilon=norm_epsilon, rngs=rngs)
    self.attention = layers.SelfAttention(width, num_heads, bias=True, dtype=dtype, rngs=rngs)
    self.norm2 = layers.LayerNorm(width, epsilon=norm_epsilon, rngs=rngs)
    self.mlp = layers.MLP(width, 4 * width, activation=layers.exact_gelu, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    x = x + self.attention(self.norm1(x).astype(x.dtype))
    return x + self.mlp(self.norm2(x).astype(x.dtype))


class ViT(nnx.Module):
  """DINO ViT of any width, depth and patch size.

  `table_size` is the number of patches along a side of the learned position table (DINO: 224 / patch_size). For n
  patches along a side, the table is resized by the factor (n + `interpolate_offset`) / table_size. The offset is 0.1
  in DINO's own code and in the Hugging Face library of 2023, with which OpenLRM and TripoSR were trained; it is 0 in
  later versions of that library.
  `sinusoidal_positions` initialises the table with sinusoids plus noise, for short training runs from scratch.
  """

  def __init__(
    self,
    *,
    patch_size: int,
    width: int,
    depth: int,
    num_heads: int,
    table_size: int,
    interpolate_offset: float = 0.0,
    norm_epsilon: float = 1e-6,
    sinusoidal_positions: bool = False,
    remat: str,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.patch_size, self.table_size, self.remat = patch_size, table_size, remat
    self.interpolate_offset, self.dtype = interpolate_offset, dtype
    small = nnx.initializers.truncated_normal(0.02)
    self.patch_embedding = nnx.Linear(3 * patch_size**2, width, dtype=dtype, rngs=rngs)
    self.class_token = nnx.Param(small(rngs.params(), (1, 1, width)))
    table = small(rngs.params(), (1, 1 + table_size**2, width))
    self.position_embedding = nnx.Param(table + sinusoidal_table(table_size, width) if sinusoidal_positions else table)
    self.blocks = layers.stack(
      depth, lambda rngs: Block(width, num_heads, norm_epsilon=norm_epsilon, dtype=dtype, rngs=rngs), rngs=rngs
    )
    self.norm = layers.LayerNorm(width, epsilon=norm_epsilon, rngs=rngs)

  def __call__(self, image: Float[Array, 'B H W 3']) -> Float[Array, 'B N D']:
    """Returns the tokens of images with values in 0..1: the class token, then the patches row by row."""
    pixels = (image - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
    x = with_class_token(self.class_token[...], self.patch_embedding(patches(pixels, self.patch_size)))
    x = (x + self.positions(image.shape[1] // self.patch_size)).astype(self.dtype)
    x = layers.scan(self.blocks, x, remat=self.remat)
    return self.norm(x).astype(self.dtype)

  def positions(self, size: int) -> Float[Array, '1 N D']:
    """Returns the position embeddings for size x size patches, resized by bicubic interpolation if needed."""
    if size == self.table_size:
      return self.position_embedding[...]
    scale = (size + self.interpolate_offset) / self.table_size
    return resized(self.position_embedding[...], cubic_matrix(self.table_size, size, scale=scale))


def patches(image: Float[Array, 'B H W 3'], size: int) -> Float[Array, 'B N P']:
  """Returns flattened patches of size x size pixels, P = 3 size^2; patches and their pixels are ordered row by row."""
  return rearrange(image, 'b (h p) (w q) c -> b (h w) (p q c)', p=size, q=size)


def with_class_token(token: Float[Array, '1 1 D'], x: Float[Array, 'B N D']) -> Float[Array, 'B M D']:
  """Returns the tokens with the class token prepended, M = N + 1."""
  return jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, x.shape[-1])), x], axis=1)
