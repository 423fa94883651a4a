"""Bakes the colours of a surface into a texture, without OpenGL: a colour for each texel, in calls of one fixed size.

xatlas unfolds the surface into charts. Each texel whose centre lies in a chart gets the colour of its point on the
surface; all others get that of the nearest such texel, so that neither filters nor mipmaps mix in a background.
Texture coordinates (u, v) are in 0..1, u to the right and v up, as in OBJ and trimesh; glTF has v downwards.
Legend: K vertices, T triangles, S texels along a side, Q texels.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage
import trimesh

from lrm_jax import extras
from lrm_jax.errors import InputError
from lrm_jax.geometry import images, rasterise

# Triangles of a textured mesh, unless told otherwise. xatlas takes 3 s for 10,000 triangles and 50 s for 34,000
# (2 cores, shared, 2026-11-27); the details are in the texture.
FACES = 10_000
_SIZES = 16, 8192
_GUTTER = 3  # texels between charts

Color = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (points [Q, 3], unit normals [Q, 3]) -> colours [Q, 3]


def check(size: int) -> None:
  """Raises InputError if `size` is no size of a texture, and ImportError (extras.py) if xatlas is not installed."""
  if not _SIZES[0] <= size <= _SIZES[1]:
    raise InputError(f'a texture of {size} pixels along a side is not possible: use {_SIZES[0]} to {_SIZES[1]}')
  extras.require('texture', 'xatlas', purpose='a texture')


def bake(
  color: Color,
  vertices: np.ndarray,
  triangles: np.ndarray,
  normals: np.ndarray,
  size: int,
  added: np.ndarray | None = None,
) -> trimesh.Trimesh:
  """Returns the mesh with texture coordinates and an image [S, S] of its colours, S = `size`.

  The colours are `color` at each texel plus `added` [K, 3], which is interpolated between the vertices. Vertices
  [K, 3] are repeated at the edges of charts. `normals` [K, 3] are kept, so that these edges are not visible.
  """
  source, triangles, uv = unfold(vertices, triangles, size)
  points, normals = vertices[source], normals[source]
  owner, corners = _texels(uv[triangles], size)
  covered = np.flatnonzero(owner.reshape(-1) >= 0)
  which, weight = triangles[owner.reshape(-1)[covered]], corners.reshape(-1, 3)[covered]

  def at(values):
    return np.einsum('qk,qkc->qc', weight, values[which]).astype(np.float32)

  facing = at(normals)
  facing /= np.maximum(np.linalg.norm(facing, axis=-1, keepdims=True), 1e-9)
  pixels = np.zeros((size * size, 3), np.uint8)
  values = color(at(points), facing)
  if added is not None:
    values = values + at(added[source])
  pixels[covered] = images.to_bytes(values)
  image = Image.fromarray(_filled(pixels.reshape(size, size, 3), owner >= 0))
  material = trimesh.visual.material.SimpleMaterial(image=image, diffuse=[255] * 4, ambient=[0, 0, 0, 255])
  visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
  return trimesh.Trimesh(points, triangles, vertex_normals=normals, visual=visual, process=False)


def unfold(vertices: np.ndarray, triangles: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (source [K'], triangles [T, 3], uv [K', 2]): charts without overlap in a square of `size` texels.

  Vertex i of the result is vertex source[i] of the surface.
  """
  import xatlas

  atlas = xatlas.Atlas()
  atlas.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(triangles, np.uint32))
  chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
  chart.max_iterations = 1  # More iterations take three times as long, for as good a use of the texture.
  pack.resolution, pack.padding, pack.bilinear = size, _GUTTER, True
  atlas.generate(chart_options=chart, pack_options=pack)
  source, triangles, uv = atlas[0]
  return source.astype(np.int64), triangles.astype(np.int64), np.clip(uv, 0, 1).astype(np.float32)


def _texels(uv: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns (triangle [S, S], -1 if none, barycentric coordinates [S, S, 3]) at the centre of each texel.

  `uv` [T, 3, 2] are the corners of the triangles. The first row is at the top of the image, where v = 1.
  """
  corners = uv.astype(np.float64) * size
  corners[..., 1] = size - corners[..., 1]
  owner, weights = np.full((size, size), -1), np.zeros((size, size, 3), np.float32)
  for triangle, column, row, barycentric in rasterise.covered(corners, size):
    owner[row, column] = triangle
    weights[row, column] = barycentric
  return owner, weights


def _filled(pixels: np.ndarray, covered: np.ndarray) -> np.ndarray:
  """Returns the image [S, S, 3] with the nearest covered pixel in place of each that is not covered."""
  if not covered.any():
    return pixels
  row, column = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
  return pixels[row, column]
