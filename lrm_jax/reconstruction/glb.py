"""Writes a coloured mesh as GLB: y up, unlit.

glTF is y up, so the mesh is rotated, (x, y, z) -> (x, z, -y): the input camera then sees its front (+z).
"""

from collections.abc import Sequence
import json
from pathlib import Path
import struct

import numpy as np
import trimesh

from lrm_jax.geometry.cameras import INPUT_POSITION


def write(mesh: trimesh.Trimesh, path: str | Path, input_position: Sequence[float] = INPUT_POSITION) -> None:
  """Writes a mesh with vertex colours as GLB: y up, in metres, unlit, with the colours of the input image.

  The side that faces `input_position`, the position of the input camera, becomes the front.

  glTF defines vertex colours as linear light; ours are sRGB, so they are converted, with 16 bits. Viewers that support
  `KHR_materials_unlit` show them unchanged; other viewers light the mesh as a rough white surface.
  """
  angle = -np.pi / 2 - np.arctan2(input_position[1], input_position[0])
  to_front = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
  turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ to_front
  positions = np.ascontiguousarray(mesh.vertices @ turn.T, np.float32)
  normals = np.ascontiguousarray(mesh.vertex_normals @ turn.T, np.float32)
  lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
  normals = np.where(lengths > 1e-6, normals / np.maximum(lengths, 1e-6), [0, 1, 0]).astype(np.float32)
  linear = _to_linear(mesh.visual.vertex_colors[:, :3] / 255.0)  # type: ignore[union-attr]
  colors = np.concatenate([np.round(linear * 65535), np.full((len(linear), 1), 65535)], axis=-1).astype(np.uint16)
  indices = np.ascontiguousarray(mesh.faces, np.uint32)
  arrays: list[tuple[np.ndarray, int, str, int]] = [
    (positions, 5126, 'VEC3', 34962),
    (normals, 5126, 'VEC3', 34962),
    (colors, 5123, 'VEC4', 34962),
    (indices.reshape(-1), 5125, 'SCALAR', 34963),
  ]
  views, accessors, blob = [], [], b''
  for array, component, kind, target in arrays:
    data = array.tobytes()
    views.append({'buffer': 0, 'byteOffset': len(blob), 'byteLength': len(data), 'target': target})
    accessors.append({'bufferView': len(views) - 1, 'componentType': component, 'count': len(array), 'type': kind})
    blob += data + b'\0' * (-len(data) % 4)
  accessors[0] |= {'min': positions.min(0).tolist(), 'max': positions.max(0).tolist()}
  accessors[2]['normalized'] = True
  document = {
    'asset': {'version': '2.0', 'generator': 'lrm_jax'},
    'scene': 0,
    'scenes': [{'nodes': [0]}],
    'nodes': [{'mesh': 0, 'name': 'object'}],
    'extensionsUsed': ['KHR_materials_unlit'],
    'materials': [
      {
        'extensions': {'KHR_materials_unlit': {}},
        'pbrMetallicRoughness': {'metallicFactor': 0.0, 'roughnessFactor': 1.0},
      }
    ],
    'meshes': [
      {'primitives': [{'attributes': {'POSITION': 0, 'NORMAL': 1, 'COLOR_0': 2}, 'indices': 3, 'material': 0}]}
    ],
    'accessors': accessors,
    'bufferViews': views,
    'buffers': [{'byteLength': len(blob)}],
  }
  text = json.dumps(document, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 4)
  header = struct.pack('<III', 0x46546C67, 2, 12 + 8 + len(text) + 8 + len(blob))
  chunks = struct.pack('<II', len(text), 0x4E4F534A) + text + struct.pack('<II', len(blob), 0x004E4942) + blob
  Path(path).write_bytes(header + chunks)


def _to_linear(srgb: np.ndarray) -> np.ndarray:
  """Returns linear light in 0..1 of sRGB values in 0..1 (IEC 61966-2-1)."""
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
