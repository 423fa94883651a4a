"""Images: decoding, resizing, compositing, colour-coding depth, and arranging in a grid. NumPy, channels last.

RGBA images are float32 in 0..1 with premultiplied colour, so that they can be resized and cropped without colour
bleeding; `over` composites them onto a background. Legend: H W image, C channels, ... any leading dimensions.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from lrm_jax.errors import InputError


def decode(encoded: bytes) -> np.ndarray:
  """Returns the encoded image as premultiplied RGBA [H, W, 4]. Raises InputError if it cannot be decoded."""
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      raw = np.asarray(image.convert('RGBA'))
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    raise InputError(f'cannot decode the image, which is truncated, damaged or not an image: {error}') from error
  alpha = raw[..., 3].astype(np.float32) / 255
  scale = alpha / 255
  pixels = np.empty(raw.shape, np.float32)
  for channel in range(3):  # Three times as fast as multiplying [H, W, 3] by [H, W, 1].
    np.multiply(raw[..., channel], scale, out=pixels[..., channel])
  pixels[..., 3] = alpha
  return pixels


def nearest(image: np.ndarray, size: int) -> np.ndarray:
  """Returns a square image [S, S, ...] sampled at the pixel centres of [size, size], without mixing values."""
  index = ((np.arange(size) + 0.5) * len(image) / size).astype(int)
  return image[index][:, index]


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
  """Returns a square float32 image [H, H, C] resized to [size, size, C]; C is at most 4.

  If the image shrinks, each new pixel is the mean of the area that it covers. If it grows, it is interpolated linearly
  between pixel centres.
  """
  if pixels.shape[0] == size:
    return pixels
  import cv2  # Takes 0.1 s to import, and users of the cameras alone do not need it.

  smaller = size < pixels.shape[0]
  resized = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
  return resized.reshape(size, size, -1)  # OpenCV drops the axis of a single channel.


def over(pixels: np.ndarray, background: float | np.ndarray) -> np.ndarray:
  """Returns premultiplied RGBA [..., 4] composited onto a grey background in 0..1, as RGB [..., 3]."""
  return pixels[..., :3] + (1 - pixels[..., 3:]) * background


def depth_to_color(depth: np.ndarray, opacity: np.ndarray, near: float = 1.0, far: float = 3.0) -> np.ndarray:
  """Returns colours [..., 3] in 0..1: near surfaces are light, far ones dark, and the background is white.

  `depth` is sum_i w_i t_i, and `near` and `far` are the ends of the colour scale, all in world units.
  """
  distance = depth / np.maximum(opacity, 1e-3)
  light = np.clip((far - distance) / (far - near), 0, 1)[..., None]
  low, high = np.array([0.09, 0.11, 0.34]), np.array([0.98, 0.93, 0.62])
  shade = low + (high - low) * light
  return (shade * opacity[..., None] + 1 - opacity[..., None]).astype(np.float32)


def grid(rows: list[list[np.ndarray]], gap: int = 2) -> np.ndarray:
  """Returns one image [H, W, 3] with the given rows of equally large images [h, w, 3] on white, `gap` pixels apart."""
  height, width = rows[0][0].shape[:2]
  columns = max(map(len, rows))
  sheet = np.ones((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), np.float32)
  for i, row in enumerate(rows):
    for j, image in enumerate(row):
      sheet[i * (height + gap) :, j * (width + gap) :][:height, :width] = image
  return sheet


def to_bytes(image: np.ndarray) -> np.ndarray:
  """Returns a float image in 0..1 as uint8 in 0..255, clipped and rounded."""
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
