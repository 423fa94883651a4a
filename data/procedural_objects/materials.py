"""Materials: palettes of few colours, plain and patterned surfaces, labels and prints.

Patterns tile without seams unless they are prints, which are made for one rectangle. Photographs are those that come
with scikit-image, in the public domain or under CC0 (its skimage/data/README.txt).
Legend: P pixels along a side.
"""

import colorsys
import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 128  # pixels along a side of a pattern
_PHOTOGRAPHS = ('astronaut.png', 'chelsea.png', 'coffee.png', 'hubble_deep_field.jpg', 'rocket.jpg', 'retina.jpg')
_LETTERS = 'ABCDEFGHIJKLMNOPRSTUVWXYZ0123456789'


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
  """A plain sRGB `color` [3] in [0, 1], or a `texture` [P, P, 3] of bytes that repeats every `tile` metres (u, v).

  `offset` is the texture coordinate at uv = 0.
  """

  color: np.ndarray
  texture: np.ndarray | None = None
  tile: tuple[float, float] = (1.0, 1.0)
  offset: tuple[float, float] = (0.5, 0.5)
  metallic: float = 0.0
  roughness: float = 0.8

  def coordinates(self, uv: np.ndarray, period: float = 0.0) -> np.ndarray:
    """Returns texture coordinates of uv in metres; u is scaled by at most 1.5 so that the pattern closes around."""
    width, height = self.tile
    if period > 0.67 * width:
      width = period / max(1, round(period / width))
    return uv / [width, height] + self.offset


def random_color(rng: np.random.Generator) -> np.ndarray:
  """Returns an sRGB colour [3]: from greys to saturated, seldom dark."""
  return np.array(colorsys.hsv_to_rgb(rng.random(), rng.beta(1.3, 1.4), rng.beta(2.2, 1.2)))


def palette(rng: np.random.Generator) -> list[np.ndarray]:
  """Returns four colours [3] that go together: main, second, accent, dark."""
  hue = rng.random() if rng.random() < 0.6 else rng.normal(0.07, 0.06) % 1  # Warm colours are the most common ones.
  scheme = rng.integers(5)
  shifts = [(0, 0.03, 0.5), (0, 0.08, -0.08), (0, 0.5, 0.05), (0, 0.33, 0.67), (0, 0, 0.4)][scheme]
  colors = []
  for number, shift in enumerate(shifts):
    saturation, value = rng.beta(1.3, 1.7), 0.25 + 0.75 * rng.beta(2, 1.3)
    if scheme == 4 and number < 2:
      saturation *= 0.15  # Greys and white with an accent.
    if number == 2:
      saturation = 0.5 + 0.5 * saturation
    colors.append(np.array(colorsys.hsv_to_rgb((hue + shift + 0.02 * rng.normal()) % 1, saturation, value)))
  dark = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0, 0.4), rng.uniform(0.06, 0.25)))
  return [*colors, dark]


def noise(rng: np.random.Generator, slope: float = 1.5, stretch: float = 1.0) -> np.ndarray:
  """Returns periodic noise [P, P] in [0, 1] with a spectrum of frequency^-slope; `stretch` makes it streaky along v."""
  y, x = np.meshgrid(np.fft.fftfreq(SIZE, 1 / SIZE), np.fft.rfftfreq(SIZE, 1 / SIZE), indexing='ij')
  frequency = np.sqrt((y * stretch) ** 2 + x**2)
  frequency[0, 0] = np.inf
  spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * frequency**-slope
  values = np.fft.irfft2(spectrum, (SIZE, SIZE))
  return (values - values.min()) / np.ptp(values)


def _grid():
  v, u = np.meshgrid((np.arange(SIZE) + 0.5) / SIZE, (np.arange(SIZE) + 0.5) / SIZE, indexing='ij')
  return u, v


def _stripes(rng):
  u, v = _grid()
  across = u if rng.random() < 0.5 else v
  return ((across * rng.integers(2, 7)) % 1 < rng.uniform(0.2, 0.7)).astype(float)


def _diagonal(rng):
  u, v = _grid()
  return ((u * rng.integers(2, 5) + v * rng.integers(2, 5)) % 1 < 0.5).astype(float)


def _checks(rng):
  u, v = _grid()
  count = 2 * rng.integers(1, 5)
  return (np.floor(u * count) + np.floor(v * count)) % 2


def _dots(rng):
  u, v = _grid()
  count = rng.integers(2, 6)
  u, v = u * count, v * count
  u = u + 0.5 * (np.floor(v) % 2) * (count % 2 == 0)
  return (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < rng.uniform(0.2, 0.4)).astype(float)


def _plaid(rng):
  u, v = _grid()
  count, share = rng.integers(1, 4), rng.uniform(0.25, 0.5)
  lines = sum(((x * count) % 1 < share) * 0.5 for x in (u, v))
  return np.clip(lines + 0.3 * sum(((x * count + 0.7) % 1 < 0.06) for x in (u, v)), 0, 1)


def _bricks(rng):
  u, v = _grid()
  rows, columns = 2 * rng.integers(2, 5), rng.integers(2, 5)
  row = np.floor(v * rows)
  x = (u * columns + 0.5 * (row % 2)) % 1
  mortar = (x < 0.06) | ((v * rows) % 1 < 0.12)
  tint = rng.uniform(0.0, 0.35, (rows, 2 * columns))[
    row.astype(int), (np.floor(u * columns + 0.5 * (row % 2))).astype(int)
  ]
  return np.where(mortar, 1.0, tint)


def _tiles(rng):
  u, v = _grid()
  count = rng.integers(2, 7)
  return (((u * count) % 1 < 0.07) | ((v * count) % 1 < 0.07)).astype(float)


def _marble(rng):
  return np.abs(2 * noise(rng, 1.8) - 1) ** rng.uniform(0.4, 0.8)


def _clouds(rng):
  return noise(rng, rng.uniform(1.2, 2.0))


def _grain(rng):
  u, _ = _grid()
  return 0.5 + 0.5 * np.sin(2 * np.pi * (u * rng.integers(3, 8) + 1.5 * noise(rng, 2.0, 4.0)))


def _patches(rng):
  return (noise(rng, 1.9) > rng.uniform(0.4, 0.6)).astype(float)


PATTERNS = {
  'stripes': _stripes,
  'diagonal': _diagonal,
  'checks': _checks,
  'dots': _dots,
  'plaid': _plaid,
  'bricks': _bricks,
  'tiles': _tiles,
  'marble': _marble,
  'clouds': _clouds,
  'grain': _grain,
  'patches': _patches,
}


def pattern(rng: np.random.Generator, kind: str, first, second, *, wear: float = 0.0) -> np.ndarray:
  """Returns a seamless texture [P, P, 3] of bytes between two colours; `wear` adds fine noise of that strength."""
  share = PATTERNS[kind](rng)[..., None]
  color = first + (second - first) * share
  if wear:
    color = color * (1 + wear * (noise(rng, 1.0) - 0.5))[..., None]
  return _bytes(color)


@functools.cache
def _photographs() -> tuple[np.ndarray, ...]:
  import skimage

  folder = Path(skimage.__file__).parent / 'data'
  return tuple(np.asarray(Image.open(folder / name).convert('RGB')) for name in _PHOTOGRAPHS)


def photograph(rng: np.random.Generator, width: int = SIZE, height: int = SIZE) -> np.ndarray:
  """Returns a random crop [height, width, 3] of a photograph, sometimes with its channels exchanged."""
  image = _photographs()[rng.integers(len(_photographs()))]
  scale = rng.uniform(0.3, 1.0) * min(image.shape[1] / width, image.shape[0] / height)
  w, h = int(width * scale), int(height * scale)
  x, y = rng.integers(0, image.shape[1] - w + 1), rng.integers(0, image.shape[0] - h + 1)
  crop = Image.fromarray(image[y : y + h, x : x + w]).resize((width, height), Image.Resampling.BOX)
  pixels = np.asarray(crop)
  return pixels[..., rng.permutation(3)] if rng.random() < 0.3 else pixels


def mixed(rng: np.random.Generator) -> np.ndarray:
  """Returns any texture [P, P, 3]: a photograph, or a pattern of random colours."""
  if rng.random() < 0.35:
    return photograph(rng)
  return pattern(rng, rng.choice(list(PATTERNS)), random_color(rng), random_color(rng), wear=rng.choice([0, 0.3, 0.6]))


def label(rng: np.random.Generator, width: float, height: float, colors) -> np.ndarray:
  """Returns a print for a rectangle of this aspect: bands, a picture or a sign, letters, lines of small type."""
  long = 160
  w, h = (max(16, round(long * min(1.0, side / max(width, height)))) for side in (width, height))
  order = [tuple(int(255 * c) for c in colors[i]) for i in rng.permutation(len(colors))]
  image = Image.new('RGB', (w, h), order[0])
  pen = ImageDraw.Draw(image)
  if rng.random() < 0.7:  # A band along a side, or a frame.
    share = rng.uniform(0.15, 0.45)
    band = [(0, 0, w, h * share), (0, h * (1 - share), w, h), (0, 0, w * share, h)][rng.integers(3)]
    pen.rectangle(band, fill=order[1])
  else:
    edge = max(1, round(0.06 * min(w, h)))
    pen.rectangle((edge, edge, w - 1 - edge, h - 1 - edge), outline=order[1], width=edge)
  kind, side = rng.integers(4), int(min(w, h) * rng.uniform(0.35, 0.65))
  x, y = int((w - side) * rng.uniform(0.1, 0.9)), int((h - side) * rng.uniform(0.1, 0.9))
  if kind == 0:
    image.paste(Image.fromarray(photograph(rng, side, side)), (x, y))
  elif kind == 1:
    pen.ellipse((x, y, x + side, y + side), fill=order[2 % len(order)])
  elif kind == 2:
    pen.regular_polygon((x + side / 2, y + side / 2, side / 2), int(rng.integers(3, 7)), fill=order[2 % len(order)])
  for line in range(rng.integers(1, 3)):
    letters = ''.join(rng.choice(list(_LETTERS), rng.integers(2, 8)))
    size = max(8, int(min(0.28 * h, 1.6 * w / len(letters)) * rng.uniform(0.7, 1.0)))
    place = (w * rng.uniform(0.3, 0.7), h * (0.25 + 0.4 * line + 0.1 * rng.random()))
    pen.text(place, letters, fill=order[(2 + line) % len(order)], font=_font(size), anchor='mm')
  top = rng.uniform(0.6, 0.8)
  for line in range(rng.integers(0, 5)):  # Small type is no more than grey lines at this size.
    y = h * (top + 0.05 * line)
    pen.line((0.1 * w, y, w * rng.uniform(0.4, 0.9), y), fill=order[-1], width=max(1, h // 60))
  return np.asarray(image)


@functools.cache
def _font(size: int):
  return ImageFont.load_default(size)


def _bytes(color: np.ndarray) -> np.ndarray:
  return np.round(255 * np.clip(color, 0, 1)).astype(np.uint8)


class Look:
  """The materials of one object: few colours, each material made once and then reused.

  `size` is the object's size in metres; patterns repeat some 1 to 6 times along it.
  """

  def __init__(self, rng: np.random.Generator, size: float):
    self._rng, self._size, self._made = rng, size, {}
    self.colors = palette(rng)
    self._tile = size * rng.uniform(0.2, 0.8)

  def plain(self, slot: int = 0) -> Material:
    """Paint or plastic in a colour of the palette: 0 main, 1 second, 2 accent, 3 dark."""
    return self._once(f'plain{slot}', lambda: Material(self.colors[slot], roughness=self._rng.uniform(0.3, 1.0)))

  @property
  def dark(self) -> Material:
    """Rubber, screens, handles."""
    return self.plain(3)

  @property
  def metal(self) -> Material:
    def made():
      tones = [(0.78, 0.78, 0.8), (0.55, 0.56, 0.58), (0.85, 0.7, 0.4), (0.7, 0.45, 0.3), (0.3, 0.3, 0.32)]
      tone = np.array(tones[self._rng.integers(len(tones))])
      return Material(tone, metallic=self._rng.choice([0.0, 1.0]), roughness=self._rng.uniform(0.2, 0.7))

    return self._once('metal', made)

  @property
  def glass(self) -> Material:
    """Window panes and lenses: dark or pale blue, smooth."""

    def made():
      tone = np.array([(0.12, 0.16, 0.2), (0.5, 0.65, 0.75), (0.7, 0.8, 0.85)][self._rng.integers(3)])
      return Material(np.clip(tone + self._rng.normal(0, 0.04, 3), 0, 1), roughness=0.1)

    return self._once('glass', made)

  @property
  def wood(self) -> Material:
    def made():
      value = self._rng.uniform(0.3, 0.9)
      first = np.array(colorsys.hsv_to_rgb(self._rng.uniform(0.05, 0.11), self._rng.uniform(0.3, 0.65), value))
      texture = pattern(self._rng, 'grain', first, first * self._rng.uniform(0.6, 0.9), wear=0.25)
      return self._tiled(texture, first, 0.5 * self._size)

    return self._once('wood', made)

  @property
  def stone(self) -> Material:
    def made():
      value = self._rng.uniform(0.4, 0.9)
      first = np.array([value, value * self._rng.uniform(0.9, 1.0), value * self._rng.uniform(0.8, 1.0)])
      kind = self._rng.choice(['clouds', 'marble', 'bricks', 'clouds'])
      return self._tiled(pattern(self._rng, kind, first * 0.7, first, wear=0.5), first)

    return self._once('stone', made)

  @property
  def leaves(self) -> Material:
    def made():
      hue = self._rng.choice([0.3, 0.3, 0.25, 0.12, 0.03]) + self._rng.normal(0, 0.02)
      first = np.array(colorsys.hsv_to_rgb(hue % 1, self._rng.uniform(0.4, 0.9), self._rng.uniform(0.3, 0.75)))
      return self._tiled(pattern(self._rng, 'clouds', first * 0.5, first * 1.2, wear=0.8), first)

    return self._once('leaves', made)

  @property
  def fabric(self) -> Material:
    def made():
      if self._rng.random() < 0.4:
        return self.plain(0)
      kind = self._rng.choice(['clouds', 'plaid', 'stripes', 'dots', 'checks', 'diagonal', 'patches'])
      return self._tiled(pattern(self._rng, kind, self.colors[0], self.colors[1], wear=0.3), self.colors[0])

    return self._once('fabric', made)

  def skin(self, slot: int = 0) -> Material:
    """Any surface in a colour of the palette: mostly plain, else a pattern with another colour."""

    def made():
      if self._rng.random() < 0.5:
        return self.plain(slot)
      kind = self._rng.choice(list(PATTERNS))
      other = self.colors[(slot + 1) % 4] if self._rng.random() < 0.6 else self.colors[slot] * 0.75
      wear = self._rng.choice([0, 0.4])
      return self._tiled(pattern(self._rng, kind, self.colors[slot], other, wear=wear), self.colors[slot])

    return self._once(f'skin{slot}', made)

  def photo(self) -> Material:
    return self._once('photo', lambda: self._tiled(photograph(self._rng), self.colors[0], self._size))

  def printed(self, width: float, height: float, *, screen: bool = False, flat: bool = False) -> Material:
    """Returns a print, or the image on a screen, for a rectangle of this size.

    Its middle lies at u = 0, and its base at v = 0, or, with `flat`, its middle.
    """
    if screen and self._rng.random() < 0.5:
      texture = photograph(self._rng, 128, max(16, min(256, round(128 * height / width))))
    else:
      texture = label(self._rng, width, height, self.colors)
    return Material(self.colors[0], texture, (width, height), (0.5, 0.5 if flat else 0.0), roughness=0.5)

  def _tiled(self, texture, color, tile: float | None = None) -> Material:
    tile = self._tile if tile is None else tile
    return Material(color, texture, (tile, tile), roughness=self._rng.uniform(0.4, 1.0))

  def _once(self, name: str, made) -> Material:
    if name not in self._made:
      self._made[name] = made()
    return self._made[name]
