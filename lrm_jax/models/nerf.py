"""The NeRF: an MLP from triplane features to density and colour, with its first layer folded into the planes.

Interpolation is linear, so W concat(samples of the planes) = sum over planes of samples of (W_p plane_p). Therefore
`fold` multiplies the planes by the first layer once per object. Then each point needs only a sum of samples, a bias,
and the remaining layers. The result is the same up to rounding, with a third fewer operations per sample.
Source: LRM, section 3.3.
Legend: P texels along a side, C channels, F width of the MLP, *q points.
"""

from collections.abc import Callable

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.errors import InputError
from lrm_jax.models import layers


class NeRFMLP(nnx.Module):
  """An MLP of `depth` linear layers with activations between them -> density (>= 0) and colour.

  `depth` counts all linear layers, including the first (folded) and the last (4 outputs). The density is
  density_scale * density_activation(output - 1); the -1 makes an untrained model nearly transparent instead of foggy.
  The colour is a sigmoid, stretched by `color_padding` at both ends so that it can reach black and white.
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
      raise InputError(
        f'nerf_{depth=} must be at least 3: the first layer, one or more hidden layers, and the output layer'
      )
    he = nnx.initializers.he_normal()
    self.activation, self.density_activation = activation, density_activation
    self.density_scale, self.color_padding, self.dtype = density_scale, color_padding, dtype
    self.first = nnx.Linear(3 * channels, width, kernel_init=he, dtype=dtype, rngs=rngs)
    self.hidden = layers.stack(
      depth - 2, lambda rngs: nnx.Linear(width, width, kernel_init=he, dtype=dtype, rngs=rngs), rngs=rngs
    )
    self.depth = depth
    self.last = nnx.Linear(width, 4, dtype=jnp.float32, precision=jax.lax.Precision.HIGHEST, rngs=rngs)

  @property
  def bytes_per_sample(self) -> int:
    """Bytes kept per sample until the backward pass: the activations of all layers plus a measured overhead."""
    return self.first.out_features * (self.depth * jnp.dtype(self.dtype).itemsize + 13)

  def fold(self, planes: Float[Array, '*b 3 P P C']) -> Float[Array, '*b 3 P P F']:
    """Returns the planes multiplied by their slices of the first layer, without its bias."""
    kernel = self.first.kernel[...].reshape(3, planes.shape[-1], -1)
    return jnp.einsum('...phwc,pcf->...phwf', planes.astype(self.dtype), kernel.astype(self.dtype))

  def __call__(self, features: Float[Array, '*q D']) -> tuple[Float[Array, '*q'], Float[Array, '*q 3']]:
    """Returns (density, colour) of concatenated features, D = 3 C: the reference for the folded computation."""
    return self.after_first(features.astype(self.dtype) @ self.first.kernel[...].astype(self.dtype))

  def after_first(self, features: Float[Array, '*q F']) -> tuple[Float[Array, '*q'], Float[Array, '*q 3']]:
    """Returns (density >= 0 per world unit, colour) in float32, given summed samples of folded planes."""
    raw_density, color = self.raw_after_first(features)
    return self.density(raw_density), color

  def raw_after_first(self, features: Float[Array, '*q F']) -> tuple[Float[Array, '*q'], Float[Array, '*q 3']]:
    """Returns (density before its activation, colour) in float32, given summed samples of folded planes."""
    x = self.activation(features + self.first.bias[...]).astype(self.dtype)  # type: ignore[index]
    for layer in range(self.depth - 2):
      linear = jax.tree.map(lambda leaf, layer=layer: leaf[layer], self.hidden)
      x = self.activation(linear(x))
    out = self.last(x)
    color = jax.nn.sigmoid(out[..., 1:]) * (1 + 2 * self.color_padding) - self.color_padding
    return out[..., 0], color

  def density(self, raw: Float[Array, '*q']) -> Float[Array, '*q']:
    """Returns the density >= 0, given the first output of the MLP."""
    return self.density_scale * self.density_activation(raw - 1)
