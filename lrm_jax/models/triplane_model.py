"""What all our models have in common: a picture becomes planes, and planes are looked at and asked.

A model has an `encoder`, a `decoder` and a `nerf`, and says in `encode` and `trace` how they are used: LRM
(lrm_jax/models/lrm.py), OpenLRM, TripoSR. Conventions: lrm_jax/geometry/cameras.py.
Legend: B batch, V views, H W image, P texels along a plane's side, C channels, F those of folded planes, Q points, R rays.
"""

import functools

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lrm_jax.distributed import backend
from lrm_jax.distributed.sharding import on_batch
from lrm_jax.geometry import cameras, rays, volume
from lrm_jax.models import skipping, triplane
from lrm_jax.models.renderer import march, rays_that_fit, render_rays

_GRID_BLOCK = 4  # points along the side of a block
_POINTS_OF_BLOCKS_IN_CACHE = 2**12
_POINTS_IN_CACHE = 2**14  # of a CPU
_RAYS_AT_ONCE = 2**14  # where samples that are not seen are left out

Background = Float[Array, 'B V 3'] | Float[Array, ''] | float  # Of each view, or one grey for all, in 0..1.


class TriplaneModel(nnx.Module):
  """An encoder, a decoder and a NeRF over planes; a subclass says how they are used, and what world its weights know.

  The camera of the input view stands at `input_position` and looks at the origin; planes fill the cube
  [-half_size, half_size]^3; the surface of a mesh is where the density is `surface_density`, and None: where its
  outline is that of the volume. Densities count along rays of at most `longest_ray`; None: no sample may be left out.
  `image_size` is what pictures have in training, in pixels; with `any_image_size` other multiples of the patches are
  welcome.
  """

  input_position = cameras.INPUT_POSITION
  half_size = 1.0
  longest_ray: float | None = 2 * 3**0.5
  surface_density: float | None = None
  any_image_size = False
  plane_axes = triplane.PLANE_AXES
  pixel_rays = staticmethod(rays.pixel_rays)

  def __call__(
    self,
    image: Float[Array, 'B H W 3'],
    camera_to_world: Float[Array, 'B 4 4'],
    intrinsics: Float[Array, 'B 4'],
    target_camera_to_world: Float[Array, 'B V 4 4'],
    target_intrinsics: Float[Array, 'B V 4'],
    size: int,
    background: Background = 1.0,
    key: Key[Array, ''] | None = None,
    *,
    rays_per_chunk: int | None = None,
  ) -> volume.Pixels:
    """Returns colour [B, V, size, size, 3], depth and opacity of the target views of pictures in 0..1."""
    planes = self.encode(image, camera_to_world, intrinsics)
    return self.render(
      planes, target_camera_to_world, target_intrinsics, size, background, key, rays_per_chunk=rays_per_chunk
    )

  def encode(
    self, image: Float[Array, 'B H W 3'], camera_to_world: Float[Array, 'B 4 4'], intrinsics: Float[Array, 'B 4']
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes of pictures in 0..1, of `image_size`, taken by these cameras."""
    raise NotImplementedError

  def render(
    self,
    planes: Float[Array, 'B 3 P P C'],
    camera_to_world: Float[Array, 'B V 4 4'],
    intrinsics: Float[Array, 'B V 4'],
    size: int,
    background: Background = 1.0,
    key: Key[Array, ''] | None = None,
    *,
    skip: bool = False,
    rays_per_chunk: int | None = None,
  ) -> volume.Pixels:
    """Returns colour [B, V, size, size, 3], depth and opacity; stratified with a key, deterministic without.

    At most `rays_per_chunk` rays of each object are computed at once (None: all), which bounds the memory.
    With `skip` (for inference: no gradient passes) samples that are not seen are left out, as
    lrm_jax/models/skipping.py tells; a model whose `longest_ray` is None leaves out none.
    """
    origins, directions = self.pixel_rays(camera_to_world, intrinsics, size)

    def flat(x):
      return on_batch(rearrange(x, 'b v h w c -> b (v h w) c'))

    if skip and self.longest_ray is not None:
      inputs = planes, self.nerf.fold(planes), flat(origins), flat(directions)
      pixels = jax.lax.map(lambda one: self._skipping(*one), inputs)
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
    return volume.over(pixels, background if jnp.ndim(background) == 0 else background[:, :, None, None, :])

  def rays_that_fit(self, memory: float | None, num_objects: int) -> int:
    """Returns how many rays of each of `num_objects` objects fit a device's `memory`, in bytes (None: unknown)."""
    return rays_that_fit(memory, num_objects, self.num_samples * self.nerf.bytes_per_sample)

  def query(
    self, planes: Float[Array, 'B 3 P P C'], points: Float[Array, 'B Q 3']
  ) -> tuple[Float[Array, 'B Q'], Float[Array, 'B Q 3']]:
    """Returns (density >= 0, colour in 0..1) at points of the cube; outside of it as a plane of zeros says."""
    folded, count = self.nerf.fold(planes), points.shape[1]

    def ask(folded, points):
      return self.nerf.after_first(self.features(folded, points))

    if not backend.current().cache_blocking or count <= _POINTS_IN_CACHE:
      return jax.vmap(ask)(folded, points)
    chunks = jnp.pad(points, ((0, 0), (0, -count % _POINTS_IN_CACHE), (0, 0)))
    chunks = rearrange(chunks, 'b (n q) c -> b n q c', q=_POINTS_IN_CACHE)

    def one(inputs):
      return jax.lax.map(functools.partial(ask, inputs[0]), inputs[1])

    density, color = jax.lax.map(one, (folded, chunks))
    return rearrange(density, 'b n q -> b (n q)')[:, :count], rearrange(color, 'b n q c -> b (n q) c')[:, :count]

  def grid_tables(
    self, planes: Float[Array, '3 P P C'], coordinates: Float[Array, 'n B']
  ) -> list[Float[Array, 'n n B B F']]:
    """Returns what `block_densities` adds up: the folded planes where the lines of a grid pass them, in blocks.

    `coordinates` [n, B] of the grid's points along each axis, in units of the cube.
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
    """Returns the densities [M, B, B, B] of the first `count` blocks of a grid, at their places; the others may be zeros.

    With `face` those [M, B, B] of the first points along that axis alone. No gather but of whole blocks.
    """
    names = [name for axis, name in enumerate('abc') if axis != face]

    def some(places):
      # Each table's two axes of points, and where its third would be, of length 1; of the face's axis the first point.
      features = 0.0
      for table, pair in zip(tables, ((0, 1), (0, 2), (1, 2))):
        index = [places[:, axis] for axis in pair] + [0 if axis == face else slice(None) for axis in pair]
        there = [name for axis, name in enumerate('abc') if axis in pair and axis != face]
        part = table[tuple(index)]
        features += part.reshape(
          len(places), *[table.shape[2] if name in there else 1 for name in names], part.shape[-1]
        )
      return self.nerf.after_first(features)[0]

    side = tables[0].shape[2]
    if not backend.current().cache_blocking:
      return some(places)
    # A few at a time: what the MLP works on stays in the caches.
    few = _POINTS_OF_BLOCKS_IN_CACHE // side ** len(names)
    padded = jnp.pad(places, ((0, -len(places) % few), (0, 0)))

    def one(i, densities):
      part = some(jax.lax.dynamic_slice_in_dim(padded, i * few, few))
      return jax.lax.dynamic_update_slice_in_dim(densities, part, i * few, axis=0)

    densities = jnp.zeros((len(padded),) + (side,) * len(names))
    return jax.lax.fori_loop(0, (count + few - 1) // few, one, densities)[: len(places)]

  def features(self, folded: Float[Array, '3 P P F'], points: Float[Array, '*q 3']) -> Float[Array, '*q F']:
    """Returns the sums of samples of one object's folded planes at points of the world."""
    points = points if self.half_size == 1.0 else points / self.half_size
    return triplane.sample_sum(folded, points, self.plane_axes)

  def samples(
    self, origins: Float[Array, 'R 3'], directions: Float[Array, 'R 3'], keys: Key[Array, 'R'] | None
  ) -> tuple[Float[Array, 'R S'], Float[Array, 'R 1']]:
    """Returns (distances, delta) of the samples along rays, and what each counts in the sum of densities."""
    raise NotImplementedError

  def trace(
    self,
    folded: Float[Array, '3 P P F'],
    origins: Float[Array, 'R 3'],
    directions: Float[Array, 'R 3'],
    keys: Key[Array, 'R'] | None,
  ) -> volume.Pixels:
    """Returns the pixels [R] over black of rays through one object's folded planes."""

    def field(points):
      return self.nerf.after_first(self.features(folded, points))

    return march(field, origins, directions, *self.samples(origins, directions, keys))

  def occupancy(self, planes: Float[Array, '3 P P C']) -> Bool[Array, 'G G G']:
    """Returns the cells of the cube in which something may be seen."""
    size = skipping.GRID + 1
    blocks = -(-size // _GRID_BLOCK)
    points = jnp.minimum(jnp.arange(blocks * _GRID_BLOCK), size - 1) * (2 / (size - 1)) - 1
    places = jnp.stack(jnp.meshgrid(*[jnp.arange(blocks)] * 3, indexing='ij'), axis=-1).reshape(-1, 3)
    density = self.block_densities(self.grid_tables(planes, points.reshape(blocks, _GRID_BLOCK)), places, len(places))
    density = rearrange(density, '(x y z) a b c -> (x a) (y b) (z c)', x=blocks, y=blocks)[:size, :size, :size]
    return skipping.occupied_cells(density, skipping.EMPTY_DEPTH / self.longest_ray)

  def _skipping(self, planes, folded, origins, directions) -> volume.Pixels:
    cells = self.occupancy(planes)

    def occupied(points):
      return skipping.is_occupied(cells, points / self.half_size)

    def field(points):
      return self.nerf.after_first(self.features(folded, points))

    def one_chunk(rays):
      return skipping.march_skipping(field, occupied, *rays, *self.samples(*rays, None))

    chunk = min(_RAYS_AT_ONCE, len(origins))
    chunks = [jnp.pad(x, ((0, -len(x) % chunk), (0, 0))).reshape(-1, chunk, 3) for x in (origins, directions)]
    pixels = jax.lax.map(one_chunk, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: len(origins)], pixels)


def check_sizes(image_size: int, patch_size: int, **networks: tuple[int, int]) -> None:
  """Raises ValueError where patches do not fill the picture, or heads the width of a network (width, heads)."""
  for name, (width, heads) in networks.items():
    if width % heads:
      raise ValueError(f'{name}_{width=} must be a multiple of {name}_num_heads={heads}')
  if image_size % patch_size:
    raise ValueError(f'{image_size=} must be a multiple of {patch_size=}')
