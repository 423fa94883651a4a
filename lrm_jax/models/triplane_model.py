"""Base class of all models: encodes images to planes, renders planes, and queries them at points.

A subclass (LRM, OpenLRM, TripoSR) builds an `encoder`, a `decoder` and a `nerf`. It defines how they are used in
`encode` and `samples` (or `trace`). Axes and camera conventions: lrm_jax/geometry/cameras.py.
Legend: B batch, V views, H W image, P texels along a plane's side, C channels, F channels of the folded planes,
Q points, R rays, S samples per ray, G cells of the occupancy grid along a side. For regular 3D grids: n blocks along an
axis, B points along the side of a block, M blocks.
"""

import functools

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lrm_jax.distributed import backend
from lrm_jax.distributed.sharding import shard_by_batch
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, rays, volume
from lrm_jax.models import skipping, triplane
from lrm_jax.models.dinov2 import DINOv2
from lrm_jax.models.encoder import ViT
from lrm_jax.models.nerf import NeRFMLP
from lrm_jax.models.renderer import march, rays_that_fit, render_rays

_GRID_BLOCK = 4  # Points along the side of a block of the occupancy grid.
_BLOCK_POINTS_IN_CACHE = 2**12  # Points of whole blocks that a CPU evaluates at once.
_POINTS_IN_CACHE = 2**14  # Points that a CPU evaluates at once.
_RAYS_PER_CHUNK = 2**14  # Rays rendered at once if unseen samples are skipped.

Background = Float[Array, 'B V 3'] | Float[Array, ''] | float  # A colour per view, or one grey for all views, in 0..1.


class TriplaneModel(nnx.Module):
  """An image encoder, a triplane decoder and a NeRF. Subclasses build them and set the conventions of their weights.

  The camera of the input view is at `input_position` and looks at the origin. The planes cover the cube
  [-half_size, half_size]^3. Meshes are extracted at the density `surface_density`; if it is None, at the density for
  which outline and depth of the mesh match those of the volume. `longest_ray` is the largest possible sum of step
  lengths along a ray; it bounds the error of skipping samples. If it is None, no sample may be skipped.
  `image_size` is the size of training images in pixels. With `any_image_size`, the model also takes other sizes that
  are multiples of the patch size. `num_input_views` is the largest number of images of an object that it takes at once.
  """

  encoder: ViT | DINOv2
  decoder: nnx.Module
  nerf: NeRFMLP
  image_size: int
  num_samples: int
  input_position = cameras.INPUT_POSITION
  half_size = 1.0
  surface_density: float | None = None
  any_image_size = False
  num_input_views = 1
  plane_axes = triplane.PLANE_AXES
  pixel_rays = staticmethod(rays.pixel_rays)

  @property
  def longest_ray(self) -> float | None:
    """The largest possible sum of step lengths along a ray, in world units; None: unknown."""
    return 2 * 3**0.5 * self.half_size

  def __call__(
    self,
    image: Float[Array, 'B *N H W 3'],
    camera_to_world: Float[Array, 'B *N 4 4'],
    intrinsics: Float[Array, 'B *N 4'],
    target_camera_to_world: Float[Array, 'B V 4 4'],
    target_intrinsics: Float[Array, 'B V 4'],
    size: int,
    background: Background = 1.0,
    key: Key[Array, ''] | None = None,
    *,
    rays_per_chunk: int | None = None,
  ) -> volume.Pixels:
    """Returns colour [B, V, size, size, 3], depth and opacity of target views, given input images in 0..1."""
    planes = self.encode(image, camera_to_world, intrinsics)
    return self.render(
      planes, target_camera_to_world, target_intrinsics, size, background, key, rays_per_chunk=rays_per_chunk
    )

  def encode(
    self, image: Float[Array, 'B H W 3'], camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4']
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes of images with values in 0..1, taken by these cameras."""
    raise NotImplementedError

  def render(
    self,
    planes: Float[Array, 'B 3 P P C'],
    camera_to_world: Float[Array, 'B V 4 4'],
    intrinsics: Float[Array, 'B V 4'],
    size: int,
    background: Background = 1.0,
    key: Key[Array, '*k'] | None = None,
    *,
    skip: bool = False,
    cells: Bool[Array, 'B G G G'] | None = None,
    rays_per_chunk: int | None = None,
    positions: Float[Array, 'B V size size 2'] | None = None,
  ) -> volume.Pixels:
    """Returns colour [B, V, size, size, 3], depth and opacity [B, V, size, size] of views of the planes.

    The rays go through the centres of the pixels, or through `positions` (x, y) of the image, in 0..1.
    Sampling is stratified with a `key`, or one for each object [B], and deterministic without one. At most
    `rays_per_chunk` rays of each object are computed at once (None: all rays), which bounds the memory. With `skip`,
    samples that are not seen are skipped (see lrm_jax/models/skipping.py), unless `longest_ray` is None; this is for
    inference, because it has no gradient. `cells` are the objects' occupancy grids (`occupancy`), if they are known.
    """
    if positions is None:
      origins, directions = self.pixel_rays(camera_to_world, intrinsics, size)
    else:
      origins, directions = rays.rays_at(camera_to_world, intrinsics, positions)

    def flat(x):
      return shard_by_batch(rearrange(x, 'b v h w c -> b (v h w) c'))

    with jax.named_scope('render'):
      if skip and self.longest_ray is not None:
        if cells is None:
          cells = jax.lax.map(self.occupancy, planes)
        inputs = cells, self.nerf.fold(planes), flat(origins), flat(directions)
        pixels = jax.lax.map(lambda one_object: self._render_skipping(*one_object), inputs)
      else:
        pixels = render_rays(
          self.nerf.fold(planes),
          self.trace,
          flat(origins),
          flat(directions),
          key,
          rays_per_chunk=rays_per_chunk,
          num_samples=self.num_samples,
        )
    pixels = jax.tree.map(lambda x: x.reshape(origins.shape[:4] + x.shape[2:]), pixels)
    return volume.over(pixels, background if jnp.ndim(background) == 0 else background[:, :, None, None, :])  # type: ignore[index]

  def rays_that_fit(self, memory: float | None, num_objects: int) -> int:
    """Returns how many rays of each of `num_objects` objects fit into a device's `memory` in bytes (None: unknown)."""
    return rays_that_fit(memory, num_objects, self.num_samples * self.nerf.bytes_per_sample)

  def query(
    self, planes: Float[Array, 'B 3 P P C'], points: Float[Array, 'B Q 3']
  ) -> tuple[Float[Array, 'B Q'], Float[Array, 'B Q 3']]:
    """Returns (density >= 0, colour in 0..1) at points in world units. Outside the cube, the features are zero."""
    folded, count = self.nerf.fold(planes), points.shape[1]

    def evaluate(folded, points):
      return self.nerf.after_first(self.features(folded, points))

    if not backend.current().cache_blocking or count <= _POINTS_IN_CACHE:
      return jax.vmap(evaluate)(folded, points)
    chunks = jnp.pad(points, ((0, 0), (0, -count % _POINTS_IN_CACHE), (0, 0)))
    chunks = rearrange(chunks, 'b (n q) c -> b n q c', q=_POINTS_IN_CACHE)

    def one_object(inputs):
      folded, chunks = inputs
      return jax.lax.map(functools.partial(evaluate, folded), chunks)

    density, color = jax.lax.map(one_object, (folded, chunks))
    return rearrange(density, 'b n q -> b (n q)')[:, :count], rearrange(color, 'b n q c -> b (n q) c')[:, :count]

  def grid_tables(
    self, planes: Float[Array, '3 P P C'], coordinates: Float[Array, 'n B']
  ) -> list[Float[Array, 'n n B B F']]:
    """Returns the tables that `block_densities` takes: the folded planes, sampled at a 3D grid's projections.

    The grid is divided into blocks. `coordinates` [n, B] are those of its points along each axis, in [-1, 1].
    """
    tables = triplane.on_grid(self.nerf.fold(planes), coordinates, self.plane_axes)
    return [rearrange(table, 'i a j b f -> i j a b f') for table in tables]

  def block_densities(
    self,
    tables: list[Float[Array, 'n n B B F']],
    places: Int[Array, 'M 3'],
    count: Int[Array, ''] | int,
    face: int | None = None,
  ) -> Float[Array, 'M *b']:
    """Returns the densities [M, B, B, B] of the first `count` blocks of a grid; the others may be zeros.

    `places` [M, 3] are the blocks' indices along the three axes. With `face`, returns only the densities [M, B, B] of
    the first points along that axis. Gathers only whole blocks, never single points.
    """
    names = [name for axis, name in enumerate('abc') if axis != face]

    def densities_at(places):
      # Each table varies along two axes; it is broadcast along the third, where it has length 1. Along the axis of
      # `face`, only the first point is read.
      features = 0.0
      for table, pair in zip(tables, ((0, 1), (0, 2), (1, 2))):
        index = [places[:, axis] for axis in pair] + [0 if axis == face else slice(None) for axis in pair]
        present = [name for axis, name in enumerate('abc') if axis in pair and axis != face]
        part = table[tuple(index)]
        lengths = [table.shape[2] if name in present else 1 for name in names]
        features += part.reshape(len(places), *lengths, part.shape[-1])
      return self.nerf.after_first(features)[0]  # type: ignore[arg-type]

    side = tables[0].shape[2]
    if not backend.current().cache_blocking:
      return densities_at(places)
    # Evaluates a few blocks at a time, so that the activations of the MLP stay in the caches.
    step = _BLOCK_POINTS_IN_CACHE // side ** len(names)
    padded = jnp.pad(places, ((0, -len(places) % step), (0, 0)))

    def add_blocks(i, densities):
      part = densities_at(jax.lax.dynamic_slice_in_dim(padded, i * step, step))
      return jax.lax.dynamic_update_slice_in_dim(densities, part, i * step, axis=0)

    densities = jnp.zeros((len(padded),) + (side,) * len(names))
    return jax.lax.fori_loop(0, (count + step - 1) // step, add_blocks, densities)[: len(places)]

  def features(self, folded: Float[Array, '3 P P F'], points: Float[Array, '*q 3']) -> Float[Array, '*q F']:
    """Returns the samples of one object's folded planes at points in world units, summed over the planes."""
    points = points if self.half_size == 1.0 else points / self.half_size
    return triplane.sample_sum(folded, points, self.plane_axes)

  def samples(
    self, origins: Float[Array, 'R 3'], directions: Float[Array, 'R 3'], keys: Key[Array, 'R'] | None
  ) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
    """Returns (distances, delta) of the samples along each ray; delta is the step length used in the quadrature."""
    raise NotImplementedError

  def trace(
    self,
    folded: Float[Array, '3 P P F'],
    origins: Float[Array, 'R 3'],
    directions: Float[Array, 'R 3'],
    keys: Key[Array, 'R'] | None,
  ) -> volume.Pixels:
    """Returns the pixels [R] over black of rays through the folded planes of one object."""

    def field(points):
      return self.nerf.after_first(self.features(folded, points))

    return march(field, origins, directions, *self.samples(origins, directions, keys))

  def occupancy(self, planes: Float[Array, '3 P P C']) -> Bool[Array, 'G G G']:
    """Returns the occupancy grid of one object: whether each cell of the cube may contain something visible."""
    size = skipping.GRID + 1
    blocks = -(-size // _GRID_BLOCK)
    points = jnp.minimum(jnp.arange(blocks * _GRID_BLOCK), size - 1) * (2 / (size - 1)) - 1
    places = jnp.stack(jnp.meshgrid(*[jnp.arange(blocks)] * 3, indexing='ij'), axis=-1).reshape(-1, 3)
    density = self.block_densities(self.grid_tables(planes, points.reshape(blocks, _GRID_BLOCK)), places, len(places))
    density = rearrange(density, '(x y z) a b c -> (x a) (y b) (z c)', x=blocks, y=blocks)[:size, :size, :size]
    return skipping.occupied_cells(density, skipping.EMPTY_DEPTH / self.longest_ray)  # type: ignore[operator]

  def _render_skipping(self, cells, folded, origins, directions) -> volume.Pixels:
    """Returns the pixels [R] over black of rays through one object, skipping samples that are not seen."""

    def occupied(points):
      return skipping.is_occupied(cells, points / self.half_size)

    def field(points):
      return self.nerf.after_first(self.features(folded, points))

    def one_chunk(rays):
      return skipping.march_skipping(field, occupied, *rays, *self.samples(*rays, None))  # type: ignore[call-arg]

    chunk = min(_RAYS_PER_CHUNK, len(origins))
    chunks = [jnp.pad(x, ((0, -len(x) % chunk), (0, 0))).reshape(-1, chunk, 3) for x in (origins, directions)]
    pixels = jax.lax.map(one_chunk, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: len(origins)], pixels)


def check_sizes(image_size: int, patch_size: int, **networks: tuple[int, int]) -> None:
  """Raises InputError unless patches tile the image and, for each network, its width is a multiple of its heads.

  `networks` maps the prefix of the configuration values to (width, number of heads).
  """
  for name, (width, heads) in networks.items():
    if width % heads:
      raise InputError(f'{name}_{width=} must be a multiple of {name}_num_heads={heads}: change one of them')
  if image_size % patch_size:
    raise InputError(f'{image_size=} must be a multiple of {patch_size=}: change one of them')
