"""Material libraries (.mtl) of OBJ files as `surfaces.Material`. Source: Wavefront, MTL material format, 1995.

Read are Kd, Ks, Ns, Ke, illum, d, Tr, map_Kd, map_Ke, map_d and the options -s, -o, -clamp and -imfchan of maps; the
other options are skipped. As in Blender, roughness is 1 - sqrt(Ns / 1000), and map_Kd replaces Kd: exporters write any
value there.
"""

from collections.abc import Callable
import dataclasses
import functools
from pathlib import Path, PureWindowsPath

import numpy as np

from . import surfaces
from .surfaces import Material, Texture

# Options of maps with the least and the largest number of their arguments.
_OPTIONS = {'-blendu': (1, 1), '-blendv': (1, 1), '-boost': (1, 1), '-mm': (2, 2), '-o': (1, 3), '-s': (1, 3)} | {
  '-t': (1, 3), '-texres': (1, 1), '-clamp': (1, 1), '-bm': (1, 1), '-imfchan': (1, 1), '-type': (1, 1), '-cc': (1, 1)
}  # fmt: skip


def read(path: Path) -> dict[str, Material]:
  """Returns the materials of a library by name; ValueError if a texture is missing or damaged."""
  entries: dict[str, dict[str, str]] = {}
  entry: dict[str, str] = {}
  for line in text(path).splitlines():
    key, *value = line.split(maxsplit=1) or ['']
    if key.lower() == 'newmtl':
      entry = entries.setdefault(value[0].strip() if value else '', {})
    elif value:
      entry[key.lower()] = value[0].strip()
  decode = functools.cache(lambda path: surfaces.decode_image(path.name, path))
  return {name: _material(entry, _Maps(path.parent, decode)) for name, entry in entries.items()}


def text(path: Path) -> str:
  """Returns the text of an OBJ or MTL file, without a byte-order mark and with continued lines joined."""
  return path.read_text(encoding='utf-8-sig', errors='replace').replace('\\\r\n', ' ').replace('\\\n', ' ')


def _material(entry: dict[str, str], maps: '_Maps') -> Material:
  base, emission = maps.texture(entry.get('map_kd')), maps.texture(entry.get('map_ke'))
  opacity = 1.0
  if 'd' in entry or 'tr' in entry:  # Tr is an older 1 - d; files have both, and some of them the same value.
    number = _numbers(entry.get('d', entry.get('tr', '')).replace('-halo', ''), 1)[0]
    opacity = number if 'd' in entry else 1 - number
  if mask := entry.get('map_d'):
    base = maps.with_opacity(base, mask)
  color = [1.0] * 3 if base else _numbers(entry.get('kd', '0.8'), 3)
  model = entry.get('illum', '1').split()[0]
  highlight = model not in ('0', '1')
  shininess = _numbers(entry.get('ns', '1000' if highlight else '0'), 1)[0]
  # Reflection is 4 % for a mean Ks of 0.5.
  reflection = np.clip(np.mean(_numbers(entry.get('ks', '1' if highlight else '0'), 3)), 0, 1) / 0.5
  return Material(
    base_color=(*color, opacity),
    base_texture=base,
    mode='BLEND' if mask or opacity < 1 else 'OPAQUE',
    metallic=float(np.mean(_numbers(entry.get('ka', '1'), 3))) if model == '3' else 0.0,  # As Blender writes it.
    roughness=float(1 - np.sqrt(np.clip(shininess, 0, 1000) / 1000)),
    specular=(float(reflection),) * 3,
    emission=tuple(_numbers(entry['ke'], 3)) if 'ke' in entry else (1.0 if emission else 0.0,) * 3,
    emission_texture=emission,
  )


def _numbers(value: str, count: int) -> list[float]:
  """Returns `count` numbers of a value; a single one is repeated."""
  try:
    numbers = [float(word) for word in value.split()[:count]]
  except ValueError:
    raise ValueError(f'a material has {value!r} instead of {count} numbers') from None
  if len(numbers) not in (1, count):
    raise ValueError(f'a material has {value!r} instead of {count} numbers')
  return numbers * count if len(numbers) == 1 else numbers


def _parse(value: str) -> tuple[str, dict[str, list[str]]]:
  """Returns (file name, {option: arguments}) of a map; the name may contain spaces."""
  options, rest = {}, value.strip()
  while (word := rest.split(maxsplit=1)[0] if rest else '').lower() in _OPTIONS:
    least, most = _OPTIONS[word.lower()]
    arguments, rest = [], rest[len(word) :].lstrip()
    while len(arguments) < most and ' ' in rest:  # The last word belongs to the name.
      argument = rest.split(maxsplit=1)[0]
      if len(arguments) >= least and not _is_number(argument):
        break
      arguments.append(argument)
      rest = rest[len(argument) :].lstrip()
    options[word.lower()] = arguments
  return rest.strip('"'), options


def _is_number(word: str) -> bool:
  try:
    float(word)
  except ValueError:
    return False
  return True


class _Maps:
  """The textures of a library in a folder; `decode` returns the RGBA bytes of an image file."""

  def __init__(self, folder: Path, decode: Callable[[Path], np.ndarray]):
    self._folder, self._decode = folder, decode

  def texture(self, value: str | None) -> Texture | None:
    """Returns the texture of a map such as '-s 2 2 1 wood floor.png'; None if there is none."""
    if not value:
      return None
    name, options = _parse(value)
    path = find(name, self._folder)
    self._decode(path)
    scale, offset = (_pair(options.get(option, []), default) for option, default in (('-s', 1.0), ('-o', 0.0)))
    wrap = surfaces.CLAMP if options.get('-clamp', ['off'])[0].lower() == 'on' else surfaces.REPEAT
    return Texture(
      image=path,
      pixels=functools.partial(self._decode, path),
      wrap=(wrap, wrap),
      # v of OBJ points up: scale and shift (u, v) there, then turn v downwards.
      transform=((scale[0], 0.0, offset[0]), (0.0, -scale[1], 1 - offset[1])),
    )

  def with_opacity(self, base: Texture | None, value: str) -> Texture:
    """Returns the texture of the colours with the opacity of another map: its alpha if it has any, else its grey."""
    mask = self.texture(value)
    assert mask is not None
    pixels = mask.pixels()
    use_alpha = pixels[..., 3].min() < 255 and _parse(value)[1].get('-imfchan', ['m'])[0] == 'm'
    opacity = pixels[..., 3] if use_alpha else np.round(pixels[..., :3].mean(axis=-1)).astype(np.uint8)

    def combined() -> np.ndarray:
      colors = np.full((*opacity.shape, 4), 255, np.uint8) if base is None else base.pixels()
      rows, columns = (np.arange(n) * m // n for n, m in zip(colors.shape, opacity.shape))
      return np.concatenate([colors[..., :3], opacity[rows][:, columns, None]], axis=-1)

    return dataclasses.replace(base or mask, image=(base and base.image, mask.image), pixels=combined)


def _pair(arguments: list[str], default: float) -> tuple[float, float]:
  values = [float(argument) for argument in arguments]
  return (values + [default])[0], values[1] if len(values) > 1 else default


def find(name: str, folder: Path) -> Path:
  """Returns the file of a name in a library: as it is, with backslashes turned, or its last part beside the library.

  The case of the last part does not matter. Raises ValueError if there is no such file.
  """
  turned = name.replace('\\', '/')
  for candidate in (folder / name, folder / turned, folder / PureWindowsPath(name).name):
    if name and candidate.is_file():
      return candidate
  for parent in {(folder / turned).parent, folder}:
    if parent.is_dir():
      for candidate in sorted(parent.iterdir()):
        if candidate.name.lower() == PureWindowsPath(name).name.lower() and candidate.is_file():
          return candidate
  raise ValueError(f'the file refers to {name!r}, which does not exist: put it beside the file')
