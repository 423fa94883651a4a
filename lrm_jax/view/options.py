"""What a job may choose, from the fields of a form; one place that knows their names, ranges and defaults."""

from collections.abc import Mapping
import dataclasses

from lrm_jax.errors import InputError
from lrm_jax.reconstruction import cleanup, texture
from lrm_jax.view.request_error import RequestError

_RESOLUTIONS = 16, 256  # grid points along a side
_FACES = 100, 1_000_000
_SIZES = 64, 512  # pixels along a side of the video
_FRAMES = 2, 240
_FLOATS = 'foreground_ratio', 'threshold'


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of a reconstruction, with the names of the fields and of `python -m lrm_jax.reconstruct`.

  `foreground_ratio` is the fraction of the image that the object's longer side covers (None: that of the training),
  `resolution` the grid points along a side, `threshold` the density at the surface (None: found automatically, or that
  of the model's original code), `faces` the greatest number of triangles (None: all), `texture` the pixels
  along a side of a texture (None: vertex colours), `keep` which parts of the mesh remain, `video` whether turntables
  are rendered, with `num_frames` of `size` pixels along a side.
  """

  foreground_ratio: float | None = None
  resolution: int = 128
  threshold: float | None = None
  faces: int | None = None
  texture: int | None = None
  keep: str | float = cleanup.KEEP
  video: bool = True
  size: int = 128
  num_frames: int = 48


def parse(fields: Mapping[str, str]) -> Options:
  """Returns the options in the text fields of a form; raises RequestError (400) for an unknown name or a wrong value.

  An empty value counts as not given.
  """
  names = [field.name for field in dataclasses.fields(Options)]
  values: dict = {}
  for name, text in fields.items():
    if name not in names:
      raise RequestError(
        400, f'the field {name[:40]!r} is unknown: use image, image_id, mask, model, {", ".join(names)}'
      )
    if text.strip():
      values[name] = _value(name, text.strip())
  options = Options(**values)
  for name, (low, high) in (
    ('resolution', _RESOLUTIONS), ('faces', _FACES), ('size', _SIZES), ('num_frames', _FRAMES)
  ):  # fmt: skip
    value = getattr(options, name)
    if value is not None and not low <= value <= high:
      raise RequestError(400, f'{name}={value} must be in {low:,} to {high:,}')
  if options.threshold is not None and not 0 < options.threshold < float('inf'):
    raise RequestError(400, f'threshold={options.threshold:g} must be a density above 0')
  if options.texture is not None:
    try:
      texture.check(options.texture)
    except (InputError, ImportError) as error:
      raise RequestError(400, str(error)) from error
  return options


def _value(name: str, text: str) -> str | float | int | bool:
  """Returns the value of a field in the type of its option."""
  if name == 'video':
    if text.lower() not in ('true', 'false', '1', '0'):
      raise RequestError(400, f'video={text[:20]}: use true or false')
    return text.lower() in ('true', '1')
  try:
    if name == 'keep':
      return cleanup.parse_keep(text)
    return float(text) if name in _FLOATS else int(text)
  except InputError as error:
    raise RequestError(400, str(error).removeprefix('--')) from error
  except ValueError:
    raise RequestError(
      400, f'{name}={text[:20]} must be a{"" if name == "foreground_ratio" else " whole"} number'
    ) from None
