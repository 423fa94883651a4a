"""Masks that are given by hand: image files of the object's outline. Legend: H W image."""

from pathlib import Path

import numpy as np
from PIL import Image

from lrm_jax.errors import InputError
from lrm_jax.geometry import image_files
from lrm_jax.reconstruction.inputs import SUFFIXES

_PROPORTIONS = 0.02  # largest relative difference between the proportions of a mask and its image


def of_image(image: Image.Image) -> Image.Image:
  """Returns the mask (mode L) that an image is: its opacity or, if it is opaque, its brightness."""
  mask = image.convert('RGBA').getchannel('A')
  return image.convert('L') if mask.getextrema()[0] == 255 else mask


def read(path: str | Path, height: int, width: int, max_pixels: int = image_files.MAX_PIXELS) -> np.ndarray:
  """Returns the mask [H, W] in 0..1 in a file, at the size of its image.

  Raises InputError if it is not an image, is empty, or has other proportions than the image.
  """
  pixels, _ = image_files.read(path, max_pixels=max_pixels)
  mask = of_image(Image.fromarray(pixels))
  if abs(mask.width * height - mask.height * width) > _PROPORTIONS * mask.width * height:
    raise InputError(
      f'--mask={path} is {mask.width} x {mask.height}, which is not the shape of its image, {width} x {height}'
    )
  values = np.asarray(mask.resize((width, height), Image.Resampling.BOX), np.float32) / 255
  if values.max() < 0.5:
    raise InputError(f'--mask={path} is empty: the object must be opaque, or white on black')
  return values


def find(source: str | Path, images: list[Path]) -> list[Path]:
  """Returns the mask of each image: the file `source`, or from the folder `source` the file with the image's stem.

  Raises InputError if a mask is missing, or if a file is given for several images.
  """
  source = Path(source)
  if not source.is_dir():
    if len(images) != 1:
      raise InputError(f'--mask={source} is one file for {len(images)} images: give a folder with a mask for each')
    return [source]
  found = {path.stem: path for path in sorted(source.iterdir()) if path.suffix.lower() in SUFFIXES}
  for image in images:
    if image.stem not in found:
      raise InputError(f'--mask={source} has no mask for {image}: expected {image.stem}.png there')
  return [found[image.stem] for image in images]
