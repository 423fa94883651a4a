"""Volume rendering: densities and colours along a ray -> one pixel.

With optical depth tau_i = density_i * delta_i of sample i, the light that reaches it is
T_i = exp(-sum_{j<i} tau_j) and its weight w_i = T_i (1 - exp(-tau_i)), so that
sum_i w_i + exp(-sum_i tau_i) = 1: what the volume does not cover is background.
Source: Mildenhall et al. 2020 (NeRF), equation 3. All in float32; S samples a ray.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pixels(NamedTuple):
  """What a ray shows: colour in 0..1, depth in world units (sum_i w_i t_i), opacity in 0..1."""

  color: Float[Array, '*r 3']
  depth: Float[Array, '*r']
  opacity: Float[Array, '*r']


def ray_weights(density: Float[Array, '*r s'], delta: Float[Array, '*r #s']) -> Float[Array, '*r s']:
  """Returns w_i = T_i (1 - exp(-density_i * delta_i)), in [0, 1], with a sum of at most 1."""
  optical_depth = density * delta
  before = jnp.cumsum(optical_depth, axis=-1) - optical_depth
  return jnp.exp(-before) * -jnp.expm1(-optical_depth)


def composite(
  density: Float[Array, '*r s'],
  color: Float[Array, '*r s 3'],
  distances: Float[Array, '*r s'],
  delta: Float[Array, '*r #s'],
) -> Pixels:
  """Returns the pixels of rays over black; `over` puts them in front of a background.

  Density is non-negative, per world unit; distances and delta in world units.
  """
  weights = ray_weights(density, delta)
  return Pixels(
    color=jnp.einsum('...s,...sc->...c', weights, color),
    depth=jnp.einsum('...s,...s->...', weights, distances),
    opacity=-jnp.expm1(-jnp.sum(density * delta, axis=-1)),
  )


def composite_intervals(
  raw_density: Float[Array, '*r s'],
  color: Float[Array, '*r s 3'],
  distances: Float[Array, '*r s'],
  activation: Callable,
) -> tuple[Pixels, Float[Array, '*r i']]:
  """Returns (pixels over black, weights) of rays cut at S distances into i = S - 1 intervals.

  Colour, distance and density before its `activation` are, in an interval, the mean of both its ends.
  Source: OpenLRM's renderer (SPEC.md), after mip-NeRF.
  """

  def middle(x, axis):
    return (jax.lax.slice_in_dim(x, 0, -1, axis=axis) + jax.lax.slice_in_dim(x, 1, None, axis=axis)) / 2

  density, delta = activation(middle(raw_density, -1)), jnp.diff(distances)
  pixels = composite(density, middle(color, -2), middle(distances, -1), delta)
  return pixels, ray_weights(density, delta)


def over(pixels: Pixels, background: Float[Array, '*#r 3'] | Float[Array, '*#r'] | float) -> Pixels:
  """Returns the pixels in front of a background colour: colour + (1 - opacity) * background."""
  return pixels._replace(color=pixels.color + (1 - pixels.opacity[..., None]) * background)
