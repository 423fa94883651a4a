"""data/render.py --engine=raster: geometry is drawn at its projection, in the colours of its materials."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
import pytest
from test_render import BOAT, CHAIR, check_projection, load_views, run
import trimesh

from lrm_jax.data.rendering.presets import Light
from lrm_jax.data.rendering.scene import surface_points
from lrm_jax.datasets import folders, inspection
from lrm_jax.geometry import cameras

moderngl = pytest.importorskip('moderngl', reason="moderngl is not installed: pip install '.[raster]'")
from lrm_jax.data.rendering.raster import Raster  # noqa: E402


@pytest.fixture(scope='module')
def engine():
  try:
    return Raster()
  except ValueError as error:
    pytest.skip(str(error))


FRONT = cameras.input_camera()  # at [0, -2, 0], with x to the right and z up
FOV = 50.0


def quad(alpha=255, mode=None, factor=None, **material):
  """Returns a square of side 1 in the x-y plane (y up) that faces +z.

  Its texture is red and green in the upper row, blue and white in the lower row.
  """
  colors = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
  colors = np.concatenate([colors, np.full((2, 2, 1), alpha, np.uint8)], axis=-1).repeat(32, 0).repeat(32, 1)
  material = trimesh.visual.material.PBRMaterial(
    baseColorTexture=Image.fromarray(colors),
    alphaMode=mode,
    baseColorFactor=factor,
    metallicFactor=0.0,
    roughnessFactor=1.0,
    **material,
  )
  mesh = trimesh.Trimesh(
    [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], [[0, 1, 2], [0, 2, 3]], process=False
  )
  mesh.visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
  return mesh


def draw(engine, mesh, path, pose=FRONT, size=64, light=Light()):
  mesh.export(path)
  engine.load(path)
  engine.light(light)
  return engine.render(pose, FOV, size)


def test_texture_has_the_right_orientation_and_colours(engine, tmp_path):
  image = draw(engine, quad(), tmp_path / 'a.glb')
  for row, column, color in ((24, 24, [255, 0, 0]), (24, 40, [0, 255, 0]), (40, 24, [0, 0, 255]), (40, 40, [255] * 3)):
    found = image[row, column].astype(int)
    assert found[3] == 255
    # In linear colour, a rough dielectric reflects 1.4 % of the white environment; the rest is its own colour.
    np.testing.assert_allclose(found[:3], np.where(np.array(color) == 255, 255, 31), atol=3)
  assert not image[0].any()


@pytest.mark.parametrize(
  'mode, alpha, expected', [('BLEND', 128, 128), ('MASK', 100, 0), ('MASK', 160, 255), ('OPAQUE', 60, 255)]
)
def test_alpha_modes_of_gltf(engine, tmp_path, mode, alpha, expected):
  image = draw(engine, quad(alpha, mode), tmp_path / 'a.glb')
  assert abs(int(image[40, 40, 3]) - expected) <= 1
  if expected == 128:  # With straight alpha, white stays white if it is half transparent.
    np.testing.assert_allclose(image[40, 40, :3], 255, atol=3)


def test_transparent_parts_are_drawn_back_to_front(engine, tmp_path):
  near, far = quad(128, 'BLEND', [255, 0, 0, 255]), quad(128, 'BLEND', [0, 0, 255, 255])
  near.apply_translation([0, 0, 0.3])
  far.apply_translation([0, 0, -0.3])
  for order in ((near, far), (far, near)):
    trimesh.Scene({'a': order[0], 'b': order[1]}).export(tmp_path / 'a.glb')
    engine.load(tmp_path / 'a.glb')
    engine.light(Light())
    pixel = engine.render(FRONT, FOV, 64)[42, 42].astype(int)
    assert abs(pixel[3] - 191) <= 2 and pixel[0] > pixel[2] + 20


def test_depth_and_normals_of_a_box_equal_the_closed_form(engine, tmp_path):
  box = trimesh.creation.box(extents=[1.0, 0.8, 0.6])
  box.export(tmp_path / 'a.glb')
  vertices, triangles = engine.load(tmp_path / 'a.glb')
  assert len(triangles) == 12
  pose = cameras.look_at([1.2, -1.5, 0.9])
  found = engine.geometry(pose, FOV, 48)
  place = (np.arange(48) + 0.5) / 48 * 2 - 1
  x, y = np.meshgrid(place * np.tan(np.deg2rad(25)), -place * np.tan(np.deg2rad(25)))
  directions = np.stack([x, y, -np.ones_like(x)], -1) @ pose[:3, :3].T
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  half = np.array([0.5, 0.3, 0.4])  # half the extents, with z up
  with np.errstate(divide='ignore'):
    first, second = ((side * half - pose[:3, 3]) / directions for side in (-1, 1))
  near, far = np.minimum(first, second), np.maximum(first, second)
  hit = near.max(-1) < far.min(-1)
  assert np.mean(hit == (found.distance > 0)) > 0.99
  both = hit & (found.distance > 0)
  np.testing.assert_allclose(found.distance[both], near.max(-1)[both], atol=2e-4)
  expected = -np.sign(directions) * (near == near.max(-1, keepdims=True))
  agree = np.sum(expected * found.normals, axis=-1)[both]
  assert np.mean(agree > 0.999) > 0.98  # All except edge pixels, whose derivatives mix two faces.
  np.testing.assert_allclose(np.abs(vertices).max(0), half, atol=1e-6)


def test_sun_lights_the_side_that_faces_it(engine, tmp_path):
  ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
  ball.visual = trimesh.visual.TextureVisuals(
    uv=np.zeros((len(ball.vertices), 2)),
    material=trimesh.visual.material.PBRMaterial(baseColorFactor=[255] * 4, metallicFactor=0.0, roughnessFactor=1.0),
  )
  image = draw(engine, ball, tmp_path / 'a.glb', light=Light(0.4, (((1.0, 0.0, 0.0), 0.5),))).astype(int)
  assert image[32, 42, 0] > image[32, 22, 0] + 20
  even = draw(engine, ball, tmp_path / 'a.glb').astype(int)
  assert np.ptp(even[32, 24:40, 0]) <= 3 and even[32, 32, 0] >= 252


def test_vertex_colours_and_meshes_without_material_are_drawn(engine, tmp_path):
  box = trimesh.creation.box(extents=[0.8] * 3)
  box.visual.vertex_colors = np.tile(np.array([255, 0, 0, 255], np.uint8), (len(box.vertices), 1))
  pixel = draw(engine, box, tmp_path / 'a.glb')[32, 32].astype(int)
  assert pixel[0] > 240 and pixel[1:3].max() < 70
  trimesh.creation.box(extents=[0.8] * 3).export(tmp_path / 'b.obj')
  engine.load(tmp_path / 'b.obj')
  assert engine.render(FRONT, FOV, 32)[16, 16, 3] == 255


def test_surface_points_are_uniform_over_the_area(rng):
  box = trimesh.creation.box(extents=[2.0, 1.0, 1.0])
  points = surface_points(np.asarray(box.vertices), np.asarray(box.faces), 20000, rng)
  faces = np.abs(np.abs(points) - [1.0, 0.5, 0.5]) < 1e-9
  assert faces.any(axis=1).all()
  np.testing.assert_allclose(faces.mean(axis=0), [0.2, 0.4, 0.4], atol=0.02)


@pytest.fixture(scope='module')
def rendered(engine, tmp_path_factory):
  """Folder with two objects, rendered by the command."""
  out = tmp_path_factory.mktemp('rendered')
  done = run(BOAT, CHAIR, '--out', out, '--engine=raster', '--num_views=5', '--size=96', '--depth', '--normals')
  assert done.returncode == 0, done.stderr
  return out


def test_views_match_their_cameras(rendered):
  for source in (BOAT, CHAIR):
    folder = rendered / source.stem
    check_projection(folder, source)
    views = load_views(folder)
    assert views.shape == (5, 96, 96, 4) and not views[views[..., 3] == 0].any() and views[..., 3].max() == 255
    saved = json.loads((folder / 'object.json').read_text())
    assert saved['engine'] == 'raster' and saved['preset'] == 'paper' and saved['fov'] == [50.0]
    assert len(saved['sha256']) == 64
    record = folders.read('rendered', source.stem, folder)
    assert not inspection.inspect(record).problems


def test_depth_maps_match_the_surface_points(rendered):
  from scipy.spatial import cKDTree

  folder = rendered / CHAIR.stem
  saved, points = np.load(folder / 'cameras.npz'), np.load(folder / 'surface.npy')
  assert points.shape == (4096, 3) and np.linalg.norm(points, axis=-1).max() < 0.64
  with Image.open(folder / 'depth/002.png') as image:
    distance = np.asarray(image).astype(float) * 8 / 65535
  pose, fov = saved['camera_to_world'][2], 2 * np.arctan(0.5 / saved['intrinsics'][2, 0])
  rows, columns = np.nonzero(distance)

  def place(i):
    return ((i + 0.5) / 96 * 2 - 1) * np.tan(fov / 2)

  directions = np.stack([place(columns), -place(rows), -np.ones(len(rows))], -1) @ pose[:3, :3].T
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  hits = pose[:3, 3] + distance[rows, columns, None] * directions
  assert np.median(cKDTree(points).query(hits)[0]) < 0.02
  assert np.mean((load_views(folder)[2][..., 3] > 127) == (distance > 0)) > 0.97


def test_rendering_depends_only_on_the_seed(rendered, tmp_path):
  options = ['--engine=raster', '--num_views=5', '--size=96']
  for out, seed in (('a', 0), ('b', 1)):
    assert run(BOAT, '--out', tmp_path / out, *options, '--seed', seed).returncode == 0
  np.testing.assert_array_equal(load_views(tmp_path / 'a' / BOAT.stem), load_views(rendered / BOAT.stem))
  assert not np.array_equal(load_views(tmp_path / 'b' / BOAT.stem), load_views(rendered / BOAT.stem))


def test_view_that_cuts_the_object_off_fails(engine, tmp_path):
  done = run(BOAT, '--out', tmp_path, '--engine=raster', '--num_views=3', '--size=32', '--fov=20')
  assert done.returncode == 1 and 'cuts the object off: it extends ' in done.stderr
  assert [path.name for path in tmp_path.iterdir()] == ['report.jsonl']


def bad_objects(folder: Path) -> dict[str, str]:
  """Writes one file of each kind of damage, and returns {uid: part of its error message}."""
  quad(doubleSided=True).export(folder / 'good.glb')
  whole = (folder / 'good.glb').read_bytes()
  (folder / 'truncated.glb').write_bytes(whole[: len(whole) // 2])
  (folder / 'nonsense.glb').write_bytes(b'this is no glTF')
  (folder / 'empty.obj').write_text('# nothing\n')
  (folder / 'point.obj').write_text('v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n')
  (folder / 'infinite.obj').write_text('v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n')
  quad(0, 'BLEND').export(folder / 'transparent.glb')
  png = whole.index(b'\x89PNG')
  broken = bytearray(whole)
  broken[png + 16 : png + 24] = bytes(8)  # its width and height
  (folder / 'texture.glb').write_bytes(bytes(broken))
  (folder / 'scene.fbx').write_bytes(b'Kaydara FBX Binary  \x00')
  return {
    'truncated': '',
    'nonsense': '',
    'empty': '',
    'point': 'at one point',
    'infinite': 'NaN or infinite values',
    'transparent': 'transparent',
    'texture': 'texture',
    'scene': 'does not support .fbx',
  }


def test_bad_objects_are_reported_and_do_not_stop_the_others(engine, tmp_path):
  (tmp_path / 'in').mkdir()
  bad = bad_objects(tmp_path / 'in')
  done = run(tmp_path / 'in', '--out', tmp_path / 'out', '--engine=raster', '--num_views=2', '--size=32', '--workers=2')
  assert done.returncode == 1 and 'Traceback' not in done.stdout
  report = {
    line['uid']: line['error'] for line in map(json.loads, (tmp_path / 'out/report.jsonl').read_text().splitlines())
  }
  assert report.pop('good') is None and report.keys() == bad.keys()
  for uid, message in bad.items():
    assert report[uid] and message in report[uid], (uid, report[uid])
    assert f'{uid}: FAILED' in done.stderr
  assert '8 of 9 objects failed' in done.stderr
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['good', 'report.jsonl']
