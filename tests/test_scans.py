"""data/scans.py: downloads in the layouts of GSO and OmniObject3D become datasets that state list and protocol."""

import hashlib
import json
import types

import numpy as np
from PIL import Image
import pytest
import trimesh

from lrm_jax import evaluate
from lrm_jax.command_line import run_main
from lrm_jax.data import scans
from lrm_jax.data.rendering import presets
from lrm_jax.evaluation import surfaces
from lrm_jax.geometry import cameras

# A quad in the x-z plane, z up, that is twice as high as wide; its front faces -y. Half of its texture is red.
QUAD = """mtllib {library}
v -1 0 -2
v 1 0 -2
v 1 0 2
v -1 0 2
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 -1 0
usemtl skin
f 1/1/1 2/2/1 3/3/1
f 1/1/1 3/3/1 4/4/1
"""


def write_object(mesh, texture, library='model.mtl', texture_name='texture.png'):
  for path in (mesh, texture):
    path.parent.mkdir(parents=True, exist_ok=True)
  mesh.write_text(QUAD.format(library=library))
  (mesh.parent / library).write_text(f'newmtl skin\nKd 1 1 1\nmap_Kd -clamp on {texture_name}\n')
  pixels = np.full((8, 8, 3), 255, np.uint8)
  pixels[:, :4] = (255, 0, 0)
  Image.fromarray(pixels).save(texture)


@pytest.fixture
def gso(tmp_path):
  """A download with three objects, whose textures lie apart from the meshes."""
  root = tmp_path / 'gso'
  for name in ('Mug_A', 'Shoe_B', 'Toy_C'):
    write_object(root / name / 'meshes/model.obj', root / name / 'materials/textures/texture.png')
  return root


@pytest.fixture
def omni(tmp_path):
  root = tmp_path / 'omni'
  for category, name in (('apple', 'apple_001'), ('box', 'box_002')):
    folder = root / 'raw_scans' / category / name / 'Scan'
    write_object(folder / 'Scan.obj', folder / 'Scan.jpg', 'Scan.mtl', 'Scan.jpg')
  return root


def command(monkeypatch, *words):
  monkeypatch.setattr('sys.argv', ['scans', *map(str, words)])
  with pytest.raises(SystemExit) as info:
    run_main(scans.main)
  return info.value.code


def test_meshes_are_staged_with_their_textures_and_y_up(gso, tmp_path):
  scans.stage(gso / 'Mug_A/meshes/model.obj', tmp_path / 'out/Mug_A', 'Mug_A', 'z')
  assert sorted(path.name for path in (tmp_path / 'out/Mug_A').iterdir()) == ['Mug_A.obj', 'model.mtl', 'texture.png']
  mesh = trimesh.load(surfaces.find(tmp_path / 'out', 'Mug_A'), force='mesh')
  np.testing.assert_allclose(mesh.extents, [2, 4, 0])
  np.testing.assert_allclose(mesh.face_normals, [[0, 0, 1]] * 2, atol=1e-6)
  assert 'map_Kd -clamp on texture.png' in (tmp_path / 'out/Mug_A/model.mtl').read_text()
  (gso / 'Toy_C/materials/textures/texture.png').unlink()
  with pytest.raises(ValueError, match='model.mtl needs texture.png, which is not in'):
    scans.stage(gso / 'Toy_C/meshes/model.obj', tmp_path / 'out/Toy_C', 'Toy_C', 'z')
  assert not (tmp_path / 'out/Toy_C').exists()


def test_objects_of_both_layouts_are_found(gso, omni):
  assert list(scans.find_gso(gso)) == ['Mug_A', 'Shoe_B', 'Toy_C']
  assert (
    list(scans.find_omniobject3d(omni)) == list(scans.find_omniobject3d(omni / 'raw_scans')) == ['apple_001', 'box_002']
  )


@pytest.mark.parametrize('name', scans.PROTOCOLS)
def test_cameras_of_protocols_see_the_whole_object_and_begin_at_the_front(name, rng):
  protocol = scans.PROTOCOLS[name]
  setup = presets.make(protocol.preset, protocol.num_views, None, rng)
  assert len(setup.poses) == protocol.num_views
  position = setup.poses[:, :3, 3]
  np.testing.assert_allclose(position[0, [0, 2]], 0, atol=1e-6)
  distance = np.linalg.norm(position, axis=-1)
  assert np.all(presets.OBJECT_RADIUS / distance < np.sin(np.deg2rad(setup.fovs / 2)) + 1e-6)
  np.testing.assert_allclose(-setup.poses[:, :3, 2], -position / distance[:, None], atol=1e-6)


def test_meshlrm_views_are_those_of_its_geometry_protocol(rng):
  from lrm_jax.evaluation.geometry_protocols import PROTOCOLS

  ours = presets.make('meshlrm', 25, None, rng).poses[1:, :3, 3]
  theirs = PROTOCOLS['geometry-meshlrm'].views[:, :3, 3]
  directions = {tuple(np.round(x / np.linalg.norm(x), 4) + 0.0) for x in ours}
  assert directions == {tuple(np.round(x / np.linalg.norm(x), 4) + 0.0) for x in theirs} and len(directions) == 24
  with pytest.raises(ValueError, match='must be 25'):
    presets.make('meshlrm', 16, None, rng)


def test_dataset_states_list_and_protocol(gso, omni, tmp_path, monkeypatch, capsys):
  pytest.importorskip('moderngl')
  from lrm_jax.data.rendering.raster import Raster

  try:
    Raster()
  except ValueError as error:
    pytest.skip(str(error))
  from lrm_jax.datasets.records import decode, open_split, uid

  monkeypatch.setitem(scans.PROTOCOLS, 'sf3d', scans.Protocol(1, 'sf3d', 3, 32, 'small'))
  names = tmp_path / 'list.txt'
  names.write_text('Toy_C  # the last\nMug_A\n')
  words = ['gso', gso, f'--list={names}', '--protocol=sf3d', f'--out={tmp_path / "out"}', '--engine=raster']
  assert command(monkeypatch, *words) == 0
  digest = hashlib.sha256(names.read_bytes()).hexdigest()
  assert f'2 objects of list.txt, SHA-256 {digest}' in capsys.readouterr().out
  dataset = tmp_path / 'out/gso/1.1.0'
  about = json.loads((dataset / 'collection.json').read_text())
  assert about['list_sha256'] == digest and about['protocol'] == 'sf3d' and about['up'] == 'z' and about['objects'] == 2
  records = open_split(dataset, 'test')
  assert [uid(records[i]) for i in range(2)] in (['Mug_A', 'Toy_C'], ['Toy_C', 'Mug_A'])
  image = decode(records[0], 0)
  rows, columns = np.nonzero(image[..., 3] > 0.5)
  assert np.ptp(rows) > 1.7 * np.ptp(columns)  # Upright ...
  left = image[rows, columns][columns < columns.mean() - 1]
  left = left[left[:, 3] > 0.99]
  assert left[:, 0].min() > 0.9 and left[:, 1].max() < 0.1  # ... and seen from the front: red is on the left.
  assert np.asarray(records[0]['camera_to_world'])[0] == pytest.approx(cameras.input_camera(), abs=1e-6)
  names.write_text('Mug_A\n')
  assert command(monkeypatch, *words) == 2
  assert 'was begun with other settings' in capsys.readouterr().err
  (omni / 'raw_scans/box/box_002/Scan/Scan.obj').write_text('v 0 0 0\n')
  words = ['omniobject3d', omni, '--protocol=sf3d', f'--out={tmp_path / "omni_out"}', '--engine=raster']
  assert command(monkeypatch, *words) == 1  # No dataset without all objects.
  assert 'box_002' in capsys.readouterr().err and not (tmp_path / 'omni_out/omniobject3d').exists()


@pytest.mark.parametrize(
  'words, message',
  [
    (('--list=missing.txt',), 'missing.txt does not exist'),
    (('--list={other}',), '1 of 1 objects are not in the download: Unknown'),
    (('--list={empty}',), 'has no names'),
  ],
)
def test_lists_that_do_not_fit_are_refused(gso, tmp_path, monkeypatch, capsys, words, message):
  (tmp_path / 'other.txt').write_text('Unknown\n')
  (tmp_path / 'empty.txt').write_text('# nothing\n')
  words = [word.format(other=tmp_path / 'other.txt', empty=tmp_path / 'empty.txt') for word in words]
  assert command(monkeypatch, 'gso', gso, *words, '--protocol=lrm', f'--out={tmp_path / "out"}') == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_other_layouts_are_refused(gso, tmp_path, monkeypatch, capsys):
  assert command(monkeypatch, 'omniobject3d', gso, '--protocol=lrm', f'--out={tmp_path / "out"}') == 2
  assert 'raw_scans/CATEGORY/OBJECT/Scan/Scan.obj' in capsys.readouterr().err


def test_evaluation_repeats_what_the_dataset_is_made_of(tmp_path, monkeypatch):
  (tmp_path / 'collection.json').write_text('{"collection": "gso", "list_sha256": "abc"}')
  monkeypatch.setattr(evaluate, '_hash', lambda args, reconstructor: 'def')
  args = types.SimpleNamespace(predictions=None, checkpoint='run', data=str(tmp_path), split='test', uids=None)
  about = evaluate._about(args, [1, 2], None, {})
  assert about['collection'] == {'collection': 'gso', 'list_sha256': 'abc'} and about['objects'] == '2'
