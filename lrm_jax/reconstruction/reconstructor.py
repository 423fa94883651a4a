"""Inference with a trained model: images are encoded to planes, from which views, points and meshes are computed.

Axes and camera conventions: lrm_jax/geometry/cameras.py. Arguments may be NumPy or JAX arrays. Results are NumPy
arrays, except planes, which stay on the device.
Legend: B images, N input views of an object, H W image, V views, P texels along a plane's side, C channels, Q points,
G cells of the occupancy grid along a side.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import logging
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np
import trimesh

from lrm_jax.distributed import accelerators
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, image_files
from lrm_jax.geometry.volume import Pixels
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.reconstruction import camera_fit, cleanup, inputs, preprocess, segmenters, several_views, surface, video
from lrm_jax.reconstruction import mesh as mesh_lib
from lrm_jax.reconstruction.result import Reconstruction, load_planes
from lrm_jax.weights import pretrained

_LOGGER = logging.getLogger(__name__)

_RAYS_PER_CALL = 2**16
_BLOCKS_PER_CALL = 2**13  # blocks of a mesh's grid, 64 points each


def from_pretrained(source: str | Path) -> 'Reconstructor':
  """Returns the model at `source`, ready for inference.

  `source` is one of:
    - the name of a model that is included in the package: 'demo' or 'quickstart';
    - a run directory, the `--workdir` of a training run; its latest checkpoint is used;
    - a directory in OpenLRM's or TripoSR's format, or written by `lrm_jax.export`;
    - 'hf://owner/name' or 'hf://owner/name@revision', a model on the Hugging Face Hub.

  Raises InputError if the model is not found or its format is unknown, or if its files do not match each other. The
  messages list the expected files or the differences.
  """
  model, config, step = pretrained.load(source)
  data = config.data
  return Reconstructor(
    model,
    fov=data.fov,
    step=step,
    fill=data.fill,
    input_background=data.input_background,
    keep_distance=data.get('keep_distance', False),
  )


class Reconstructor:
  """A trained model for inference; `lrm_jax.from_pretrained` returns one.

  `reconstruct` turns an image into a Reconstruction, which has methods for everything else. The steps are here too, for
  many objects at once: `prepare` reads an image file and `encode` turns images into planes. `render`, `query` and
  `mesh` compute views, densities and colours at points, and meshes from the planes. Each method is compiled once per
  shape of its arguments. Rendering and mesh extraction run in parts, so that their memory is bounded.

  World coordinates are right-handed with z up. The object lies inside the cube [-half_size, half_size]^3.

  Attributes:
    model: the network.
    image_size: side of the input images in pixels. OpenLRM's and TripoSR's models accept any multiple of their patch
      size, but `image_size` is best.
    half_size: half the side of the cube, in world units.
    input_position: position (x, y, z) of the default input camera, in world units. It looks at the origin.
    input_camera: its pose camera_to_world [4, 4].
    fov: full field of view of the training images, in degrees.
    fill: fraction of the input image that the longer side of the object covers.
    input_background: grey around the object in input images, in 0..1.
    num_input_views: largest number of images of an object that the model takes at once.
    keep_distance: whether input cameras kept their distance to the object in training; otherwise scenes were scaled.
    step: training step of the weights; 0 for third-party weights.
  """

  def __init__(
    self,
    model: TriplaneModel,
    *,
    fov: float = 50.0,
    step: int = 0,
    fill: float = preprocess.FILL,
    input_background: float = 1.0,
    keep_distance: bool = False,
  ):
    self.model, self.fov, self.step, self.fill, self.input_background = model, fov, step, fill, input_background
    self.keep_distance, self.num_input_views = keep_distance, model.num_input_views
    self.image_size, self.half_size, self.input_position = model.image_size, model.half_size, model.input_position
    self.input_camera = cameras.input_camera(self.input_position).astype(np.float32)

  @property
  def intrinsics(self) -> np.ndarray:
    """The intrinsics [4], (fx, fy, cx, cy) divided by the image size, of the camera that the model expects."""
    return cameras.intrinsics_from_fov(self.fov).astype(np.float32)

  def turntable(self, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (camera_to_world [1, V, 4, 4], intrinsics [1, V, 4]) of one turn around the object, V = `num_frames`."""
    return video.turntable_cameras(num_frames, self.intrinsics, self.input_position)

  def prepare(
    self,
    path: str | Path,
    *,
    remove_background: bool = False,
    segmenter: segmenters.SegmenterLike | None = None,
    mask: str | Path | None = None,
    camera: camera_fit.Camera = 'default',
    fov: float | None = None,
    max_pixels: int = image_files.MAX_PIXELS,
  ) -> preprocess.Prepared:
    """Returns the image in a file as the model expects it: `.image` [S, S, 3] in 0..1, S = `image_size`.

    If the image has transparency, or with `remove_background` or a `mask`, the object is cut out, centred and scaled.
    Otherwise the whole image is used and `.has_mask` is False. `.notes` are sentences about what was assumed or may be
    cut off. `segmenter` (segmenters.py; 'grabcut', 'rembg', a path of an ONNX file, or a function) removes the
    background, which it implies; `mask` is an image file of the object's outline: its opacity or, if it is opaque, its
    brightness. An object that is cut out has the size in the image that follows from the field of view of the
    photograph (camera_fit.py): `fov`, in degrees along its longer side, or with the `camera` 'exif' that of its EXIF
    data, or with 'search' the one that fits best. Otherwise its longer side covers the fraction `fill`.
    Raises InputError if there is no such file, or if it is not an image, has more than `max_pixels` pixels or shows no
    object.
    """
    camera_fit.check(camera, fov)
    found = preprocess.read_object(
      path,
      remove_background=remove_background or segmenter is not None,
      segmenter=segmenters.load(segmenter),
      mask=mask,
      background=self.input_background,
      max_pixels=max_pixels,
    )
    fitted = camera_fit.prepare(self, found, path, camera, fov)
    return fitted or preprocess.of_object(
      found, self.image_size, name=str(path), fill=self.fill, background=self.input_background
    )

  def reconstruct(
    self,
    images: inputs.ImageLike | Sequence[inputs.ImageLike],
    *,
    remove_background: bool = False,
    segmenter: segmenters.SegmenterLike | None = None,
    mask: inputs.ImageLike | Sequence[inputs.ImageLike] | None = None,
    camera: camera_fit.Camera = 'default',
    fov: float | None = None,
    elevation: float = 0.0,
    batch_size: int | None = None,
  ) -> Reconstruction | list[Reconstruction]:
    """Returns the reconstruction of an image, or a list of those of a list of images.

    An image is a path, a PIL image, or an array [H, W, 3 or 4] of bytes or floats in 0..1; it is prepared as by
    `prepare`. A `mask` is one, too, or an array [H, W]; a list of images has a list of masks. `camera` and `fov` are
    those of `prepare`. `elevation` is the angle, in degrees, by which the camera looks down on the object: files and
    turntables of the Reconstruction are level. `batch_size` images are encoded at once (default: 1 on a CPU, which
    gains nothing, otherwise 8). What is assumed about an image is logged as a warning. Raises InputError if an image
    cannot be read or shows no object.
    """
    several = isinstance(images, (list, tuple))
    sources: Sequence = images if several else [images]  # type: ignore[assignment]
    outlines: Sequence = [None] * len(sources)
    if mask is not None:
      outlines = mask if several else [mask]  # type: ignore[assignment]
    if len(outlines) != len(sources):
      raise InputError(f'there are {len(outlines)} masks for {len(sources)} images: give one for each')
    options: dict = dict(remove_background=remove_background, camera=camera, fov=fov)
    options['segmenter'] = None if segmenter is None else segmenters.load(segmenter)
    prepared, names = [], []
    for image, outline in zip(sources, outlines):
      with contextlib.ExitStack() as files:
        path = files.enter_context(inputs.as_file(image))
        cut = None if outline is None else files.enter_context(inputs.as_file(outline))
        prepared.append(self.prepare(path, mask=cut, **options))
        _warn(prepared[-1].notes, image, path)
        names.append(path.stem)
    planes = self.encode_each([one.image for one in prepared], batch_size)
    results = [
      Reconstruction(self, features, one.image, one.has_mask, name, elevation)
      for features, one, name in zip(planes, prepared, names)
    ]
    return results if several else results[0]

  def reconstruct_views(
    self,
    images: Sequence[inputs.ImageLike],
    camera_to_world: np.ndarray | None = None,
    intrinsics: np.ndarray | None = None,
    *,
    layout: str | None = None,
    remove_background: bool = False,
    segmenter: segmenters.SegmenterLike | None = None,
    max_pixels: int = image_files.MAX_PIXELS,
  ) -> Reconstruction:
    """Returns one reconstruction of several views of the same object, in the frame of the first.

    With cameras, `camera_to_world` [N, 4, 4] (object at the origin, z up) and `intrinsics` [N, 4] (default: the
    property `intrinsics`), the images are used whole. Without, the views are those of the sides in `layout` (default:
    'front,right,back,left' as far as there are images), taken from the same distance at the height of the object with
    the same camera: each object is centred, and all are scaled by one factor, so that the largest has the usual size.
    Raises InputError if there are more views than `num_input_views`, or if an image cannot be used.
    """
    if not 1 <= len(images) <= self.num_input_views:
      raise InputError(
        f'this model takes 1 to {self.num_input_views} views of an object, not {len(images)}: give fewer, or train '
        'with a larger config.model.num_input_views'
      )
    whole = camera_to_world is not None
    if whole:
      camera_to_world, _ = cameras.normalise_to_input_view(
        camera_to_world, position=self.input_position, keep_distance=self.keep_distance
      )
      intrinsics = np.tile(self.intrinsics, (len(images), 1)) if intrinsics is None else intrinsics
    else:
      names = several_views.parse_layout(layout, len(images))
      camera_to_world, intrinsics = several_views.layout_cameras(names, self.input_position, self.intrinsics)
    with contextlib.ExitStack() as files:
      paths = [files.enter_context(inputs.as_file(image)) for image in images]
      prepared = several_views.prepare(
        paths,
        self.image_size,
        whole=whole,
        fill=self.fill,
        background=self.input_background,
        remove_background=remove_background or segmenter is not None,
        segmenter=segmenters.load(segmenter),
        max_pixels=max_pixels,
      )
    for image, path, one in zip(images, paths, prepared):
      _warn(one.notes, image, path)
    planes = self.encode(
      np.stack([one.image for one in prepared])[None], np.asarray(camera_to_world)[None], np.asarray(intrinsics)[None]
    )
    return Reconstruction(self, planes[0], prepared[0].image, prepared[0].has_mask, paths[0].stem)

  def from_planes(
    self, planes: str | Path | np.ndarray | Array, image: np.ndarray | None = None, name: str | None = None
  ) -> Reconstruction:
    """Returns the reconstruction with these planes: an array [3, P, P, C] or the path of a NAME_planes.npz.

    Raises InputError if the file cannot be read or the planes are not those of this model.
    """
    stem = 'image'
    if isinstance(planes, (str, Path)):
      stem = Path(planes).stem.removesuffix('_planes')
      planes, stored = load_planes(planes)
      image = stored if image is None else image
    wanted = self._planes_shape
    if np.shape(planes) != wanted:
      raise InputError(f'planes have shape {np.shape(planes)}, those of this model have {wanted}')
    return Reconstruction(self, _float(planes), image, True, name or stem)

  @functools.cached_property
  def _planes_shape(self) -> tuple[int, ...]:
    size = self.image_size
    shapes = (1, size, size, 3), (1, 4, 4), (1, 4)
    planes = jax.eval_shape(_encode, self.model, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    return planes.shape[1:]

  def encode_each(
    self, images: Sequence[np.ndarray], batch_size: int | None = None
  ) -> Iterator[Float[Array, '3 P P C']]:
    """Yields the planes of each image [S, S, 3] in order; `batch_size` are encoded at once, by one compiled program.

    The default is 1 on a CPU and 8 on accelerators: on a CPU the products of one image keep all cores busy.
    """
    batch_size = batch_size or (1 if jax.default_backend() == 'cpu' else 8)
    if batch_size < 1:
      raise InputError(f'{batch_size=} must be at least 1')
    batch_size = min(batch_size, max(1, len(images)))
    for first in range(0, len(images), batch_size):
      part = list(images[first : first + batch_size])
      planes = self.encode(np.stack(part + part[-1:] * (batch_size - len(part))))
      yield from planes[: len(part)]

  def encode(
    self,
    images: Float[Array | np.ndarray, 'B *N H W 3'],
    camera_to_world: Float[Array | np.ndarray, 'B *N 4 4'] | None = None,
    intrinsics: Float[Array | np.ndarray, 'B *N 4'] | None = None,
  ) -> Float[Array, 'B 3 P P C']:
    """Returns the planes of images in 0..1, with `input_background` around the object.

    `camera_to_world` and `intrinsics` describe the cameras that took the images; the defaults are `input_camera` and
    the property `intrinsics`. TripoSR's models ignore them. With an axis N, there are N views of each object, with
    cameras in the frame of the first. Raises InputError if a shape is wrong, or N is larger than `num_input_views`.
    """
    images = jnp.asarray(images, jnp.float32)
    size, step = self.image_size, self.model.encoder.patch_size
    if images.ndim == 5:
      return self._encode_views(images, camera_to_world, intrinsics)
    fits = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
    fits = fits and (not images.shape[1] % step if self.model.any_image_size else images.shape[1] == size)
    wanted = f'[B, {size}, {size}, 3]'
    if self.model.any_image_size:
      wanted = f'[B, S, S, 3], S a multiple of {step} (best {size}),'
    if not fits or not len(images) or not images.shape[1]:
      raise InputError(f'images have shape {images.shape}; this model expects {wanted} in 0..1')
    batch = len(images)
    if camera_to_world is None:
      camera_to_world = np.tile(self.input_camera, (batch, 1, 1))
    if intrinsics is None:
      intrinsics = np.tile(self.intrinsics, (batch, 1))
    _check('camera_to_world', camera_to_world, (batch, 4, 4))
    _check('intrinsics', intrinsics, (batch, 4))
    return _encode(self.model, images, _float(camera_to_world), _float(intrinsics))

  def _encode_views(self, images, camera_to_world, intrinsics) -> Float[Array, 'B 3 P P C']:
    batch, count = images.shape[:2]
    if count > self.num_input_views:
      raise InputError(f'this model takes 1 to {self.num_input_views} views of an object, not {count}')
    _check('images', images, (batch, count, self.image_size, self.image_size, 3))
    _check('camera_to_world', camera_to_world, (batch, count, 4, 4))
    _check('intrinsics', intrinsics, (batch, count, 4))
    return _encode(self.model, images, _float(camera_to_world), _float(intrinsics))

  def render(
    self,
    planes: Float[Array, 'B 3 P P C'],
    camera_to_world: Float[Array | np.ndarray, 'B V 4 4'],
    intrinsics: Float[Array | np.ndarray, 'B V 4'],
    size: int,
    background: float = 1.0,
    *,
    skip: bool = False,
    cells: Bool[Array, 'B G G G'] | None = None,
    progress: Callable[[int], object] | None = None,
  ) -> Pixels:
    """Returns colour [B, V, size, size, 3] in 0..1, depth and opacity [B, V, size, size] of views of each object.

    Depth is sum_i w_i t_i along the ray, in world units, and opacity is sum_i w_i in 0..1. `size` is in pixels and
    `background` is a grey in 0..1. Rendering is deterministic. Views are rendered a few at a time; `progress` is called
    with the number of views finished since its last call. With `skip`, invisible samples are skipped
    (lrm_jax/models/skipping.py): this is many times faster, and its PSNR against full rendering is above 45 dB. `cells`
    are the results of `occupancy`, if they are known.
    Raises InputError if a shape is wrong, or if `size` or the number of views is below 1.
    """
    batch, num_views = np.shape(camera_to_world)[:2]
    _check('camera_to_world', camera_to_world, (len(planes), num_views, 4, 4))
    _check('intrinsics', intrinsics, (len(planes), num_views, 4))
    if size < 1 or num_views < 1:
      raise InputError(f'{size=} and the number of views, {num_views}, must be at least 1')
    views = max(1, min(num_views, _RAYS_PER_CALL // (batch * size * size)))
    camera_to_world, intrinsics = np.asarray(camera_to_world, np.float32), np.asarray(intrinsics, np.float32)
    rays_per_chunk = self.model.rays_that_fit(accelerators.memory(jax.local_devices()[0]), batch)
    if skip and cells is None:
      cells = self.occupancy(planes)
    parts = []
    for first in range(0, num_views, views):
      # The last call repeats views to keep its shape, so that one program serves all calls.
      index = np.minimum(np.arange(first, first + views), num_views - 1)
      poses, lenses = camera_to_world[:, index], intrinsics[:, index]
      pixels = _render(self.model, planes, poses, lenses, size, background, skip, cells, rays_per_chunk)
      count = min(views, num_views - first)
      parts.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:, :count], pixels))
      if progress is not None:
        progress(count)
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)

  def occupancy(self, planes: Float[Array, 'B 3 P P C']) -> Bool[Array, 'B G G G'] | None:
    """Returns which cells of the cube may contain something visible, for `render`; None if that cannot be known."""
    return None if self.model.longest_ray is None else _occupancy(self.model, planes)

  def query(
    self, planes: Float[Array, 'B 3 P P C'], points: Float[Array | np.ndarray, 'B Q 3']
  ) -> tuple[Float[Array, 'B Q'], Float[Array | np.ndarray, 'B Q 3']]:
    """Returns (density [B, Q] >= 0, colour [B, Q, 3] in 0..1) at points in world units.

    Density is per world unit, except for TripoSR's models: theirs is per length of the ray's path through the cube.
    Outside of the cube the features are zero, so the result is not meaningful. Raises InputError if the shape of
    `points` is wrong.
    """
    _check('points', points, (len(planes), np.shape(points)[1], 3))
    return jax.tree.map(np.asarray, _query(self.model, planes, _float(points)))

  def mesh(
    self,
    planes: Float[Array, 'B 3 P P C'],
    *,
    resolution: int = 128,
    threshold: float | Literal['auto'] | None = None,
    dense: bool = False,
    keep: str | float = cleanup.KEEP,
    faces: int | None = None,
    texture_size: int | None = None,
    done: Callable[[str], object] = lambda phase: None,
  ) -> list[trimesh.Trimesh]:
    """Returns B meshes in world units, z up, with colours (sRGB, 0..255); see lrm_jax/reconstruction/mesh.py.

    `resolution` is the number of grid points along a side, at least 8. `threshold` is the density at the surface, in
    the unit of `query`; with 'auto' it is chosen per object, so that outline and depth of the mesh match those of
    the rendered volume. The default is 'auto' for our own models, and the value of the original code for OpenLRM's and
    TripoSR's models. With `dense`, all grid points are evaluated instead of those near the surface.

    `keep` says which connected parts remain: 'largest', 'all', or those with at least this share of the volume of the
    largest part. `faces` is the greatest number of triangles (None: all). The colours are at the vertices or, with
    `texture_size`, in a texture of so many pixels along a side; such a mesh has 10,000 triangles unless `faces` is
    given. The mesh is closed, also at the border of the cube that the model fills.
    `mesh.metadata['report']` has the numbers (cleanup.Report), `done` is called with the name of each finished phase.
    Raises InputError if an argument is out of range or there is no surface, and ImportError if `texture_size` is given
    and xatlas is not installed.
    """
    threshold = self.model.surface_density if threshold is None else threshold
    meshes = [
      mesh_lib.extract(
        self._field(object_planes),
        resolution=resolution,
        threshold=threshold,
        dense=dense,
        keep=keep,
        faces=faces,
        texture_size=texture_size,
        done=done,
      )
      for object_planes in jnp.asarray(planes)
    ]
    return [_scaled(mesh, self.half_size) for mesh in meshes]

  def _field(self, planes: Float[Array, '3 P P C']) -> mesh_lib.Field:
    """Returns the field of one object for `mesh_lib.extract`, in the coordinates [-1, 1]^3 of its grid."""

    def query(points):
      return jax.tree.map(lambda x: np.asarray(x)[0], _query(self.model, planes[None], self.half_size * points[None]))

    def grid(coordinates):
      tables = _grid_tables(self.model, planes, mesh_lib.blocks_of(coordinates))

      def evaluate(places, face):
        values = np.empty((len(places),) + (surface.BLOCK,) * (3 if face is None else 2), np.float32)
        for first in range(0, len(places), _BLOCKS_PER_CALL):
          part = places[first : first + _BLOCKS_PER_CALL]
          filled = np.pad(part, ((0, _BLOCKS_PER_CALL - len(part)), (0, 0))).astype(np.int32)
          densities = _block_densities(self.model, tables, filled, len(part), face)
          values[first : first + len(part)] = np.asarray(densities)[: len(part)]
        return values

      return evaluate

    return mesh_lib.Field(query, grid)


def _warn(notes: Sequence[str], image: inputs.ImageLike, path: Path) -> None:
  """Logs what was assumed about an image, without the path of a temporary file."""
  for note in notes:
    _LOGGER.warning('%s', note if isinstance(image, (str, Path)) else note.replace(str(path), 'the image'))


_encode = jax.jit(lambda model, *inputs: model.encode(*inputs))
_query = jax.jit(lambda model, planes, points: model.query(planes, points))
_occupancy = jax.jit(lambda model, planes: jax.lax.map(model.occupancy, planes))
_grid_tables = jax.jit(lambda model, planes, coordinates: model.grid_tables(planes, coordinates))


@functools.partial(jax.jit, static_argnames='face')
def _block_densities(model, tables, places, count, face):
  return model.block_densities(tables, places, count, face)


@functools.partial(jax.jit, static_argnames=('size', 'skip', 'rays_per_chunk'))
def _render(model, planes, camera_to_world, intrinsics, size, background, skip, cells, rays_per_chunk):
  return model.render(
    planes, camera_to_world, intrinsics, size, background, skip=skip, cells=cells, rays_per_chunk=rays_per_chunk
  )


def _scaled(mesh: trimesh.Trimesh, factor: float) -> trimesh.Trimesh:
  """Returns the mesh scaled, with its own vertex normals."""
  return trimesh.Trimesh(
    mesh.vertices * factor,
    mesh.faces,
    vertex_normals=mesh.vertex_normals,
    visual=mesh.visual,
    metadata=mesh.metadata,
    process=False,
  )


def _float(x) -> Array:
  return jnp.asarray(x, jnp.float32)


def _check(name: str, x, shape: tuple[int, ...]) -> None:
  if np.shape(x) != shape:
    raise InputError(f'{name} has shape {np.shape(x)}, expected {shape}')
