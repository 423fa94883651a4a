"""Procedural objects are exact, varied, and the same for the same (preset, seed, index); the command renders them."""

import collections
import hashlib
import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from lrm_jax.command_line import run_main
from lrm_jax.data import procedural, procedural_dataset
from lrm_jax.data.procedural_objects import generate, shapes, solids, zeroverse
from lrm_jax.data.procedural_objects.grammar import MAKERS
from lrm_jax.data.rendering.presets import OBJECT_RADIUS
from lrm_jax.datasets import folders, inspection, records
from lrm_jax.errors import InputError, one_line

ROOT = Path(__file__).parents[1]
SHAPES = {
  'box': shapes.box(1, 2, 3),
  'rounded box': shapes.box(1, 2, 3, 0.2),
  'ellipsoid': shapes.ellipsoid(1, 2, 0.5, 4),
  'blob': shapes.blob(1, 0.4, np.random.default_rng(0)),
  'cone': shapes.cylinder(1, 2, top=0),
  'bevelled cylinder': shapes.cylinder(1, 2, bevel=0.1),
  'tube': shapes.tube(1, 0.8, 2),
  'torus': shapes.torus(1, 0.3),
  'prism with a hole': shapes.prism(shapes.star(5, 1, 0.5), 0.3, [shapes.circle(12, 0.2)], bevel=0.03),
  'sweep': shapes.sweep(shapes.smooth([(0, 0, 0), (1, 0, 1), (2, 1, 0)]), 0.1, np.linspace(1, 0.3, 24)),
}


def digest(made, folder):
  generate.write_glb(made, folder / 'object.glb')
  return hashlib.sha256((folder / 'object.glb').read_bytes()).hexdigest()


@pytest.mark.parametrize('name', SHAPES)
def test_shapes_stay_exact_when_moved_scaled_and_mirrored(name):
  solid = SHAPES[name]
  for one in (
    solid,
    solid.mirrored(),
    solid.scaled(1, 3, 0.4),
    solid.turned('x', 30).moved(1, 2, 3).scaled(0.01),
    solid.turned('y', 100).mirrored('z'),
  ):
    assert solids.problem(one) is None


def test_volumes_of_shapes_are_those_of_geometry():
  assert shapes.box(1, 2, 3).volume == pytest.approx(6)
  assert shapes.cylinder(1, 2, 400).volume == pytest.approx(2 * np.pi, rel=1e-3)
  assert shapes.torus(1, 0.3, 200, 100).volume == pytest.approx(2 * np.pi**2 * 0.09, rel=3e-3)
  assert shapes.ball(1, 40).volume == pytest.approx(4 / 3 * np.pi, rel=5e-3)
  hole = shapes.prism([(0, 0), (2, 0), (2, 2), (0, 2)], 1, [[(0.5, 0.5), (1.5, 0.5), (1.5, 1.5), (0.5, 1.5)]])
  assert hole.volume == pytest.approx(3)


def test_stretch_of_a_known_map():
  vertices, faces = np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]]), np.array([[0, 1, 2]])
  uv = np.array([[[0, 0], [1.0, 0], [0, 9]]])
  np.testing.assert_allclose(solids.stretch(vertices, faces, uv), [[3, 0.5]])


@pytest.mark.parametrize(
  'change, reason',
  [
    (lambda s: solids.Solid(s.vertices, s.faces[1:], s.uv[1:], s.surface[1:]), 'watertight'),
    (lambda s: solids.Solid(s.vertices, s.faces[:, ::-1], s.uv[:, ::-1], s.surface), 'inwards'),
    (lambda s: solids.Solid(s.vertices, s.faces, 3 * s.uv, s.surface), 'stretched'),
    (lambda s: solids.Solid(s.vertices * [1, 1, 0], s.faces, s.uv, s.surface), 'inwards|degenerate'),
  ],
)
def test_problems_are_found(change, reason):
  problem = solids.problem(change(shapes.box(1, 1, 1)))
  assert problem is not None
  assert any(word in problem for word in reason.split('|'))


def test_thin_faces_are_removed_and_the_mesh_stays_closed():
  box = shapes.box(1, 1, 1)
  a, b, c = box.faces[0]
  # Split edge (a, b) in both of its faces; then one of the vertices lies on an edge, up to rounding.
  pairs = np.stack([box.faces, np.roll(box.faces, -1, axis=1)], axis=-1)
  other = int(np.argwhere((pairs == [b, a]).all(-1))[0, 0])
  d = int(np.setdiff1d(box.faces[other], [a, b])[0])
  middle, count = (box.vertices[a] + box.vertices[b]) / 2, len(box.vertices)
  inner = middle + 1e-9 * (box.vertices[c] - middle)
  m, n = count, count + 1
  faces = np.delete(box.faces, [0, other], axis=0).tolist()
  faces += [[n, b, c], [a, n, c], [a, m, n], [m, b, n], [m, a, d], [b, m, d]]
  vertices = np.concatenate([box.vertices, [middle, inner]])
  faces = np.array(faces)
  assert solids.thin_faces(vertices, faces).any()
  cleaned = solids.without_thin_faces(vertices, faces, np.zeros(len(faces), int), 1.0)
  assert solids.problem(solids.make(cleaned[0], cleaned[1], surface=cleaned[2])) is None


@pytest.mark.parametrize('maker', MAKERS)
def test_every_maker_makes_exact_things_that_stand_on_the_ground(maker):
  made = generate.make_object('things', 5, 0, maker)
  for solid, _ in made.parts:
    assert solids.problem(solid) in (None, 'it has degenerate faces')  # Judged by the size of the whole, below.
  assert generate.flaw(made) is None
  assert generate.unsound(made) is None
  assert min(solid.bounds[0, 2] for solid, _ in made.parts) == pytest.approx(0, abs=1e-9)
  size = max(np.ptp([edge for solid, _ in made.parts for edge in solid.bounds], axis=0))
  assert 0.1 * MAKERS[maker].size < size < 10 * MAKERS[maker].size


def test_things_that_float_or_fall_are_refused():
  def thing(*parts):
    return generate.Object('thing', [(solid, ()) for solid in parts])

  base = shapes.box(1, 1, 1)
  assert generate.unsound(thing(base)) is None
  assert generate.unsound(thing(base, base.moved(z=1.5))) == 'a part hangs in the air'
  assert generate.unsound(thing(base, base.moved(x=3))) is None
  assert generate.unsound(thing(base, shapes.box(9, 1, 1).moved(4, 0, 1))) == 'it falls over'


def test_all_makers_are_drawn_by_their_weights():
  counts = collections.Counter(generate.maker_of(0, index) for index in range(6000))
  assert counts.keys() == MAKERS.keys()
  share = sum(one.weight for one in MAKERS.values())
  for name, one in MAKERS.items():
    assert counts[name] == pytest.approx(6000 * one.weight / share, abs=6 * np.sqrt(6000 * one.weight / share))


@pytest.mark.parametrize('preset', generate.PRESETS)
def test_objects_depend_on_preset_seed_and_index_alone(preset, tmp_path):
  numbers = [(0, 0), (0, 1), (1, 0), (7, 123456)]
  first = [digest(generate.make_object(preset, *number), tmp_path) for number in numbers]
  again = [digest(generate.make_object(preset, *number), tmp_path) for number in reversed(numbers)]
  assert first == again[::-1]
  assert len(set(first)) == len(first)


def test_objects_are_the_same_in_another_process(tmp_path):
  code = (
    'import sys, hashlib, pathlib; from lrm_jax.data.procedural_objects import generate as g\n'
    'for preset in g.PRESETS:\n'
    '  path = pathlib.Path(sys.argv[1]) / "other.glb"; g.write_glb(g.make_object(preset, 3, 4), path)\n'
    '  print(hashlib.sha256(path.read_bytes()).hexdigest())'
  )
  environment = os.environ | {'PYTHONHASHSEED': '1'}
  result = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
  )
  assert result.stdout.split() == [digest(generate.make_object(p, 3, 4), tmp_path) for p in generate.PRESETS]


def test_things_vary(tmp_path):
  made = [generate.make_object('things', 2, index) for index in range(24)]
  assert len({one.maker for one in made}) > 12
  assert len({digest(one, tmp_path) for one in made}) == len(made)


@pytest.mark.parametrize('preset', generate.PRESETS)
def test_glb_files_hold_closed_meshes_with_normals_that_agree_with_the_faces(preset, tmp_path):
  for index in range(2):
    made = generate.make_object(preset, 11, index)
    generate.write_glb(made, tmp_path / 'object.glb')
    scene = trimesh.load_scene(tmp_path / 'object.glb', process=False)
    meshes = [scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry]
    for mesh in meshes:
      assert mesh.visual.uv.shape == (len(mesh.vertices), 2)
      assert np.all(np.isfinite(mesh.visual.uv))
      assert np.all(mesh.area_faces > 0)
      corner = np.einsum('tcx,tx->tc', mesh.vertex_normals[mesh.faces], mesh.face_normals)
      assert corner.min() > 0.3  # Shading bends at most over the angle up to which edges are smooth.
    # Faces of all materials together are closed: every edge is used once in each direction.
    points = np.concatenate([mesh.vertices[mesh.faces] for mesh in meshes]).reshape(-1, 3)
    faces = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1, 3)
    edges = collections.Counter(map(tuple, faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)))
    assert all(edges[b, a] == count for (a, b), count in edges.items())
    assert np.ptp(scene.bounds, axis=0).max() > 0


@pytest.mark.parametrize('preset', generate.PRESETS)
def test_texture_stretch_is_bounded(preset):
  for index in range(3):
    for solid, materials in generate.make_object(preset, 13, index).parts:
      coordinates = generate.texture_coordinates(solid, materials)
      for side, material in enumerate(materials):
        mine = solid.surface == side if len(materials) > 1 else slice(None)
        values = solids.stretch(solid.vertices, solid.faces[mine], coordinates[mine] * material.tile)
        # Closing a pattern around a solid scales u by 2/3 to 3/2.
        assert np.all(values[:, 0] < 1.51 * solids.MAX_STRETCH)
        assert np.all(values[:, 1] > 0.66 / solids.MAX_STRETCH)


def test_zeroverse_follows_the_recipe():
  made = [generate.make_object('zeroverse', 18, index) for index in range(8)]
  assert {one.maker for one in made} == {'plain', 'cut', 'wireframe'}
  for one in made:
    assert generate.flaw(one) is None
    if one.maker == 'plain':
      assert 1 <= len(one.parts) <= 9
      bounds = np.stack([solid.bounds for solid, _ in one.parts])
      assert np.max(bounds[:, 1].max(0) - bounds[:, 0].min(0)) == pytest.approx(zeroverse.EXTENT)


def test_cut_primitives_are_shells_that_keep_their_surfaces():
  rng = np.random.default_rng(4)
  cube = zeroverse._primitive(rng, 'cube').scaled(0.9)
  for _ in range(5):
    (shell, materials), *_ = zeroverse._cut(rng, [(cube, tuple('abcdef'))])
    thickness = shell.volume / (6 * 1.8**2)
    assert zeroverse.SHELL[0] * 0.4 < thickness < zeroverse.SHELL[1] * 1.6
    assert len(materials) == 6
    # All six sides are left: the cutter is smaller than the cube.
    assert set(shell.surface) == set(range(6))


def test_uids_name_objects():
  assert generate.parse_uid('things_3_0000042') == ('things', 3, 42)
  for uid in ('other_0_1', 'things_0', 'things_a_1'):
    with pytest.raises(ValueError, match='PRESET_SEED_INDEX'):
      generate.parse_uid(uid)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--count=0'], '--count=0 must be at least 1'),
    (['--count=x'], "invalid int value: 'x'"),
    (['--count=1', '--preset=chairs'], "invalid choice: 'chairs'"),
    (['--count=1', '--first=-1'], '--first=-1 must be at least 0'),
    (['--count=1', '--shard=2/2'], '--shard=2/2 must be i/n'),
    (['--count=1', '--fov=200'], '--fov=200.0 must be between 1 and 150'),
    (['--count=1', '--colour=red'], 'unrecognized arguments'),
    ([], 'required: --count'),
    (['--count=1', '--dataset=data'], 'give either --out=DIR'),
  ],
)
def test_bad_input_is_one_sentence(arguments, message, tmp_path):
  with pytest.raises(InputError) as error:
    procedural.main([*arguments, f'--out={tmp_path / "out"}'])
  assert message in one_line(error.value)
  assert not (tmp_path / 'out').exists()


def test_an_out_that_is_a_file_is_bad_input(tmp_path, capsys):
  (tmp_path / 'out').write_text('')
  codes = []
  run_main(lambda: procedural.main(['--count=1', f'--out={tmp_path / "out"}']), codes.append)
  error = capsys.readouterr().err
  assert codes == [2] and error.startswith('error: ') and error.count('\n') == 1


@pytest.fixture(scope='module')
def has_opengl():
  moderngl = pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[procedural]'")
  try:
    moderngl.create_context(standalone=True, backend='egl').release()
  except Exception as error:  # moderngl raises plain Exceptions.
    pytest.skip(f'no OpenGL: {error}')


def files(folder):
  return {path.relative_to(folder): path.read_bytes() for path in folder.glob('*/**/*') if path.is_file()}


@pytest.mark.slow
def test_command_renders_folders_that_do_not_depend_on_workers_and_shards(has_opengl, tmp_path, capsys):
  options = ['--count=4', '--num_views=4', '--size=48', '--seed=2', '--depth', '--normals']
  one, two, glb = tmp_path / 'one', tmp_path / 'two', tmp_path / 'glb'
  assert procedural.main([*options, f'--out={one}', '--workers=2', f'--glb={glb}']) == 0
  for shard in ('0/2', '1/2'):
    assert procedural.main([*options, f'--out={two}', '--workers=1', f'--shard={shard}']) == 0
  assert files(one) == files(two)
  assert not list(one.glob('.*'))

  capsys.readouterr()
  (glb / 'things_2_0000001.glb').unlink()
  assert procedural.main([*options, f'--out={one}', f'--glb={glb}']) == 0
  assert '3 of 4 objects are already rendered' in capsys.readouterr().out
  assert files(one) == files(two)

  layout, found = folders.find(one)
  assert layout == 'rendered'
  assert len(found) == 4
  for uid, folder in found.items():
    assert not inspection.inspect(folders.read(layout, uid, folder)).problems
    described = json.loads((folder / 'object.json').read_text())
    assert described['maker'] == generate.maker_of(2, int(uid[-7:]))
    assert described['sha256'] == hashlib.sha256((glb / f'{uid}.glb').read_bytes()).hexdigest()
    # The object fits the sphere of all presets of cameras.
    matrix = np.load(folder / 'cameras.npz')['object_to_world']
    vertices = trimesh.load(glb / f'{uid}.glb', force='mesh').vertices
    radius = np.linalg.norm(vertices @ matrix[:3, :3].T + matrix[:3, 3], axis=-1).max()
    assert radius == pytest.approx(OBJECT_RADIUS, rel=1e-5)


def test_dataset_without_folders_equals_the_one_built_of_folders(has_opengl, tmp_path, capsys):
  options = ['--count=5', '--num_views=3', '--size=32', '--seed=2', '--depth']
  left_before = set(procedural_dataset.MEMORY.glob('lrm_jax_procedural_*'))
  assert procedural.main([*options, f'--dataset={tmp_path / "direct"}', '--test_share=0']) == 0
  assert '5 train objects, 0 skipped' in capsys.readouterr().out
  assert set(procedural_dataset.MEMORY.glob('lrm_jax_procedural_*')) <= left_before
  assert procedural.main([*options, f'--out={tmp_path / "folders"}']) == 0
  found = {
    records.uid(record): record for record in records.open_split(tmp_path / 'direct/procedural_views/1.1.0', 'train')
  }
  assert sorted(found) == [f'things_2_{index:07d}' for index in range(5)]
  for name, record in found.items():
    expected = procedural_dataset.example_of(folders.read('rendered', name, tmp_path / 'folders' / name))
    assert list(record['views']) == list(expected['views']) and list(record['depth']) == list(expected['depth'])
    np.testing.assert_array_equal(record['camera_to_world'], expected['camera_to_world'])
  with pytest.raises(InputError, match='already exists'):
    procedural.main([*options, f'--dataset={tmp_path / "direct"}', '--test_share=0'])


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--dataset=data', '--shard=0/2'], '--shard=0/2 needs --out'),
    (['--dataset=data', '--test_share=2'], '--test_share=2.0 must be between 0 and 1'),
    ([], 'give either --out=DIR'),
  ],
)
def test_bad_input_of_a_dataset_is_one_sentence(arguments, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError) as error:
    procedural.main(['--count=1', *arguments])
  assert message in one_line(error.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_many_objects_make_a_dataset_that_data_check_accepts(has_opengl, tmp_path):
  for preset, count in (('things', 120), ('zeroverse', 30)):
    assert procedural.main([f'--preset={preset}', f'--count={count}', f'--out={tmp_path / "views"}', '--size=64']) == 0
  subprocess.run(
    [sys.executable, '-m', 'lrm_jax.data.build', f'--source={tmp_path / "views"}', f'--out={tmp_path / "data"}'],
    check=True,
    cwd=ROOT,
  )
  (path,) = (tmp_path / 'data').glob('*/*/dataset_info.json')
  for source in (tmp_path / 'views', path.parent):
    result = subprocess.run(
      [sys.executable, '-m', 'lrm_jax.data_check', str(source), '--objects=0', f'--sheet={tmp_path / "sheet.png"}'],
      capture_output=True,
      text=True,
      check=False,
      cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
