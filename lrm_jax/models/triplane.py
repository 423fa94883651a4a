"""Points in the cube -> features off three axis-aligned planes.

A plane has its texel centres at ((i + 0.5) / P) * 2 - 1; between them bilinear interpolation, beyond the
outermost texels a fade to zero (the frame of texels around a plane is zero).
Source: Chan et al. 2022 (EG3D); LRM, section 3.3.
Legend: Q points, P texels along a side, C channels.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lrm_jax.distributed import backend

# Which world axes run along the width and the height of each plane. Weights from elsewhere have other orders.
PlaneAxes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
PLANE_AXES: PlaneAxes = ((0, 1), (0, 2), (1, 2))


def plane_axes(names: Sequence[str]) -> PlaneAxes:
  """Returns the axes of planes told by name: ('xy', 'xz', 'yz') is PLANE_AXES.

  Raises ValueError where they are not the three planes of space, each once.
  """
  if sorted(''.join(sorted(name)) for name in names) != ['xy', 'xz', 'yz']:
    raise ValueError(f'plane_axes = {tuple(names)} must be three planes of x, y, z, such as xy, xz, yz')
  return tuple(('xyz'.index(name[0]), 'xyz'.index(name[1])) for name in names)


def with_frame(planes: Float[Array, '3 P P C']) -> Float[Array, 'T C']:
  """Returns the texels of three planes in one table, each plane inside a frame of zeros, T = 3 (P + 2)^2."""
  return jnp.pad(planes, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, planes.shape[-1])


def corners(
  points: Float[Array, '*q 3'], size: int, axes: PlaneAxes = PLANE_AXES
) -> list[tuple[Int[Array, '*q'], Float[Array, '*q']]]:
  """Returns (index into the table of `with_frame`, weight) of the 12 texels around each point, 4 a plane.

  Points are in units of the cube [-1, 1]^3; weights of a plane sum to 1; outside of the cube the features are zero.
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
  """Returns (the texel before each point along each world axis, how far beyond it, in 0..1), in the framed plane."""
  texel = jnp.clip((points + 1) * (size / 2) + 0.5, 0, size + 1)  # 0 and size + 1 are frame.
  first = jnp.clip(jnp.floor(texel), 0, size)
  return first.astype(jnp.int32), texel - first


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def sample_sum(
  planes: Float[Array, '3 P P C'], points: Float[Array, '*q 3'], axes: PlaneAxes = PLANE_AXES
) -> Float[Array, '*q C']:
  """Returns the sum over the three planes of their features at `points`. Differentiable in reverse mode.

  Twelve gathers of whole rows, added: the form that a CPU runs fastest of those tried (one gather of [Q, 12, C]
  takes twice as long), and that other backends fuse.
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
  if backend.current().plane_gradient == 'rows':
    _, pull = jax.vjp(lambda *inputs: _sample_sum(*inputs, axes), planes.astype(gradient.dtype), points)
    to_planes, to_points = pull(gradient)
    return to_planes.astype(planes.dtype), to_points
  _, pull = jax.vjp(lambda points: _sample_sum(planes, points, axes), points)
  return scatter_sum(points, gradient, planes.shape[1], axes).astype(planes.dtype), *pull(gradient)


sample_sum.defvjp(_forward, _backward)


def scatter_sum(
  points: Float[Array, '*q 3'], gradient: Float[Array, '*q C'], size: int, axes: PlaneAxes = PLANE_AXES
) -> Float[Array, '3 {size} {size} C']:
  """Returns the planes to which every point has added its `gradient`: the transpose of `sample_sum` in the planes.

  A window of 2 x 2 texels a plane is added at once, not each of the twelve corners on its own as the derivative of
  the gathers would: a CPU adds one window after another, and the gradient of a rendering takes a sixth less time so
  (quickstart config, 2 cores, 2026-11-25).
  """
  points, gradient = points.reshape(-1, 3), gradient.reshape(-1, gradient.shape[-1])
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


def on_grid(
  planes: Float[Array, '3 P P C'], coordinates: Float[Array, 'n B'], axes: PlaneAxes = PLANE_AXES
) -> list[Float[Array, 'n B n B C']]:
  """Returns the features of each plane where the lines of a grid pass it, for its axes x and y, x and z, y and z.

  `coordinates` [n, B] along each axis, in blocks, in units of the cube. A point's features are the sum of three entries:
  no plane is sampled a second time however many points lie on a line through it.
  """
  matrix = _hats(coordinates.reshape(-1), planes.shape[1]).reshape(*coordinates.shape, -1)
  tables = {}
  for plane, (u, v) in zip(planes, axes):
    first, second = ('uv', (u, v)) if u < v else ('vu', (v, u))
    tables[second] = jnp.einsum(
      f'ia{first[0]},jb{first[1]},vuc->iajbc', matrix, matrix, plane, precision=jax.lax.Precision.HIGHEST
    )
  return [tables[pair] for pair in PLANE_AXES]


def _hats(coordinates: Float[Array, 'N'], size: int) -> Float[Array, 'N {size}']:
  """Returns [N, P], the weight of each texel at each coordinate: linear between centres, fading to zero beyond."""
  texel = (coordinates[:, None] + 1) * (size / 2) - 0.5
  return jnp.maximum(1 - jnp.abs(texel - jnp.arange(size)), 0)


def sample_concatenated(
  planes: Float[Array, '3 P P C'], points: Float[Array, '*q 3'], axes: PlaneAxes = PLANE_AXES
) -> Float[Array, '*q D']:
  """Returns the features of the three planes at `points` side by side, D = 3 C: plane by plane."""
  table = with_frame(planes)
  parts = [weight[..., None] * table[index] for index, weight in corners(points, planes.shape[1], axes)]
  return jnp.concatenate([sum(parts[4 * plane : 4 * plane + 4]) for plane in range(3)], axis=-1)
