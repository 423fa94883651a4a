"""The MLP from triplane features to density and colour, and its first layer folded into the planes.

Interpolation is linear, so W concat(samples of the planes) = sum over planes of samples of (W_p plane_p):
`fold` multiplies the planes by the first layer once an object, and what remains a point is a sum of samples,
a bias, and the other layers. The same numbers up to rounding, with a third fewer operations a sample.
Source: LRM, section 3.3.
Legend: P texels, C channels, F width of the MLP.
"""

from collections.abc import Callable

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.models import layers


class NeRFMLP(nnx.Module):
  """`depth` linear layers with an activation between them -> density (0 or more) and colour.

  `depth` counts every linear layer, the first (folded) and the last (4 outputs) too. Density is `density_scale` times
  the `density_activation` of the output minus 1, so that a fresh model is thin rather than fog. Colour is a sigmoid,
  stretched by `color_padding` at both ends, so that black and white can be reached.
  """

  def __init__(
    self,
    channels: int,
    width: int,
    depth: int,
    *,
    activation: Callable = jax.nn.relu,
    density_activation: Callable = jax.nn.softplus,
    density_scale: float = 1.0,
    color_padding: float = 0.0,
    dtype,
    rngs: nnx.Rngs,
  ):
    if depth < 3:
      raise ValueError(f'nerf_{depth=} must be at least 3: a first layer, hidden ones, and one that puts out 4 numbers')
    he = nnx.initializers.he_normal()
    self.activation, self.density_activation = activation, density_activation
    self.density_scale, self.color_padding, self.dtype = density_scale, color_padding, dtype
    self.first = nnx.Linear(3 * channels, width, kernel_init=he, dtype=dtype, rngs=rngs)
    self.hidden = layers.stack(
      depth - 2, lambda rngs: nnx.Linear(width, width, kernel_init=he, dtype=dtype, rngs=rngs), rngs=rngs
    )
    self.depth = depth
    self.last = nnx.Linear(width, 4, dtype=jnp.float32, rngs=rngs)

  @property
  def bytes_per_sample(self) -> int:
    """What a sample takes in memory until its backward pass: the activations of all layers, and some (measured)."""
    return self.first.out_features * (self.depth * jnp.dtype(self.dtype).itemsize + 13)

  def fold(self, planes: Float[Array, '*b 3 P P C']) -> Float[Array, '*b 3 P P F']:
    """Returns the planes times their slices of the first layer."""
    kernel = self.first.kernel[...].reshape(3, planes.shape[-1], -1)
    return jnp.einsum('...phwc,pcf->...phwf', planes.astype(self.dtype), kernel.astype(self.dtype))

  def __call__(self, features: Float[Array, '*q D']) -> tuple[Float[Array, '*q'], Float[Array, '*q 3']]:
    """Returns (density, colour) of concatenated features, D = 3 C: the statement that the folded form must equal."""
    return self.after_first(features.astype(self.dtype) @ self.first.kernel[...].astype(self.dtype))

  def after_first(self, features: Float[Array, '*q F']) -> tuple[Float[Array, '*q'], Float[Array, '*q 3']]:
    """Returns (density >= 0 per world unit, colour) of sums of samples of folded planes, float32."""
    raw_density, color = self.raw_after_first(features)
    return self.density(raw_density), color

  def raw_after_first(self, features: Float[Array, '*q F']) -> tuple[Float[Array, '*q'], Float[Array, '*q 3']]:
    """Returns (what `density` takes, colour) of sums of samples of folded planes, float32."""
    x = self.activation(features + self.first.bias[...]).astype(self.dtype)
    for layer in range(self.depth - 2):
      x = self.activation(jax.tree.map(lambda leaf: leaf[layer], self.hidden)(x))
    out = self.last(x)
    color = jax.nn.sigmoid(out[..., 1:]) * (1 + 2 * self.color_padding) - self.color_padding
    return out[..., 0], color

  def density(self, raw: Float[Array, '*q']) -> Float[Array, '*q']:
    """Returns the density of the first output."""
    return self.density_scale * self.density_activation(raw - 1)
