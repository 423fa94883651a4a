"""Segmenters find the object of a photograph: GrabCut, a network in an ONNX file, a model of rembg, or a function.

All have the same interface, `Segmenter` (segmentation.py). GrabCut (background.py) needs nothing and separates colours;
networks know objects, and need an extra and a file of weights. Legend: H W image.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.reconstruction import background
from lrm_jax.reconstruction.segmentation import Segmentation, Segmenter

HELP = "what cuts the object out: 'grabcut', FILE.onnx, 'rembg' or 'rembg:MODEL' (docs/segmenters.md)"
DOUBTFUL = 0.1  # a larger doubt is a warning; measured in docs/segmenters.md


class GrabCut:
  """The segmenter that needs nothing (background.py)."""

  name = 'GrabCut'

  def __call__(self, rgb: np.ndarray) -> Segmentation:
    return Segmentation(*background.find(rgb))


class _Function:
  """A function of the user: RGB bytes [H, W, 3] -> mask [H, W] of bools, bytes, or floats in 0..1."""

  def __init__(self, function: Callable[[np.ndarray], np.ndarray]):
    self._function = function
    self.name = getattr(function, '__name__', 'the segmenter')

  def __call__(self, rgb: np.ndarray) -> Segmentation:
    mask = np.asarray(self._function(rgb))
    if mask.shape != rgb.shape[:2]:
      raise InputError(f'{self.name} returned an array {list(mask.shape)}: a mask {list(rgb.shape[:2])} is expected')
    mask = mask.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
    if not (np.all(np.isfinite(mask)) and mask.min() >= 0 and mask.max() <= 1):
      raise InputError(f'{self.name} returned values that are not in 0..1: scale them')
    return Segmentation(mask)


SegmenterLike = str | Path | Callable[[np.ndarray], np.ndarray] | Segmenter


def load(segmenter: SegmenterLike | None) -> Segmenter:
  """Returns the segmenter of a name: 'grabcut' (also None), 'rembg', 'rembg:MODEL' or the path of an ONNX file.

  Functions of RGB bytes [H, W, 3] to a mask [H, W] are segmenters, too. Raises InputError if the name is unknown or
  the file or the model cannot be used, and ImportError (extras.py) if a package is missing.
  """
  if segmenter is None or segmenter == 'grabcut':
    return GrabCut()
  if not isinstance(segmenter, (str, Path)):
    named = hasattr(segmenter, 'name') and not isinstance(segmenter, type)
    return segmenter if named else _Function(segmenter)  # type: ignore[return-value, arg-type]
  text = str(segmenter)
  if text == 'rembg' or text.startswith('rembg:'):
    from lrm_jax.reconstruction.rembg_segmenter import RembgSegmenter

    return RembgSegmenter(text.partition(':')[2] or None)
  if text.lower().endswith('.onnx'):
    from lrm_jax.reconstruction.onnx_segmenter import OnnxSegmenter

    return OnnxSegmenter(text)
  raise InputError(f"--segmenter={text} is unknown: use 'grabcut', 'rembg', 'rembg:MODEL' or the path of an ONNX file")


def cut_out(
  rgba: np.ndarray, segmenter: Segmenter | None = None, box: Sequence[float] | None = None
) -> tuple[np.ndarray, float | None]:
  """Returns (image [H, W, 4] in 0..1 with the object as its alpha channel, doubt); alpha is 0 if none is found.

  The object lies inside of `box` (left, top, right, bottom), in 0..1 of the width and the height, if that is given.
  Raises InputError if the box is empty or leaves the image.
  """
  rgb = images.to_bytes(rgba[..., :3])
  segmenter = segmenter or GrabCut()
  if box is None:
    found = segmenter(rgb)
  elif isinstance(segmenter, GrabCut):  # It needs the colours outside of the box.
    found = Segmentation(background.find_inside(rgb, box))
  else:
    top, bottom, left, right = background.pixels_of(box, *rgb.shape[:2])
    mask = np.zeros(rgb.shape[:2], np.float32)
    mask[top:bottom, left:right] = segmenter(np.ascontiguousarray(rgb[top:bottom, left:right])).mask
    found = Segmentation(mask)
  return np.concatenate([rgba[..., :3], (found.mask * rgba[..., 3])[..., None]], axis=-1), found.doubt
