"""The camera that took a photograph: its field of view, from EXIF or by trying a few, and what follows from it.

An object appears under the slope s = (half of its size) / (its distance), whatever the lens and the crop are. It sets
the perspective: near objects have large slopes. In the training images, which one lens took, s also decides how much of
the image the object covers. So a known field of view decides the fraction that it covers in the prepared image: it is
s / tan(v / 2) for the field of view v of the model, and s is tan(p / 2), with the field of view p of the photograph,
times the object's share of the photograph's side.

The elevation of a camera cannot be found like this: planes are in the frame of the input camera, in which an object
that is seen from above is a tilted object, and fits as well. Legend: F candidates, S side of the prepared image.
"""

from collections.abc import Sequence
import dataclasses
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, image_files
from lrm_jax.reconstruction import preprocess

CAMERAS = ('default', 'exif', 'search')
Camera = Literal['default', 'exif', 'search']
_FOVS = 1.0, 150.0  # degrees
_FILLS = 0.35, 0.9  # of objects in training images: nearer and farther cameras are not used
_TRIED = 0.4, 0.5, 0.58, 0.66, 0.74, 0.82, 0.9  # by `search`
_ZOOM = 0.9  # fraction of the compared images that the object covers: each candidate is judged on as many pixels
_EXIF, _FOCAL_LENGTH_35MM = 0x8769, 0xA405  # tags: the directory, FocalLengthIn35mmFilm
_DIAGONAL = float(np.hypot(36, 24))  # mm, of 35 mm film


class Model(Protocol):
  """What is used of a Reconstructor."""

  image_size: int
  fov: float
  input_background: float
  input_camera: np.ndarray

  def encode(self, images): ...
  def render(self, planes, camera_to_world, intrinsics, size, background, *, skip): ...


def check(camera: str, fov: float | None) -> None:
  """Raises InputError if `camera` is unknown, or if `fov`, in degrees, is out of range or given twice."""
  if camera not in CAMERAS:
    raise InputError(f'--camera={camera} is unknown: use {", ".join(CAMERAS)}')
  if fov is not None and camera != 'default':
    raise InputError(f'give either --fov={fov:g} or --camera={camera}')
  if fov is not None and not _FOVS[0] <= fov <= _FOVS[1]:
    raise InputError(f'--fov={fov:g} must be between {_FOVS[0]:g} and {_FOVS[1]:g} degrees')


def fov_of(path: str | Path) -> float | None:
  """Returns the field of view, in degrees along the longer side, of a photograph with FocalLengthIn35mmFilm in EXIF.

  None if it is not there. The tag compares diagonals, so it is right as long as the image has not been cropped.
  """
  with image_files.without_pillows_limit(), Image.open(path) as image:
    focal, longer = image.getexif().get_ifd(_EXIF).get(_FOCAL_LENGTH_35MM), max(image.size)
    diagonal = float(np.hypot(*image.size))
  if not isinstance(focal, int) or focal <= 0:
    return None
  return float(np.rad2deg(2 * np.arctan(_DIAGONAL * longer / diagonal / 2 / focal)))


def prepare(
  model: Model, found: preprocess.Found, path: str | Path, camera: Camera, fov: float | None
) -> preprocess.Prepared | None:
  """Returns the image [S, S, 3] of an object at the size that its camera implies, with notes that say so.

  The field of view is `fov`, in degrees along the image's longer side, or that of the EXIF data, or that of `search`.
  None if it is not known, or if the image is not cut out: the image is then prepared as usual.
  """
  if not found.has_mask or (camera == 'default' and fov is None):
    return None
  share = preprocess.extent(found.rgba) / max(found.rgba.shape[:2])
  if camera == 'search' and share:
    return search(model, found, share, str(path))
  source = 'as given'
  if camera == 'exif':
    fov, source = fov_of(path), 'by its EXIF data'
  if fov is None or not share:
    return None
  wanted = _tan(fov) * share / _tan(model.fov)
  fill = float(np.clip(wanted, *_FILLS))
  note = f'{path} has a field of view of {fov:.0f} degrees {source}: the object covers {fill:.2f} of the input'
  if fill != wanted:
    note += f' (its perspective asks for {wanted:.2f}, which the model has not seen)'
  return _with_note(centred(model, found, str(path), fill), note)


def search(model: Model, found: preprocess.Found, share: float, name: str) -> preprocess.Prepared:
  """Returns the image at the size whose reconstruction fits it best, with a note that has all scores.

  `share` of the image's longer side is covered by the object. The candidates are encoded and rendered in one batch,
  from the input camera, magnified so that the object has the same size in all. The score is the PSNR to the image.
  """
  candidates = [centred(model, found, name, fill) for fill in _TRIED]
  planes = model.encode(np.stack([one.image for one in candidates]))
  lenses = np.stack([cameras.intrinsics_from_fov(model.fov) for _ in _TRIED])
  lenses[:, :2] *= _ZOOM / np.array(_TRIED)[:, None]
  poses = np.tile(model.input_camera, (len(_TRIED), 1, 1, 1))
  pixels = model.render(planes, poses, lenses[:, None], model.image_size, model.input_background, skip=True)
  errors = np.square(pixels.color[:, 0] - centred(model, found, name, _ZOOM).image).mean(axis=(1, 2, 3))
  scores = -10 * np.log10(np.maximum(errors, 1e-10))
  fovs = [np.rad2deg(2 * np.arctan(fill * _tan(model.fov) / share)) for fill in _TRIED]
  best = int(scores.argmax())
  table = ', '.join(f'{fov:.0f}: {score:.2f}' for fov, score in zip(fovs, scores))
  note = (
    f'{name}: a field of view of {fovs[best]:.0f} degrees fits best, so the object covers {_TRIED[best]:.2f} of the '
    f'input; PSNR of the input view, in dB, by degrees: {table}'
  )
  return _with_note(candidates[best], note)


def turn(elevation: float, right: Sequence[float] | np.ndarray) -> np.ndarray:
  """Returns the rotation [4, 4] around `right` that tilts a level world as the input camera sees it from above."""
  from scipy.spatial.transform import Rotation

  result = np.eye(4)
  result[:3, :3] = Rotation.from_rotvec(np.deg2rad(elevation) * np.asarray(right, np.float64)).as_matrix()
  return result


def centred(model: Model, found: preprocess.Found, name: str, fill: float) -> preprocess.Prepared:
  """Returns the image [S, S, 3] of an object that is cut out, of which it covers the fraction `fill`."""
  return preprocess.of_object(found, model.image_size, name=name, fill=fill, background=model.input_background)


def _with_note(prepared: preprocess.Prepared, note: str) -> preprocess.Prepared:
  return dataclasses.replace(prepared, notes=(*prepared.notes, note))


def _tan(degrees: float) -> float:
  return float(np.tan(np.deg2rad(degrees) / 2))
