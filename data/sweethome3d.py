# PYTHON_ARGCOMPLETE_OK
"""Unpacks furniture libraries of Sweet Home 3D (*.sh3f) into one folder per object, for data/render.py.

  apt-get download sweethome3d-furniture && dpkg -x sweethome3d-furniture_*.deb package
  python -m lrm_jax.data.sweethome3d package/usr/share/sweethome3d/furniture/*.sh3f --out=objects
  python -m lrm_jax.data.render objects --out=renders --engine=raster

Output:
  DIR/<uid>/<uid>.obj            the model, turned as its catalogue says: y up, its front towards +z
  DIR/<uid>/...                  its materials and textures
  DIR/ATTRIBUTION.tsv            uid, source, path, licence and authors; it has to accompany whatever is made of the
                                 objects, rendered views included

Without --list, the models of data/splits/sweethome3d.txt are unpacked: objects that stand alone, that the embedded
dataset does not have, and that are not near-duplicates of its held-out objects. --list=all unpacks everything.
Models that cannot be unpacked are reported at the end, and the exit code is then 1.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
import re
import shutil
import sys
import zipfile

import numpy as np

from lrm_jax.command_line import run_main
from lrm_jax.data import render
from lrm_jax.data.rendering.obj_rotation import rotated
from lrm_jax.errors import InputError

CATALOGUE = 'PluginFurnitureCatalog.properties'
LIST = Path(__file__).parent / 'splits/sweethome3d.txt'
# The licences as the Debian package states them.
LICENCES = {
  'BlendSwap-CC-0': 'CC0-1.0',
  'BlendSwap-CC-BY': 'CC-BY-3.0',
  'KatorLegaz': 'CC-BY-3.0-US',
  'Reallusion': 'CC-BY-3.0-US',
  'Scopia': 'CC-BY-3.0',
}
UIDS = {
  'BlendSwap-CC-0': 'sh3d-bscc0',
  'BlendSwap-CC-BY': 'sh3d-bsby',
  'KatorLegaz': 'sh3d-kator',
  'Reallusion': 'sh3d-reallusion',
  'Scopia': 'sh3d-scopia',
}


def main(argv=None) -> int:
  args = parse(argv)
  wanted = None if args.list == 'all' else set(render.read_lines(Path(args.list)))
  rows, failed = [], {}
  for library in args.libraries:
    with open_library(library) as archive:
      for uid, entry in models_of(library.stem, archive).items():
        if wanted is not None and uid not in wanted:
          continue
        try:
          unpack(archive, entry, args.out / uid, uid)
        except (KeyError, ValueError, OSError) as error:
          failed[uid] = f'{type(error).__name__}: {error}'
          continue
        source = f'Sweet Home 3D, {library.name}'
        author = f'{entry["name"]} by {entry.get("creator", library.stem)}, via Sweet Home 3D'
        rows.append((uid, source, entry['model'], LICENCES.get(library.stem, 'see the library'), author))
  if not rows:
    raise InputError(f'none of the models of --list={args.list} is in the libraries: give other files')
  lines = ['\t'.join(row) for row in [('uid', 'source', 'path', 'licence', 'attribution'), *sorted(rows)]]
  (args.out / 'ATTRIBUTION.tsv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
  print(f'{args.out}: {len(rows)} models')
  for uid, reason in failed.items():
    print(f'{uid}: FAILED: {reason}', file=sys.stderr)
  if wanted is not None and (absent := wanted - {row[0] for row in rows} - set(failed)):
    print(f'{len(absent)} models of the list are not in these libraries', file=sys.stderr)
  return 1 if failed else 0


def open_library(path: Path) -> zipfile.ZipFile:
  """Opens a library; InputError if it is not one."""
  if not path.is_file():
    raise InputError(f'{path} does not exist: give *.sh3f files')
  try:
    archive = zipfile.ZipFile(path)
  except zipfile.BadZipFile:
    raise InputError(f'{path} is not a furniture library (a ZIP file): give *.sh3f files') from None
  if CATALOGUE not in archive.namelist():
    raise InputError(f'{path} has no {CATALOGUE}: give a furniture library of Sweet Home 3D')
  return archive


def models_of(library: str, archive: zipfile.ZipFile) -> dict[str, dict[str, str]]:
  """Returns the catalogue entries of the OBJ models of a library by uid; one entry for each model file."""
  entries = read_catalogue(archive.read(CATALOGUE).decode('latin-1'))
  prefix = UIDS.get(library, f'sh3d-{library.lower()}')
  found: dict[str, dict[str, str]] = {}
  for entry in entries.values():
    model = PurePosixPath(entry.get('model', ''))
    if model.suffix.lower() == '.obj':
      name = re.sub(r'[^A-Za-z0-9-]+', '-', model.stem)
      found.setdefault(f'{prefix}__{name}', entry)
  return found


def read_catalogue(text: str) -> dict[int, dict[str, str]]:
  """Returns {number: {key: value}} of the lines `key#number=value` of a Java properties file."""
  entries: dict[int, dict[str, str]] = {}
  for line in re.sub(r'\\\r?\n\s*', '', text).splitlines():
    if match := re.match(r'\s*(\w+)#(\d+)\s*[=:]\s*(.*?)\s*$', line):
      key, number, value = match.groups()
      value = re.sub(r'\\u([0-9a-fA-F]{4})', lambda code: chr(int(code[1], 16)), value)
      entries.setdefault(int(number), {})[key] = re.sub(r'\\(.)', r'\1', value)
  return entries


def unpack(archive: zipfile.ZipFile, entry: Mapping[str, str], folder: Path, uid: str) -> None:
  """Writes a model with the files beside it into a folder, completely or not at all.

  Raises KeyError if the library does not have the model, and ValueError if its rotation is not one.
  """
  model = PurePosixPath(entry['model'].lstrip('/'))
  text = rotated(archive.read(str(model)).decode('latin-1'), rotation_of(entry))
  paths = [PurePosixPath(name) for name in archive.namelist() if not name.endswith('/')]
  # Other models of the folder stay out: data/render.py would take them for objects.
  beside = [path for path in paths if path.is_relative_to(model.parent) and path.suffix.lower() not in render.KINDS]
  if outside := [path for path in beside if '..' in path.parts]:
    raise ValueError(f'{outside[0]} is outside the folder of the model')
  partial = folder.parent / f'.{folder.name}.partial'
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  for path in beside:
    target = partial / path.relative_to(model.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(archive.read(str(path)))
  (partial / f'{uid}.obj').write_text(text, encoding='latin-1')
  shutil.rmtree(folder, ignore_errors=True)
  partial.rename(folder)


def rotation_of(entry: Mapping[str, str]) -> np.ndarray:
  """Returns the rotation [3, 3] that turns the model as it stands in the catalogue; the identity if none is given."""
  if 'modelRotation' not in entry:
    return np.eye(3)
  matrix = np.array([float(number) for number in entry['modelRotation'].split()]).reshape(3, 3)
  if not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3):
    raise ValueError(f'modelRotation={entry["modelRotation"]} is not a rotation')
  return matrix


def parse(argv=None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('libraries', nargs='+', type=Path, help='files *.sh3f')
  parser.add_argument('--out', type=Path, required=True, help='folder to write to')
  parser.add_argument('--list', default=str(LIST), help=f'file with one uid per line, or all (default: {LIST.name})')
  return parser.parse_args(argv)


if __name__ == '__main__':
  sys.exit(run_main(main))
