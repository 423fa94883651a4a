"""The container of glTF 2.0: JSON, buffers, URIs, extensions and accessors of a .gltf or .glb file.

This package reads glTF itself. Of the libraries on PyPI, trimesh ignores what it does not know (component types, UV
sets, sparse accessors, skins ...), and pygltflib only maps the JSON to classes. A reader that draws a file exactly as
the specification says, or refuses it by name, takes 500 lines of NumPy: this file, gltf.py and gltf_materials.py. The
bitstream of Draco is decoded by DracoPy. Source: Khronos, glTF 2.0 specification, and those of the extensions.
"""

import base64
import binascii
import json
from pathlib import Path
import struct
from urllib.parse import unquote, unquote_to_bytes

import numpy as np

_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_COMPONENTS = {'SCALAR': 1, 'VEC2': 2, 'VEC3': 3, 'VEC4': 4, 'MAT4': 16}
DRACO = 'KHR_draco_mesh_compression'

# Extensions that may be required by a file for the rasteriser to draw it. The last line has those without effect on a
# still object in our own light.
KNOWN = frozenset(
  ['KHR_mesh_quantization', 'KHR_texture_transform', 'KHR_materials_unlit', 'KHR_materials_emissive_strength', DRACO]
  + ['EXT_mesh_gpu_instancing', 'EXT_texture_webp', 'EXT_texture_avif', 'KHR_materials_pbrSpecularGlossiness']
  + ['KHR_node_visibility', 'KHR_materials_variants', 'KHR_lights_punctual', 'KHR_animation_pointer', 'KHR_xmp_json_ld']
)
_MESHOPT = 'decompress the file with `gltfpack -i IN.glb -o OUT.glb`'
_KTX = 'convert its KTX2 textures with `gltf-transform ktxdecompress IN.glb OUT.glb`'
_BY_CYCLES = 'use --engine=cycles'
_REMEDIES = {
  'EXT_meshopt_compression': _MESHOPT,
  'KHR_meshopt_compression': _MESHOPT,
  'KHR_texture_basisu': _KTX,
  'MSFT_texture_dds': 'convert its DDS textures to PNG or WebP',
} | {
  f'KHR_materials_{name}': _BY_CYCLES
  for name in ('clearcoat', 'transmission', 'specular', 'sheen', 'ior', 'volume', 'anisotropy')
}


def refusal(extension: str, engine: str = 'raster') -> ValueError:
  """Returns the error for an extension that an engine cannot draw, with the remedy."""
  remedy = _REMEDIES.get(extension, 'export the object again without it')
  if engine == 'cycles' and extension in KNOWN:
    remedy = 'use --engine=raster'
  return ValueError(f'the file needs the glTF extension {extension}, which is not supported: {remedy}')


def read_document(path: Path) -> tuple[dict, bytes]:
  """Returns (JSON document, binary chunk) of a file; b'' if it has no such chunk. ValueError if it is not glTF 2.0."""
  data = path.read_bytes()
  try:
    if data[:4] == struct.pack('<I', _MAGIC):
      document, binary = _chunks(data)
    elif path.suffix.lower() == '.glb':
      raise ValueError('the file is not a GLB file')
    else:
      document, binary = json.loads(data.decode('utf-8-sig')), b''
  except (struct.error, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f'the file is not a glTF file ({error})') from error
  if not isinstance(document, dict):
    raise ValueError('the file is not a glTF file')
  version = str(document.get('asset', {}).get('version', '2.0'))
  if not version.startswith('2.'):
    raise ValueError(f'the file is glTF {version}: convert it to glTF 2.0')
  return document, binary


def _chunks(data: bytes) -> tuple[dict, bytes]:
  _, version, total = struct.unpack_from('<3I', data)
  if version != 2:
    raise ValueError(f'the file is a GLB file of version {version}: convert it to glTF 2.0')
  if total > len(data):
    raise ValueError(f'the GLB file is truncated: it has {len(data)} of {total} bytes')
  chunks, start = {}, 12
  while start + 8 <= total:
    length, kind = struct.unpack_from('<2I', data, start)
    chunks.setdefault(kind, data[start + 8 : start + 8 + length])
    start += 8 + length
  if _JSON not in chunks:
    raise ValueError('the GLB file has no JSON chunk')
  return json.loads(chunks[_JSON].decode('utf-8-sig')), chunks.get(_BINARY, b'')


class _Items(list):
  """A list whose indices must not be negative, as Python's may."""

  def __getitem__(self, index):
    if isinstance(index, int) and index < 0:
      raise IndexError(f'the index {index} is negative')
    return super().__getitem__(index)


class GltfFile:
  """A glTF 2.0 file: its JSON `document`, and functions that return its accessors and the content of its images.

  The constructor raises ValueError if the file is damaged, or requires an extension that is not in `KNOWN`.
  """

  def __init__(self, path: Path):
    self.path = path
    self.document, self._binary = read_document(path)
    for extension in self.document.get('extensionsRequired', []):
      if extension not in KNOWN:
        raise refusal(extension)
    self._buffers = {}

  def items(self, name: str) -> list:
    """Returns a list of the document, such as 'nodes'; [] if it is absent."""
    return _Items(self.document.get(name) or [])

  def resource(self, uri: str) -> Path | bytes:
    """Returns the path of a file beside this one, or the bytes of a data URI; ValueError if it does not exist."""
    if uri.startswith('data:'):
      header, _, body = uri.partition(',')
      try:
        return base64.b64decode(unquote_to_bytes(body)) if header.endswith(';base64') else unquote_to_bytes(body)
      except binascii.Error as error:
        raise ValueError(f'a data URI of the file is damaged ({error})') from error
    if '://' in uri:
      raise ValueError(f'the file refers to {uri}: download it, and refer to it by its name')
    # URIs are percent-encoded, but some programs write plain names, and backslashes.
    for name in (unquote(uri), uri, unquote(uri).replace('\\', '/')):
      if (path := self.path.parent / name).is_file():
        return path
    raise ValueError(f'the file refers to {unquote(uri)}, which does not exist: put it beside {self.path.name}')

  def view(self, index: int) -> memoryview:
    """Returns the bytes of a buffer view."""
    view = self.items('bufferViews')[index]
    if _meshopt := {'EXT_meshopt_compression', 'KHR_meshopt_compression'} & view.get('extensions', {}).keys():
      buffer = self.items('buffers')[view['buffer']]
      if 'uri' not in buffer and (view['buffer'] > 0 or not self._binary):  # It has no uncompressed data.
        raise refusal(min(_meshopt))
    start, length = view.get('byteOffset', 0), view['byteLength']
    data = self._buffer(view['buffer'])
    if start < 0 or length < 0 or start + length > len(data):
      raise ValueError(f'buffer view {index} of the file ends after its buffer: the file is truncated or damaged')
    return memoryview(data)[start : start + length]

  def _buffer(self, index: int) -> bytes:
    if index not in self._buffers:
      uri = self.items('buffers')[index].get('uri')
      source = self._binary if uri is None else self.resource(uri)
      self._buffers[index] = source.read_bytes() if isinstance(source, Path) else source
    return self._buffers[index]

  def accessor(self, index: int) -> np.ndarray:
    """Returns the values of an accessor [count, components]: float64 if they are floats or normalised, or integers."""
    accessor = self.items('accessors')[index]
    count, width = accessor['count'], _COMPONENTS[accessor['type']]
    values = np.zeros((count, width), _TYPES[accessor['componentType']])
    if 'bufferView' in accessor:
      values = self._elements(accessor, values.dtype, count, width)
    if sparse := accessor.get('sparse'):
      where, what = sparse['indices'], sparse['values']
      indices = self._elements(where, np.dtype(_TYPES[where['componentType']]), sparse['count'], 1)[:, 0]
      values = values.copy()
      values[indices] = self._elements(what, values.dtype, sparse['count'], width)
    return converted(values, accessor)

  def _elements(self, place: dict, dtype, count: int, width: int) -> np.ndarray:
    """Returns `count` elements of the buffer view of an accessor, which may be interleaved with others."""
    view = self.view(place['bufferView'])
    size = width * dtype.itemsize
    stride = self.items('bufferViews')[place['bufferView']].get('byteStride') or size
    offset = place.get('byteOffset', 0)
    if offset < 0 or (count and offset + (count - 1) * stride + size > len(view)):
      raise ValueError('an accessor of the file ends after its buffer view: the file is truncated or damaged')
    if not count:
      return np.zeros((0, width), dtype)
    strides = (stride, dtype.itemsize)
    return np.ndarray((count, width), dtype.newbyteorder('<'), view, offset, strides).astype(dtype)

  def draco(self, primitive: dict) -> dict[str, np.ndarray] | None:
    """Returns the decoded attributes and 'indices' of a primitive that is compressed by Draco, else None."""
    compressed = primitive.get('extensions', {}).get(DRACO)
    if compressed is None:
      return None
    try:
      import DracoPy
    except ImportError:
      raise ValueError(f'the extension {DRACO} needs DracoPy: pip install DracoPy, or use --engine=cycles') from None
    try:
      mesh = DracoPy.decode(bytes(self.view(compressed['bufferView'])))
      found = {attribute['unique_id']: attribute['data'] for attribute in mesh.attributes}
      decoded = {name: found[number] for name, number in compressed['attributes'].items()}
    except Exception as error:  # DracoPy raises plain Exception.
      raise damaged_draco(error) from error
    accessors = self.items('accessors')
    values = {
      name: converted(np.asarray(data), accessors[primitive['attributes'][name]]) for name, data in decoded.items()
    }
    return values | {'indices': np.asarray(mesh.faces).reshape(-1, 1)}


def damaged_draco(reason) -> ValueError:
  """Returns the error for data of KHR_draco_mesh_compression that cannot be decoded."""
  return ValueError(f'the data of the extension {DRACO} are damaged ({reason}): export the object again')


def converted(values: np.ndarray, accessor: dict) -> np.ndarray:
  """Returns the values of an accessor as float64, unless they are integers that are not normalised."""
  if values.dtype.kind == 'f':
    return values.astype(np.float64)
  if accessor.get('normalized'):
    return np.maximum(values / np.iinfo(_TYPES[accessor['componentType']]).max, -1.0)
  return values
