"""OpenLRM's model: LRM with 16 numbers for a camera, its planes' axes, and its two-pass sampling of rays.

Source: SPEC.md; docs/weights.md tells where its weights are, and their licence.
Legend: R rays, P texels, F channels of the folded planes.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lrm_jax.geometry import rays, volume
from lrm_jax.models import renderer
from lrm_jax.models.lrm import LRM


class OpenLRM(LRM):
  """Sizes are LRM's; `num_samples` is even, half of them for each pass."""

  any_image_size = True
  longest_ray = None  # Its intervals reach from one sample to the next: none may be left out.
  surface_density = 3.0

  def __init__(self, *, num_samples: int, **sizes):
    if num_samples % 2 or num_samples < 8:
      raise ValueError(
        f'{num_samples=} must be even, and at least 8: half of them are taken evenly, half where those hit'
      )
    super().__init__(num_samples=num_samples, pose_rows=3, plane_axes=('xy', 'xz', 'zy'), color_padding=0.001, **sizes)

  @staticmethod
  def pixel_rays(
    camera_to_world: Float[Array, '*b 4 4'], intrinsics: Float[Array, '*b 4'], size: int
  ) -> tuple[Float[Array, '*b size size 3'], Float[Array, '*b size size 3']]:
    """Returns what lrm_jax.geometry.rays.pixel_rays does, rounded as OpenLRM's are: the point a step ahead, minus the origin.

    The first and the last sample of a ray lie on faces of the cube, and count where they are inside: the last bit of the
    direction decides whether a whole interval is empty, and shows in its pictures.
    """
    # Compilers take out of loops what is the same for many: they multiply by its reciprocal, and round a product apart
    # that is rounded with its sum elsewhere. So divisors and factors differ by pixel here, as far as a compiler can see.
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
    """Returns the pixels [R] over black of rays through one object's folded planes."""

    def field(points):
      return self.nerf.raw_after_first(self.features(folded, points))

    return renderer.march_twice(field, self.nerf.density, origins, directions, keys, num_samples=self.num_samples)
