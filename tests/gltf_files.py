"""A writer of small glTF 2.0 files, byte by byte as the tests want them, and a box to put into them."""

import io
import json
from pathlib import Path
import struct

import numpy as np
from PIL import Image

CODES = {'int8': 5120, 'uint8': 5121, 'int16': 5122, 'uint16': 5123, 'uint32': 5125, 'float32': 5126}
TYPES = {1: 'SCALAR', 2: 'VEC2', 3: 'VEC3', 4: 'VEC4', 16: 'MAT4'}
COLORS = np.array([[[200, 40, 40], [40, 160, 60]], [[50, 70, 210], [230, 210, 60]]], np.uint8)


def squares(colors=COLORS, size=32) -> np.ndarray:
  """Returns an image of 2 x 2 squares of the given colours, `size` pixels each."""
  return np.asarray(colors, np.uint8).repeat(size, 0).repeat(size, 1)


def box(extents=(1.0, 0.7, 0.5), centre=(0.0, 0.0, 0.0)) -> dict[str, np.ndarray]:
  """Returns a box with a corner of its own for each face: POSITION, NORMAL, TEXCOORD_0, and 'indices'."""
  points, normals, uvs, indices = [], [], [], []
  for axis in range(3):
    for side in (-1.0, 1.0):
      normal, right = np.zeros(3), np.zeros(3)
      normal[axis], right[(axis + 1) % 3] = side, 1.0
      up = np.cross(normal, right)
      indices += [len(normals) + i for i in (0, 1, 2, 0, 2, 3)]
      for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        points.append(normal + u * right + v * up)
        normals.append(normal)
        uvs.append(((u + 1) / 2, (1 - v) / 2))
  return {
    'POSITION': (np.array(points) * np.array(extents) / 2 + centre).astype(np.float32),
    'NORMAL': np.array(normals, np.float32),
    'TEXCOORD_0': np.array(uvs, np.float32),
    'indices': np.array(indices, np.uint16),
  }


class Gltf:
  """A glTF document with one binary buffer; the methods add an object and return its index."""

  def __init__(self):
    self.document = {'asset': {'version': '2.0'}, 'scene': 0, 'scenes': [{'nodes': []}], 'nodes': []}
    self.data, self.more_buffers = bytearray(), []

  def append(self, name: str, entry: dict) -> int:
    self.document.setdefault(name, []).append(entry)
    return len(self.document[name]) - 1

  def use(self, *extensions: str, required=True) -> None:
    for name in extensions:
      for key in ('extensionsUsed', 'extensionsRequired')[: 1 + required]:
        if name not in self.document.setdefault(key, []):
          self.document[key].append(name)

  def view(self, data: bytes, **fields) -> int:
    self.data += bytes(-len(self.data) % 4)
    start = len(self.data)
    self.data += data
    return self.append('bufferViews', {'buffer': 0, 'byteOffset': start, 'byteLength': len(data)} | fields)

  def accessor(self, values, *, normalized=False, sparse=None, stored=True) -> int:
    """`sparse` is (indices, values); with `stored` False there is no buffer view, so the values are zeros."""
    values = np.asarray(values)
    values = values.reshape(len(values), -1)
    entry = {'componentType': CODES[values.dtype.name], 'count': len(values), 'type': TYPES[values.shape[1]]}
    if stored:
      # Elements are aligned to 4 bytes, as the specification wants of vertices.
      size = values.dtype.itemsize * values.shape[1]
      if values.shape[1] > 1 and size % 4:
        padded = np.zeros((len(values), -(-size // 4) * 4), np.uint8)
        padded[:, :size] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), size)
        entry['bufferView'] = self.view(padded.tobytes(), byteStride=padded.shape[1])
      else:
        entry['bufferView'] = self.view(np.ascontiguousarray(values).tobytes())
    if values.dtype.kind == 'f' and values.shape[1] == 3:
      final = values.copy()
      if sparse is not None:
        final[sparse[0]] = sparse[1]
      entry |= {'min': final.min(0).tolist(), 'max': final.max(0).tolist()}
    if normalized:
      entry['normalized'] = True
    if sparse is not None:
      where, what = (np.asarray(part) for part in sparse)
      entry['sparse'] = {
        'count': len(where),
        'indices': {'bufferView': self.view(where.tobytes()), 'componentType': CODES[where.dtype.name]},
        'values': {'bufferView': self.view(what.astype(values.dtype).tobytes())},
      }
    return self.append('accessors', entry)

  def texture(self, pixels=None, *, sampler=None, format='PNG', **info) -> dict:
    """Returns the textureInfo of a new texture."""
    stream = io.BytesIO()
    image = Image.fromarray(squares() if pixels is None else pixels)
    image.save(stream, format, **({'lossless': True} if format == 'WEBP' else {}))
    source = self.append('images', {'bufferView': self.view(stream.getvalue()), 'mimeType': f'image/{format.lower()}'})
    entry = {'source': source}
    if format == 'WEBP':
      self.use('EXT_texture_webp')
      entry = {'extensions': {'EXT_texture_webp': entry}}
    if sampler is not None:
      entry['sampler'] = self.append('samplers', sampler)
    return {'index': self.append('textures', entry)} | info

  def material(self, *, color=None, texture=None, metallic=0.0, roughness=1.0, **fields) -> int:
    factors = {'metallicFactor': metallic, 'roughnessFactor': roughness}
    if color is not None:
      factors['baseColorFactor'] = [*color, 1.0][:4]
    if texture is not None:
      factors['baseColorTexture'] = texture
    return self.append('materials', {'pbrMetallicRoughness': factors} | fields)

  def primitive(self, arrays: dict, material: int | None = None, *, normalized=(), accessors=None, **fields) -> dict:
    """`normalized` are names of arrays; `accessors` are {name: index} of attributes that exist already."""
    attributes = {
      name: self.accessor(values, normalized=name in normalized) for name, values in arrays.items() if name != 'indices'
    }
    entry = {'attributes': attributes | (accessors or {})} | fields
    if 'indices' in arrays:
      entry['indices'] = self.accessor(arrays['indices'])
    if material is not None:
      entry['material'] = material
    return entry

  def mesh(self, *primitives: dict, **fields) -> int:
    return self.append('meshes', {'primitives': list(primitives)} | fields)

  def node(self, *, root=True, **fields) -> int:
    number = self.append('nodes', fields)
    if root:
      self.document['scenes'][0]['nodes'].append(number)
    return number

  def save(self, path: Path) -> Path:
    """Writes a GLB file, or a glTF file with its buffer beside it."""
    document = self.document | {'buffers': [{'byteLength': len(self.data)}, *self.more_buffers]}
    if path.suffix == '.gltf':
      name = path.stem + ' data.bin'
      path.with_name(name).write_bytes(self.data)
      document['buffers'][0]['uri'] = name.replace(' ', '%20')
      path.write_text(json.dumps(document))
      return path
    text = json.dumps(document).encode()
    text += b' ' * (-len(text) % 4)
    data = bytes(self.data) + bytes(-len(self.data) % 4)
    chunks = struct.pack('<2I', len(text), 0x4E4F534A) + text + struct.pack('<2I', len(data), 0x004E4942) + data
    path.write_bytes(struct.pack('<3I', 0x46546C67, 2, 12 + len(chunks)) + chunks)
    return path


def textured_box(path: Path | None = None, **options) -> Gltf:
  """Returns a file with a box whose faces have four colours; `options` are those of `Gltf.material`."""
  file = Gltf()
  file.node(mesh=file.mesh(file.primitive(box(), file.material(texture=file.texture(), **options))))
  if path is not None:
    file.save(path)
  return file
