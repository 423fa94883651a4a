"""Tests of data/sweethome3d.py: furniture libraries of Sweet Home 3D are unpacked into folders that render.py reads."""

import zipfile

import numpy as np
import pytest
import trimesh

from lrm_jax.command_line import run_main
from lrm_jax.data import render, sweethome3d

CATALOGUE = """# A library with three models.
id=Test
id#1=Test#chair
name#1=Chaise \\u00e0 bascule
model#1=/scopia/rocking_chair/rocking_chair.obj
creator#1=Scopia
id#2=Test#lamp
name#2=Lamp
model#2=/scopia/lamp/lamp.obj
modelRotation#2=1 0 0 0 0 1 \\
  0 -1 0
id#3=Test#window
name#3=Window
model#3=/scopia/window/window.3ds
"""


@pytest.fixture
def library(tmp_path):
  path = tmp_path / 'Scopia.sh3f'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr(sweethome3d.CATALOGUE, CATALOGUE.encode('latin-1'))
    triangle = 'v 0 0 0\nv 1 0 0\nv 0 2 3\nvn 0 0 1\nf 1//1 2//1 3//1\n'
    archive.writestr('scopia/rocking_chair/rocking_chair.obj', 'mtllib rocking_chair.mtl\n' + triangle)
    archive.writestr('scopia/rocking_chair/rocking_chair.mtl', 'newmtl wood\nKd 1 0 0\n')
    archive.writestr('scopia/lamp/lamp.obj', triangle)
    archive.writestr('scopia/lamp/lamp_off.obj', triangle)  # Not in the catalogue.
    archive.writestr('scopia/window/window.3ds', b'')
  return path


def test_models_are_unpacked_with_their_files_and_authors(library, tmp_path, capsys):
  out = tmp_path / 'objects'
  assert sweethome3d.main([str(library), f'--out={out}', '--list=all']) == 0
  assert '2 models' in capsys.readouterr().out
  assert (out / 'sh3d-scopia__rocking-chair/rocking_chair.mtl').read_text().startswith('newmtl wood')
  rows = [line.split('\t') for line in (out / 'ATTRIBUTION.tsv').read_text(encoding='utf-8').splitlines()]
  assert rows[0] == ['uid', 'source', 'path', 'licence', 'attribution']
  chair = next(row for row in rows if row[0] == 'sh3d-scopia__rocking-chair')
  assert chair[3] == 'CC-BY-3.0' and chair[4] == 'Chaise à bascule by Scopia, via Sweet Home 3D'
  uids = [uid for uid, _ in render.find_objects([out])]
  assert uids == ['sh3d-scopia__lamp', 'sh3d-scopia__rocking-chair']


def test_models_are_turned_as_the_catalogue_says(library, tmp_path):
  out = tmp_path / 'objects'
  sweethome3d.main([str(library), f'--out={out}', '--list=all'])
  turned = trimesh.load(out / 'sh3d-scopia__lamp/sh3d-scopia__lamp.obj', process=False, force='mesh')
  plain = trimesh.load(out / 'sh3d-scopia__rocking-chair/sh3d-scopia__rocking-chair.obj', process=False, force='mesh')
  rotation = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
  np.testing.assert_allclose(turned.vertices, plain.vertices @ rotation.T, atol=1e-6)


def test_only_models_of_the_list_are_unpacked(library, tmp_path, capsys):
  names = tmp_path / 'list.txt'
  names.write_text('# chairs\nsh3d-scopia__rocking-chair\nsh3d-scopia__absent\n')
  assert sweethome3d.main([str(library), f'--out={tmp_path / "objects"}', f'--list={names}']) == 0
  assert [path.name for path in (tmp_path / 'objects').glob('sh3d*')] == ['sh3d-scopia__rocking-chair']
  assert '1 models of the list are not in these libraries' in capsys.readouterr().err


def test_model_that_the_library_lacks_is_reported(library, tmp_path, capsys):
  with zipfile.ZipFile(library, 'a') as archive:
    archive.writestr('readme.txt', '')
  broken = tmp_path / 'KatorLegaz.sh3f'
  with zipfile.ZipFile(broken, 'w') as archive:
    archive.writestr(sweethome3d.CATALOGUE, 'name#1=Sofa\nmodel#1=/sofa/sofa.obj\n')
  assert sweethome3d.main([str(library), str(broken), f'--out={tmp_path / "objects"}', '--list=all']) == 1
  assert 'sh3d-kator__sofa: FAILED' in capsys.readouterr().err
  assert not (tmp_path / 'objects/sh3d-kator__sofa').exists()


@pytest.mark.parametrize(
  'name, content, problem',
  [
    ('absent.sh3f', None, 'does not exist'),
    ('text.sh3f', b'no ZIP file', 'is not a furniture library'),
    ('empty.sh3f', 'zip', 'has no PluginFurnitureCatalog'),
  ],
)
def test_bad_libraries_are_refused_in_one_sentence(tmp_path, capsys, name, content, problem):
  path = tmp_path / name
  if content == 'zip':
    zipfile.ZipFile(path, 'w').close()
  elif content is not None:
    path.write_bytes(content)
  codes = []
  run_main(lambda: sweethome3d.main([str(path), f'--out={tmp_path / "objects"}']), codes.append)
  assert codes == [2]
  error = capsys.readouterr().err
  assert problem in error and len(error.strip().splitlines()) == 1


def test_shipped_list_has_no_object_of_the_embedded_dataset():
  listed = set(render.read_lines(sweethome3d.LIST))
  rows = (sweethome3d.LIST.parents[1] / 'embedded/ATTRIBUTION.tsv').read_text(encoding='utf-8').splitlines()
  assert len(listed) == 282
  assert not listed & {row.split('\t')[0] for row in rows}
