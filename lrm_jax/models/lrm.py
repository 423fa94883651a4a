"""The Large Reconstruction Model: one picture of an object -> a triplane -> the object from anywhere.

Source: LRM (arXiv 2311.04400). Conventions: lrm_jax/cameras.py.
Legend: B batch, V views, H W image, N tokens, D width, P texels along a plane's side, C channels, Q points.
"""

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax import rays, volume
from lrm_jax.models import triplane
from lrm_jax.models.decoder import TriplaneDecoder
from lrm_jax.models.encoder import ViT
from lrm_jax.models.nerf import NeRFMLP
from lrm_jax.models.renderer import render_rays
from lrm_jax.sharding import on_batch
from lrm_jax.types import Key

Background = Float[Array, 'B V 3'] | Float[Array, ''] | float  # Of each view, or one grey for all, in 0..1.


class LRM(nnx.Module):
  """Image encoder, triplane decoder, NeRF; see configs/base.py for what each number is in the paper.

  `dtype` is what the networks compute in; parameters, cameras and compositing are float32. `remat` computes the
  activations of each layer again in the backward pass.
  """

  def __init__(
      self, *, image_size: int, patch_size: int, encoder_width: int, encoder_depth: int, encoder_num_heads: int,
      encoder_table_size: int, camera_width: int, decoder_width: int, decoder_depth: int, decoder_num_heads: int,
      triplane_resolution: int, triplane_upsample: int, triplane_channels: int, nerf_width: int, nerf_depth: int,
      num_samples: int, rays_per_chunk: int, density_scale: float = 1.0, sinusoidal_positions: bool = False,
      remat: bool = False, dtype: str = 'float32', rngs: nnx.Rngs,
  ):
    for name, width, heads in [('encoder', encoder_width, encoder_num_heads), ('decoder', decoder_width, decoder_num_heads)]:
      if width % heads:
        raise ValueError(f'{name}_{width=} must be a multiple of {name}_num_heads={heads}')
    if image_size % patch_size:
      raise ValueError(f'{image_size=} must be a multiple of {patch_size=}')
    self.image_size, self.num_samples, self.rays_per_chunk = image_size, num_samples, rays_per_chunk
    dtype = jnp.dtype(dtype)
    self.encoder = ViT(
        patch_size=patch_size, width=encoder_width, depth=encoder_depth, num_heads=encoder_num_heads,
        table_size=encoder_table_size, sinusoidal_positions=sinusoidal_positions, remat=remat, dtype=dtype, rngs=rngs)
    self.decoder = TriplaneDecoder(
        context_width=encoder_width, camera_width=camera_width, width=decoder_width, depth=decoder_depth,
        num_heads=decoder_num_heads, resolution=triplane_resolution, upsample=triplane_upsample,
        channels=triplane_channels, sinusoidal_tokens=sinusoidal_positions, remat=remat, dtype=dtype,
        rngs=rngs)
    self.nerf = NeRFMLP(triplane_channels, nerf_width, nerf_depth, density_scale=density_scale, dtype=dtype, rngs=rngs)

  def __call__(
      self, image: Float[Array, 'B H W 3'], camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4'],
      target_camera_to_world: Float[Array, 'B V 4 4'], target_intrinsics: Float[Array, 'B V 4'], size: int,
      background: Background = 1.0, key: Key | None = None,
  ) -> volume.Pixels:
    """Returns colour [B, V, size, size, 3], depth and opacity of the target views of pictures in 0..1."""
    tokens = on_batch(self.encoder(image))
    planes = on_batch(self.decoder(tokens, camera_to_world, intrinsics))
    origins, directions = rays.pixel_rays(target_camera_to_world, target_intrinsics, size)
    pixels = self.march(planes, origins, directions, key)
    return volume.over(pixels, _per_pixel(background))

  def encode(
      self, image: Float[Array, 'B H W 3'], camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4']
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes of pictures in 0..1, of `image_size`, taken by these cameras."""
    return self.decoder(self.encoder(image), camera_to_world, intrinsics)

  def render(
      self, planes: Float[Array, 'B 3 P P C'], camera_to_world: Float[Array, 'B V 4 4'], intrinsics: Float[Array, 'B V 4'],
      size: int, background: Background = 1.0, key: Key | None = None,
  ) -> volume.Pixels:
    """Returns colour [B, V, size, size, 3], depth and opacity; stratified with a key, deterministic without."""
    pixels = self.march(planes, *rays.pixel_rays(camera_to_world, intrinsics, size), key)
    return volume.over(pixels, _per_pixel(background))

  def march(
      self, planes: Float[Array, 'B 3 P P C'], origins: Float[Array, 'B V H W 3'], directions: Float[Array, 'B V H W 3'],
      key: Key | None = None,
  ) -> volume.Pixels:
    """Returns the pixels [B, V, H, W] of rays over black."""
    folded = self.nerf.fold(planes)
    flat = lambda x: on_batch(rearrange(x, 'b v h w c -> b (v h w) c'))
    pixels = render_rays(
        folded, self.nerf.after_first, flat(origins), flat(directions), key, num_samples=self.num_samples,
        rays_per_chunk=self.rays_per_chunk)
    return jax.tree.map(lambda x: x.reshape(origins.shape[:4] + x.shape[2:]), pixels)

  def query(
      self, planes: Float[Array, 'B 3 P P C'], points: Float[Array, 'B Q 3']
  ) -> tuple[Float[Array, 'B Q'], Float[Array, 'B Q 3']]:
    """Returns (density >= 0, colour in 0..1) at points of the cube; outside of it as a plane of zeros says."""
    return self.nerf.after_first(jax.vmap(triplane.sample_sum)(self.nerf.fold(planes), points))


def _per_pixel(background):
  return background if jnp.ndim(background) == 0 else background[:, :, None, None, :]
