"""Points in the cube -> features off three axis-aligned planes.

A plane has its texel centres at ((i + 0.5) / P) * 2 - 1; between them bilinear interpolation, beyond the
outermost texels a fade to zero (the frame of texels around a plane is zero).
Source: Chan et al. 2022 (EG3D); LRM, section 3.3.
Legend: Q points, P texels along a side, C channels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Which world axes run along the width and the height of each plane. Weights from elsewhere have other orders.
PLANE_AXES = ((0, 1), (0, 2), (1, 2))


def with_frame(planes: Float[Array, '3 P P C']) -> Float[Array, 'T C']:
  """Returns the texels of three planes in one table, each plane inside a frame of zeros, T = 3 (P + 2)^2."""
  return jnp.pad(planes, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, planes.shape[-1])


def corners(
    points: Float[Array, '*q 3'], size: int, axes: tuple[tuple[int, int], ...] = PLANE_AXES
) -> list[tuple[Int[Array, '*q'], Float[Array, '*q']]]:
  """Returns (index into the table of `with_frame`, weight) of the 12 texels around each point, 4 a plane.

  Points are in units of the cube [-1, 1]^3; weights of a plane sum to 1; outside of the cube the features are zero.
  """
  texel = jnp.clip((points + 1) * (size / 2) + 0.5, 0, size + 1)  # In the framed plane: 0 and size + 1 are frame.
  first = jnp.clip(jnp.floor(texel), 0, size)
  fraction = texel - first
  first = first.astype(jnp.int32)
  result = []
  for plane, (u, v) in enumerate(axes):
    base = (plane * (size + 2) + first[..., v]) * (size + 2) + first[..., u]
    fu, fv = fraction[..., u], fraction[..., v]
    result += [(base, (1 - fu) * (1 - fv)), (base + 1, fu * (1 - fv)),
               (base + size + 2, (1 - fu) * fv), (base + size + 3, fu * fv)]
  return result


def sample_sum(
    planes: Float[Array, '3 P P C'], points: Float[Array, '*q 3'], axes: tuple[tuple[int, int], ...] = PLANE_AXES
) -> Float[Array, '*q C']:
  """Returns the sum over the three planes of their features at `points`.

  Twelve gathers of whole rows, added: the form that a CPU runs fastest of those tried (one gather of [Q, 12, C]
  takes twice as long), and that other backends fuse.
  """
  table = with_frame(planes)
  features = 0.0
  for index, weight in corners(points, planes.shape[1], axes):
    features += weight[..., None] * table.at[index].get(mode='promise_in_bounds')
  return features


def sample_concatenated(
    planes: Float[Array, '3 P P C'], points: Float[Array, '*q 3'], axes: tuple[tuple[int, int], ...] = PLANE_AXES
) -> Float[Array, '*q D']:
  """Returns the features of the three planes at `points` side by side, D = 3 C: plane by plane."""
  table = with_frame(planes)
  parts = [weight[..., None] * table[index] for index, weight in corners(points, planes.shape[1], axes)]
  return jnp.concatenate([sum(parts[4 * plane : 4 * plane + 4]) for plane in range(3)], axis=-1)
