"""What a job does, phase by phase, and the reconstructions that are kept on the device for views.

The mesh is published before the other files, so that a page can show it while the turntable is rendered.
"""

from collections import OrderedDict
from collections.abc import Callable
import dataclasses
import logging
from pathlib import Path
import tempfile
import threading
import zipfile

import jax
import numpy as np
from PIL import Image

from lrm_jax.geometry import images
from lrm_jax.reconstruction import mesh_files, video
from lrm_jax.reconstruction.reconstructor import Reconstructor
from lrm_jax.reconstruction.result import Reconstruction
from lrm_jax.view import frames
from lrm_jax.view.jobs import Job
from lrm_jax.view.menu import Menu
from lrm_jax.view.request_error import RequestError
from lrm_jax.view.uploads import Uploads

_LOGGER = logging.getLogger(__name__)
# Kinds of files: (what is added to the job's name, media type).
KINDS = {
  'glb': ('.glb', 'model/gltf-binary'),
  'obj': ('_obj.zip', 'application/zip'),
  'ply': ('.ply', 'application/octet-stream'),
  'stl': ('.stl', 'model/stl'),
  'video': ('.mp4', 'video/mp4'),
  'depth': ('_depth.mp4', 'video/mp4'),
  'planes': ('_planes.npz', 'application/octet-stream'),
  'input': ('_input.png', 'image/png'),
  'view': ('_view.png', 'image/png'),
}
_ON_DEVICE = 8  # reconstructions
_VIEW = dict(azimuth=30.0, elevation=20.0, size=128)  # of the image in the gallery
WARM_SIZES = 128, 256  # pixels of the views that are compiled at start-up


class Workshop:
  """Reconstructs the images of jobs. `reconstruct` is called by one thread; the others may call `reconstruction`."""

  def __init__(self, menu: Menu, uploads: Uploads):
    self._menu, self._uploads = menu, uploads
    self._kept: OrderedDict[str, Reconstruction] = OrderedDict()
    self._lock = threading.Lock()
    self.warm = threading.Event()

  def warm_up(self) -> None:
    """Loads the default model and compiles its programs, with a ball in place of an image."""
    try:
      model = self._menu.get(self._menu.names[0])
      x = np.linspace(-1, 1, model.image_size)
      inside = (x[:, None] ** 2 + x**2 < model.fill**2)[..., None]
      image = np.where(inside, 0.4 + 0.2 * x[:, None, None], model.input_background) * np.ones(3)
      result = Reconstruction(model, model.encode(image[None])[0], image)
      result.mesh()
      for size in WARM_SIZES:
        result.render(size=size)
    except Exception as error:  # An untrained model may have no surface. The jobs report what concerns them.
      _LOGGER.info('warm-up: %s', error)
    finally:
      self.warm.set()

  def reconstruct(self, job: Job) -> None:
    """Computes all files of a job. Raises InputError if there is no object or no surface, and Cancelled."""
    assert job.upload is not None
    options = job.options
    job.begin('model')
    model = self._menu.get(job.model)
    job.begin('image')
    prepared = self._uploads.prepare(job.upload, model, job.mask, options.foreground_ratio)
    job.notes += [*job.upload.notes, *prepared.notes]
    self._publish(job, 'input', lambda path: _save(prepared.image, path))
    job.begin('planes')
    planes = jax.block_until_ready(model.encode(prepared.image[None]))[0]
    result = Reconstruction(model, planes, prepared.image, prepared.has_mask, job.name)
    self._keep(job.id, result)
    job.viewable = True
    job.begin('mesh')
    mesh = result.mesh(
      resolution=options.resolution,
      threshold=options.threshold,
      faces=options.faces,
      texture_size=options.texture,
      keep=options.keep,
      done=lambda phase: job.advance(_SHARES.get(phase, 0.9)),
    )
    job.report = dataclasses.asdict(mesh.metadata['report']) | {'threshold': float(mesh.metadata['threshold'])}
    self._publish(job, 'glb', lambda path: mesh_files.write(mesh, path, model.input_position))
    job.begin('files')
    self._publish(job, 'view', lambda path: _save(frames.render(result, **_VIEW), path))  # type: ignore[arg-type]
    job.advance(0.2)
    self._publish(job, 'ply', lambda path: mesh_files.write(mesh, path, model.input_position))
    self._publish(job, 'stl', lambda path: mesh_files.write(mesh, path, model.input_position))
    job.advance(0.4)
    self._publish(job, 'obj', lambda path: _write_obj(mesh, path, job.name, model))
    job.advance(0.7)
    self._publish(job, 'planes', result.save_planes)
    if options.video:
      job.begin('turntable')
      self._turntable(job, result)

  def reconstruction(self, job: Job) -> Reconstruction:
    """Returns the reconstruction of a job: from the device, or from its file of planes.

    Raises RequestError: 409 if the job has no planes yet, or if its model is not on the menu.
    """
    with self._lock:
      if job.id in self._kept:
        self._kept.move_to_end(job.id)
        return self._kept[job.id]
    if 'planes' not in job.files:
      raise RequestError(409, f'job {job.id} has no planes ({job.status}): wait for the phase after "planes"')
    if job.model not in self._menu.names:
      raise RequestError(409, f'job {job.id} was made with {job.model}: start the server with --checkpoint={job.model}')
    result = self._menu.get(job.model).from_planes(job.path('planes'))
    self._keep(job.id, result)
    return result

  def forget(self, identifier: str) -> None:
    """Removes the reconstruction of a job from the device."""
    with self._lock:
      self._kept.pop(identifier, None)

  def _keep(self, identifier: str, result: Reconstruction) -> None:
    with self._lock:
      self._kept[identifier] = result
      while len(self._kept) > _ON_DEVICE:
        self._kept.popitem(last=False)

  def _publish(self, job: Job, kind: str, write: Callable[[Path], object]) -> None:
    """Writes a file of a job: it has its name, and is known, when it is complete."""
    path = job.folder / f'{job.name}{KINDS[kind][0]}'
    fresh = path.with_name(f'fresh{path.suffix}')
    write(fresh)
    fresh.replace(path)
    job.publish(kind, path)

  def _turntable(self, job: Job, result: Reconstruction) -> None:
    """Writes the videos. Each frame is a call, so that it is the program of the views, and cancelling takes effect."""
    size, count = job.options.size, job.options.num_frames
    poses, intrinsics = result.model.turntable(count)
    pixels = []
    for number in range(count):
      pixels.append(result.render(poses[0, number], intrinsics[0, number], size))
      job.advance((number + 1) / count)
    views = jax.tree.map(lambda *x: np.stack(x), *pixels)
    distance = float(np.linalg.norm(result.model.input_position))
    depth = video.depth_frames(views.depth, views.opacity, distance)
    self._publish(job, 'video', lambda path: video.write_video(views.color, path))
    self._publish(job, 'depth', lambda path: video.write_video(depth, path))


# The share of the phase `mesh` after each of its steps (mesh.py).
_SHARES = {'surface': 0.4, 'clean-up': 0.6, 'colours': 0.95, 'texture': 0.95}


def _save(image: np.ndarray, path: Path) -> None:
  Image.fromarray(images.to_bytes(image)).save(path)


def _write_obj(mesh, path: Path, name: str, model: Reconstructor) -> None:
  """Writes NAME.obj, and its material and texture if it has them, as a ZIP file."""
  with tempfile.TemporaryDirectory(dir=path.parent) as folder:
    files = mesh_files.write(mesh, Path(folder) / f'{name}.obj', model.input_position)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
      for file in files:
        archive.write(file, file.name)
