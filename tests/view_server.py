"""Files that tests send to the server of python -m lrm_jax.view."""

import functools
import struct
import zlib


@functools.cache
def bomb(size: int = 30_000) -> bytes:
  """Returns a black PNG of size x size pixels; 30,000 x 30,000 pixels are 110 KB as a file and 3.6 GB as RGBA."""

  def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

  compressor = zlib.compressobj(9)
  row = bytes(1 + -(-size // 8))
  pixels = b''.join(compressor.compress(row * 100) for _ in range(size // 100)) + compressor.flush()
  header = struct.pack('>IIBBBBB', size, size, 1, 0, 0, 0, 0)  # One bit per pixel, grey.
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')
