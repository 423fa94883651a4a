"""The worker process, `worker.py SETTINGS REPLIES`, which makes objects with Infinigen and renders them with Cycles.

It speaks the protocol of rendering/worker.py, so that rendering/pool.py runs it. Runs in the environment of
`make infinigen-env`. The file of an object is its recipe, JSON: {"kind": "MODULE:FACTORY", "seed": SEED}.
"""

import contextlib
import importlib
import io
import json
import logging
from pathlib import Path
import sys

import bpy
import infinigen  # noqa: F401  Now, because data/, which is put on the path below, has a script of this name.
import numpy as np

# As in rendering/worker.py: put data/ and the folder of lrm_jax in the place of the folder of this script.
_HERE = Path(__file__).resolve()
_ROOT = next(folder for folder in _HERE.parents[2:] if (folder / 'lrm_jax/geometry/cameras.py').is_file())
sys.path[:] = [str(_HERE.parents[1]), str(_ROOT), *(x for x in sys.path if Path(x) != Path(__file__).parent)]
from rendering import blender, worker  # noqa: E402


class InfinigenEngine(blender.Cycles):
  """Cycles, with objects that are made from a recipe instead of being read from a file."""

  kinds = ('.json',)
  z_up = ('.json',)

  def __init__(self, **options):
    super().__init__(**options)
    # Infinigen tries to download add-ons of Blender, complains at length, and goes on without them.
    logging.disable(logging.WARNING)
    with blender.quiet(), contextlib.redirect_stderr(io.StringIO()):
      from infinigen.core.util import blender as tools
      from infinigen.core.util.math import FixedSeed
    self._tools, self._fixed_seed, self._recipe = tools, FixedSeed, {}

  def load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Makes the object of a recipe; raises what its factory raises."""
    self._recipe = json.loads(path.read_text())
    module, _, name = self._recipe['kind'].partition(':')
    seed = self._recipe['seed']
    with blender.quiet():
      self._tools.clear_scene()
      with self._fixed_seed(seed):
        factory = getattr(importlib.import_module(f'infinigen.assets.objects.{module}'), name)(seed)
        made = factory.spawn_asset(seed)
        factory.finalize_assets(made)
    for other in [x for x in bpy.data.objects if x.type not in ('MESH', 'EMPTY', 'ARMATURE')]:
      bpy.data.objects.remove(other, do_unlink=True)
    vertices, triangles = self.take_scene()
    if not len(triangles):
      raise ValueError('the factory made no triangles')
    return vertices, triangles

  def describe(self) -> dict:
    """Returns what object.json says of the engine and of the object."""
    return super().describe() | self._recipe


def make_engine(settings: dict) -> InfinigenEngine:
  return InfinigenEngine(samples=settings['samples'], threads=settings['threads'], seed=settings['seed'])


if __name__ == '__main__':
  worker.main(make_engine)
