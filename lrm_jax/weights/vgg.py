"""VGG16 and the linear heads of LPIPS: what others call the weights of lrm_jax/models/lpips.py, and the files of them.

Names: torchvision's; the `lpips` package's, whole or its heads alone; Keras'; Caffe's. Keras' and Caffe's networks take
blue, green, red in 0..255, less a mean. Order and scale go into the first convolution, exactly. The mean stays the
network's own input mean: its first convolution pads with zeros, which are the mean's colour, so that a mean folded into
the bias would be right everywhere but at the border.

The published heads were trained on torchvision's VGG16. Caffe's (and so Keras') was trained apart: its channels are
others, and a head's weights, a number a channel, mean nothing to them (see data/perceptual.py).
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

from lrm_jax.models import lpips
from lrm_jax.weights import files, tables
from lrm_jax.weights.tables import SAME, Layout, Row

CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # Red, green, blue in 0..1.
_STEP = 255 * np.array(lpips.STD)[:, None, None]  # What our input's 1 is in theirs, of red, green, blue.
_UNUSED = ('classifier.', 'fc', 'predictions', 'scaling_layer.', 'lins.')


def _rgb_of_bgr(kernel: np.ndarray) -> np.ndarray:
  """Returns a first kernel [O, 3, h, w] for (RGB in 0..1) / STD from one for BGR in 0..255."""
  return (rearrange(kernel, 'o c h w -> o c h w', c=3)[:, ::-1] * _STEP).astype(np.float32)


def _bgr_of_rgb(kernel: np.ndarray) -> np.ndarray:
  return (kernel / _STEP)[:, ::-1].astype(np.float32)


_HWIO = Layout(lambda x: rearrange(x, 'h w i o -> o i h w'), lambda x: rearrange(x, 'o i h w -> h w i o'))
BGR = Layout(_rgb_of_bgr, _bgr_of_rgb)
_HWIO_BGR = Layout(lambda x: _rgb_of_bgr(_HWIO.to_ours(x)), lambda x: _HWIO.to_theirs(_bgr_of_rgb(x)))


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
  """What some call the weights, and the mean that their networks subtract, of red, green, blue in 0..1."""

  name: str
  rows: tuple[Row, ...]
  mean: tuple[float, ...] = lpips.MEAN


def convolutions(weight: str, bias: str, first: Layout = SAME, others: Layout = SAME) -> tuple[Row, ...]:
  """Returns the rows of the 13 convolutions; in the names may stand {block}, {number}, and torchvision's {index}."""
  rows = []
  for block, stage in enumerate(lpips.STAGES, start=1):
    for number, index in enumerate(stage, start=1):
      place = dict(block=block, number=number, index=index, layer=f'block{block}_conv{number}')
      rows += [
        Row(f'features.{index}.weight', (weight.format(**place),), others if rows else first),
        Row(f'features.{index}.bias', (bias.format(**place),)),
      ]
  return tuple(rows)


TORCHVISION = Family('torchvision', convolutions('features.{index}.weight', 'features.{index}.bias'))
LPIPS_PACKAGE = Family('lpips', convolutions('net.slice{block}.{index}.weight', 'net.slice{block}.{index}.bias'))
# As Keras 3 says them, as Keras 2 does, and as files of Keras 2 and 1 do, with their groups and without.
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


def load_lpips(paths: str | Path) -> lpips.LPIPS:
  """Returns the network of a file, or of several joined by commas: convolutions in one, heads in another.

  Takes .npz, .safetensors and PyTorch's files. An .npz may hold `input_mean` [3], in place of the mean that belongs to
  its names, and `source`, which says what network it is. Raises ValueError with all that is missing or does not fit.
  """
  names = [str(paths)] if Path(paths).is_file() else [name.strip() for name in str(paths).split(',')]
  if missing := [name for name in names if not Path(name).is_file()]:
    raise ValueError(
      f'LPIPS needs VGG16 weights, and there are none at {", ".join(map(repr, missing))}: docs/weights.md tells '
      'where to get them; give the path (--config.loss.lpips_network=FILE in training), or do without '
      '(--config.loss.lpips_weight=0)'
    )
  weights, mean, sources, holder = {}, lpips.MEAN, [], {}
  for path in map(Path, names):
    tensors, own_mean, source = read(path)
    parts = recognise(tensors, str(path))
    found = load(tensors, str(path))
    if again := sorted(found.keys() & weights.keys()):
      raise ValueError(f'{path} and {holder[again[0]]} both hold {again[0]}: give one of them')
    weights |= found
    holder |= dict.fromkeys(found, path)
    for family, _ in parts:
      if family is not HEADS:
        mean = family.mean if own_mean is None else own_mean
    told = [family.name if family is HEADS else f'{family.name} names' for family, _ in parts]
    sources.append(f'{path.name}: {source or " and ".join(told)}')
  for what, name in (("VGG16's convolutions", 'features.0.weight'), ("LPIPS' heads", 'lin0.model.1.weight')):
    if name not in weights:
      raise ValueError(
        f'{", ".join(names)} lacks {what} (as {name}): give the file that has them too, joined by a comma; '
        'docs/weights.md tells where to get it'
      )
  return lpips.LPIPS(weights, mean=mean, source='; '.join(sources))


def load(tensors: Mapping[str, np.ndarray], where: str = 'the file') -> dict[str, np.ndarray]:
  """Returns {our name: array} of what tensors hold of the network: convolutions, heads, or both.

  Raises ValueError with all that is missing, unexpected and misshaped at once.
  """
  result, parts = {}, recognise(tensors, where)
  for prefix in dict.fromkeys(prefix for _, prefix in parts):
    rows = [row for family, before in parts if before == prefix for row in family.rows]
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    shapes = {row.ours: lpips.shapes()[row.ours] for row in rows}
    result |= tables.load(rows, own, shapes, unused=_UNUSED, where=where)
  return result


def recognise(tensors: Mapping[str, np.ndarray], where: str = 'the file') -> list[tuple[Family, str]]:
  """Returns (family, what stands before its names) of the convolutions and of the heads, of those that are there.

  Of several families it is that of which most is there. Raises ValueError where there is none.
  """
  families = {row.theirs[0]: family for family in (*TRUNKS, HEADS) for row in family.rows}
  found = collections.Counter()
  for tensor in tensors:
    for start in (0, *(match.end() for match in re.finditer('[./]', tensor))):
      if family := families.get(tensor[start:]):
        found[family, tensor[:start]] += 1
  if not found:
    raise ValueError(
      f"{where} holds neither VGG16's convolutions nor LPIPS heads: none of {TORCHVISION.rows[0].theirs[0]} "
      f'(torchvision), {LPIPS_PACKAGE.rows[0].theirs[0]} (lpips), {KERAS[0].rows[0].theirs[0]} (Keras), '
      f'{CAFFE[0].rows[0].theirs[0]} (Caffe) and {HEADS.rows[0].theirs[0]} is among its {len(tensors)} tensors'
    )
  ordered = [part for part, _ in found.most_common()]
  trunks, heads = ([part for part in ordered if (part[0] is HEADS) == wanted] for wanted in (False, True))
  return trunks[:1] + heads[:1]


def read(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray | None, str]:
  """Returns (tensors, the input mean that the file tells, what it says of itself)."""
  if path.suffix != '.npz':
    return files.read(path), None, ''
  try:
    if not zipfile.is_zipfile(path):
      raise zipfile.BadZipFile('no zip file, or only part of one')
    with np.load(path) as file:
      tensors = {name: file[name] for name in file.files}
  except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
    raise ValueError(f'{path} is damaged, or no .npz file of arrays: {error}') from error
  mean, source = tensors.pop('input_mean', None), tensors.pop('source', '')
  if mean is not None and not (mean.shape == (3,) and mean.dtype.kind == 'f' and np.all((mean >= 0) & (mean <= 1))):
    raise ValueError(f'{path}: input_mean must be red, green, blue in 0..1, not {np.array2string(mean, threshold=3)}')
  return tensors, mean, str(source)
