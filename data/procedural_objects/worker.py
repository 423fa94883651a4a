"""The worker process, `worker.py SETTINGS REPLIES`, which makes one object after another and renders it.

It speaks the protocol of rendering/worker.py, so that rendering/pool.py runs it. The uid names
the object: PRESET_SEED_INDEX.
"""

import os
from pathlib import Path
import shutil
import sys

# As in rendering/worker.py: put the folder of these packages, data/, in the place of the folder of this script.
_HERE = Path(__file__).resolve()
sys.path[:] = [str(_HERE.parents[1]), *(x for x in sys.path if Path(x) != Path(__file__).parent)]
from procedural_objects import generate  # noqa: E402
from rendering import worker  # noqa: E402


class ProceduralEngine:
  """An engine whose objects are made from their uid instead of being read from a file."""

  def __init__(self, engine, settings: dict):
    self._engine, self._settings, self._made = engine, settings, None
    self.name, self.kinds = engine.name, engine.kinds

  def make(self, uid: str, path: Path) -> None:
    """Makes the object of a uid and writes it to `path`, and to the folder `glb` of the settings."""
    preset, seed, index = generate.parse_uid(uid)
    self._made = generate.make_object(preset, seed, index)
    generate.write_glb(self._made, path)
    if folder := self._settings['glb']:
      kept = Path(folder) / f'.{uid}.glb.partial'
      shutil.copyfile(path, kept)
      kept.rename(Path(folder) / f'{uid}.glb')

  def describe(self) -> dict:
    """Returns what object.json says of the engine and of the object."""
    return self._engine.describe() | {'maker': self._made.maker, 'num_parts': len(self._made.parts)}

  def __getattr__(self, name):
    return getattr(self._engine, name)


def render_object(engine: ProceduralEngine, path: Path, out: Path, uid: str, settings: dict) -> None:
  """Makes and renders one object; the pool removes the folder of the file if this process is killed."""
  folder = out.parent / f'.{uid}.glb.{os.getpid()}.partial'
  folder.mkdir()
  try:
    path = folder / f'{uid}.glb'
    engine.make(uid, path)
    if not out.is_dir():  # It exists if only the GLB file was missing.
      worker.render_object(engine, path, out, uid, settings)
  finally:
    shutil.rmtree(folder)


def make_engine(settings: dict) -> ProceduralEngine:
  return ProceduralEngine(worker.make_engine(settings), settings)


if __name__ == '__main__':
  worker.main(make_engine, render_object)
