"""The reconstruction of one image: its planes, and everything that can be computed from them.

  model = lrm_jax.from_pretrained('demo')
  chair = model.reconstruct('chair.png')
  chair.mesh(faces=20_000)              # a trimesh.Trimesh
  chair.turntable(48, size=256).color   # [48, 256, 256, 3]
  chair.save('out')                     # out/chair.glb, chair.mp4, chair_depth.mp4, chair_input.png, chair_planes.npz

Legend: S side of the input image, P texels along a plane's side, C channels, V views, s pixels along a side of a view.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
from pathlib import Path
import tempfile
from typing import Protocol
import zipfile

import jax
from jaxtyping import Array, Float
import numpy as np
from PIL import Image
import trimesh

from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.geometry.volume import Pixels
from lrm_jax.reconstruction import camera_fit, mesh_files, video


class Model(Protocol):
  """What a reconstruction uses of its model, a Reconstructor (lrm_jax/reconstruction/reconstructor.py)."""

  input_camera: np.ndarray

  @property
  def input_position(self) -> Sequence[float]: ...
  @property
  def intrinsics(self) -> np.ndarray: ...
  @property
  def turntable(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]: ...
  @property
  def render(self) -> Callable[..., Pixels]: ...
  @property
  def occupancy(self) -> Callable[[Array], Array | None]: ...
  @property
  def mesh(self) -> Callable[..., list[trimesh.Trimesh]]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
  """One reconstructed object.

  `features` [3, P, P, C] are its planes on the device, `image` [S, S, 3] in 0..1 is what the network saw, `has_mask`
  says whether the object was cut out of the image, and `name` is the stem of its file ('image' if there was none).
  `elevation` is the angle, in degrees, by which the input camera looks down on the object. `mesh` and `render` are in
  the frame of that camera; turntables and the files of `save` are level. Raises InputError if it is not in -89..89.
  """

  model: Model
  features: Float[Array, '3 P P C']
  image: np.ndarray | None = None
  has_mask: bool = True
  name: str = 'image'
  elevation: float = 0.0

  def __post_init__(self):
    if not -89 <= self.elevation <= 89:
      raise InputError(f'an elevation of {self.elevation:g} degrees is not possible: use -89 to 89')

  @functools.cached_property
  def _turn(self) -> np.ndarray:
    """The rotation [4, 4] from a level world to the frame of the input camera."""
    return camera_fit.turn(self.elevation, np.asarray(self.model.input_camera)[:3, 0])

  @property
  def planes(self) -> np.ndarray:
    """The planes as a NumPy array [3, P, P, C]; `model.from_planes(array)` is the inverse."""
    return np.asarray(self.features)

  @functools.cached_property
  def _cells(self) -> Array | None:
    """The occupancy grid [1, G, G, G], which takes as long as a view of 128 px; views do not compute it again."""
    return self.model.occupancy(self.features[None])

  def mesh(self, **options) -> trimesh.Trimesh:
    """Returns the mesh in world units, z up; the options are those of `Reconstructor.mesh`."""
    return self.model.mesh(self.features[None], **options)[0]

  def render(
    self,
    camera_to_world: np.ndarray | None = None,
    intrinsics: np.ndarray | None = None,
    size: int = 128,
    background: float = 1.0,
    *,
    skip: bool = True,
    progress: Callable[[int], object] | None = None,
  ) -> Pixels:
    """Returns colour [V, s, s, 3] in 0..1, depth and opacity [V, s, s] of views from `camera_to_world` [V, 4, 4].

    A single pose [4, 4] gives a single view, without the axis V; the default is the input camera. `intrinsics` [4] or
    [V, 4] defaults to those of the training images. The other arguments are those of `Reconstructor.render`.
    """
    poses = np.asarray(self.model.input_camera if camera_to_world is None else camera_to_world, np.float32)
    if poses.ndim not in (2, 3) or poses.shape[-2:] != (4, 4):
      raise InputError(f'camera_to_world has shape {poses.shape}, expected (4, 4) or (V, 4, 4)')
    views = poses.reshape(-1, 4, 4)
    lens = np.asarray(self.model.intrinsics if intrinsics is None else intrinsics, np.float32)
    if lens.shape not in ((4,), (len(views), 4)):
      raise InputError(f'intrinsics has shape {lens.shape}, expected (4,) or ({len(views)}, 4)')
    lens = np.broadcast_to(lens, (len(views), 4))
    pixels = self.model.render(
      self.features[None],
      views[None],
      lens[None],
      size,
      background,
      skip=skip,
      cells=self._cells if skip else None,
      progress=progress,
    )
    pixels = jax.tree.map(lambda x: x[0], pixels)
    return pixels if poses.ndim == 3 else jax.tree.map(lambda x: x[0], pixels)

  def turntable(self, num_frames: int = 48, size: int = 128, **options) -> Pixels:
    """Returns the pixels [V, s, s] of one turn around the object, V = `num_frames`; options as in `render`."""
    poses, intrinsics = self.model.turntable(num_frames)
    poses = poses[0] if not self.elevation else self._turn @ poses[0]
    return self.render(poses, intrinsics[0], size, **options)

  def depth(self, camera_to_world: np.ndarray | None = None, size: int = 128) -> np.ndarray:
    """Returns the depth [s, s] along each ray, in world units, from a camera (default: the input camera).

    This is the mean depth of what the ray meets; where it meets nothing, it is infinite. A pixel belongs to the object
    if its opacity is at least one half.
    """
    pixels = self.render(camera_to_world, size=size)
    return np.where(pixels.opacity >= 0.5, pixels.depth / np.maximum(pixels.opacity, 1e-6), np.inf)

  def save(
    self,
    directory: str | Path,
    name: str | None = None,
    *,
    formats: Sequence[str] = ('glb',),
    mesh: trimesh.Trimesh | None = None,
    size: int = 128,
    num_frames: int = 48,
    done: Callable[[str], object] = lambda phase: None,
    progress: Callable[[int], object] | None = None,
    **options,
  ) -> dict[str, Path]:
    """Writes mesh, turntable, depth and planes to a directory, all or none; returns {kind: file}.

    The files are NAME.glb, or one for each of `formats` (mesh_files.py), NAME.mp4, NAME_depth.mp4, NAME_planes.npz and,
    if there is an image, NAME_input.png; their kinds are mesh (that of the first format), video, depth, planes, input,
    and otherwise the suffix. `mesh` is used if it is given; otherwise it is made with the `options` of
    `Reconstructor.mesh`. `size` is in pixels. `done` is called with the name of each finished phase, `progress` with
    the number of frames finished since its last call. Raises InputError if there is no surface.
    """
    name, directory = name or self.name, Path(directory)
    formats = mesh_files.parse_formats(','.join(formats))
    if mesh is None:
      mesh = self.mesh(done=done, **options)
    if self.elevation:
      mesh = mesh_files.turned(mesh, self._turn[:3, :3].T)
    pixels = self.turntable(num_frames, size, progress=progress)
    done('turntable')
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{name}.', dir=directory) as folder:
      fresh: dict[str, Path] = {}
      for kind in formats:
        for path in mesh_files.write(mesh, Path(folder) / f'{name}.{kind}', self.model.input_position):
          fresh['mesh' if not fresh else path.suffix[1:]] = path
      fresh |= {
        'video': Path(folder) / f'{name}.mp4',
        'depth': Path(folder) / f'{name}_depth.mp4',
        'planes': Path(folder) / f'{name}_planes.npz',
      }
      video.write_video(pixels.color, fresh['video'])
      distance = float(np.linalg.norm(self.model.input_position))
      video.write_video(video.depth_frames(pixels.depth, pixels.opacity, distance), fresh['depth'])
      self.save_planes(fresh['planes'])
      if self.image is not None:
        fresh['input'] = Path(folder) / f'{name}_input.png'
        Image.fromarray(images.to_bytes(self.image)).save(fresh['input'])
      for path in fresh.values():
        os.replace(path, directory / path.name)
    done('files')
    return {kind: directory / path.name for kind, path in fresh.items()}

  def save_planes(self, path: str | Path) -> None:
    """Writes the planes [3, P, P, C], and the input image if there is one, as NPZ; `load_planes` reads it."""
    arrays: dict = {'planes': self.planes} | ({} if self.image is None else {'image': self.image})
    with Path(path).open('wb') as file:  # np.savez would append a suffix to the name.
      np.savez_compressed(file, **arrays)


def load_planes(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns (planes [3, P, P, C], input image [S, S, 3] or None) of a file that `save_planes` wrote.

  Raises InputError if the file is missing or has no planes.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return file['planes'], dict(file).get('image')
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except (OSError, ValueError, KeyError, zipfile.BadZipFile, TypeError, IndexError) as error:
    raise InputError(f'{path} is no file of planes ({error}): give NAME_planes.npz of a reconstruction') from error
