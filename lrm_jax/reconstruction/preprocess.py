"""Prepares an image for a model: one object, centred, at the size it had in training, on a plain grey background.

Training objects fill a sphere of radius 0.634, seen by a camera with a field of view of 50 degrees at distance 2: the
longer side of the object's outline then covers about FILL of the image. Third-party models use other sizes and greys.
Assumptions are never silent: `Prepared.notes` has one sentence for each.
Legend: H W image.
"""

import dataclasses
from pathlib import Path

import numpy as np
from scipy import ndimage

from lrm_jax.errors import InputError
from lrm_jax.geometry import image_files, images
from lrm_jax.reconstruction import masks, segmenters

FILL = 0.58  # Median over the frontal views of the embedded dataset; see tests/test_preprocess.py.
_SMALLEST = 8  # pixels along the longer side of an object, or the shorter side of a whole image
_COARSE = 0.5  # pixels of an object per pixel of the prepared image: smaller objects are used, and said to be small
_LARGEST = 2048  # pixels along a side; larger images are reduced first, to save memory
_VISIBLE = 0.1  # opacity: glass is an object, while the haze that background removers leave is not
_CUT_OUT = 0.005  # least share of invisible pixels in an image that is cut out: less are stray pixels or round corners
_RECTANGLE = 0.85  # share of its bounding box that a photo with a transparent border covers; an ellipse covers 0.79
_SPECK = 0.01  # of the area of the largest part of the object; smaller parts do not set the crop
_THIN_SPECK = 0.05  # the same, for parts that are at most two pixels thick, such as lines left at a border


@dataclasses.dataclass(frozen=True)
class Prepared:
  """`image` [S, S, 3] in 0..1. `has_mask` says whether the object was cut out. `notes` are sentences for the user.

  `doubt` in 0..1 is how unsure the segmenter is (segmenters.py), None if it does not say, or if none was needed.
  """

  image: np.ndarray
  has_mask: bool
  notes: tuple[str, ...] = ()
  doubt: float | None = None


@dataclasses.dataclass(frozen=True)
class Found:
  """The object of an image: `rgba` [H, W, 4] in 0..1, whose alpha is its outline if `has_mask`, `notes` and `doubt`."""

  rgba: np.ndarray
  has_mask: bool
  notes: tuple[str, ...] = ()
  doubt: float | None = None


def prepare(
  path: str | Path,
  size: int,
  *,
  remove_background: bool = False,
  segmenter: segmenters.Segmenter | None = None,
  mask: str | Path | None = None,
  fill: float = FILL,
  background: float = 1.0,
  max_pixels: int = image_files.MAX_PIXELS,
) -> Prepared:
  """Returns the image in a file, of any size and mode, as the network expects it.

  If the image is cut out by transparency, or with `remove_background` or a `mask`, the object is centred, scaled to the
  fraction `fill` of the image and composited over a grey `background` in 0..1. Otherwise the whole image is used,
  padded to a square with the colour of its border.
  Raises InputError if the file is not an image, has more than `max_pixels` pixels, or shows no object.
  """
  found = read_object(
    path,
    remove_background=remove_background,
    segmenter=segmenter,
    mask=mask,
    background=background,
    max_pixels=max_pixels,
  )
  return of_object(found, size, name=str(path), fill=fill, background=background)


def of_object(
  found: Found, size: int, *, name: str = 'the image', fill: float = FILL, background: float = 1.0
) -> Prepared:
  """Returns the image of an object, or the whole image if it has no outline, as the network expects it (`prepare`)."""
  if not found.has_mask:
    return Prepared(whole(found.rgba, size, name=name), False, found.notes)
  image, notes = centre(found.rgba, size, name=name, fill=fill, background=background)
  return Prepared(image, True, (*found.notes, *(f'{name} {note}' for note in notes)), found.doubt)


def read_object(
  path: str | Path,
  *,
  remove_background: bool = False,
  segmenter: segmenters.Segmenter | None = None,
  mask: str | Path | None = None,
  background: float = 1.0,
  max_pixels: int = image_files.MAX_PIXELS,
) -> Found:
  """Returns the object of the image in a file.

  Its outline is that of the file `mask` or, with `remove_background`, what the `segmenter` finds (None: GrabCut);
  otherwise its transparency. An image that is not cut out is composited over a grey `background`. Raises InputError as
  `prepare` does.
  """
  rgba, assumed = read(path, max_pixels=max_pixels)
  notes = [f'{path} {note}' for note in assumed]
  cut, doubt = is_cut_out(rgba), None
  if not cut and rgba[..., 3].min() < 0.99:
    transparent = np.mean(rgba[..., 3] < _VISIBLE)
    notes.append(
      f'{path} has too few transparent pixels ({transparent:.2%}) for an outline, so its transparency is ignored'
    )
    rgba = over(rgba, background)
  if mask is not None:
    rgba[..., 3] *= masks.read(mask, rgba.shape[0], rgba.shape[1], max_pixels)
  elif remove_background:
    rgba, kept, doubt = without_background(rgba, background, name=str(path), segmenter=segmenter)
    notes += [f'{path} {note}' for note in kept]
  return Found(rgba, cut or remove_background or mask is not None, tuple(notes), doubt)


def uncropped(rgba: np.ndarray, size: int, background: float = 1.0) -> np.ndarray:
  """Returns the whole image [H, W, 4], with what is transparent over a grey in 0..1, as [size, size, 3].

  It keeps the camera that took it: images that are not square are padded with the grey, around their centre.
  """
  height, width = rgba.shape[:2]
  side = max(height, width)
  square = np.zeros((side, side, 4), np.float32)
  top, left = (side - height) // 2, (side - width) // 2
  square[top : top + height, left : left + width] = rgba
  square[..., :3] *= square[..., 3:]
  return images.over(images.resize(square, size), background).astype(np.float32)


def read(path: str | Path, *, max_pixels: int = image_files.MAX_PIXELS) -> tuple[np.ndarray, list[str]]:
  """Returns (any image file as [H, W, 4] in 0..1, sRGB, upright, with straight alpha, notes about what was assumed)."""
  pixels, notes = image_files.read(path, max_pixels=max_pixels, largest=_LARGEST)
  return pixels.astype(np.float32) / 255, notes


def centre(
  rgba: np.ndarray, size: int, *, name: str = 'the image', fill: float = FILL, background: float = 1.0
) -> tuple[np.ndarray, list[str]]:
  """Returns ([size, size, 3] over a grey, with the object centred and its longer side `fill` of the image, notes).

  The object is what is visible, without specks. The notes say what was left out, and where the object may be cut off.
  """
  visible = rgba[..., 3] >= _VISIBLE
  if not visible.any():
    raise InputError(
      f'{name} is completely transparent (its largest opacity is {rgba[..., 3].max():.0%}): it shows no object'
    )
  main = _without_specks(visible)
  top, bottom, left, right = _box(main)
  longer = _longer_side(main)
  if longer < _SMALLEST:
    raise InputError(f'{name} shows an object of only {longer} pixels: it must have at least {_SMALLEST}')
  notes = list(_notes(visible, main, longer, _COARSE * fill * size))
  side = max(round(longer / fill), longer)
  square = np.zeros((side, side, 4), np.float32)
  premultiplied = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
  y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
  square[y : y + bottom - top, x : x + right - left] = premultiplied[top:bottom, left:right]
  return images.over(images.resize(square, size), background).astype(np.float32), notes


def _box(mask) -> tuple[int, int, int, int]:
  """Returns (top, bottom, left, right) of the bounding box of a mask [H, W]."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def extent(rgba: np.ndarray) -> int:
  """Returns the longer side, in pixels, of what is visible of an image [H, W, 4], without specks; 0 if nothing is."""
  visible = rgba[..., 3] >= _VISIBLE
  return _longer_side(_without_specks(visible)) if visible.any() else 0


def _longer_side(mask) -> int:
  top, bottom, left, right = _box(mask)
  return int(max(bottom - top, right - left))


def _without_specks(visible: np.ndarray) -> np.ndarray:
  """Returns the mask [H, W] without parts that are much smaller than its largest part, or than all others together."""
  labels, count = ndimage.label(visible, np.ones((3, 3)))
  if count == 1:
    return visible
  areas = np.bincount(labels.ravel())
  areas[0] = 0
  thick = np.bincount(labels[ndimage.binary_erosion(visible, np.ones((3, 3)), border_value=1)], minlength=count + 1) > 0
  specks = areas < np.where(thick, _SPECK, _THIN_SPECK) * areas.max()
  if areas[specks].sum() > 0.1 * areas.sum():  # An object of many small parts, such as leaves.
    return visible
  return visible & ~specks[labels]


def _notes(visible, main, extent, smallest):
  """Yields what the user should know about the outline of an object."""
  if _box(visible) != _box(main):
    specks = ndimage.label(visible & ~main, np.ones((3, 3)))[1]
    top, bottom, left, right = _box(visible & ~main)
    yield (
      f'has {specks} {"speck" if specks == 1 else "specks"} apart from the object, in rows {top} to {bottom - 1} and '
      f'columns {left} to {right - 1}, which did not set the crop'
    )
  edges = {'top': main[0], 'bottom': main[-1], 'left': main[:, 0], 'right': main[:, -1]}
  contact = {name: int(edge.sum()) for name, edge in edges.items() if edge.any()}
  # An image that is trimmed to its object touches all borders, but a round or pointed object only in a few pixels.
  least = 0.25 * extent if len(contact) == 4 else 0
  if cut := [name for name, pixels in contact.items() if pixels > least]:
    yield (
      f'shows an object that reaches the {" and the ".join(cut)} border of the image: if it is cut off there, that '
      'part is missing from the result'
    )
  if extent < smallest:
    yield f'shows an object of only {extent} pixels: the result will lack detail'


def over(rgba: np.ndarray, background: float) -> np.ndarray:
  """Returns an opaque image [H, W, 4] over a grey."""
  color = rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])
  return np.concatenate([color, np.ones_like(rgba[..., 3:])], axis=-1)


def is_cut_out(rgba: np.ndarray) -> bool:
  """Returns whether the transparency of an image [H, W, 4] is the outline of an object, not a few stray pixels."""
  return bool(np.mean(rgba[..., 3] < _VISIBLE) >= _CUT_OUT)


def without_background(
  rgba: np.ndarray, background: float = 1.0, *, name: str = 'the image', segmenter: segmenters.Segmenter | None = None
) -> tuple[np.ndarray, list[str], float | None]:
  """Returns (image whose alpha [H, W] is the object, notes, how unsure the segmenter is).

  The transparency of an image that is cut out is kept. Raises InputError if no object is found.
  """
  segmenter = segmenter or segmenters.GrabCut()
  if not is_cut_out(rgba):
    result, doubt = segmenters.cut_out(rgba, segmenter)
    if not np.any(result[..., 3] > 0.5):
      raise InputError(
        f'{name}: {segmenter.name} separated no object from the background: cut it out by hand and give a PNG with '
        'alpha, or its outline as --mask'
      )
    return result, _doubts(segmenter.name, doubt), doubt
  visible = rgba[..., 3] >= _VISIBLE
  if visible.any():
    top, bottom, left, right = _box(visible)
    if visible[top:bottom, left:right].mean() > _RECTANGLE:  # A photo with a transparent border.
      part = rgba[top:bottom, left:right]
      result = np.zeros_like(rgba)
      result[top:bottom, left:right], doubt = segmenters.cut_out(over(part, background), segmenter)
      result[..., 3] *= rgba[..., 3]
      if np.mean(result[top:bottom, left:right, 3] >= _VISIBLE) > 0.01:
        return result, _doubts(segmenter.name, doubt), doubt
  return rgba, ['is already cut out by its transparency, which is kept: --remove_background finds no background'], None


def _doubts(name: str, doubt: float | None) -> list[str]:
  if doubt is None or doubt <= segmenters.DOUBTFUL:
    return []
  return [
    f'was cut out by {name}, which is unsure (a second start changes {doubt:.0%} of the object): look at the saved '
    'input, and use --segmenter with a network, or --mask'
  ]


def whole(rgba: np.ndarray, size: int, *, name: str = 'the image') -> np.ndarray:
  """Returns an opaque image [H, W, 4] centred on a square [size, size, 3] of its median border colour.

  Raises InputError if the image is only a few pixels wide or high, or has the same colour everywhere.
  """
  if min(rgba.shape[:2]) < _SMALLEST:
    raise InputError(
      f'{name} is {rgba.shape[1]} x {rgba.shape[0]} pixels: a side must have at least {_SMALLEST} to show an object'
    )
  if np.ptp(rgba[..., :3], axis=(0, 1)).max() < 2 / 255:
    raise InputError(f'{name} has the same colour everywhere: it shows no object')
  color = rgba[..., :3]
  height, width = color.shape[:2]
  border = np.concatenate([color[0], color[-1], color[:, 0], color[:, -1]])
  side = max(height, width)
  square = np.broadcast_to(np.median(border, axis=0), (side, side, 3)).astype(np.float32).copy()
  top, left = (side - height) // 2, (side - width) // 2
  square[top : top + height, left : left + width] = color
  return np.clip(images.resize(square, size), 0, 1).astype(np.float32)
