"""Pictures: decoding, resizing, compositing, comparing, and laying out side by side. NumPy, channels last.

RGBA pictures are float32 in 0..1 with premultiplied colour, so that they may be resized and cut; `over` puts them
on a background. Legend: H W picture, ... any leading dimensions.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError


def decode(encoded: bytes) -> np.ndarray:
  """Returns [H, W, 4], premultiplied, of an encoded RGBA picture; ValueError where it cannot be read."""
  try:
    with Image.open(io.BytesIO(encoded)) as picture:
      raw = np.asarray(picture.convert('RGBA'))
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    raise ValueError(f'not a whole picture: {error}') from error
  alpha = raw[..., 3].astype(np.float32) / 255
  scale = alpha / 255
  pixels = np.empty(raw.shape, np.float32)
  for channel in range(3):  # One plane at a time: three times as fast as a product of [H, W, 3] with [H, W, 1].
    np.multiply(raw[..., channel], scale, out=pixels[..., channel])
  pixels[..., 3] = alpha
  return pixels


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
  """Returns [size, size, C] of a square float32 picture [H, H, C]: each new pixel averages what it covers.

  Enlarged, it is interpolated linearly between pixel centres; C is at most 4.
  """
  if pixels.shape[0] == size:
    return pixels
  import cv2  # A tenth of a second to import, which those do without who only want cameras.

  smaller = size < pixels.shape[0]
  resized = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
  return resized.reshape(size, size, -1)  # OpenCV drops the axis of a single channel.


def over(pixels: np.ndarray, background: float) -> np.ndarray:
  """Returns premultiplied RGBA [..., 4] in front of a grey of 0..1, [..., 3]."""
  return pixels[..., :3] + (1 - pixels[..., 3:]) * background


def depth_to_color(depth: np.ndarray, opacity: np.ndarray, near: float = 1.0, far: float = 3.0) -> np.ndarray:
  """Returns [..., 3] in 0..1: near is light, far dark, nothing white. `depth` is sum_i w_i t_i, in world units."""
  distance = depth / np.maximum(opacity, 1e-3)
  light = np.clip((far - distance) / (far - near), 0, 1)[..., None]
  low, high = np.array([0.09, 0.11, 0.34]), np.array([0.98, 0.93, 0.62])
  shade = low + (high - low) * light
  return (shade * opacity[..., None] + 1 - opacity[..., None]).astype(np.float32)


def grid(rows: list[list[np.ndarray]], gap: int = 2) -> np.ndarray:
  """Returns one picture [H, W, 3] of rows of pictures [h, w, 3] of one size, on white."""
  height, width = rows[0][0].shape[:2]
  columns = max(map(len, rows))
  sheet = np.ones((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), np.float32)
  for i, row in enumerate(rows):
    for j, picture in enumerate(row):
      sheet[i * (height + gap) :, j * (width + gap) :][:height, :width] = picture
  return sheet


def to_bytes(image: np.ndarray) -> np.ndarray:
  """Returns uint8 0..255 of a float picture in 0..1."""
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
