"""CLIP's image encoder, a ViT -> one vector per image, and the similarity of two images, the cosine of their vectors.

The class token and the patches get learned positions and a LayerNorm before the first block. The class token after the
last block, normalised and projected without a bias, is the vector. The weights are not part of this package:
lrm_jax/weights/clip.py loads files of the user's.
Source: Radford et al. 2021 (CLIP, arXiv 2103.00020), section 2.4; quick GELU, x * sigmoid(1.702 x), as published.
Legend: B images, H W image, s pixels along a side of the network's input, N = 1 + patches, D width, E embedding.
"""

from collections.abc import Callable

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.models import layers
from lrm_jax.models.encoder import patches, with_class_token

# Mean and standard deviation of red, green and blue in 0..1 over CLIP's training images.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
_EPSILON = 1e-5


def quick_gelu(x: Float[Array, '*b D']) -> Float[Array, '*b D']:
  """Returns x * sigmoid(1.702 x), an approximation of GELU."""
  return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable] = {'quick_gelu': quick_gelu, 'gelu': layers.exact_gelu}


class Block(nnx.Module):
  """x + attention(LN(x)), then x + MLP(LN(x))."""

  def __init__(self, width: int, hidden: int, num_heads: int, *, activation: Callable, rngs: nnx.Rngs):
    self.norm1 = layers.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
    self.attention = layers.SelfAttention(width, num_heads, bias=True, dtype=jnp.float32, rngs=rngs)
    self.norm2 = layers.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
    self.mlp = layers.MLP(width, hidden, activation=activation, dtype=jnp.float32, rngs=rngs)

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    x = x + self.attention(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class CLIP(nnx.Module):
  """The frozen image encoder, in float32. `clip(x, y)` is the cosine similarity of images, 1 for equal ones.

  Images of any size are resized to `image_size` px. `activation` is a name of ACTIVATIONS. `source` describes the
  weights; it is reported with each similarity.
  """

  def __init__(
    self,
    *,
    image_size: int,
    patch_size: int,
    width: int,
    depth: int,
    num_heads: int,
    hidden: int,
    embedding: int,
    activation: str = 'quick_gelu',
    source: str = '',
    rngs: nnx.Rngs,
  ):
    self.image_size, self.patch_size, self.source = image_size, patch_size, source
    small = nnx.initializers.truncated_normal(0.02)
    self.patch_embedding = nnx.Linear(3 * patch_size**2, width, use_bias=False, rngs=rngs)
    self.class_token = nnx.Param(small(rngs.params(), (width,)))
    self.position_embedding = nnx.Param(small(rngs.params(), (1 + (image_size // patch_size) ** 2, width)))
    self.norm_before = layers.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
    self.blocks = layers.stack(
      depth, lambda rngs: Block(width, hidden, num_heads, activation=ACTIVATIONS[activation], rngs=rngs), rngs=rngs
    )
    self.norm_after = layers.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
    self.projection = nnx.Linear(width, embedding, use_bias=False, rngs=rngs)

  def __call__(self, image: Float[Array, 'B H W 3'], reference: Float[Array, 'B H W 3']) -> Float[Array, 'B']:
    """Returns the cosine similarities of images in 0..1."""
    x, y = self.embed(image), self.embed(reference)
    return jnp.sum(x * y, axis=-1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1))

  def embed(self, image: Float[Array, 'B H W 3']) -> Float[Array, 'B E']:
    """Returns the vectors of images in 0..1, not normalised."""
    x = (self.resized(image) - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
    with jax.default_matmul_precision('highest'):  # Accelerators would round to bfloat16 or TF32.
      x = with_class_token(self.class_token[...][None, None], self.patch_embedding(patches(x, self.patch_size)))
      x = self.norm_before(x + self.position_embedding[...])
      x = layers.scan(self.blocks, x, remat='none')
      return self.projection(self.norm_after(x[:, 0]))

  def resized(self, image: Float[Array, 'B H W 3']) -> Float[Array, 'B s s 3']:
    """Returns images at the size of the network: bicubic (a = -0.5), antialiased, clipped to 0..1, as Pillow does."""
    shape = (len(image), self.image_size, self.image_size, 3)
    if image.shape == shape:
      return image
    # Named precision: the resize is a product with the filter, in which TF32 would be visible.
    resized = jax.image.resize(image, shape, 'cubic', antialias=True, precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(resized, 0, 1)
