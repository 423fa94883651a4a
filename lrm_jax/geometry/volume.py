"""Volume rendering: densities and colours along a ray -> colour, depth and opacity of its pixel.

Sample i has the optical depth tau_i = density_i * delta_i. Its transmittance is T_i = exp(-sum_{j<i} tau_j) and its
weight is w_i = T_i (1 - exp(-tau_i)). The weights and the remaining transmittance add up to one,
sum_i w_i + exp(-sum_i tau_i) = 1, so exp(-sum_i tau_i) is the weight of the background.
Source: Mildenhall et al. 2020 (NeRF), equation 3. Everything is float32.
Legend: r rays, s samples per ray, i = s - 1 intervals.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pixels(NamedTuple):
  """Rendered rays: colour in 0..1, depth (sum_i w_i t_i) in world units, opacity (sum_i w_i) in 0..1.

  `squared_depth` is sum_i w_i t_i^2; it is None where samples are skipped. Together with depth and opacity it gives the
  squared distance of what is seen to any point of the ray: sum_i w_i (t_i - d)^2.
  """

  color: Float[Array, '*r 3']
  depth: Float[Array, '*r']
  opacity: Float[Array, '*r']
  squared_depth: Float[Array, '*r'] | None = None


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
  """Returns the pixels of rays over black; `over` composites them onto a background.

  Density is non-negative and per world unit; distances and delta are in world units.
  """
  weights = ray_weights(density, delta)
  return Pixels(
    color=jnp.einsum('...s,...sc->...c', weights, color, precision=jax.lax.Precision.HIGHEST),
    depth=jnp.einsum('...s,...s->...', weights, distances, precision=jax.lax.Precision.HIGHEST),
    opacity=-jnp.expm1(-jnp.sum(density * delta, axis=-1)),
    squared_depth=jnp.einsum('...s,...s->...', weights, jnp.square(distances), precision=jax.lax.Precision.HIGHEST),
  )


def composite_intervals(
  raw_density: Float[Array, '*r s'],
  color: Float[Array, '*r s 3'],
  distances: Float[Array, '*r s'],
  activation: Callable,
) -> tuple[Pixels, Float[Array, '*r i']]:
  """Returns (pixels over black, weights) of rays that s distances divide into i = s - 1 intervals.

  The colour, the distance and the density before its `activation` of an interval are the means of the values at its
  two ends. Source: OpenLRM's renderer (tests/golden/README.md), after mip-NeRF.
  """

  def midpoint(x, axis):
    return (jax.lax.slice_in_dim(x, 0, -1, axis=axis) + jax.lax.slice_in_dim(x, 1, None, axis=axis)) / 2

  density, delta = activation(midpoint(raw_density, -1)), jnp.diff(distances)
  pixels = composite(density, midpoint(color, -2), midpoint(distances, -1), delta)
  return pixels, ray_weights(density, delta)


def over(pixels: Pixels, background: Float[Array, '*#r 3'] | Float[Array, '*#r'] | float) -> Pixels:
  """Returns the pixels composited onto a background: colour + (1 - opacity) * background."""
  return pixels._replace(color=pixels.color + (1 - pixels.opacity[..., None]) * background)
