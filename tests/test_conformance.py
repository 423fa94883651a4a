"""Both engines draw the same: a matrix of glTF and OBJ files, each with one feature or two, in Cycles and in OpenGL."""

import json
from pathlib import Path
import re

from gltf_cases import CASES
from gltf_files import textured_box
import numpy as np
import pytest
from test_obj import write as write_obj
from test_render import load_views, needs_blender, run

pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[raster]'")

OBJ_CASES = {
  'obj_scale_and_offset': 'map_Kd -s 2 1 1 -o 0.25 0.5 0 wood.png',
  'obj_opacity': 'Kd 0.8 0.6 0.1\nd 0.5',
  'obj_transparency': 'Kd 0.8 0.6 0.1\nTr 0.5',
  'obj_emission': 'Kd 0.01 0.01 0.01\nKe 0.5 0.1 0',
  'obj_highlight': 'Kd 0.01 0.01 0.01\nKs 0.5 0.5 0.5\nNs 250\nillum 2',
}


# Files that Blender cannot draw, and what is said of them; the rasteriser draws all but damaged Draco data.
REFUSED = {
  'far': 'the object is 1e.06 from the origin, .* or use --engine=raster',
  'hidden_node': 'KHR_node_visibility, which is not supported: use --engine=raster',
  'damaged_draco': 'KHR_draco_mesh_compression are damaged .*: export the object again',
}


def write_objects(folder: Path) -> None:
  folder.mkdir()
  for name, case in CASES.items():
    case()[0].save(folder / f'{name}.glb')
  for name, material in OBJ_CASES.items():
    write_obj(folder / f'{name}.obj', material)
  far = textured_box()
  far.document['nodes'][0]['translation'] = [1e6, 0.0, -1e6]
  far.save(folder / 'far.glb')
  damaged, _ = CASES['draco']()
  start = damaged.data.index(b'DRACO')
  damaged.data[start + 11 : start + 60] = bytes(49)
  damaged.save(folder / 'damaged_draco.glb')


def report(out: Path) -> dict[str, str | None]:
  """Returns {uid: error} of a rendered folder."""
  return {line['uid']: line['error'] for line in map(json.loads, (out / 'report.jsonl').read_text().splitlines())}


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
  """Returns the intersection over union of the silhouettes of views [V, H, W, 4], and the PSNR over white in dB."""
  a, b = ours[..., 3] > 127, theirs[..., 3] > 127
  white = [view[..., :3] * view[..., 3:] / 255 + 255 - view[..., 3:] for view in (ours, theirs)]
  return float((a & b).sum() / (a | b).sum()), float(-10 * np.log10(np.mean((white[0] - white[1]) ** 2) / 255**2))


@pytest.mark.slow
@needs_blender
def test_engines_draw_the_same(tmp_path):
  write_objects(tmp_path / 'objects')
  reports = {}
  for engine in ('raster', 'cycles'):
    options = [f'--engine={engine}', '--num_views=2', '--size=128', '--samples=32', '--method=0']
    done = run(tmp_path / 'objects', '--out', tmp_path / engine, *options)
    if 'EGL' in done.stderr:
      pytest.skip('OpenGL through EGL is not available')
    reports[engine] = report(tmp_path / engine)
  assert [uid for uid, error in reports['raster'].items() if error] == ['damaged_draco']
  for uid, message in REFUSED.items():
    assert re.search(message, reports['cycles'].pop(uid) or ''), uid
  assert not any(reports['cycles'].values()), reports['cycles']
  differences = {
    uid: difference(*(load_views(tmp_path / engine / uid).astype(float) for engine in ('raster', 'cycles')))
    for uid in reports['cycles']
  }
  wrong = {uid: pair for uid, pair in differences.items() if not (pair[0] > 0.98 and pair[1] > 30)}
  assert not wrong, wrong
