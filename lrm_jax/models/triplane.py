"""Triplane sampling: points in the cube [-1, 1]^3 -> features of three axis-aligned planes.

The texel centres of a plane are at ((i + 0.5) / P) * 2 - 1. Features are interpolated bilinearly between them and fade
to zero beyond the outermost centres, because each plane is surrounded by a frame of zero texels (`grid_sample` of
PyTorch with zero padding and align_corners=False).
Source: Chan et al. 2022 (EG3D); LRM, section 3.3.
Legend: Q points, P texels along a side, C channels.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lrm_jax.distributed import backend
from lrm_jax.errors import InputError

# World axes along the width and the height of each plane. Third-party weights may use another order.
PlaneAxes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
PLANE_AXES: PlaneAxes = ((0, 1), (0, 2), (1, 2))


def plane_axes(names: Sequence[str]) -> PlaneAxes:
  """Returns the axes of planes, given their names: ('xy', 'xz', 'yz') is PLANE_AXES.

  Raises InputError unless the names are the three coordinate planes, each exactly once.
  """
  if sorted(''.join(sorted(name)) for name in names) != ['xy', 'xz', 'yz']:
    raise InputError(
      f'plane_axes = {tuple(names)} must name each of the three coordinate planes once, such as xy, xz, yz'
    )
  return tuple(('xyz'.index(name[0]), 'xyz'.index(name[1])) for name in names)  # type: ignore[return-value]


def with_frame(planes: Float[Array, '3 P P C']) -> Float[Array, 'T C']:
  """Returns the texels of three planes as one table, each plane padded by a frame of zeros, T = 3 (P + 2)^2."""
  return jnp.pad(planes, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, planes.shape[-1])


def corners(
  points: Float[Array, '*q 3'], size: int, axes: PlaneAxes = PLANE_AXES
) -> list[tuple[Int[Array, '*q'], Float[Array, '*q']]]:
  """Returns (index into the table of `with_frame`, weight) for the 12 texels around each point, 4 per plane.

  Points are in [-1, 1]^3. The weights of each plane sum to 1. Points well outside the cube get texels of the zero
  frame.
  """
  first, fraction = _first_texels(points, size)
  result = []
  for plane, (u, v) in enumerate(axes):
    base = (plane * (size + 2) + first[..., v]) * (size + 2) + first[..., u]
    fu, fv = fraction[..., u], fraction[..., v]
    result += [
      (base, (1 - fu) * (1 - fv)),
      (base + 1, fu * (1 - fv)),
      (base + size + 2, (1 - fu) * fv),
      (base + size + 3, fu * fv),
    ]
  return result


def _first_texels(points, size):
  """Returns (index of the texel before each point, fraction in 0..1 to the next), per world axis, in framed planes."""
  texel = jnp.clip((points + 1) * (size / 2) + 0.5, 0, size + 1)  # Texels 0 and size + 1 are the frame.
  first = jnp.clip(jnp.floor(texel), 0, size)
  return first.astype(jnp.int32), texel - first


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def sample_sum(
  planes: Float[Array, '3 P P C'], points: Float[Array, '*q 3'], axes: PlaneAxes = PLANE_AXES
) -> Float[Array, '*q C']:
  """Returns the features at `points`, summed over the three planes. Differentiable in reverse mode only.

  Computes twelve gathers of whole rows and adds them. This was the fastest form on a CPU (a single gather of [Q, 12, C]
  takes twice as long), and other backends fuse it.
  """
  return _sample_sum(planes, points, axes)


def _sample_sum(planes, points, axes):
  table = with_frame(planes)
  features = 0.0
  for index, weight in corners(points, planes.shape[1], axes):
    features += weight[..., None] * table.at[index].get(mode='promise_in_bounds')
  return features


def _forward(planes, points, axes):
  return _sample_sum(planes, points, axes), (planes, points)


def _backward(axes, residuals, gradient):
  planes, points = residuals
  _, pull = jax.vjp(lambda points: _sample_sum(planes, points, axes), points)
  return plane_gradient(points, gradient, planes.shape[1], axes).astype(planes.dtype), *pull(gradient)


sample_sum.defvjp(_forward, _backward)


def plane_gradient(
  points: Float[Array, '*q 3'],
  gradient: Float[Array, '*q C'],
  size: int,
  axes: PlaneAxes = PLANE_AXES,
  form: str | None = None,
) -> Float[Array, '3 {size} {size} C']:
  """Returns the gradient of the planes: the transpose of `sample_sum` with respect to the planes.

  The three forms in `PLANE_GRADIENTS` give the same sums in different orders; the default is that of the backend
  (lrm_jax/distributed/backend.py).
  """
  form = form or backend.current().plane_gradient
  return PLANE_GRADIENTS[form](points.reshape(-1, 3), gradient.reshape(-1, gradient.shape[-1]), size, axes)


def _by_windows(points, gradient, size, axes):
  """Scatters a window of 2 x 2 texels per point and plane.

  A CPU scatters windows sequentially, and the gradient of a rendering takes a sixth less time with fewer of them than
  by rows (quickstart config, 2 cores, 2026-11-25).
  """
  windows = jax.lax.ScatterDimensionNumbers(
    update_window_dims=(1, 2, 3), inserted_window_dims=(), scatter_dims_to_operand_dims=(0, 1)
  )
  first, fraction = _first_texels(points, size)
  planes = []
  for u, v in axes:
    along_u, along_v = (jnp.stack([1 - fraction[:, axis], fraction[:, axis]], axis=-1) for axis in (u, v))
    weights = along_v[:, :, None, None] * along_u[:, None, :, None]
    planes.append(
      jax.lax.scatter_add(
        jnp.zeros((size + 2, size + 2, gradient.shape[-1]), gradient.dtype),
        first[:, jnp.array([v, u])],
        weights.astype(gradient.dtype) * gradient[:, None, None],
        windows,
        mode='promise_in_bounds',
      )
    )
  return jnp.stack(planes)[:, 1:-1, 1:-1]


def _by_rows(points, gradient, size, axes):
  """Scatters the twelve texels of each point separately, one row of channels at a time."""
  table = jnp.zeros((3 * (size + 2) ** 2, gradient.shape[-1]), gradient.dtype)
  for index, weight in corners(points, size, axes):
    table = table.at[index].add(weight[:, None] * gradient, mode='promise_in_bounds')
  return _without_frame(table, size)


def _by_sorted_segments(points, gradient, size, axes):
  """Sorts the twelve texels of all points, and sums the runs of equal texels: no two additions collide."""
  index, weight = (jnp.concatenate(parts) for parts in zip(*corners(points, size, axes)))
  order = jnp.argsort(index)
  rows = weight[order, None] * gradient[order % len(gradient)]
  table = jax.ops.segment_sum(
    rows, index[order], 3 * (size + 2) ** 2, indices_are_sorted=True, mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
  )
  return _without_frame(table, size)


def _without_frame(table, size):
  return table.reshape(3, size + 2, size + 2, -1)[:, 1:-1, 1:-1]


PLANE_GRADIENTS = {'windows': _by_windows, 'rows': _by_rows, 'sorted': _by_sorted_segments}


def on_grid(
  planes: Float[Array, '3 P P C'], coordinates: Float[Array, 'n B'], axes: PlaneAxes = PLANE_AXES
) -> list[Float[Array, 'n B n B C']]:
  """Returns the features of a regular 3D grid's projections onto the xy, xz and yz planes, in that order.

  The grid has the same `coordinates` [n, B] along each axis, in [-1, 1] and divided into n blocks of B. The features of
  a grid point are the sum of three entries, one per table. So each plane is sampled once per grid line that crosses it,
  instead of once per point.
  """
  matrix = _linear_weights(coordinates.reshape(-1), planes.shape[1]).reshape(*coordinates.shape, -1)
  tables = {}
  for plane, (u, v) in zip(planes, axes):
    first, second = ('uv', (u, v)) if u < v else ('vu', (v, u))
    tables[second] = jnp.einsum(
      f'ia{first[0]},jb{first[1]},vuc->iajbc', matrix, matrix, plane, precision=jax.lax.Precision.HIGHEST
    )
  return [tables[pair] for pair in PLANE_AXES]


def _linear_weights(coordinates: Float[Array, 'N'], size: int) -> Float[Array, 'N {size}']:
  """Returns the weight [N, P] of each texel at each coordinate: a hat function with a radius of one texel."""
  texel = (coordinates[:, None] + 1) * (size / 2) - 0.5
  return jnp.maximum(1 - jnp.abs(texel - jnp.arange(size)), 0)


def sample_concatenated(
  planes: Float[Array, '3 P P C'], points: Float[Array, '*q 3'], axes: PlaneAxes = PLANE_AXES
) -> Float[Array, '*q D']:
  """Returns the features of the three planes at `points`, concatenated plane by plane, D = 3 C."""
  table = with_frame(planes)
  parts = [weight[..., None] * table[index] for index, weight in corners(points, planes.shape[1], axes)]
  return jnp.concatenate([sum(parts[4 * plane : 4 * plane + 4]) for plane in range(3)], axis=-1)
