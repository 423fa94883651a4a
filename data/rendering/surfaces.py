"""Surfaces: triangle meshes with one material each, which the file readers return and the rasteriser draws.

K vertices, T triangles. Colours are linear. Texture coordinates are those of glTF: (0, 0) is the upper left corner of
the image, v points down.
"""

from collections.abc import Callable
import dataclasses
import io
from pathlib import Path
import struct
import warnings

import numpy as np
from PIL import Image

# Codes of OpenGL, which glTF uses for the wrap modes and filters of samplers.
REPEAT, CLAMP, MIRROR = 10497, 33071, 33648
NEAREST, LINEAR, LINEAR_MIPMAP_LINEAR = 9728, 9729, 9987
SAMPLER_VALUES = {REPEAT, CLAMP, MIRROR, NEAREST, LINEAR, 9984, 9985, 9986, LINEAR_MIPMAP_LINEAR}


@dataclasses.dataclass(frozen=True)
class Texture:
  """An image and how it is sampled. `image` identifies the image in its file; `pixels` returns RGBA bytes [H, W, 4].

  `uv_set` is n of TEXCOORD_n; `transform` [2, 3] maps these coordinates (u, v, 1) to those in the image.
  """

  image: object
  pixels: Callable[[], np.ndarray]
  wrap: tuple[int, int] = (REPEAT, REPEAT)
  filters: tuple[int, int] = (LINEAR_MIPMAP_LINEAR, LINEAR)  # minification, magnification
  uv_set: int = 0
  transform: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))

  def coordinates(self, uvs: dict[int, np.ndarray], count: int) -> np.ndarray:
    """Returns the coordinates [K, 2] in the image, of `count` vertices; zeros if the mesh lacks the UV set."""
    matrix = np.asarray(self.transform)
    return uvs.get(self.uv_set, np.zeros((count, 2))) @ matrix[:, :2].T + matrix[:, 2]


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
  """A material with the factors and textures of glTF 2.0; factors are multiplied by their textures.

  `mode` is 'OPAQUE', 'MASK' or 'BLEND'. `specular` scales the reflection of dielectrics. If `glossy_color` is set, the
  material is that of KHR_materials_pbrSpecularGlossiness: `glossy_color` is its reflectance, and `surface_texture` has
  reflectance in RGB and glossiness in A; otherwise it has roughness in G and metalness in B.
  """

  base_color: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
  base_texture: Texture | None = None
  mode: str = 'OPAQUE'
  cutoff: float = 0.5
  metallic: float = 1.0
  roughness: float = 1.0
  surface_texture: Texture | None = None
  specular: tuple[float, ...] = (1.0, 1.0, 1.0)
  glossy_color: tuple[float, ...] | None = None
  emission: tuple[float, ...] = (0.0, 0.0, 0.0)
  emission_texture: Texture | None = None
  double_sided: bool = True
  unlit: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
  """A mesh in the axes of its file (y up): points [K, 3] float64, triangles [T, 3], counter-clockwise from the front.

  `normals` [K, 3] are unit vectors, or None for flat shading. `uvs` are {n: TEXCOORD_n [K, 2]}; `colors` [K, 4] are
  multiplied by the base colour. `precision` is the distance between neighbouring numbers of the file at the points.
  """

  points: np.ndarray
  triangles: np.ndarray
  material: Material
  normals: np.ndarray | None = None
  uvs: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  colors: np.ndarray | None = None
  precision: float = 0.0

  def select(self, vertices: np.ndarray, triangles: np.ndarray) -> 'Surface':
    """Returns the surface of some of the vertices, given by their indices, with new triangles."""

    def take(values):
      return None if values is None else values[vertices]

    return dataclasses.replace(
      self,
      points=take(self.points),
      triangles=triangles,
      normals=take(self.normals),
      uvs={number: take(uv) for number, uv in self.uvs.items()},
      colors=take(self.colors),
    )

  def without_unused_vertices(self) -> 'Surface':
    """Returns the surface with those vertices only that a triangle uses."""
    used, indices = np.unique(self.triangles, return_inverse=True)
    return self.select(used, indices.reshape(-1, 3))

  def with_normals(self) -> 'Surface':
    """Returns the surface with normals; if it has none, triangles get vertices of their own and are flat."""
    if self.normals is not None:
      return self
    flat = self.select(self.triangles.reshape(-1), np.arange(self.triangles.size).reshape(-1, 3))
    corners = flat.points.reshape(-1, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return dataclasses.replace(flat, normals=unit(normals).repeat(3, axis=0))


def unit(vectors: np.ndarray) -> np.ndarray:
  """Returns vectors [..., 3] divided by their lengths; zeros stay zero."""
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.where(length > 0, length, 1.0)


def decode_image(name: str, source: Path | bytes) -> np.ndarray:
  """Returns the RGBA bytes [H, W, 4] of an image file or its content; ValueError with its name if it is damaged."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if image.mode.startswith('I'):  # 16 bits of grey, which Pillow would clip.
          image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.array(image.convert('RGBA'))
  except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
    raise ValueError(f'texture {name} cannot be read or has no pixels ({error})') from error
  if 0 in pixels.shape:
    raise ValueError(f'texture {name} has no pixels')
  return pixels


def shrunk(pixels: np.ndarray, limit: int) -> np.ndarray:
  """Returns an image, made smaller if one of its sides exceeds `limit` pixels."""
  factor = int(np.ceil(max(pixels.shape[:2]) / limit))
  return pixels if factor <= 1 else np.asarray(Image.fromarray(pixels).reduce(factor))
