"""Detects the layout of a folder, finds its objects, and reads their records."""

from collections.abc import Callable
import dataclasses
from pathlib import Path

from lrm_jax.datasets.folders import nerf, openlrm, rendered, video
from lrm_jax.datasets.folders.images import Options
from lrm_jax.datasets.records import BrokenRecordError, check_cameras, decode
from lrm_jax.errors import InputError, passes


@dataclasses.dataclass(frozen=True)
class Layout:
  """`looks_like` describes the files; `holds` tests whether a folder is one object; `read` returns its record."""

  looks_like: str
  holds: Callable[[Path], bool]
  read: Callable[[Path, Options], dict]


LAYOUTS = {
  'rendered': Layout('UID/cameras.npz + views/ (data/render.py)', rendered.holds, rendered.read),
  'openlrm': Layout('UID/intrinsics.npy + rgba/ + pose/ (OpenLRM)', openlrm.holds, openlrm.read),
  'nerf': Layout('UID/transforms.json or transforms_train.json (NeRF)', nerf.holds, nerf.read),
  'video': Layout(
    'UID/sparse/0/ or sparse/ with cameras.bin or .txt + images/ + masks/ (COLMAP, MVImgNet)', video.holds, video.read
  ),
}


def recognise(directory: str | Path) -> str:
  """Returns the name of the layout of a folder of objects or of one object; InputError if it has none of them."""
  for folder in (Path(directory), *_folders_below(Path(directory))):
    for name, layout in LAYOUTS.items():
      if layout.holds(folder):
        return name
  raise InputError(
    f'{directory} contains no dataset and no folders of views. Known layouts: '
    f'{"; ".join(layout.looks_like for layout in LAYOUTS.values())}'
  )


def find(directory: str | Path, layout: str | None = None) -> tuple[str, dict[str, Path]]:
  """Returns (layout, {uid: folder}) of all objects at or below a directory, sorted by uid.

  The uid is the path below the directory, with '/' replaced by '__' (category/number in MVImgNet). The layout is
  detected if `layout` is None. Raises InputError if there is no such directory, or if the layout is
  unknown or there are no objects.
  """
  directory = Path(directory)
  if not directory.is_dir():
    raise InputError(f'{directory} is not a directory: give one that contains folders of views')
  if layout is not None and layout not in LAYOUTS:
    raise InputError(f'layout {layout!r} is unknown: choose one of {", ".join(LAYOUTS)}')
  layout = layout or recognise(directory)
  holds = LAYOUTS[layout].holds
  if holds(directory):
    return layout, {directory.resolve().name: directory}
  found = {
    '__'.join(folder.relative_to(directory).parts): folder for folder in _folders_below(directory) if holds(folder)
  }
  if not found:
    raise InputError(f'{directory} contains no objects of the layout {layout}: {LAYOUTS[layout].looks_like}')
  return layout, dict(sorted(found.items()))


def read(layout: str, uid: str, folder: Path, options: Options = Options()) -> dict:
  """Returns the record of an object; raises BrokenRecordError, with the reason, if it cannot be used."""
  try:
    record = {'uid': uid} | LAYOUTS[layout].read(folder, options)
    check_cameras(record)
    for view in range(len(record['views'])):
      decode(record, view)
  except BrokenRecordError:
    raise
  except (ValueError, OSError, KeyError, TypeError) as error:
    if passes(error):
      raise
    raise BrokenRecordError(f'{folder}: {" ".join(str(error).split())}') from error
  return record


def _folders_below(directory: Path, depth: int = 2):
  for folder in sorted(directory.glob('*/')):
    if not folder.name.startswith('.'):
      yield folder
      if depth > 1:
        yield from _folders_below(folder, depth - 1)
