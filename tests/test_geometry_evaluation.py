"""Geometry protocols: perfect surfaces score perfectly, motions and scales are undone only where a protocol says so."""

import dataclasses
from pathlib import Path
import sys

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.spatial.transform import Rotation
import trimesh

from lrm_jax import evaluate
from lrm_jax.datasets.views import HeldOut, ViewRules
from lrm_jax.errors import InputError
from lrm_jax.evaluation import alignment, geometry_metrics, geometry_runs, results, surfaces
from lrm_jax.evaluation.geometry_protocols import PROTOCOLS
from lrm_jax.geometry import rasterise

BOAT = Path(__file__).parent / 'objects/quaternius__Ship-Boat.glb'
ALIGNED = {name for name, protocol in PROTOCOLS.items() if protocol.num_starts}


@pytest.fixture(scope='module')
def boat():
  """A watertight boat in a sphere of radius 0.634."""
  surface = surfaces.read(BOAT)
  centre = (surface.vertices.min(0) + surface.vertices.max(0)) / 2
  scale = 0.634 / np.linalg.norm(surface.vertices - centre, axis=-1).max()
  similarity = np.diag([scale, scale, scale, 1])
  similarity[:3, 3] = -scale * centre
  return surface.transformed(similarity)


def few_points(name):
  """Returns a protocol with few points and views, which are fast."""
  protocol = PROTOCOLS[name]
  views = None if protocol.views is None else protocol.views[::4]
  return dataclasses.replace(protocol, num_points=2000, views=views)


def motion(seed=0, scale=1.0):
  """Returns a similarity: a random rotation, a scale and a shift."""
  matrix = np.eye(4)
  matrix[:3, :3] = scale * Rotation.random(random_state=seed).as_matrix()
  matrix[:3, 3] = (0.1, -0.2, 0.05)
  return matrix


def assert_perfect(values):
  assert values.pop('chamfer') == pytest.approx(0, abs=1e-6)
  assert all(value == pytest.approx(1, abs=1e-6) for value in values.values())


@pytest.mark.parametrize('name', PROTOCOLS)
def test_perfect_reconstruction_scores_perfectly(boat, name):
  assert_perfect(few_points(name).score(boat, boat))


@pytest.mark.parametrize('name', sorted(ALIGNED - {'geometry-sf3d', 'geometry-spar3d'} | {'geometry'}))
def test_rigid_motion_is_undone_only_by_protocols_that_align(boat, name):
  values = few_points(name).score(boat.transformed(motion()), boat)
  if name in ALIGNED:
    assert_perfect(values)
  else:
    assert values['chamfer'] > 0.1 and values['f_score_0.1'] < 0.6 and values['volume_iou'] < 0.3


def test_protocols_that_align_have_the_rules_of_the_one_that_is_tested():
  assert {PROTOCOLS[name].rules for name in ALIGNED} == {PROTOCOLS['geometry-triposr'].rules}


def test_alignment_of_different_surfaces_is_repeatable(boat):
  prediction = surfaces.Surface(boat.vertices * [1, 1, 0.8], boat.triangles).transformed(motion())
  scores = [few_points('geometry-triposr').score(prediction, boat) for _ in range(2)]
  assert scores[0] == scores[1] and scores[0]['chamfer'] > 0.01


def test_shift_is_not_undone_by_meshlrm(boat):
  move = np.eye(4)
  move[0, 3] = 0.1
  values = few_points('geometry-meshlrm').score(boat.transformed(move), boat)
  assert values['chamfer'] > 5 and values['f_score_0.1'] < 0.95


@pytest.mark.parametrize('name', ['geometry-spar3d', 'geometry', 'geometry-meshlrm'])
def test_shrunken_copy_is_undone_only_where_a_protocol_normalises(boat, name):
  values = few_points(name).score(boat.transformed(np.diag([0.7, 0.7, 0.7, 1])), boat)
  if name in ALIGNED:
    assert_perfect(values)
  else:
    assert values['f_score_0.1'] < 0.99 and values['chamfer'] > (0.04 if name == 'geometry' else 10)


def test_all_protocols_have_a_version_and_say_what_is_our_choice():
  for name, protocol in PROTOCOLS.items():
    assert name == protocol.name and protocol.version >= 1 and protocol.choices and protocol.source


def test_metrics_equal_brute_force(rng):
  a, b = rng.normal(size=(60, 3)), rng.normal(size=(45, 3))
  normals = tuple(x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (rng.normal(size=a.shape), b))
  all_distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
  distances, indices = geometry_metrics.nearest(a, b)
  forward, backward = all_distances.min(1), all_distances.min(0)
  np.testing.assert_allclose(distances[0], forward, rtol=1e-12)
  assert geometry_metrics.chamfer_half(distances) == pytest.approx((forward.mean() + backward.mean()) / 2)
  assert geometry_metrics.chamfer_squared(distances) == pytest.approx((forward**2).mean() + (backward**2).mean())
  precision, recall = (forward < 0.5).mean(), (backward < 0.5).mean()
  assert geometry_metrics.f_score(distances, 0.5) == pytest.approx(2 * precision * recall / (precision + recall))
  assert geometry_metrics.f_score(distances, 1e-9) == 0
  cosine = np.abs(normals[0] @ normals[1].T)
  expected = (cosine[range(60), all_distances.argmin(1)].mean() + cosine[all_distances.argmin(0), range(45)].mean()) / 2
  assert geometry_metrics.normal_consistency(normals, indices) == pytest.approx(expected)


def test_distances_equal_those_of_scipy(boat):
  a, b = boat.sample(1500, seed=1)[0], boat.transformed(motion()).sample(1500)[0]
  between = distance.cdist(a, b)
  forward, backward = between.min(axis=1), between.min(axis=0)
  distances, _ = geometry_metrics.nearest(a, b)
  assert geometry_metrics.chamfer_half(distances) == pytest.approx((forward.mean() + backward.mean()) / 2, abs=1e-9)
  for threshold in (0.02, 0.1, 0.5):
    precision, recall = np.mean(forward < threshold), np.mean(backward < threshold)
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert geometry_metrics.f_score(distances, threshold) == pytest.approx(expected)


def test_volume_iou_of_balls_and_boxes():
  iou = geometry_metrics.volume_iou(surfaces.sphere(0.3), surfaces.sphere(0.4))
  assert iou == pytest.approx((0.3 / 0.4) ** 3, abs=0.005)
  box = surfaces.of_mesh(trimesh.creation.box((1, 1, 1)))
  move = np.eye(4)
  move[0, 3] = 0.5
  assert geometry_metrics.volume_iou(box, box.transformed(move)) == pytest.approx(1 / 3, abs=0.02)
  open_box = surfaces.Surface(box.vertices, box.triangles[:-1])
  assert np.isnan(geometry_metrics.volume_iou(box, open_box)) and geometry_metrics.volume_iou(open_box, box) == 0


def test_winding_numbers_see_overlapping_parts_as_one_solid():
  box = trimesh.creation.box((6, 6, 6))
  both = trimesh.util.concatenate([box.copy().apply_translation((4, 5, 5)), box.copy().apply_translation((6, 5, 5))])
  winding = rasterise.crossings(both.vertices, both.faces, 10)
  assert np.count_nonzero(winding) == 8 * 6 * 6 and set(np.unique(np.abs(winding))) == {0, 1, 2}


def test_visible_points_leave_out_what_no_camera_sees():
  inner, outer = surfaces.sphere(0.3), surfaces.sphere(0.8)
  both = surfaces.Surface(
    np.concatenate([inner.vertices, outer.vertices]),
    np.concatenate([inner.triangles, outer.triangles + len(inner.vertices)]),
  )
  points = both.visible(1000, PROTOCOLS['geometry-meshlrm'].views[:3], 50.0, 64)
  assert len(points) == 1000
  radius = np.linalg.norm(points, axis=-1)
  assert radius.min() > 0.79 and radius.max() < 0.801


@pytest.mark.parametrize('seed', range(3))
def test_alignment_finds_any_rotation(boat, seed):
  points, _ = boat.sample(2000)
  move = motion(seed + 10)
  found = alignment.align(points @ move[:3, :3].T + move[:3, 3], points)
  np.testing.assert_allclose(found @ move, np.eye(4), atol=1e-6)


def test_rotations_are_rotations_that_cover_all_directions():
  matrices = alignment.rotations(64)
  np.testing.assert_allclose(matrices[0], np.eye(3), atol=1e-12)
  np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (64, 3, 3)), atol=1e-12)
  np.testing.assert_allclose(np.linalg.det(matrices), 1)
  others = Rotation.random(500, random_state=0).as_matrix()
  trace = np.einsum('nij,sij->ns', others, matrices).max(axis=1)
  assert np.rad2deg(np.arccos((trace - 1) / 2)).max() < 65  # No rotation is far from a start.


def test_samples_are_uniform_and_depend_only_on_mesh_and_seed(boat):
  box = surfaces.of_mesh(trimesh.creation.box((1, 2, 3)))
  points, normals = box.sample(20_000)
  shares = [np.mean(np.abs(normals[:, axis]) > 0.5) for axis in range(3)]
  np.testing.assert_allclose(shares, np.array([6, 3, 2]) / 11, atol=0.015)
  np.testing.assert_allclose(np.abs(points).max(axis=0), [0.5, 1, 1.5], atol=1e-3)
  np.testing.assert_array_equal(boat.sample(10)[0], boat.sample(10)[0])
  assert np.abs(boat.sample(10)[0] - boat.sample(10, seed=1)[0]).max() > 0.01


@pytest.fixture
def meshes(dataset, tmp_path):
  """A folder with the true meshes of the held-out balls."""
  for number in (4, 5):
    trimesh.creation.icosphere(subdivisions=3, radius=0.3 + 0.05 * number).export(tmp_path / f'ball_{number}.ply')
  return tmp_path


def command(monkeypatch, *options):
  monkeypatch.setattr(sys, 'argv', ['evaluate', *map(str, options)])
  evaluate.main()


def test_folder_of_meshes_is_scored_beside_baselines(dataset, meshes, tmp_path_factory, monkeypatch):
  out, again = (tmp_path_factory.mktemp('result') for _ in range(2))
  options = (f'--data={dataset}', f'--meshes={meshes}', '--no_nearest_surface', '--size=16')
  command(monkeypatch, f'--predictions={meshes}', '--protocol=geometry', f'--out={out}', *options)
  [section] = results.read(out)['sections']
  assert list(section['rows']) == ['predictions', 'sphere', 'truth_with_other_points']
  summary = section['rows']['predictions']['summary']
  assert summary['chamfer']['mean'] == pytest.approx(0, abs=1e-9) and summary['volume_iou']['mean'] == 1
  other = section['rows']['truth_with_other_points']['summary']
  assert 0 < other['chamfer']['mean'] < 0.02 and other['f_score_0.05']['mean'] == 1
  first = {name: (out / name).read_bytes() for name in ('results.json', 'results.md')}
  command(monkeypatch, f'--predictions={meshes}', '--protocol=geometry', f'--out={again}', *options)
  assert {name: (again / name).read_bytes() for name in first} == first
  assert section['settings']['truth'] == ['meshes'] and 'geometry, version 1' in (out / 'report.html').read_text()
  (meshes / 'ball_5.ply').unlink()
  with pytest.raises(InputError, match='has no mesh of ball_5'):
    command(monkeypatch, f'--predictions={meshes}', '--protocol=geometry', *options)


def test_frames_of_predicted_meshes(dataset, boat, tmp_path):
  held_out = HeldOut(dataset, 'test', ViewRules(image_size=16, size=16, input_position=(0.0, -1.5, 0.0)))
  in_input = boat.transformed(held_out.similarity(0))
  to_gltf = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
  for frame, surface in (('world', boat), ('input', in_input), ('gltf', in_input.transformed(to_gltf))):
    trimesh.Trimesh(surface.vertices, surface.triangles, process=False).export(tmp_path / f'{held_out.uids[0]}.ply')
    found = geometry_runs.folder_system(held_out, tmp_path, frame)(0)
    np.testing.assert_allclose(found.vertices, boat.vertices, atol=1e-6)


def test_object_without_a_surface_is_recorded_and_scored_as_a_point(dataset, meshes):
  held_out = HeldOut(dataset, 'test', ViewRules(image_size=16, size=16))

  def system(place):
    if place:
      raise geometry_runs.NoSurfaceError('empty')
    return surfaces.read(surfaces.find(meshes, held_out.uids[place]))

  protocols = [PROTOCOLS[name] for name in ('geometry', 'geometry-triposr', 'geometry-sf3d')]
  sections = geometry_runs.run(protocols, held_out, {'model': system}, meshes, baselines=False)
  assert [section.protocol for section in sections] == [protocol.name for protocol in protocols]
  for section in sections:
    row = section.rows['model']
    assert row.failed == {held_out.uids[1]: 'empty'}
    whole, empty = (row.objects[uid]['f_score_0.1'] for uid in held_out.uids)
    assert whole > 0.99 and empty < 0.1
