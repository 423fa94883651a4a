"""From a density field to a coloured triangle mesh, and to GLB.

Grid: N^3 points at the corners of (N - 1)^3 cells that fill the cube [-1, 1]^3; vertices in world units, z up.
glTF is y up: `write_glb` turns the mesh (x, y, z) -> (x, z, -y), so that the input view looks at its front (+z).
Legend: N grid points along a side, Q points, K vertices.
"""

from collections.abc import Callable, Sequence
import json
from pathlib import Path
import struct

import numpy as np
from scipy import ndimage
from skimage import measure
import trimesh

from lrm_jax.cameras import INPUT_POSITION

Field = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # points [Q, 3] -> (density [Q], colour [Q, 3])

_POINTS_PER_CALL = 2**17
_DEEPEST = 0.5  # world units that a colour is looked for below the surface


def extract(field: Field, *, resolution: int = 128, threshold: float | None = None) -> trimesh.Trimesh:
  """Returns the surface where the density passes `threshold`, coloured as it is seen from outside.

  Without a threshold it is `outline_threshold`'s: a blurred model is thin, a sharp one dense. Specks are left out.
  Normals point outwards, to where the density is lower. Outside of the cube there is nothing, so that the surface is
  closed. Raises ValueError where the resolution is too small or no density reaches the threshold.
  """
  if resolution < 8:
    raise ValueError(f'{resolution=} must be at least 8 grid points')
  if threshold is not None and not threshold > 0:
    raise ValueError(f'{threshold=} must be above 0')
  axis = np.linspace(-1, 1, resolution, dtype=np.float32)
  density = np.zeros((resolution,) * 3, np.float32)
  rows = max(1, _POINTS_PER_CALL // resolution**2)
  for first in range(0, resolution, rows):
    part = axis[first:first + rows]
    points = np.stack(np.meshgrid(part, axis, axis, indexing='ij'), axis=-1)
    density[first:first + rows] = _in_pieces(field, points.reshape(-1, 3))[0].reshape(points.shape[:3])
  threshold = outline_threshold(density) if threshold is None else threshold
  if density.max() <= threshold:
    raise ValueError(
        f'no surface: the greatest density found is {density.max():.3g}, {threshold=:g}; lower the threshold, or give '
        'a picture of one whole object on a plain background')
  padded = np.pad(_without_debris(density, threshold), 1)
  vertices, faces, _, _ = measure.marching_cubes(padded, threshold, gradient_direction='ascent')
  vertices = ((vertices - 1) / (resolution - 1) * 2 - 1).astype(np.float32)
  mesh = trimesh.Trimesh(vertices, faces, process=False)
  if mesh.volume < 0:
    mesh.invert()
  color = surface_color(field, vertices, mesh.vertex_normals.astype(np.float32), threshold)
  mesh.visual.vertex_colors = np.concatenate([_to_bytes(color), np.full((len(color), 1), 255, np.uint8)], axis=-1)
  return mesh


def outline_threshold(density: np.ndarray) -> float:
  """Returns the density whose surface has the outline of the volume as it is seen, from the three axes.

  Seen is what stops half of the light of parallel rays through a grid [N, N, N] of the cube. Among thresholds in
  steps of a fifth, the one with the greatest intersection over union. ValueError where nothing is seen.
  """
  step = 2 / (len(density) - 1)
  thickness = [density.sum(axis) * step for axis in range(3)]
  seen = [optical_depth > np.log(2) for optical_depth in thickness]
  if not any(mask.any() for mask in seen):
    raise ValueError(
        f'no surface: the volume is empty, no ray through it loses more than {1 - np.exp(-np.max(thickness)):.0%} of its '
        'light; give a picture of one whole object on a plain background, or a threshold below the greatest density, '
        f'{density.max():.3g}')
  greatest = [density.max(axis) for axis in range(3)]

  def agreement(threshold):
    both, either = zip(*(((m > threshold) & s, (m > threshold) | s) for m, s in zip(greatest, seen)))
    return np.sum(both) / np.sum(either)

  return float(max(density.max() * 1.2 ** -np.arange(1.0, 40.0), key=agreement))


def surface_color(
    field: Field, vertices: np.ndarray, normals: np.ndarray, threshold: float, num_samples: int = 16
) -> np.ndarray:
  """Returns colours [K, 3]: what a ray sees that enters at a vertex, against its outward normal [K, 3].

  Where the density is sharp this is the colour at the vertex. The surface of a blurred volume lies in a haze whose own
  colour no view has shown; there it is the colour of what the haze surrounds. The ray ends at three mean free paths of
  the density at the surface.
  """
  step = min(3 / threshold, _DEEPEST) / num_samples
  colors = []
  for first in range(0, len(vertices), _POINTS_PER_CALL // num_samples):
    rows = slice(first, first + _POINTS_PER_CALL // num_samples)
    depth = (np.arange(num_samples, dtype=np.float32) + 0.5) * step
    points = np.clip(vertices[rows, None] - normals[rows, None] * depth[:, None], -1, 1)
    density, color = _in_pieces(field, points.reshape(-1, 3))
    optical_depth = density.reshape(-1, num_samples) * step
    weights = np.exp(-np.cumsum(optical_depth, axis=1) + optical_depth) * -np.expm1(-optical_depth)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    colors.append(np.einsum('ks,ksc->kc', weights, color.reshape(-1, num_samples, 3)))
  return np.concatenate(colors)


def write_glb(mesh: trimesh.Trimesh, path: str | Path, input_position: Sequence[float] = INPUT_POSITION) -> None:
  """Writes a mesh with vertex colours as GLB: y up, in metres, unlit, its colours as they were in the picture.

  What the camera of the input view saw, which stood at `input_position`, is its front.

  glTF takes vertex colours to be linear light, ours are sRGB: they are converted, in 16 bits. Viewers that know
  `KHR_materials_unlit` show them so; others light the mesh as a rough white surface.
  """
  angle = -np.pi / 2 - np.arctan2(input_position[1], input_position[0])
  to_front = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
  turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ to_front
  positions = np.ascontiguousarray(mesh.vertices @ turn.T, np.float32)
  normals = np.ascontiguousarray(mesh.vertex_normals @ turn.T, np.float32)
  lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
  normals = np.where(lengths > 1e-6, normals / np.maximum(lengths, 1e-6), [0, 1, 0]).astype(np.float32)
  linear = _to_linear(mesh.visual.vertex_colors[:, :3] / 255.0)
  colors = np.concatenate([np.round(linear * 65535), np.full((len(linear), 1), 65535)], axis=-1).astype(np.uint16)
  indices = np.ascontiguousarray(mesh.faces, np.uint32)
  arrays = [(positions, 5126, 'VEC3', 34962), (normals, 5126, 'VEC3', 34962), (colors, 5123, 'VEC4', 34962),
            (indices.reshape(-1), 5125, 'SCALAR', 34963)]
  views, accessors, blob = [], [], b''
  for array, component, kind, target in arrays:
    data = array.tobytes()
    views.append({'buffer': 0, 'byteOffset': len(blob), 'byteLength': len(data), 'target': target})
    accessors.append({'bufferView': len(views) - 1, 'componentType': component, 'count': len(array), 'type': kind})
    blob += data + b'\0' * (-len(data) % 4)
  accessors[0] |= {'min': positions.min(0).tolist(), 'max': positions.max(0).tolist()}
  accessors[2]['normalized'] = True
  document = {
      'asset': {'version': '2.0', 'generator': 'lrm_jax'}, 'scene': 0, 'scenes': [{'nodes': [0]}],
      'nodes': [{'mesh': 0, 'name': 'object'}], 'extensionsUsed': ['KHR_materials_unlit'],
      'materials': [{'extensions': {'KHR_materials_unlit': {}},
                     'pbrMetallicRoughness': {'metallicFactor': 0.0, 'roughnessFactor': 1.0}}],
      'meshes': [{'primitives': [{'attributes': {'POSITION': 0, 'NORMAL': 1, 'COLOR_0': 2}, 'indices': 3, 'material': 0}]}],
      'accessors': accessors, 'bufferViews': views, 'buffers': [{'byteLength': len(blob)}]}
  text = json.dumps(document, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 4)
  header = struct.pack('<III', 0x46546C67, 2, 12 + 8 + len(text) + 8 + len(blob))
  chunks = struct.pack('<II', len(text), 0x4E4F534A) + text + struct.pack('<II', len(blob), 0x004E4942) + blob
  Path(path).write_bytes(header + chunks)


def _without_debris(density: np.ndarray, threshold: float) -> np.ndarray:
  """Returns the grid without parts smaller than a hundredth of the largest: specks in space that no view has shown."""
  labels, _ = ndimage.label(density > threshold, structure=np.ones((3, 3, 3)))
  cells = np.bincount(labels.reshape(-1))
  cells[0] = 0  # What lies outside of all parts stays as it is: the surface is interpolated in it.
  return np.where((labels > 0) & (cells < 0.01 * cells.max())[labels], 0, density)


def _in_pieces(field: Field, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The field at [Q, 3] points, a bounded number a call, all calls of one shape so that one program serves them."""
  densities, colors = [], []
  for first in range(0, len(points), _POINTS_PER_CALL):
    part = points[first:first + _POINTS_PER_CALL]
    filled = np.pad(part, ((0, _POINTS_PER_CALL - len(part)), (0, 0)))
    density, color = field(filled)
    densities.append(np.asarray(density)[:len(part)])
    colors.append(np.asarray(color)[:len(part)])
  return np.concatenate(densities), np.concatenate(colors)


def _to_linear(srgb: np.ndarray) -> np.ndarray:
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_bytes(color: np.ndarray) -> np.ndarray:
  return np.round(np.clip(color, 0, 1) * 255).astype(np.uint8)
