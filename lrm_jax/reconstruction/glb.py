"""Writes a coloured mesh as GLB: y up, unlit.

glTF is y up, so the mesh is rotated, (x, y, z) -> (x, z, -y): the input camera then sees its front (+z).

Written by hand, because trimesh's exporter has neither `KHR_materials_unlit` nor 16-bit vertex colours, and with
pygltflib, which only builds the JSON part, the arrays would be packed by the same lines as here.
"""

from collections.abc import Sequence
import io
import json
from pathlib import Path
import struct

import numpy as np
import trimesh

from lrm_jax.geometry.cameras import INPUT_POSITION

_FLOAT, _SHORT, _INT = 5126, 5123, 5125  # glTF's component types
_VERTICES, _INDICES = 34962, 34963  # what a buffer view is for
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071  # filters and wrapping of a texture


def to_front(input_position: Sequence[float]) -> np.ndarray:
  """Returns the rotation [3, 3] about z that turns the side facing the input camera to the front, -y."""
  angle = -np.pi / 2 - np.arctan2(input_position[1], input_position[0])
  return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def y_up(input_position: Sequence[float]) -> np.ndarray:
  """Returns the rotation [3, 3] of the world to axes with y up and the front towards +z."""
  return np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ to_front(input_position)


def write(mesh: trimesh.Trimesh, path: str | Path, input_position: Sequence[float] = INPUT_POSITION) -> None:
  """Writes a mesh with vertex colours or a texture as GLB: y up, in metres, unlit, with the colours of the input image.

  The side that faces `input_position`, the position of the input camera, becomes the front.

  glTF defines vertex colours as linear light; ours are sRGB, so they are converted, with 16 bits. Textures are sRGB, as
  ours are. Viewers that support `KHR_materials_unlit` show them unchanged; other viewers light the mesh as a rough
  white surface.
  """
  turn = y_up(input_position)
  positions = np.ascontiguousarray(mesh.vertices @ turn.T, np.float32)
  normals = np.ascontiguousarray(mesh.vertex_normals @ turn.T, np.float32)
  lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
  normals = np.where(lengths > 1e-6, normals / np.maximum(lengths, 1e-6), [0, 1, 0]).astype(np.float32)
  arrays: list[tuple[np.ndarray, int, str, int]] = [
    (positions, _FLOAT, 'VEC3', _VERTICES),
    (normals, _FLOAT, 'VEC3', _VERTICES),
  ]
  textured = mesh.visual.kind == 'texture'  # type: ignore[union-attr]
  if textured:
    uv = np.ascontiguousarray(mesh.visual.uv * [1, -1] + [0, 1], np.float32)  # type: ignore[union-attr]
    arrays.append((uv, _FLOAT, 'VEC2', _VERTICES))
  else:
    linear = to_linear(mesh.visual.vertex_colors[:, :3] / 255.0)  # type: ignore[union-attr]
    colors = np.concatenate([np.round(linear * 65535), np.full((len(linear), 1), 65535)], axis=-1).astype(np.uint16)
    arrays.append((colors, _SHORT, 'VEC4', _VERTICES))
  arrays.append((np.ascontiguousarray(mesh.faces, np.uint32).reshape(-1), _INT, 'SCALAR', _INDICES))
  views, accessors, blob = [], [], b''
  for array, component, kind, target in arrays:
    data = array.tobytes()
    views.append({'buffer': 0, 'byteOffset': len(blob), 'byteLength': len(data), 'target': target})
    accessors.append({'bufferView': len(views) - 1, 'componentType': component, 'count': len(array), 'type': kind})
    blob += data + b'\0' * (-len(data) % 4)
  accessors[0] |= {'min': positions.min(0).tolist(), 'max': positions.max(0).tolist()}
  surface: dict = {'metallicFactor': 0.0, 'roughnessFactor': 1.0}
  attributes = {'POSITION': 0, 'NORMAL': 1, 'TEXCOORD_0' if textured else 'COLOR_0': 2}
  document: dict = {
    'asset': {'version': '2.0', 'generator': 'lrm_jax'},
    'scene': 0,
    'scenes': [{'nodes': [0]}],
    'nodes': [{'mesh': 0, 'name': 'object'}],
    'extensionsUsed': ['KHR_materials_unlit'],
    'materials': [{'extensions': {'KHR_materials_unlit': {}}, 'pbrMetallicRoughness': surface}],
    'meshes': [{'primitives': [{'attributes': attributes, 'indices': 3, 'material': 0}]}],
    'accessors': accessors,
    'bufferViews': views,
  }
  if textured:
    stream = io.BytesIO()
    mesh.visual.material.image.save(stream, 'PNG')  # type: ignore[union-attr]
    data = stream.getvalue()
    views.append({'buffer': 0, 'byteOffset': len(blob), 'byteLength': len(data)})
    blob += data + b'\0' * (-len(data) % 4)
    surface['baseColorTexture'] = {'index': 0}
    document['textures'] = [{'sampler': 0, 'source': 0}]
    document['images'] = [{'bufferView': len(views) - 1, 'mimeType': 'image/png'}]
    document['samplers'] = [{'magFilter': _LINEAR, 'minFilter': _MIPMAPS, 'wrapS': _CLAMP, 'wrapT': _CLAMP}]
  else:
    accessors[2]['normalized'] = True
  document['buffers'] = [{'byteLength': len(blob)}]
  text = json.dumps(document, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 4)
  header = struct.pack('<III', 0x46546C67, 2, 12 + 8 + len(text) + 8 + len(blob))
  chunks = struct.pack('<II', len(text), 0x4E4F534A) + text + struct.pack('<II', len(blob), 0x004E4942) + blob
  Path(path).write_bytes(header + chunks)


def to_linear(srgb: np.ndarray) -> np.ndarray:
  """Returns linear light in 0..1 of sRGB values in 0..1 (IEC 61966-2-1)."""
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
