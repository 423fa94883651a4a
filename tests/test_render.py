"""data/render.py: the object is normalised, cameras match the views, and bad files are reported."""

import importlib.util
import json
from pathlib import Path
import shutil
import subprocess
import sys
import types

import numpy as np
from PIL import Image
import pytest
from test_embedded_data import assert_on_mask
import trimesh

from lrm_jax.data import render
from lrm_jax.data.rendering import presets
from lrm_jax.geometry import cameras

ROOT = Path(__file__).resolve().parents[1]
BOAT = ROOT / 'tests/objects/quaternius__Ship-Boat.glb'
CHAIR = ROOT / 'tests/objects/sh3d-bscc0__deckChair.glb'

needs_blender = pytest.mark.skipif(
  not (importlib.util.find_spec('bpy') or (ROOT / '.venv-render/bin/python').exists() or shutil.which('blender')),
  reason='Blender is not installed: run `make render-env`',
)


def run(*arguments) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, 'data/render.py', *map(str, arguments)],
    cwd=ROOT,
    text=True,
    capture_output=True,
    timeout=300,
    check=False,
  )


def load_views(folder: Path) -> np.ndarray:
  """Returns the views of a rendered folder, bytes [V, H, W, 4]."""
  views = []
  for path in sorted((folder / 'views').iterdir()):
    with Image.open(path) as image:
      assert image.mode == 'RGBA'
      views.append(np.asarray(image))
  return np.stack(views)


def check_projection(folder: Path, source: Path) -> None:
  """Asserts that the vertices of the source file project onto the masks of the rendered views."""
  saved = np.load(folder / 'cameras.npz')
  vertices = trimesh.load(source, force='mesh', process=False).vertices
  points = vertices @ saved['object_to_world'][:3, :3].T + saved['object_to_world'][:3, 3]
  np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(points, axis=-1).max(), presets.OBJECT_RADIUS, rtol=1e-5)
  pixels, _ = cameras.project(points, saved['camera_to_world'], saved['intrinsics'])
  for view, image in enumerate(load_views(folder)):
    assert_on_mask(pixels[view], image[..., 3])


def test_paper_preset_samples_the_ranges_of_the_paper(rng):
  poses = presets.make('paper', 2000, None, rng).poses
  position = poses[:, :3, 3]
  np.testing.assert_allclose(position[0], [0, -2, 0], atol=1e-12)
  np.testing.assert_allclose(poses, cameras.look_at(position), atol=1e-12)
  radius, height = np.linalg.norm(position[1:], axis=-1), position[1:, 2]
  for values, (low, high) in ((radius, presets.RADIUS), (height, presets.HEIGHT)):
    assert low <= values.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < values.max() <= high
  quarter = np.floor_divide(np.arctan2(position[1:, 1], position[1:, 0]), np.pi / 2)
  assert np.bincount((quarter + 2).astype(int), minlength=4).min() > 400


def test_duplicate_uids_and_paths_without_objects_raise(tmp_path):
  for folder in 'ab':
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'cup.glb').touch()
  with pytest.raises(ValueError, match='rename one'):
    render.find_objects([tmp_path])
  assert render.find_objects([tmp_path / 'a']) == [('cup', tmp_path / 'a/cup.glb')]
  with pytest.raises(ValueError, match='cup.stl does not exist, or is not a folder or a 3D object'):
    render.find_objects([tmp_path / 'cup.stl'])
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='no objects'):
    render.find_objects([tmp_path / 'empty'])


def test_patterns_and_lists_of_objects_are_expanded(tmp_path):
  for name in ('cup', 'mug', 'jar'):
    (tmp_path / f'{name}.glb').touch()
  assert [uid for uid, _ in render.find_objects([f'{tmp_path}/*u*.glb'])] == ['cup', 'mug']
  (tmp_path / 'list.txt').write_text(f'{tmp_path}/jar.glb  # one\n\n{tmp_path}/c*.glb\n')
  assert [uid for uid, _ in render.find_objects([f'@{tmp_path}/list.txt'])] == ['cup', 'jar']
  with pytest.raises(ValueError, match='no file matches'):
    render.find_objects([f'{tmp_path}/x*.glb'])


def test_objaverse_package_downloads_the_objects(tmp_path, monkeypatch, capsys):
  (tmp_path / 'uids.txt').write_text('aa\nbb\ncc\n')
  package = types.ModuleType('objaverse')
  package.load_objects = lambda uids: {uid: f'/cache/{uid}.glb' for uid in uids if uid != 'cc'}
  monkeypatch.setitem(sys.modules, 'objaverse', package)
  assert render.from_objaverse(tmp_path / 'uids.txt') == [('aa', Path('/cache/aa.glb')), ('bb', Path('/cache/bb.glb'))]
  assert '1 of 3 uids are not in Objaverse: cc' in capsys.readouterr().err
  monkeypatch.setitem(sys.modules, 'objaverse', None)
  with pytest.raises(ValueError, match='pip install objaverse'):
    render.from_objaverse(tmp_path / 'uids.txt')


def test_shards_are_a_partition_of_the_objects():
  objects = [(str(i), Path(str(i))) for i in range(10)]
  shards = [render.share_of(objects, f'{i}/3') for i in range(3)]
  assert sorted(work for shard in shards for work in shard) == objects
  for wrong in ('3/3', '1', 'a/b', '-1/2'):
    with pytest.raises(ValueError, match='must be i/n'):
      render.share_of(objects, wrong)


@pytest.mark.parametrize(
  'name, fov, radius', [('openlrm', (67.38, 67.39), (1.9, 2.6)), ('triposr-like', (35, 65), (1.0, 4.0))]
)
def test_presets_see_the_whole_object_and_sample_their_ranges(name, fov, radius):
  setup = presets.make(name, 400, None, np.random.default_rng(0))
  position = setup.poses[:, :3, 3]
  np.testing.assert_allclose(setup.poses, cameras.look_at(position), atol=1e-9)
  np.testing.assert_allclose(setup.poses[0], cameras.look_at(position[0]), atol=1e-12)
  assert position[0][0] == 0 and position[0][1] < 0 and position[0][2] == 0
  assert fov[0] <= setup.fovs.min() and setup.fovs.max() <= fov[1]
  distance = np.linalg.norm(position, axis=-1)
  assert radius[0] <= distance[1:].min() and distance[1:].max() <= radius[1]
  fill = np.tan(np.arcsin(presets.OBJECT_RADIUS / distance)) / np.tan(np.deg2rad(setup.fovs) / 2)
  assert fill.max() < 0.96
  if name == 'triposr-like':
    assert np.ptp(setup.fovs) > 25 and fill.min() < 0.65
    lights = [presets.make(name, 2, None, np.random.default_rng(seed)).light for seed in range(50)]
    assert {len(light.suns) for light in lights} == {0, 1, 2} and np.ptp([light.ambient for light in lights]) > 0.2
    assert all(light.ambient + sum(s for _, s in light.suns) <= 1 + 1e-9 for light in lights)
  again = presets.make(name, 400, None, np.random.default_rng(0))
  np.testing.assert_array_equal(again.poses, setup.poses)


@pytest.mark.slow
@needs_blender
def test_views_match_their_cameras(tmp_path):
  done = run(BOAT, CHAIR, '--out', tmp_path, '--num_views', 5, '--size', 96, '--samples', 64)
  assert done.returncode == 0, done.stderr
  for source in (BOAT, CHAIR):
    folder = tmp_path / source.stem
    check_projection(folder, source)
    saved = np.load(folder / 'cameras.npz')
    assert saved['camera_to_world'].shape == (5, 4, 4) and saved['intrinsics'].shape == (5, 4)
    np.testing.assert_allclose(saved['camera_to_world'][0], cameras.input_camera(), atol=1e-12)
    # The front of a glTF object (+z) faces the camera at -y, and its top (+y) is up.
    rotation = saved['object_to_world'][:3, :3] / np.cbrt(np.linalg.det(saved['object_to_world'][:3, :3]))
    np.testing.assert_allclose(rotation @ [0, 0, 1], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    views = load_views(folder)
    assert views.shape == (5, 96, 96, 4)
    assert not views[views[..., 3] == 0].any()
    assert views[..., 3].max() == 255
    record = json.loads((folder / 'object.json').read_text())
    assert record['uid'] == source.stem and record['samples'] == 64 and len(record['sha256']) == 64
  # The two objects have different cameras.
  assert not np.allclose(saved['camera_to_world'], np.load(tmp_path / BOAT.stem / 'cameras.npz')['camera_to_world'])
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted([BOAT.stem, CHAIR.stem, 'report.jsonl'])


@pytest.mark.slow
@needs_blender
def test_rendering_is_deterministic_and_keeps_existing_folders(tmp_path):
  options = ['--num_views', 2, '--size', 48, '--samples', 8]
  for out, seed in (('a', 0), ('b', 0), ('c', 1)):
    assert run(BOAT, '--out', tmp_path / out, *options, '--seed', seed).returncode == 0
  a, b, c = (tmp_path / out / BOAT.stem for out in 'abc')
  np.testing.assert_array_equal(load_views(a), load_views(b))
  poses_a, poses_b, poses_c = (np.load(folder / 'cameras.npz')['camera_to_world'] for folder in (a, b, c))
  np.testing.assert_array_equal(poses_a, poses_b)
  assert not np.allclose(poses_a, poses_c)
  before = (a / 'views/000.webp').stat().st_mtime_ns
  again = run(BOAT, '--out', tmp_path / 'a', *options)
  assert again.returncode == 0 and 'already rendered' in again.stdout
  assert (a / 'views/000.webp').stat().st_mtime_ns == before


@pytest.mark.slow
@needs_blender
def test_light_is_even_and_alpha_is_straight(tmp_path):
  # In even light, a convex object has the same colour on all sides, and with straight alpha also at its silhouette.
  # Here it is a box without material, longest along x, not at the origin, in a file with y up.
  box = trimesh.creation.box(extents=[3.0, 1.0, 2.0])
  box.apply_translation([5.0, 1.0, -2.0])
  box.export(tmp_path / 'box.obj')
  done = run(tmp_path / 'box.obj', '--out', tmp_path / 'out', '--num_views', 4, '--size', 64, '--samples', 256)
  assert done.returncode == 0, done.stderr
  check_projection(tmp_path / 'out/box', tmp_path / 'box.obj')
  views = load_views(tmp_path / 'out/box').astype(float)
  alpha = views[..., 3]
  inside = views[alpha == 255][:, :3]
  edge = views[(alpha > 32) & (alpha < 224)][:, :3]
  assert len(edge) > 100
  assert np.ptp(inside) < 40
  np.testing.assert_allclose(edge.mean(), inside.mean(), atol=10)


@pytest.mark.slow
@needs_blender
def test_bad_files_are_reported_and_do_not_stop_the_others(tmp_path):
  (tmp_path / 'bad.glb').write_bytes(b'this is no glTF')
  (tmp_path / 'empty.obj').write_text('# nothing\n')
  done = run(tmp_path, BOAT, '--out', tmp_path / 'out', '--num_views', 1, '--size', 16, '--samples', 1)
  assert done.returncode == 1
  assert 'bad: FAILED' in done.stderr and 'empty: FAILED' in done.stderr and '2 of 3 objects failed' in done.stderr
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [BOAT.stem, 'report.jsonl']


def test_missing_path_is_reported_in_one_line_with_exit_code_2(tmp_path):
  done = run(tmp_path / 'nothing.glb', '--out', tmp_path)
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1 and 'nothing.glb' in done.stderr
