"""DINO's vision transformer: a picture -> one token a patch, and the class token before them.

Pre-norm blocks, exact GELU, a learned table of position embeddings interpolated to the picture's size.
Source: Caron et al. 2021 (DINO); Dosovitskiy et al. 2021 (ViT). LRM keeps all tokens and trains it on.
Legend: B batch, H W image, N = 1 + patches, D width.
"""

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lrm_jax.models import layers
from lrm_jax.models.position_tables import cubic_matrix

# ImageNet's statistics, which DINO was trained with.
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
  """DINO ViT of any width, depth and patch.

  `table_size` is the number of patches along a side that the position table was made for (DINO: 224 / patch). Read at
  n patches, it is stretched by (n + `interpolate_offset`) / table_size: 0.1 in DINO's own code, and in the Hugging
  Face library of 2023 that OpenLRM and TripoSR were trained with; 0 in later ones.
  `sinusoidal_positions` starts that table at sines, for training from scratch in little time.
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
    self.position_embedding = nnx.Param(
      table + _where_patches_lie(table_size, width) if sinusoidal_positions else table
    )
    self.blocks = layers.stack(
      depth, lambda rngs: Block(width, num_heads, norm_epsilon=norm_epsilon, dtype=dtype, rngs=rngs), rngs=rngs
    )
    self.norm = layers.LayerNorm(width, epsilon=norm_epsilon, rngs=rngs)

  def __call__(self, image: Float[Array, 'B H W 3']) -> Float[Array, 'B N D']:
    """Returns the tokens of pictures in 0..1: the class token, then the patches row by row."""
    pixels = (image - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
    x = with_class_token(self.class_token[...], self.patch_embedding(patches(pixels, self.patch_size)))
    x = (x + self.positions(image.shape[1] // self.patch_size)).astype(self.dtype)
    x = layers.scan(self.blocks, x, remat=self.remat)
    return self.norm(x).astype(self.dtype)

  def positions(self, size: int) -> Float[Array, '1 N D']:
    """Returns the position embeddings for size x size patches: the table, resized by bicubic interpolation."""
    if size == self.table_size:
      return self.position_embedding[...]
    scale = (size + self.interpolate_offset) / self.table_size
    return resized(self.position_embedding[...], cubic_matrix(self.table_size, size, scale=scale))


def patches(image: Float[Array, 'B H W 3'], size: int) -> Float[Array, 'B N P']:
  """Returns the pixels of each patch of size x size, patches row by row, in each row by row, P = 3 size^2."""
  return rearrange(image, 'b (h p) (w q) c -> b (h w) (p q c)', p=size, q=size)


def with_class_token(token: Float[Array, '1 1 D'], x: Float[Array, 'B N D']) -> Float[Array, 'B M D']:
  """Returns the tokens with the class token before them, M = N + 1."""
  return jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, x.shape[-1])), x], axis=1)


def resized(table: Float[Array, '1 N D'], matrix: np.ndarray) -> Float[Array, '1 M D']:
  """Returns a position table whose patches are interpolated by `matrix` [n, T] along both sides, M = 1 + n^2.

  The first row, of the class token, stays as it is.
  """
  grid = rearrange(table[:, 1:], '1 (h w) d -> h w d', h=matrix.shape[1])
  grid = jnp.einsum('ih,jw,hwd->ijd', matrix, matrix, grid, precision=jax.lax.Precision.HIGHEST)
  return jnp.concatenate([table[:, :1], rearrange(grid, 'h w d -> 1 (h w) d')], axis=1)


def _where_patches_lie(size: int, width: int) -> np.ndarray:
  centre = (np.arange(size) + 0.5) / size * 2 - 1
  row, column = np.meshgrid(centre, centre, indexing='ij')
  waves = sinusoids(np.stack([column, row], axis=-1).reshape(-1, 2), width)
  return np.concatenate([np.zeros((1, width)), waves])[None].astype(np.float32)


def sinusoids(positions: np.ndarray, width: int) -> np.ndarray:
  """Returns [..., width] sines and cosines of `positions` [..., A] in -1..1, at octaves from half a turn up.

  A start for learned position tables that already knows where things are; `width` >= 2 A.
  """
  axes = positions.shape[-1]
  octaves = width // (2 * axes)
  angle = positions[..., None] * np.pi / 2 * 2.0 ** np.linspace(0, 4, octaves)
  waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).reshape(positions.shape[:-1] + (-1,))
  return np.pad(waves, [(0, 0)] * (waves.ndim - 1) + [(0, width - waves.shape[-1])]).astype(np.float32)
