"""Removes the background of photos without transparency, with OpenCV's GrabCut. It needs no network.

The object may reach the borders of the image. Source: Rother, Kolmogorov, Blake 2004 (GrabCut).
Legend: H W image.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lrm_jax.errors import InputError

_SIZE = 512  # pixels along the longer side of the image that is segmented
_MARGIN = 0.04  # share of a side at each border that is background at first
_SECOND_SIZE, _SECOND_MARGIN = 256, 0.12  # of the second start, whose difference is the doubt
_FOUND = 0.01  # least share of the image that an object covers
_COLORS = 6  # clusters of the colours of an image
_SPECK = 0.01  # of the area of the largest part: smaller parts are noise of the segmentation


def find(rgb: np.ndarray) -> tuple[np.ndarray, float]:
  """Returns (mask [H, W] in 0..1 of the object in RGB bytes, doubt in 0..1); the mask is 0 if none is found.

  The doubt is the share of the object that changes if GrabCut starts from a wider margin, at a lower resolution:
  1 - intersection over union.
  """
  small = _small(rgb, _SIZE)
  found = _inside_a_margin(small)
  if found.mean() < _FOUND:
    found = _unlike_the_corners(small)
  found = _without_specks(found)
  return _mask(found, rgb.shape), _doubt(rgb, found) if found.any() else 1.0


def find_inside(rgb: np.ndarray, box: Sequence[float]) -> np.ndarray:
  """Returns the mask [H, W] in 0..1 of the object in RGB bytes inside of a box (left, top, right, bottom), in 0..1.

  Raises InputError if the box is empty or leaves the image.
  """
  return _mask(_without_specks(_inside_a_box(_small(rgb, _SIZE), box)), rgb.shape)


def pixels_of(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
  """Returns (top, bottom, left, right) in pixels, at least 2 apart, of a box (left, top, right, bottom) in 0..1.

  Raises InputError if the box is empty or leaves the image.
  """
  left, top, right, bottom = box
  if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
    raise InputError(
      f'the box {list(box)} must be left, top, right, bottom in 0..1, with left < right and top < bottom'
    )
  x, y = min(int(left * width), width - 2), min(int(top * height), height - 2)
  return y, max(y + 2, round(bottom * height)), x, max(x + 2, round(right * width))


def _small(rgb: np.ndarray, size: int) -> np.ndarray:
  """Returns the image as BGR bytes, with at most `size` pixels along the longer side."""
  import cv2  # It takes half a second to import, and most images do not need it.

  height, width = rgb.shape[:2]
  scale = min(1.0, size / max(height, width))
  small = cv2.resize(rgb, (max(8, int(width * scale)), max(8, int(height * scale))), interpolation=cv2.INTER_AREA)
  return small[..., ::-1].copy()


def _mask(found: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Returns a mask [h, w] at the size of the image, [H, W] in 0..1."""
  import cv2

  return cv2.resize(found.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _without_specks(found: np.ndarray) -> np.ndarray:
  labels, _ = ndimage.label(found)
  areas = np.bincount(labels.ravel())
  areas[0] = 0
  return found & (areas >= _SPECK * areas.max())[labels]


def _doubt(rgb: np.ndarray, found: np.ndarray) -> float:
  import cv2

  small = _small(rgb, _SECOND_SIZE)
  other = _in_rectangle(small, _SECOND_MARGIN)[0]
  first = cv2.resize(found.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.5
  return float(1 - np.sum(first & other) / max(1, np.sum(first | other)))


def _inside_a_box(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
  """Returns the mask [H, W] of the object in BGR bytes, for an object inside of a box (`find_inside`)."""
  import cv2

  height, width = image.shape[:2]
  top, bottom, left, right = pixels_of(box, height, width)
  mask = np.full((height, width), cv2.GC_BGD, np.uint8)
  mask[top:bottom, left:right] = cv2.GC_PR_FGD
  if np.all(mask == cv2.GC_PR_FGD):  # GrabCut needs some background.
    return _inside_a_margin(image)
  cv2.setRNGSeed(0)
  cv2.grabCut(image, mask, (0, 0, width, height), np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
  return _is_object(mask)


def _in_rectangle(image: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
  """Returns (mask [H, W] of the object in BGR bytes inside of a margin, GrabCut's mask, its models of the colours)."""
  import cv2

  height, width = image.shape[:2]
  y, x = max(1, int(height * margin)), max(1, int(width * margin))
  mask = np.zeros((height, width), np.uint8)
  models = np.zeros((1, 65)), np.zeros((1, 65))
  cv2.setRNGSeed(0)
  cv2.grabCut(image, mask, (x, y, width - 2 * x, height - 2 * y), *models, 5, cv2.GC_INIT_WITH_RECT)
  return _is_object(mask), mask, models


def _inside_a_margin(image: np.ndarray) -> np.ndarray:
  """Returns the mask [H, W] of the object in BGR bytes, for an object that is mostly inside of a margin of 4 %.

  First, the margin is background. Then it is decided by its colours, so that an object may continue into it.
  """
  import cv2

  height, width = image.shape[:2]
  inside, mask, models = _in_rectangle(image, _MARGIN)
  if not inside.any():
    return inside
  y, x = max(1, int(height * _MARGIN)), max(1, int(width * _MARGIN))
  margin = np.ones((height, width), bool)
  margin[y : height - y, x : width - x] = False
  mask[margin] = cv2.GC_PR_BGD
  cv2.grabCut(image, mask, (0, 0, width, height), models[0], models[1], 1, cv2.GC_EVAL)
  labels, count = ndimage.label(_is_object(mask))
  connected = np.bincount(labels[inside], minlength=count + 1) > 0
  connected[0] = False
  return connected[labels]


def _unlike_the_corners(image: np.ndarray) -> np.ndarray:
  """Returns the mask [H, W] of the object in BGR bytes, for an object that covers much of the border.

  The background is made of the colours that most corners share.
  """
  import cv2

  height, width = image.shape[:2]
  pixels = image.reshape(-1, 3).astype(np.float32)
  sample = pixels[np.linspace(0, len(pixels) - 1, 4096).astype(int)]
  stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1.0)
  cv2.setRNGSeed(0)
  _, _, colors = cv2.kmeans(sample, _COLORS, np.zeros((len(sample), 1), np.int32), stop, 1, cv2.KMEANS_PP_CENTERS)
  nearest = np.stack([np.square(pixels - color).sum(axis=-1) for color in colors]).argmin(axis=0).reshape(height, width)

  def share(part):
    return np.bincount(part.ravel(), minlength=_COLORS) / part.size

  side = max(2, min(height, width) // 12)
  corners = [
    nearest[rows, columns]
    for rows in (slice(side), slice(-side, None))
    for columns in (slice(side), slice(-side, None))
  ]
  votes = sum((share(corner) > 0.5 / _COLORS).astype(int) for corner in corners)
  border = np.ones((height, width), bool)
  border[side:-side, side:-side] = False
  middle = nearest[height // 4 : height - height // 4, width // 4 : width - width // 4]
  background = ((votes >= 3) | ((votes == 2) & (share(nearest[border]) > share(middle))))[nearest]
  if background.all():
    return ~background
  mask = np.where(background, cv2.GC_PR_BGD, cv2.GC_PR_FGD).astype(np.uint8)
  mask[background & border] = cv2.GC_BGD
  if not background.any():
    return background
  cv2.grabCut(image, mask, (0, 0, width, height), np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
  return _is_object(mask)


def _is_object(mask: np.ndarray) -> np.ndarray:
  import cv2

  return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))
