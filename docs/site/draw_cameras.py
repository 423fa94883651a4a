"""Draws docs/cameras_world.svg and docs/cameras_image.svg: python docs/site/draw_cameras.py

Every point is placed by lrm_jax/geometry/cameras.py, so that the drawings show what the code does.
tests/test_documentation.py draws them again and compares.
"""

from pathlib import Path

import numpy as np

from lrm_jax.geometry import cameras

DOCS = Path(__file__).parents[1]
RED, GREEN, BLUE, GREY, ORANGE = '#c0392b', '#1e8449', '#2457a6', '#7f8c8d', '#b9690b'
FOV = 50.0

# An armchair of two boxes (lower corner, upper corner), within 0.634 of the origin. Its front is towards -y.
CHAIR = (((-0.36, -0.3, -0.4), (0.36, 0.3, -0.08)), ((-0.36, 0.16, -0.08), (0.36, 0.3, 0.4)))
# The faces of a box, by the bits of its corners: x is bit 0, y bit 1, z bit 2; then their brightness.
FACES = (((0, 1, 5, 4), 205), ((2, 3, 7, 6), 150), ((0, 2, 6, 4), 165), ((1, 3, 7, 5), 180), ((4, 5, 7, 6), 235))


class Drawing:
  """An SVG of `size` pixels; points of the world are placed by a camera, in the square at `corner` with this side."""

  def __init__(self, size, pose, intrinsics, side, corner=(0.0, 0.0)):
    self.size, self.pose, self.intrinsics, self.side, self.corner = size, pose, intrinsics, side, corner
    self.parts: list[str] = []

  def place(self, points) -> np.ndarray:
    """Returns the pixels [P, 2] of the drawing at which points [P, 3] of the world are."""
    pixels, distance = cameras.project(np.asarray(points, float).reshape(-1, 3), self.pose, self.intrinsics)
    assert np.all(distance > 0)
    return pixels * self.side + np.asarray(self.corner)

  def line(self, points, color, *, width=1.5, dashed=False, arrow=False, flat=False):
    """Draws a line through points of the world or, if `flat`, through pixels of the drawing."""
    pixels = np.asarray(points, float) if flat else self.place(points)
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in pixels)
    dash = ' stroke-dasharray="4 4"' if dashed else ''
    self.parts.append(
      f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" stroke-linecap="round"{dash}/>'
    )
    if arrow:
      along = pixels[-1] - pixels[-2]
      along = along / np.linalg.norm(along)
      across = np.array([-along[1], along[0]])
      tip = [pixels[-1] + 9 * along, pixels[-1] + 4 * across, pixels[-1] - 4 * across]
      self.polygon(tip, color, flat=True)

  def polygon(self, points, fill, *, stroke='none', opacity=1.0, flat=False):
    pixels = np.asarray(points, float) if flat else self.place(points)
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in pixels)
    self.parts.append(f'<polygon points="{path}" fill="{fill}" stroke="{stroke}" fill-opacity="{opacity}"/>')

  def dot(self, pixel, color, radius=2.5):
    self.parts.append(f'<circle cx="{pixel[0]:.1f}" cy="{pixel[1]:.1f}" r="{radius}" fill="{color}"/>')

  def text(self, pixel, words, color='#222', *, anchor='start', size=15):
    x, y = pixel
    self.parts.append(
      f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}" text-anchor="{anchor}">{words}</text>'
    )

  def label(self, point, words, color='#222', *, shift=(0, 0), anchor='start'):
    self.text(self.place(point)[0] + np.asarray(shift), words, color, anchor=anchor)

  def chair(self):
    """Draws the faces of the armchair that face the camera, the farthest first."""
    seen = []
    for low, high in CHAIR:
      corners = np.array([[(low, high)[bit >> axis & 1][axis] for axis in range(3)] for bit in range(8)])
      for face, brightness in FACES:
        points = corners[list(face)]
        outward = points.mean(0) - corners.mean(0)
        if outward @ (self.pose[:3, 3] - points.mean(0)) > 0:
          seen.append((np.linalg.norm(points.mean(0) - self.pose[:3, 3]), points, brightness))
    for _, points, brightness in sorted(seen, key=lambda one: -one[0]):
      self.polygon(points, f'rgb({brightness}, {int(brightness * 0.85)}, {int(brightness * 0.62)})', stroke='#6b5a3a')

  def write(self, path: Path, title: str) -> None:
    width, height = self.size
    path.write_text(
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
      f'font-family="sans-serif" role="img"><title>{title}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n'
      + '\n'.join(self.parts)
      + '\n</svg>\n'
    )


def world() -> Drawing:
  """The world: its axes, the cube, an object, the input camera with its axes and image, and the orbit."""
  viewer = cameras.look_at((4.6, -6.4, 3.9), (0.1, -0.45, -0.1))
  drawing = Drawing((680, 520), viewer, cameras.intrinsics_from_fov(30), 680, (0, -60))
  corners = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], float)
  for a in range(8):
    for bit in (1, 2, 4):
      if not a & bit:
        drawing.line(corners[[a, a | bit]], GREY, width=1, dashed=True)
  poses = cameras.orbit(72)
  drawing.line(poses[:, :3, 3][list(range(72)) + [0]], ORANGE, width=1, dashed=True)
  drawing.line(poses[5:11, :3, 3], ORANGE, width=2, arrow=True)
  drawing.label(poses[11, :3, 3], 'views of an orbit turn', ORANGE, shift=(14, 14))
  drawing.label(poses[11, :3, 3], 'from -y towards +x', ORANGE, shift=(14, 33))
  origin = np.zeros(3)
  drawing.line([origin, (0, 1.45, 0)], GREEN, width=2, arrow=True)
  drawing.chair()
  drawing.line([(0.36, 0, 0), (1.45, 0, 0)], RED, width=2, arrow=True)
  drawing.line([(0, 0.16, 0.4), (0, 0.16, 1.35)], BLUE, width=2, arrow=True)
  drawing.label((1.45, 0, 0), 'x', RED, shift=(12, 8))
  drawing.label((0, 1.45, 0), 'y', GREEN, shift=(8, -8))
  drawing.label((0, 0.16, 1.35), 'z (up)', BLUE, shift=(-6, -14), anchor='end')
  drawing.label((1, -1, -1), 'the cube [-1, 1]^3', GREY, shift=(-20, 22), anchor='middle')
  _camera(drawing, cameras.input_camera())
  return drawing


def _camera(drawing: Drawing, pose: np.ndarray) -> None:
  """Draws a camera: its image at distance 0.8, the axes of its pose, and where it is."""
  position, (right, up, backward) = pose[:3, 3], pose[:3, :3].T
  half = 0.8 * np.tan(np.deg2rad(FOV) / 2)
  image = [position - 0.8 * backward + half * (x * right + y * up) for x, y in ((-1, 1), (1, 1), (1, -1), (-1, -1))]
  for corner in image:
    drawing.line([position, corner], '#555', width=1)
  drawing.polygon(image, '#9bb7e0', stroke='#2457a6', opacity=0.35)
  for axis, name, color, shift in (
    (right, 'x', RED, (8, 12)),
    (up, 'y', GREEN, (-4, -12)),
    (backward, 'z', BLUE, (-18, 10)),
  ):
    drawing.line([position, position + 0.5 * axis], color, width=2.5, arrow=True)
    drawing.label(position + 0.5 * axis, name, color, shift=shift)
  drawing.dot(drawing.place(position)[0], '#222', 4)
  drawing.label(position, 'input camera at [0, -2, 0],', shift=(-20, 66), anchor='middle')
  drawing.label(position, 'looks along its -z at the origin', shift=(-20, 85), anchor='middle')


def image() -> Drawing:
  """The image of the input camera: u, v, the centres of its pixels, and how the axes of the world appear in it."""
  side, left, top, size = 380, 90, 60, 8
  camera = cameras.input_camera()
  drawing = Drawing((560, 500), camera, cameras.intrinsics_from_fov(FOV), side, (left, top))
  corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * side + (left, top)
  drawing.polygon(corners, '#fbfbf7', stroke='#222', flat=True)
  drawing.chair()
  for i in range(1, size):
    at = i * side / size
    drawing.line([(left + at, top), (left + at, top + side)], '#ccc', width=0.7, flat=True)
    drawing.line([(left, top + at), (left + side, top + at)], '#ccc', width=0.7, flat=True)
  for row in range(size):
    for column in range(size):
      drawing.dot((left + (column + 0.5) / size * side, top + (row + 0.5) / size * side), GREY, 1.6)
  drawing.line([(0, -0.3, 0), (0.55, -0.3, 0)], RED, width=2.5, arrow=True)
  drawing.line([(0, -0.3, 0), (0, -0.3, 0.55)], BLUE, width=2.5, arrow=True)
  drawing.label((0.55, -0.3, 0), 'x of the world', RED, shift=(14, 5))
  drawing.label((0, -0.3, 0.55), 'z of the world', BLUE, shift=(10, 4))
  drawing.line([(left, top - 22), (left + 90, top - 22)], '#222', arrow=True, flat=True)
  drawing.text((left + 108, top - 17), 'u')
  drawing.line([(left - 22, top), (left - 22, top + 90)], '#222', arrow=True, flat=True)
  drawing.text((left - 22, top + 118), 'v', anchor='middle')
  drawing.text((left - 6, top - 6), '(0, 0)', anchor='end')
  drawing.text((left + side + 6, top + side + 18), '(1, 1)')
  drawing.dot(drawing.place([(0, 0, 0)])[0], '#222', 4)
  below = (left + side / 2, top + side + 24)
  drawing.text(below, 'black: (cx, cy) = (0.5, 0.5), where the camera looks', anchor='middle', size=14)
  below = (below[0], below[1] + 20)
  drawing.text(below, 'grey: centres of 8 x 8 pixels, at (i + 0.5) / 8', anchor='middle', size=14)
  return drawing


def main(folder: Path = DOCS) -> None:
  world().write(folder / 'cameras_world.svg', 'The world, the cube, an object and the input camera')
  image().write(folder / 'cameras_image.svg', 'The image of the input camera')


if __name__ == '__main__':
  main()
