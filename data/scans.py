# PYTHON_ARGCOMPLETE_OK
"""Makes an evaluation dataset from a download of scanned objects: GSO or OmniObject3D.

  python -m lrm_jax.data.scans gso DOWNLOAD --list=gso.txt --protocol=sf3d --out=OUT [--engine=raster]
  python -m lrm_jax.data.scans omniobject3d DOWNLOAD --list=omni.txt --protocol=sf3d --out=OUT

Downloads:
  gso            Google Scanned Objects: DOWNLOAD/OBJECT/meshes/model.obj, its materials, materials/textures/texture.png
  omniobject3d   OmniObject3D: DOWNLOAD/raw_scans/CATEGORY/OBJECT/Scan/Scan.obj, or DOWNLOAD is raw_scans
The list is a text file with the name of an object a line. Without a list, all objects are taken.

Output:
  OUT/objects/OBJECT/OBJECT.obj   the mesh (y up), materials and textures; --meshes=OUT/objects of lrm_jax.evaluate
  OUT/renders/OBJECT/...          the output of data/render.py
  OUT/NAME/1.1.0                  the dataset, with the split `test`; NAME is gso or omniobject3d
  OUT/collection.json, also in the dataset: the list with its SHA-256, the protocol, engine and axes; lrm_jax.evaluate
                                  writes it into its results
The same command continues. If a listed object is missing or cannot be rendered, there is no dataset: leave it out of
the list, so that the list says what was evaluated. The protocols of views are described in docs/evaluation.md.
"""

import argparse
from collections.abc import Mapping
import dataclasses
import hashlib
import json
from pathlib import Path
import re
import shutil

import numpy as np

from lrm_jax.command_line import run_main
from lrm_jax.data import build, object_views, render
from lrm_jax.data.rendering.obj_rotation import rotated
from lrm_jax.errors import InputError

# From z up with the front towards -y to y up with the front towards +z, as in glTF.
_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How an object is rendered: the cameras of data/rendering/presets.py, and the source of what is known of them."""

  version: int
  preset: str
  num_views: int
  size: int  # pixels
  after: str


PROTOCOLS = {
  'lrm': Protocol(1, 'paper', 32, 512, "LRM's rendered objects: random cameras, view 0 from the front; seed 0"),
  'sf3d': Protocol(1, 'sf3d', 16, 512, 'SF3D: 16 views, the frontal one among them; elevations are not stated'),
  'spar3d': Protocol(1, 'triposr-like', 16, 512, 'SPAR3D: azimuth, elevation and focal length vary; its light is not'),
  'meshlrm': Protocol(1, 'meshlrm', 25, 320, 'MeshLRM: azimuths by 45 degrees, polar angles 60, 90, 120; input: ours'),
}


def main(argv=None) -> int:
  args = parse(argv)
  found = FINDERS[args.collection](args.download)
  if not found:
    raise InputError(f'{args.download} has no objects of {args.collection}: {LAYOUTS[args.collection]}')
  chosen = select(found, args.list)
  protocol = PROTOCOLS[args.protocol]
  about = {
    'collection': args.collection,
    'list': args.list.name if args.list else 'all objects of the download',
    'list_sha256': hashlib.sha256(args.list.read_bytes()).hexdigest() if args.list else None,
    'objects': len(chosen),
    'names_sha256': hashlib.sha256('\n'.join(sorted(chosen)).encode()).hexdigest(),
    'protocol': args.protocol,
    **dataclasses.asdict(protocol),
    'engine': args.engine,
    'up': args.up,
  }
  render.worker_command(args.engine)  # Refuses a missing engine before anything is written.
  remember(args.out / 'collection.json', about)
  for name, path in chosen.items():
    stage(path, args.out / 'objects' / name, name, args.up)
  options = [f'--{name}={value}' for name, value in (('workers', args.workers), ('threads', args.threads))]
  options += [f'--preset={protocol.preset}', f'--num_views={protocol.num_views}', f'--size={protocol.size}', '--depth']
  renders = args.out / 'renders'
  code = render.main([str(args.out / 'objects'), f'--out={renders}', f'--engine={args.engine}', *options])
  if code:
    return code
  builder = BUILDERS[args.collection](splits={'test': {name: renders / name for name in chosen}}, data_dir=args.out)
  build.build(builder)
  if builder.skipped:
    shutil.rmtree(builder.data_dir)
    reasons = '; '.join(f'{name}: {reason}' for name, reason in list(builder.skipped.items())[:3])
    raise InputError(f'{len(builder.skipped)} objects cannot be used ({reasons}): leave them out of the list')
  shutil.copy(args.out / 'collection.json', builder.data_dir)
  print(f'{builder.data_dir}: {len(chosen)} objects of {about["list"]}, SHA-256 {about["list_sha256"]}')
  return 0


class GSO(object_views.ObjectViews):
  """Google Scanned Objects, rendered."""

  name = 'gso'


class OmniObject3D(object_views.ObjectViews):
  """OmniObject3D's scans, rendered."""

  name = 'omniobject3d'


BUILDERS = {'gso': GSO, 'omniobject3d': OmniObject3D}


def find_gso(download: Path) -> dict[str, Path]:
  """Returns {name: model.obj} of a download of GSO."""
  return {path.parents[1].name: path for path in sorted(download.glob('*/meshes/model.obj'))}


def find_omniobject3d(download: Path) -> dict[str, Path]:
  """Returns {name: Scan.obj} of a download of OmniObject3D; InputError if two objects have the same name."""
  root = download / 'raw_scans' if (download / 'raw_scans').is_dir() else download
  found: dict[str, Path] = {}
  for path in sorted(root.glob('*/*/Scan/Scan.obj')):
    name = path.parents[1].name
    if name in found:
      raise InputError(f'{found[name]} and {path} have the same name {name}: rename one')
    found[name] = path
  return found


FINDERS = {'gso': find_gso, 'omniobject3d': find_omniobject3d}
LAYOUTS = {
  'gso': 'give the folder that contains OBJECT/meshes/model.obj',
  'omniobject3d': 'give the folder that contains raw_scans/CATEGORY/OBJECT/Scan/Scan.obj',
}


def select(found: Mapping[str, Path], path: Path | None) -> dict[str, Path]:
  """Returns the objects of a list; all without one. Raises InputError if one is missing from the download."""
  if path is None:
    return dict(found)
  wanted = sorted(build.read_list(path))
  if not wanted:
    raise InputError(f'--list={path} has no names: give one a line')
  if missing := [name for name in wanted if name not in found]:
    raise InputError(
      f'--list={path}: {len(missing)} of {len(wanted)} objects are not in the download: {", ".join(missing[:5])}'
    )
  return {name: found[name] for name in wanted}


def remember(path: Path, about: Mapping) -> None:
  """Writes what the folder is made of; InputError if it was begun with something else."""
  if path.is_file():
    before = json.loads(path.read_text())
    if changes := [name for name in about if before.get(name) != about[name]]:
      values = '; '.join(f'{name} was {before.get(name)} and is {about[name]}' for name in changes)
      raise InputError(f'{path.parent} was begun with other settings ({values}): give another --out')
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  fresh = path.with_suffix('.tmp')
  fresh.write_text(json.dumps(about, indent=1) + '\n')
  fresh.replace(path)


def stage(source: Path, folder: Path, name: str, up: str) -> None:
  """Writes a mesh, y up, with its materials and textures into a folder, completely or not at all.

  Textures are looked for in the whole folder of the object: GSO keeps them apart from the mesh. Raises InputError if a
  file is missing.
  """
  if folder.is_dir():
    return
  text = source.read_text(encoding='latin-1')
  root = source.parents[1]
  partial = folder.parent / f'.{folder.name}.partial'
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  for library in re.findall(r'(?m)^mtllib[ \t]+(.+?)[ \t]*\r?$', text):
    path = _beside(source.parent, root, library, source)
    materials = path.read_text(encoding='latin-1')
    (partial / _last(library)).write_text(_with_textures(materials, path, root, partial), encoding='latin-1')
  text = re.sub(r'(?m)^(mtllib[ \t]+)(.+?)([ \t]*\r?)$', lambda match: match[1] + _last(match[2]) + match[3], text)
  text = rotated(text, _Y_UP) if up == 'z' else text
  (partial / f'{name}.obj').write_text(text, encoding='latin-1')
  partial.rename(folder)


def _with_textures(materials: str, path: Path, root: Path, partial: Path) -> str:
  """Returns a material library whose textures lie beside it, and copies them."""

  def copy(match):
    # Options such as -s 1 1 1 precede the name, which may contain spaces.
    words = match[2].split()
    options = []
    while words and words[0].startswith('-'):
      options.append(words.pop(0))
      while len(words) > 1 and re.fullmatch(r'[-+.\deE]+|on|off', words[0]):
        options.append(words.pop(0))
    found = _beside(path.parent, root, ' '.join(words), path)
    shutil.copy(found, partial / found.name)
    return ' '.join([match[1], *options, found.name])

  return re.sub(r'(?m)^([ \t]*(?:map_\w+|bump|disp|decal|norm|refl))[ \t]+(.+?)[ \t]*\r?$', copy, materials)


def _beside(folder: Path, root: Path, name: str, user: Path) -> Path:
  """Returns the file that another one names: beside it, or anywhere in the folder of the object."""
  path = folder / name.replace('\\', '/')
  if path.is_file():
    return path
  found = sorted(root.rglob(_last(name)))
  if not found:
    raise InputError(f'{user} needs {name}, which is not in {root}: download the object again')
  return found[0]


def _last(name: str) -> str:
  return name.strip().replace('\\', '/').rpartition('/')[2]


def parse(argv=None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  group = parser.add_argument_group('objects')
  group.add_argument('collection', choices=tuple(FINDERS), help='whose layout the download has')
  group.add_argument('download', type=Path, help='folder of the download')
  group.add_argument('--list', type=Path, help='text file with the names of the objects (default: all)')
  group = parser.add_argument_group('views')
  group.add_argument('--protocol', choices=tuple(PROTOCOLS), required=True, help='cameras and size of the views')
  group.add_argument('--out', type=Path, required=True, help='folder to write to')
  group.add_argument('--engine', choices=('cycles', 'raster'), default='cycles', help='(default: cycles)')
  group.add_argument(
    '--up', choices=('y', 'z'), help='axis that points up in the files (default: z for gso, otherwise y)'
  )
  group = parser.add_argument_group('run')
  group.add_argument('--workers', type=int, default=1, help='number of processes (default: 1)')
  group.add_argument('--threads', type=int, default=0, help='cycles: threads per worker; 0: all cores (default: 0)')
  args = parser.parse_args(argv)
  args.up = args.up or {'gso': 'z', 'omniobject3d': 'y'}[args.collection]
  if not args.download.is_dir():
    raise InputError(f'{args.download} is not a folder: {LAYOUTS[args.collection]}')
  return args


if __name__ == '__main__':
  run_main(main)
