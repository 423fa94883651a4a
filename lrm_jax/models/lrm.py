"""The Large Reconstruction Model: one image of an object -> a triplane -> views of the object from any camera.

  image --ViT encoder--> image tokens --triplane decoder, given the camera--> planes --NeRF, ray marcher--> views

This module builds the parts and defines the path from images to planes. The base class in
lrm_jax/models/triplane_model.py renders planes and queries them at points.
Source: LRM (arXiv 2311.04400), section 3. Axes and camera conventions: lrm_jax/geometry/cameras.py.
Legend: B batch, N input views, H W image, P texels along a plane's side, C channels, S samples, R rays.
"""

from collections.abc import Sequence

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lrm_jax.distributed.sharding import shard_by_batch
from lrm_jax.errors import InputError
from lrm_jax.models import layers, renderer, triplane
from lrm_jax.models.decoder import TriplaneDecoder
from lrm_jax.models.dinov2 import DINOv2
from lrm_jax.models.encoder import ViT
from lrm_jax.models.nerf import NeRFMLP
from lrm_jax.models.triplane_model import TriplaneModel, check_sizes
from lrm_jax.models.view_tags import ViewTags


class LRM(TriplaneModel):
  """The parts in order of use: `encoder`, `decoder`, `nerf`. configs/base.py lists the paper's value of each size.

  `encoder` is 'dino' or 'dinov2'; `encoder_registers` applies only to 'dinov2'. `plane_axes` names the world axes along
  the width and the height of each plane. The planes cover the cube [-half_size, half_size]^3, in world units; rays see
  nothing outside it. The decoder gets the first `pose_rows` rows of the camera pose.
  `dtype` is the compute dtype of the networks; parameters, cameras and compositing are float32. `remat` selects which
  activations of each layer are kept for the backward pass instead of being recomputed: 'none' (keeps all), 'dots'
  (keeps products with weights) or 'full' (keeps only the layer's input); see REMAT in lrm_jax/models/layers.py.
  Raises InputError if the sizes do not fit together or a name is unknown.
  """

  def __init__(
    self,
    *,
    image_size: int,
    patch_size: int,
    encoder_width: int,
    encoder_depth: int,
    encoder_num_heads: int,
    encoder_table_size: int,
    camera_width: int,
    decoder_width: int,
    decoder_depth: int,
    decoder_num_heads: int,
    triplane_resolution: int,
    triplane_upsample: int,
    triplane_channels: int,
    nerf_width: int,
    nerf_depth: int,
    num_samples: int,
    half_size: float = 1.0,
    num_input_views: int = 1,
    encoder: str = 'dino',
    encoder_registers: int = 0,
    encoder_interpolate_offset: float = 0.0,
    encoder_norm_epsilon: float = 1e-6,
    pose_rows: int = 4,
    plane_axes: Sequence[str] = ('xy', 'xz', 'yz'),
    density_scale: float = 1.0,
    color_padding: float = 0.0,
    sinusoidal_positions: bool = False,
    remat: str = 'none',
    dtype: str = 'float32',
    rngs: nnx.Rngs,
  ):
    check_sizes(
      image_size, patch_size, encoder=(encoder_width, encoder_num_heads), decoder=(decoder_width, decoder_num_heads)
    )
    if not half_size > 0:
      raise InputError(f'config.model.{half_size=} must be positive: it is half the side of the cube around the object')
    if num_input_views < 1:
      raise InputError(f'config.model.{num_input_views=} must be at least 1')
    self.image_size, self.num_samples = image_size, num_samples
    self.half_size, self.num_input_views = half_size, num_input_views
    self.plane_axes = triplane.plane_axes(plane_axes)
    dtype, remat = jnp.dtype(dtype), layers.remat_policy(remat)
    encoder_kwargs = dict(
      patch_size=patch_size,
      width=encoder_width,
      depth=encoder_depth,
      num_heads=encoder_num_heads,
      table_size=encoder_table_size,
      remat=remat,
      dtype=dtype,
      rngs=rngs,
    )
    if encoder == 'dino':
      self.encoder = ViT(
        **encoder_kwargs,  # type: ignore[arg-type]
        interpolate_offset=encoder_interpolate_offset,
        norm_epsilon=encoder_norm_epsilon,
        sinusoidal_positions=sinusoidal_positions,
      )
    elif encoder == 'dinov2':
      self.encoder = DINOv2(**encoder_kwargs, num_registers=encoder_registers)  # type: ignore[arg-type]
    else:
      raise InputError(f"config.model.{encoder=} is unknown: use 'dino' or 'dinov2'")
    self.decoder = TriplaneDecoder(
      context_width=encoder_width,
      camera_width=camera_width,
      width=decoder_width,
      depth=decoder_depth,
      num_heads=decoder_num_heads,
      resolution=triplane_resolution,
      upsample=triplane_upsample,
      channels=triplane_channels,
      pose_rows=pose_rows,
      plane_axes=self.plane_axes,
      sinusoidal_tokens=sinusoidal_positions,
      remat=remat,
      dtype=dtype,
      rngs=rngs,
    )
    if num_input_views > 1:
      self.view_tags = ViewTags(encoder_width, camera_width, pose_rows, rngs=rngs)
    self.nerf = NeRFMLP(
      triplane_channels,
      nerf_width,
      nerf_depth,
      density_scale=density_scale,
      color_padding=color_padding,
      dtype=dtype,
      rngs=rngs,
    )

  def encode(
    self,
    image: Float[Array, 'B *N H W 3'],
    camera_to_world: Float[Array, 'B *N 4 4'],
    intrinsics: Float[Array, 'B *N 4'],
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes of images with values in 0..1, `image_size` pixels wide and high, taken by these cameras.

    With an axis N, these are the images of N views of each object, and the planes are in the frame of the first.
    Raises InputError if there are more than `num_input_views`.
    """
    if image.ndim == 4:
      image, camera_to_world, intrinsics = image[:, None], camera_to_world[:, None], intrinsics[:, None]
    views = image.shape[1]
    if views > self.num_input_views:
      raise InputError(f'the model takes at most {self.num_input_views} input views of an object, not {views}')
    with jax.named_scope('encode'):
      tokens = shard_by_batch(self.encoder(rearrange(image, 'b n h w c -> (b n) h w c')))
      if views > 1:
        tokens = rearrange(tokens, '(b n) m e -> b n m e', n=views)
        tokens = self.view_tags(tokens, camera_to_world, intrinsics)
    with jax.named_scope('decode'):
      return shard_by_batch(self.decoder(shard_by_batch(tokens), camera_to_world[:, 0], intrinsics[:, 0]))

  def samples(
    self, origins: Float[Array, 'R 3'], directions: Float[Array, 'R 3'], keys: Key[Array, 'R'] | None
  ) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
    """Returns (distances, delta) of `num_samples` samples in equal bins along each ray, in world units."""
    return renderer.bins(origins, directions, keys, num_samples=self.num_samples, half_size=self.half_size)
