"""Removes lens distortion: COLMAP's OPENCV model, with the two further radial terms of nerfstudio.

A point (x, y) of the image plane, at r^2 = x^2 + y^2, is seen at
  x (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + 2 p1 x y + p2 (r^2 + 2 x^2), and
  y (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + 2 p2 x y + p1 (r^2 + 2 y^2).
Legend: H W image.
"""

import cv2
import numpy as np

NAMES = ('k1', 'k2', 'p1', 'p2', 'k3', 'k4')  # the order of coefficients, which is OpenCV's for the first five


def undistort(pixels: np.ndarray, focal: np.ndarray, centre: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
  """Returns RGBA bytes [H, W, 4] as a pinhole camera with the same focal lengths [2] and centre [2] would see them.

  `focal` and `centre` are in pixels, and the centre of the first pixel is at 0.5. `coefficients` are those of NAMES;
  missing ones are 0. What lies outside of the original image is transparent.
  """
  k1, k2, p1, p2, k3, k4 = np.pad(np.asarray(coefficients, float), (0, 6 - len(coefficients)))
  height, width = pixels.shape[:2]
  x, y = np.meshgrid((np.arange(width) + 0.5 - centre[0]) / focal[0], (np.arange(height) + 0.5 - centre[1]) / focal[1])
  r2 = x * x + y * y
  radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
  seen_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
  seen_y = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
  columns, rows = (seen_x * focal[0] + centre[0] - 0.5), (seen_y * focal[1] + centre[1] - 0.5)
  premultiplied = pixels.astype(np.float32)
  premultiplied[..., :3] *= premultiplied[..., 3:] / 255
  result = cv2.remap(premultiplied, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR)
  opacity = result[..., 3:].astype(np.float32) / 255
  result[..., :3] = result[..., :3] / np.maximum(opacity, 1e-6)
  result[result[..., 3] < 0.5] = 0
  return np.round(np.clip(result, 0, 255)).astype(np.uint8)
