"""Removes the background of photos without transparency, with OpenCV's GrabCut. It needs no network.

The object may reach the borders of the image. Source: Rother, Kolmogorov, Blake 2004 (GrabCut).
Legend: H W image.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lrm_jax.errors import InputError
from lrm_jax.geometry import images

_SIZE = 512  # pixels along the longer side of the image that is segmented
_FOUND = 0.01  # least share of the image that an object covers
_COLORS = 6  # clusters of the colours of an image
_SPECK = 0.01  # of the area of the largest part: smaller parts are noise of the segmentation


def cut_out(rgba: np.ndarray, box: Sequence[float] | None = None) -> np.ndarray:
  """Returns the image [H, W, 4] in 0..1 with the object as its alpha channel; all of it is 0 if none is found.

  The object lies inside of `box` (left, top, right, bottom), in 0..1 of the width and the height, if that is given.
  Raises InputError if the box is empty or leaves the image.
  """
  import cv2  # It takes half a second to import, and most images do not need it.

  height, width = rgba.shape[:2]
  scale = min(1.0, _SIZE / max(height, width))
  small = cv2.resize(
    images.to_bytes(rgba[..., :3]),
    (max(8, int(width * scale)), max(8, int(height * scale))),
    interpolation=cv2.INTER_AREA,
  )[..., ::-1].copy()
  if box is not None:
    found = _inside_a_box(small, box)
  else:
    found = _inside_a_margin(small)
    if found.mean() < _FOUND:
      found = _unlike_the_corners(small)
  labels, _ = ndimage.label(found)
  areas = np.bincount(labels.ravel())
  areas[0] = 0
  alpha = (found & (areas >= _SPECK * areas.max())[labels]).astype(np.float32)
  alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR)
  return np.concatenate([rgba[..., :3], (alpha * rgba[..., 3])[..., None]], axis=-1)


def _inside_a_box(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
  """Returns the mask [H, W] of the object in BGR bytes, for an object inside of a box (`cut_out`)."""
  import cv2

  height, width = image.shape[:2]
  left, top, right, bottom = box
  if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
    raise InputError(
      f'the box {list(box)} must be left, top, right, bottom in 0..1, with left < right and top < bottom'
    )
  x, y = min(int(left * width), width - 2), min(int(top * height), height - 2)
  across, down = max(2, round(right * width) - x), max(2, round(bottom * height) - y)
  mask = np.full((height, width), cv2.GC_BGD, np.uint8)
  mask[y : y + down, x : x + across] = cv2.GC_PR_FGD
  if np.all(mask == cv2.GC_PR_FGD):  # GrabCut needs some background.
    return _inside_a_margin(image)
  cv2.setRNGSeed(0)
  cv2.grabCut(image, mask, (0, 0, width, height), np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
  return _is_object(mask)


def _inside_a_margin(image: np.ndarray) -> np.ndarray:
  """Returns the mask [H, W] of the object in BGR bytes, for an object that is mostly inside of a margin of 4 %.

  First, the margin is background. Then it is decided by its colours, so that an object may continue into it.
  """
  import cv2

  height, width = image.shape[:2]
  y, x = max(1, height // 25), max(1, width // 25)
  mask = np.zeros((height, width), np.uint8)
  whole = (0, 0, width, height)  # Ignored where the mask is given.
  models = np.zeros((1, 65)), np.zeros((1, 65))
  cv2.setRNGSeed(0)
  cv2.grabCut(image, mask, (x, y, width - 2 * x, height - 2 * y), *models, 5, cv2.GC_INIT_WITH_RECT)
  inside = _is_object(mask)
  if not inside.any():
    return inside
  margin = np.ones((height, width), bool)
  margin[y : height - y, x : width - x] = False
  mask[margin] = cv2.GC_PR_BGD
  cv2.grabCut(image, mask, whole, *models, 1, cv2.GC_EVAL)
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
