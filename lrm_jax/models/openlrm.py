"""OpenLRM's model: LRM with a camera feature of 16 numbers, other plane axes, and two-pass sampling along rays.

Source: OpenLRM's code, whose conventions are listed in tests/golden/README.md. See docs/weights.md for where to get the
weights, and their licence.
Legend: R rays, P texels along a side, F channels of the folded planes.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lrm_jax.errors import InputError
from lrm_jax.geometry import rays, volume
from lrm_jax.models import renderer
from lrm_jax.models.lrm import LRM


class OpenLRM(LRM):
  """OpenLRM of any size. Takes LRM's sizes; `num_samples` must be even and at least 8, half of them per pass."""

  any_image_size = True
  longest_ray = None  # Intervals extend from one sample to the next, so no sample may be skipped.
  surface_density = 3.0

  def __init__(self, *, num_samples: int, half_size: float = 1.0, **sizes):
    if num_samples % 2 or num_samples < 8:
      raise InputError(f'{num_samples=} must be even and at least 8: each of the two passes takes half of them')
    if half_size != 1:
      raise InputError(f'config.model.{half_size=} must be 1: OpenLRM samples the cube [-1, 1]^3')
    super().__init__(num_samples=num_samples, pose_rows=3, plane_axes=('xy', 'xz', 'zy'), color_padding=0.001, **sizes)

  @staticmethod
  def pixel_rays(
    camera_to_world: Float[Array, '*b 4 4'], intrinsics: Float[Array, '*b 4'], size: int
  ) -> tuple[Float[Array, '*b size size 3'], Float[Array, '*b size size 3']]:
    """Returns the same rays as lrm_jax.geometry.rays.pixel_rays, with OpenLRM's rounding.

    OpenLRM computes a direction as a point one step along the ray, minus the origin. The rounding matters: the first
    and the last sample of a ray lie on faces of the cube and count only if they are inside. So the last bit of the
    direction decides whether a whole interval is empty, which is visible in the images.
    """
    # Compilers hoist loop-invariant values: they replace a division by a multiplication with the reciprocal, and round
    # a hoisted product separately instead of fusing it with the sum. Both change the rounding. Therefore the maxima
    # below, which have no effect on the values, make the divisors and factors appear to differ from pixel to pixel.
    centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    offsets = [centre - intrinsics[..., 2 + i, None] for i in (0, 1)]
    x, y = (offset / jnp.maximum(intrinsics[..., i, None], -jnp.abs(offset)) for i, offset in enumerate(offsets))
    x = x[..., None, :, None]
    y = jnp.maximum(y[..., :, None, None], -jnp.finfo(jnp.float32).max + jnp.abs(x))
    right, up, backward, origin = (camera_to_world[..., None, None, :3, i] for i in range(4))
    ahead = rays.rounded(rays.rounded(rays.rounded(rays.rounded(right * x) + -up * y) - backward) + origin)
    direction = ahead - origin
    squares = rays.rounded(direction * direction)
    length = jnp.sqrt(rays.rounded(squares[..., 0] + squares[..., 1]) + squares[..., 2])
    direction = jnp.stack([direction[..., i] / length for i in range(3)], axis=-1)
    return jnp.broadcast_to(origin, direction.shape), direction

  def trace(
    self,
    folded: Float[Array, '3 P P F'],
    origins: Float[Array, 'R 3'],
    directions: Float[Array, 'R 3'],
    keys: Key[Array, 'R'] | None,
  ) -> volume.Pixels:
    """Returns the pixels [R] over black of rays through the folded planes of one object."""

    def field(points):
      return self.nerf.raw_after_first(self.features(folded, points))

    return renderer.march_twice(field, self.nerf.density, origins, directions, keys, num_samples=self.num_samples)
