"""Checks that the textures of a glTF or OBJ file exist and can be decoded.

Loaders silently ignore textures that are missing or damaged.
"""

import base64
import io
import json
from pathlib import Path
import struct
from urllib.parse import unquote

from PIL import Image

_GLB = 0x46546C67


def check(path: Path) -> None:
  """Raises ValueError, with the number or name of the texture, if a texture of a file cannot be read."""
  if path.suffix.lower() == '.obj':
    for name in _obj_textures(path):
      _open(f'texture {name}', path.parent / name)
  elif path.suffix.lower() in ('.glb', '.gltf'):
    document, binary = _read(path)
    for number, image in enumerate(document.get('images', [])):
      _open(f'texture {image.get("name", number)}', _source(image, document, binary, path))


def _read(path: Path) -> tuple[dict, bytes]:
  """Returns (JSON document, binary chunk) of a glTF or GLB file; the chunk of a glTF file is empty."""
  data = path.read_bytes()
  try:
    if path.suffix.lower() == '.gltf':
      return json.loads(data), b''
    magic, _, total, length = struct.unpack_from('<4I', data)
    if magic != _GLB or total > len(data):
      raise ValueError('the file is not a GLB file, or is truncated')
    start = 20 + length
    return json.loads(data[20:start]), data[start + 8 :]
  except (struct.error, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f'the file is not a glTF file ({error})') from error


def _source(image: dict, document: dict, binary: bytes, path: Path):
  """Returns the path or the bytes of an image, or None if the loader checks it."""
  if 'bufferView' in image:
    view = document['bufferViews'][image['bufferView']]
    if document['buffers'][view['buffer']].get('uri') is None:
      start = view.get('byteOffset', 0)
      return io.BytesIO(binary[start : start + view['byteLength']])
    return None  # In an external buffer, which the loader reads.
  uri = image.get('uri', '')
  if uri.startswith('data:'):
    return io.BytesIO(base64.b64decode(uri.partition(',')[2]))
  return path.parent / unquote(uri)


def _obj_textures(path: Path):
  """Yields the names of the diffuse textures of an OBJ file."""
  for line in path.read_text(errors='replace').splitlines():
    if line.startswith('mtllib ') and (library := path.parent / line.split(maxsplit=1)[1].strip()).is_file():
      for entry in library.read_text(errors='replace').splitlines():
        words = entry.split()
        if words and words[0] == 'map_Kd':
          yield words[-1]


def _open(name: str, source) -> None:
  if source is None:
    return
  try:
    with Image.open(source) as image:
      image.load()
  except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
    raise ValueError(f'{name} cannot be read or has no pixels ({error})') from error
