"""A trained model, ready to use: lrm_jax.from_pretrained(x) -> pictures in, planes, views, points, meshes out.

Conventions: lrm_jax/cameras.py. Arrays in may be NumPy or JAX; those out are NumPy, but for planes.
Legend: B pictures, V views, P texels, C channels, Q points.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import trimesh

from lrm_jax import cameras, checkpoint, mesh as mesh_lib
from lrm_jax.models.lrm import LRM
from lrm_jax.volume import Pixels

SHIPPED = Path(__file__).parent / 'pretrained'
_RAYS_PER_CALL = 2**16


def from_pretrained(source: str | Path) -> 'Reconstructor':
  """Returns the model of a run directory, or one that ships with the package, by name.

  Raises FileNotFoundError, which says what there is, where neither is found.
  """
  model, config, step = checkpoint.restore(find(source))
  return Reconstructor(model, fov=config.data.fov, step=step)


def find(source: str | Path) -> Path:
  """Returns the run directory that `source` means: itself, or that of a model that ships, by name."""
  for directory in (Path(source), SHIPPED / source):
    if directory.is_dir() and str(source):
      return directory
  names = sorted(path.name for path in SHIPPED.glob('*/')) if SHIPPED.is_dir() else []
  raise FileNotFoundError(
      f'{source} is no directory and no model that ships: give a run directory (the --workdir of a training), or one '
      f'of: {", ".join(names) or "(none)"}')


class Reconstructor:
  """A model whose calls are compiled once and bounded in memory.

  `image_size` is what pictures must have, in pixels; `fov` is the full field of view, in degrees, of the pictures
  that the model was trained on.
  """

  def __init__(self, model: LRM, *, fov: float = 50.0, step: int = 0):
    self.model, self.fov, self.step = model, fov, step
    self.image_size = model.image_size

  @property
  def intrinsics(self) -> np.ndarray:
    """The intrinsics [4] of the camera that the model expects."""
    return cameras.intrinsics_from_fov(self.fov).astype(np.float32)

  def encode(
      self, images: Float[Array, 'B H W 3'], camera_to_world: Float[Array, 'B 4 4'] | None = None,
      intrinsics: Float[Array, 'B 4'] | None = None,
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes of pictures in 0..1 of `image_size` pixels, white around the object.

    Without a camera, the one the model was trained to expect: at [0, -2, 0], looking at the object.
    """
    images = jnp.asarray(images, jnp.float32)
    if images.ndim != 4 or images.shape[1:] != (self.image_size, self.image_size, 3):
      raise ValueError(
          f'images have shape {images.shape}; this model takes [B, {self.image_size}, {self.image_size}, 3] in 0..1')
    batch = len(images)
    if camera_to_world is None:
      camera_to_world = np.tile(cameras.input_camera(), (batch, 1, 1))
    if intrinsics is None:
      intrinsics = np.tile(self.intrinsics, (batch, 1))
    _check('camera_to_world', camera_to_world, (batch, 4, 4))
    _check('intrinsics', intrinsics, (batch, 4))
    return _encode(self.model, images, _float(camera_to_world), _float(intrinsics))

  def render(
      self, planes: Float[Array, 'B 3 P P C'], camera_to_world: Float[Array, 'B V 4 4'],
      intrinsics: Float[Array, 'B V 4'], size: int, background: float = 1.0,
  ) -> Pixels:
    """Returns color [B, V, size, size, 3], depth and opacity [B, V, size, size]; deterministic.

    Depth is sum_i w_i t_i, in world units along the ray. Views are rendered a few at a time.
    """
    batch, num_views = np.shape(camera_to_world)[:2]
    _check('camera_to_world', camera_to_world, (len(planes), num_views, 4, 4))
    _check('intrinsics', intrinsics, (len(planes), num_views, 4))
    if size < 1 or num_views < 1:
      raise ValueError(f'{size=} and the number of views, {num_views}, must be at least 1')
    views = max(1, min(num_views, _RAYS_PER_CALL // (batch * size * size)))
    camera_to_world, intrinsics = np.asarray(camera_to_world, np.float32), np.asarray(intrinsics, np.float32)
    parts = []
    for first in range(0, num_views, views):
      # The last call is filled up, so that one program serves all.
      index = np.minimum(np.arange(first, first + views), num_views - 1)
      pixels = _render(self.model, planes, camera_to_world[:, index], intrinsics[:, index], size, background)
      parts.append(jax.tree.map(lambda x: np.asarray(x)[:, :min(views, num_views - first)], pixels))
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)

  def query(
      self, planes: Float[Array, 'B 3 P P C'], points: Float[Array, 'B Q 3']
  ) -> tuple[Float[Array, 'B Q'], Float[Array, 'B Q 3']]:
    """Returns (density >= 0 per world unit, colour in 0..1) at points of the cube [-1, 1]^3."""
    _check('points', points, (len(planes), np.shape(points)[1], 3))
    return jax.tree.map(np.asarray, _query(self.model, planes, _float(points)))

  def mesh(
      self, planes: Float[Array, 'B 3 P P C'], *, resolution: int = 128, threshold: float | None = None
  ) -> list[trimesh.Trimesh]:
    """Returns one mesh an object, z up, with vertex colours, as lrm_jax/mesh.py tells.

    `threshold` is the density of the surface, per world unit; without it, the one whose surface has the outline of
    the volume. Raises ValueError where there is no surface.
    """

    def field(planes):
      return lambda points: jax.tree.map(lambda x: np.asarray(x)[0], _query(self.model, planes[None], points[None]))

    return [mesh_lib.extract(field(one), resolution=resolution, threshold=threshold) for one in planes]


_encode = jax.jit(lambda model, *inputs: model.encode(*inputs))
_query = jax.jit(lambda model, planes, points: model.query(planes, points))


@functools.partial(jax.jit, static_argnames='size')
def _render(model, planes, camera_to_world, intrinsics, size, background):
  return model.render(planes, camera_to_world, intrinsics, size, background)


def _float(x) -> Array:
  return jnp.asarray(x, jnp.float32)


def _check(name: str, x, shape: tuple[int, ...]) -> None:
  if np.shape(x) != shape:
    raise ValueError(f'{name} has shape {np.shape(x)}, not {shape}')
