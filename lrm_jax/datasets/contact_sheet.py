"""A contact sheet: one row of views per object, with the cube [-1, 1]^3 and the world axes drawn over them.

The x axis is red, y green and z blue, from the origin to the faces of the cube. If the cameras are right, the cube
stays fixed around the object from view to view, and z points up.
"""

from collections.abc import Mapping, Sequence
import itertools

import numpy as np
from PIL import Image, ImageDraw

from lrm_jax.datasets.records import decode, uid
from lrm_jax.geometry import cameras, images

_TITLE = 14  # pixels above a row
_AXES = (((220, 30, 30), (1, 0, 0)), ((20, 150, 40), (0, 1, 0)), ((40, 70, 230), (0, 0, 1)))
_EDGE = (150, 150, 150)


def draw(
  records: Sequence[Mapping],
  *,
  size: int = 128,
  num_views: int = 8,
  input_position: Sequence[float] = cameras.INPUT_POSITION,
  keep_distance: bool = False,
) -> Image.Image:
  """Returns the contact sheet: one row per record, with at most `num_views` evenly spaced views, the first is view 0.

  Cameras are normalised to view 0. Views are `size` pixels along a side, over white.
  """
  sheet = Image.new('RGB', (num_views * size, len(records) * (size + _TITLE)), 'white')
  pen = ImageDraw.Draw(sheet)
  for row, record in enumerate(records):
    top = row * (size + _TITLE)
    pen.text((2, top + 1), uid(record)[: num_views * size // 7], fill='black')
    poses, _ = cameras.normalise_to_input_view(
      record['camera_to_world'], position=input_position, keep_distance=keep_distance
    )
    shown = np.unique(np.linspace(0, len(poses) - 1, num_views).round().astype(int))
    for column, view in enumerate(shown):
      image = images.over(images.resize(decode(record, view), size), 1.0)
      sheet.paste(_with_cube(image, poses[view], record['intrinsics'][view]), (column * size, top + _TITLE))
  return sheet


def _with_cube(pixels: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> Image.Image:
  """Returns the image [S, S, 3] with the cube and the axes drawn over it."""
  size, large = len(pixels), 3 * len(pixels)  # Pillow's lines are not antialiased: draw them larger, then shrink.
  image = Image.fromarray(images.to_bytes(pixels)).resize((large, large), Image.Resampling.BILINEAR)
  pen = ImageDraw.Draw(image)
  corners = np.array(list(itertools.product((-1, 1), repeat=3)), float)
  lines = [(a, b, _EDGE, 2) for a, b in itertools.combinations(corners, 2) if np.sum(a != b) == 1]
  lines += [(np.zeros(3), np.array(end, float), color, 4) for color, end in _AXES]
  for start, end, color, width in lines:
    # Lines are drawn in short segments, because points behind the camera cannot be projected.
    points = start + np.linspace(0, 1, 33)[:, None] * (end - start)
    with np.errstate(divide='ignore', invalid='ignore'):
      places, distance = cameras.project(points, pose, intrinsics)
    for i in range(len(points) - 1):
      if distance[i] > 0.05 and distance[i + 1] > 0.05 and np.abs(places[i : i + 2]).max() < 10:
        pen.line([tuple(places[i] * large), tuple(places[i + 1] * large)], fill=color, width=width)
  return image.resize((size, size), Image.Resampling.BOX)
