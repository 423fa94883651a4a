"""Loads third-party weights of VGG16 and the linear heads of LPIPS for lrm_jax/models/lpips.py.

Supported naming schemes: torchvision, the `lpips` package (the whole network or only its heads), Keras and Caffe.
The networks of Keras and Caffe take blue, green, red in 0..255 minus a mean. Channel order and scale are folded into
the first convolution exactly. The mean is kept as the network's input mean: the first convolution pads with zeros,
which represent the mean colour, so folding the mean into the bias would be wrong at the image border.

The published heads were trained on torchvision's VGG16. Caffe's VGG16, which Keras also uses, was trained separately.
Its channels have different meanings, so the heads' weights, one per channel, do not apply to it.
"""

import collections
from collections.abc import Mapping
import dataclasses
from pathlib import Path
import re
import zipfile
import zlib

from einops import rearrange
import numpy as np

from lrm_jax.errors import InputError, passes
from lrm_jax.models import lpips
from lrm_jax.storage import paths
from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import SAME, Layout, Row

CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # Red, green, blue, in 0..1.
_STEP = (
  255 * np.array(lpips.STD)[:, None, None]
)  # Caffe's input units per unit of normalised input (RGB in 0..1, divided by STD), for red, green, blue.
_UNUSED = ('classifier.', 'fc', 'predictions', 'scaling_layer.', 'lins.')


def _rgb_from_bgr(kernel: np.ndarray) -> np.ndarray:
  """Converts the first kernel [O, 3, h, w] from BGR input in 0..255 to RGB input in 0..1, divided by STD."""
  return (rearrange(kernel, 'o c h w -> o c h w', c=3)[:, ::-1] * _STEP).astype(np.float32)


def _bgr_from_rgb(kernel: np.ndarray) -> np.ndarray:
  """Inverse of `_rgb_from_bgr`."""
  return (kernel / _STEP)[:, ::-1].astype(np.float32)


_HWIO = Layout(lambda x: rearrange(x, 'h w i o -> o i h w'), lambda x: rearrange(x, 'o i h w -> h w i o'))
BGR = Layout(_rgb_from_bgr, _bgr_from_rgb)
_HWIO_BGR = Layout(lambda x: _rgb_from_bgr(_HWIO.to_ours(x)), lambda x: _HWIO.to_theirs(_bgr_from_rgb(x)))


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
  """A naming scheme of the weights, and the mean (red, green, blue, in 0..1) that its networks subtract."""

  name: str
  rows: tuple[Row, ...]
  mean: tuple[float, ...] = lpips.MEAN


def convolutions(weight: str, bias: str, first: Layout = SAME, others: Layout = SAME) -> tuple[Row, ...]:
  """Returns the rows of the 13 convolutions of VGG16.

  The name templates may contain {block}, {number} (within the block), {layer} (Keras' name) and torchvision's {index}.
  `first` is the layout of the first kernel, `others` of the other kernels.
  """
  rows = []
  for block, stage in enumerate(lpips.STAGES, start=1):
    for number, index in enumerate(stage, start=1):
      fields = dict(block=block, number=number, index=index, layer=f'block{block}_conv{number}')
      rows += [
        Row(f'features.{index}.weight', (weight.format(**fields),), others if rows else first),
        Row(f'features.{index}.bias', (bias.format(**fields),)),
      ]
  return tuple(rows)


TORCHVISION = Family('torchvision', convolutions('features.{index}.weight', 'features.{index}.bias'))
LPIPS_PACKAGE = Family('lpips', convolutions('net.slice{block}.{index}.weight', 'net.slice{block}.{index}.bias'))
# Names of Keras 3, of Keras 2, and of files of Keras 2 and 1, with and without their HDF5 groups.
KERAS = tuple(
  Family('Keras', convolutions('{layer}' + kernel, '{layer}' + bias, _HWIO_BGR, _HWIO), CAFFE_MEAN)
  for kernel, bias in (
    ('/kernel', '/bias'),
    ('/kernel:0', '/bias:0'),
    ('/{layer}/kernel:0', '/{layer}/bias:0'),
    ('/{layer}_W_1:0', '/{layer}_b_1:0'),
    ('_W_1:0', '_b_1:0'),
  )
)
CAFFE = tuple(
  Family('Caffe', convolutions('conv{block}_{number}' + weight, 'conv{block}_{number}' + bias, BGR), CAFFE_MEAN)
  for weight, bias in (('.weight', '.bias'), ('_w', '_b'))
)
HEADS = Family('LPIPS heads', tuple(Row(name, (name,)) for name in lpips.shapes() if name.startswith('lin')))
TRUNKS = (TORCHVISION, LPIPS_PACKAGE, *KERAS, *CAFFE)


def load_lpips(source: str | Path) -> lpips.LPIPS:
  """Returns the LPIPS network from one file, or from several joined by commas (e.g. convolutions and heads).

  Accepts .npz, .safetensors and PyTorch files, local or on gs:// or s3://. An .npz file may contain `input_mean` [3]
  (red, green, blue, in 0..1), which replaces the default mean of its naming scheme, and `source`, a description of the
  network. Raises InputError if a file or a part of the network is missing, or if tensors have the wrong shape.
  """
  names = [str(source)] if Path(source).is_file() else [name.strip() for name in str(source).split(',')]
  local = {name: paths.local_file(name) for name in names if name}
  if missing := [name for name in names if not name or not local[name].is_file()]:
    raise InputError(
      f'LPIPS needs VGG16 weights, but these files do not exist: {", ".join(map(repr, missing))}. docs/weights.md '
      'lists where to get them: pass the path (--config.loss.lpips_network=FILE in training) or disable LPIPS '
      '(--config.loss.lpips_weight=0)'
    )
  weights, mean, sources, origin = {}, lpips.MEAN, [], {}
  for name in names:
    path = local[name]
    tensors, own_mean, description = read(path)
    parts = recognise(tensors, str(path))
    found = load(tensors, str(path))
    if duplicates := sorted(found.keys() & weights.keys()):
      raise InputError(f'{path} and {origin[duplicates[0]]} both contain {duplicates[0]}: pass only one of them')
    weights |= found
    origin |= dict.fromkeys(found, path)
    for family, _ in parts:
      if family is not HEADS:
        mean = family.mean if own_mean is None else own_mean
    schemes = [family.name if family is HEADS else f'{family.name} names' for family, _ in parts]
    sources.append(f'{path.name}: {description or " and ".join(schemes)}')
  for part, tensor in (('VGG16 convolutions', 'features.0.weight'), ('LPIPS heads', 'lin0.model.1.weight')):
    if tensor not in weights:
      raise InputError(
        f'{", ".join(names)} has no {part} (such as {tensor}): also pass the file with them, joined by a comma; '
        'docs/weights.md lists where to get it'
      )
  return lpips.LPIPS(weights, mean=mean, source='; '.join(sources))


def load(tensors: Mapping[str, np.ndarray], where: str = 'the file') -> dict[str, np.ndarray]:
  """Returns {parameter name: array} of the convolutions, the heads, or both, whichever the tensors contain.

  Raises one InputError that lists all missing, unexpected and misshaped tensors.
  """
  result, parts = {}, recognise(tensors, where)
  for prefix in dict.fromkeys(prefix for _, prefix in parts):
    rows = [row for family, before in parts if before == prefix for row in family.rows]
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    shapes = {row.ours: lpips.shapes()[row.ours] for row in rows}
    result |= tables.load(rows, own, shapes, unused=_UNUSED, where=where)
  return result


def recognise(tensors: Mapping[str, np.ndarray], where: str = 'the file') -> list[tuple[Family, str]]:
  """Returns [(family, name prefix)] of the convolutions and of the heads, as far as the tensors contain them.

  If several families match, the one with the most matching tensors is used. Raises InputError if none matches.
  """
  families = {row.theirs[0]: family for family in (*TRUNKS, HEADS) for row in family.rows}
  found = collections.Counter()
  for tensor in tensors:
    for start in (0, *(match.end() for match in re.finditer('[./]', tensor))):
      if family := families.get(tensor[start:]):
        found[family, tensor[:start]] += 1
  if not found:
    raise InputError(
      f'{where} contains neither VGG16 convolutions nor LPIPS heads: its {len(tensors)} tensors include none of '
      f'{TORCHVISION.rows[0].theirs[0]} (torchvision), {LPIPS_PACKAGE.rows[0].theirs[0]} (lpips), '
      f'{KERAS[0].rows[0].theirs[0]} (Keras), {CAFFE[0].rows[0].theirs[0]} (Caffe), {HEADS.rows[0].theirs[0]} (heads)'
    )
  ordered = [part for part, _ in found.most_common()]
  trunks = [part for part in ordered if part[0] is not HEADS]
  heads = [part for part in ordered if part[0] is HEADS]
  return trunks[:1] + heads[:1]


def read(path: Path) -> tuple[Mapping[str, np.ndarray], np.ndarray | None, str]:
  """Returns (tensors, input mean or None, description) of a file; only .npz files have the latter two."""
  if path.suffix != '.npz':
    return files.read(path), None, ''  # type: ignore[return-value]
  try:
    if not zipfile.is_zipfile(path):
      raise zipfile.BadZipFile('not a zip file, or truncated')
    with np.load(path) as file:
      tensors = {name: file[name] for name in file.files}
  except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
    if passes(error):
      raise
    raise InputError(f'{path} is damaged or not an .npz file of arrays: {error}') from error
  mean, source = tensors.pop('input_mean', None), tensors.pop('source', '')
  if mean is not None and not (mean.shape == (3,) and mean.dtype.kind == 'f' and np.all((mean >= 0) & (mean <= 1))):
    raise InputError(
      f'{path}: input_mean must be three floats (red, green, blue) in 0..1, not {np.array2string(mean, threshold=3)}'
    )
  return tensors, mean, str(source)
