"""Meshes of analytic fields have the right shape, orientation, normals and colours."""

import numpy as np
import pytest
import scipy.stats
import trimesh

from lrm_jax.geometry import cameras
from lrm_jax.reconstruction import cleanup, glb
from lrm_jax.reconstruction import colors as colors_lib
from lrm_jax.reconstruction import mesh as mesh_lib


def ball(radius=0.6, centre=(0.0, 0.0, 0.0)):
  """Returns the field of a ball: density 20 at the surface, linear across it; the colour depends on the position."""

  def field(points):
    distance = np.linalg.norm(points - np.array(centre, np.float32), axis=-1)
    return np.maximum(20 + 100 * (radius - distance), 0), np.clip(points / 2 + 0.5, 0, 1)

  return field


def boxes(points):
  """A field without mirror symmetry: a red box at +x, a green box on top (+z), a blue box in front (-y)."""
  density, color = np.zeros(len(points)), np.full((len(points), 3), 0.5)
  for axis, sign, tint in ((0, 1, (1, 0, 0)), (2, 1, (0, 1, 0)), (1, -1, (0, 0, 1))):
    centre = np.zeros(3)
    centre[axis] = 0.5 * sign
    inside = np.abs(points - centre).max(-1) < 0.2
    density[inside], color[np.abs(points - centre).max(-1) < 0.25] = 50.0, tint
  return density, color


def extract(query, **kwargs):
  return mesh_lib.extract(mesh_lib.field_of(query), **kwargs)


def load(path):
  """Returns the only mesh of a GLB file, read by trimesh."""
  (loaded,) = trimesh.load_scene(path, process=False).geometry.values()
  return loaded


def colors_of(loaded):
  """Returns [K, 3] in 0..1: trimesh keeps the colours of a mesh with a material as an attribute."""
  colors = loaded.visual.vertex_attributes['color'][:, :3]
  return colors / np.iinfo(colors.dtype).max


def test_ball_has_its_radius_and_outward_normals():
  mesh = extract(ball(0.6), resolution=48, threshold=20.0)
  np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=-1), 0.6, atol=5e-3)
  assert mesh.is_watertight
  np.testing.assert_allclose(mesh.volume, 4 / 3 * np.pi * 0.6**3, rtol=0.01)
  outwards = np.sum(mesh.vertex_normals * mesh.vertices, axis=-1) / 0.6
  assert outwards.min() > 0.95


def test_vertex_colours_equal_the_field():
  def hard(points):
    return (1e4 * np.clip(0.5 - np.linalg.norm(points, axis=-1) + 0.002, 0, 1), ball()(points)[1])

  mesh = extract(hard, resolution=64, threshold=20.0)
  np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3] / 255, mesh.vertices / 2 + 0.5, atol=0.03)


def test_haze_gets_the_colour_of_the_inside():
  def field(points):
    distance = np.linalg.norm(points, axis=-1, keepdims=True)
    return np.where(distance < 0.5, 50, np.where(distance < 0.6, 1, 0.0))[:, 0], np.where(
      distance < 0.5, [0.8, 0.1, 0.2], 1.0
    )

  mesh = extract(field, resolution=48, threshold=0.5)
  assert np.linalg.norm(mesh.vertices, axis=-1).min() > 0.55
  # The haze contributes a tenth of the colour of a view along the normal, 1 - exp(-0.1), and more of oblique views.
  colors = mesh.visual.vertex_colors[:, :3] / 255
  np.testing.assert_allclose(colors.mean(0), [0.85, 0.33, 0.4], atol=0.05)
  np.testing.assert_allclose(colors, np.tile(colors.mean(0), (len(colors), 1)), atol=0.3)


def test_what_hides_a_point_does_not_change_its_colour():
  """A hazy blue ball beside a hazy red one: where they almost touch, views pass through the other ball."""
  balls = [(np.array([x, 0.0, 0.0]), color) for x, color in ((-0.3, [1.0, 0.0, 0.0]), (0.3, [0.0, 0.0, 1.0]))]

  def field(points):
    distances = np.stack([np.linalg.norm(points - centre, axis=-1) for centre, _ in balls])
    colors = np.array([color for _, color in balls])[distances.argmin(0)]
    return 8 * (distances.min(0) < 0.27), colors

  mesh = extract(field, resolution=48, threshold=4.0)
  colors, left = mesh.visual.vertex_colors[:, :3] / 255, mesh.vertices[:, 0] < 0
  assert colors[left, 0].min() > 0.6 and colors[~left, 2].min() > 0.6


def test_colour_is_that_of_the_views_not_only_of_the_normal():
  """Rays into a blurred ball whose colour depends on the height see, from above and below, what lies around a point."""

  def field(points):
    return 4 * np.exp(-0.5 * np.sum((points / 0.3) ** 2, axis=-1)), np.repeat(points[:, 2:] > 0, 3, axis=1).astype(
      float
    )

  mesh = extract(field, resolution=48)
  grey = mesh.visual.vertex_colors[:, 0] / 255
  border = np.abs(mesh.vertices[:, 2]) < 0.03
  assert 0.2 < grey[border].mean() < 0.9 and grey[mesh.vertices[:, 2] > 0.3].min() > 0.8


def test_surface_is_closed_at_the_cube():
  mesh = extract(ball(0.6, centre=(0.9, 0, 0)), resolution=32, threshold=20.0)
  assert mesh.is_watertight and mesh.volume > 0
  assert mesh.bounds[1, 0] == 1  # Cut off exactly at the border.
  flat = mesh.vertices[:, 0] == 1
  assert np.hypot(mesh.vertices[flat, 1], mesh.vertices[flat, 2]).max() < 0.6


@pytest.mark.parametrize('greatest', [4.0, 400.0])
def test_default_threshold_puts_the_surface_where_the_volume_is_seen(greatest):
  """For thin and dense blurred balls, it lies between the outline and the depth of the ray through the centre.

  The outline is where rays past the centre lose half of their light, the depth where a ray has lost half of what it
  loses.
  """

  def density(points):
    return greatest * np.exp(-0.5 * np.sum((points / 0.25) ** 2, axis=-1))

  mesh = extract(lambda points: (density(points), np.zeros_like(points)), resolution=48)
  # Along a ray at distance r the optical depth is greatest sqrt(2 pi) 0.25 exp(-r^2 / (2 0.25^2)).
  total = greatest * np.sqrt(2 * np.pi) * 0.25
  outline = 0.25 * np.sqrt(2 * np.log(total / np.log(2)))
  depth = 0.25 * scipy.stats.norm.isf(-np.log((1 + np.exp(-total)) / 2) / total)
  assert depth < np.linalg.norm(mesh.vertices, axis=-1).mean() < outline


def test_empty_volume_raises():
  with pytest.raises(ValueError, match='the volume is empty, no ray through it loses more than 18% of its light'):
    extract(lambda points: (np.full(len(points), 0.1), points), resolution=64)


def test_specks_are_removed():
  parts = (ball(0.5), ball(0.3, (0.8, 0.8, 0.8)), ball(0.08, (-0.8, -0.8, -0.8)))

  def field(points):
    return (sum(part(points)[0] for part in parts), points)

  mesh = extract(field, resolution=48, threshold=20.0)
  assert mesh.body_count == 2 and mesh.bounds[0].min() > -0.6


@pytest.mark.parametrize('keep, parts, removed', [('all', 3, 0), ('largest', 1, 2), (0.1, 2, 1), (0.5, 1, 2)])
def test_keep_says_which_parts_remain(keep, parts, removed):
  balls = (ball(0.5), ball(0.3, (0.6, 0.6, 0.6)), ball(0.12, (-0.8, -0.8, -0.8)))

  def field(points):
    return np.max([part(points)[0] for part in balls], axis=0), points

  mesh = extract(field, resolution=48, threshold=20.0, keep=keep, dense=True)
  report = mesh.metadata['report']
  assert mesh.body_count == report.parts == parts and report.removed == removed and report.watertight


@pytest.mark.parametrize('keep', ['largest', 0.01])
def test_largest_part_has_no_hollow(keep):
  def shell(points):
    distance = np.linalg.norm(points, axis=-1)
    return np.maximum(20 + 100 * np.minimum(0.7 - distance, distance - 0.5), 0), points

  mesh = extract(shell, resolution=40, threshold=20.0, keep=keep)
  assert mesh.metadata['report'].parts == (1 if keep == 'largest' else 2) and mesh.metadata['report'].watertight


@pytest.mark.parametrize('faces', [4000, 400, 40])
def test_decimated_surface_keeps_its_shape_and_stays_closed(faces):
  """A torus that touches itself almost, and two balls: decimation joins sheets, which have to be separated again."""

  def field(points):
    ring = 0.22 - np.hypot(np.hypot(points[:, 0], points[:, 1]) - 0.26, points[:, 2])
    return np.maximum(20 + 100 * np.maximum(ring, 0.2 - np.linalg.norm(points - 0.65, axis=-1)), 0), points

  whole = extract(field, resolution=48, threshold=20.0)
  fewer = extract(field, resolution=48, threshold=20.0, faces=faces)
  report = fewer.metadata['report']
  assert len(whole.faces) > 4000 and 0.8 * faces <= len(fewer.faces) == report.faces <= faces
  assert report.watertight and not report.holes
  assert trimesh.Trimesh(fewer.vertices, fewer.faces).is_watertight  # Also if vertices at the same place are merged.
  np.testing.assert_allclose(fewer.volume, whole.volume, rtol=0.03 if faces > 100 else 0.4)


def test_report_counts_holes():
  mesh = extract(ball(), resolution=24, threshold=20.0)
  assert str(mesh.metadata['report']).endswith('faces, 1 part, watertight')
  centres = mesh.vertices[mesh.faces].mean(axis=1)
  open_faces = mesh.faces[np.abs(centres[:, 0]) < 0.45]  # Without the two caps.
  report = cleanup.report(np.asarray(mesh.vertices), open_faces)
  assert report.holes == 2 and not report.watertight and 'not watertight, 2 holes' in str(report)
  reversed_face = mesh.faces.copy()
  reversed_face[0] = reversed_face[0, ::-1]
  assert not cleanup.report(np.asarray(mesh.vertices), reversed_face).watertight


@pytest.mark.parametrize('text', ['most', '-0.1', '2', 'nan'])
def test_unknown_keep_raises(text):
  with pytest.raises(ValueError, match="use 'largest', 'all' or a share|must be 'largest'"):
    cleanup.parse_keep(text)
  assert cleanup.parse_keep('0.5') == 0.5 and cleanup.parse_keep('all') == 'all'


def test_block_size_does_not_change_the_mesh(monkeypatch):
  whole = extract(ball(), resolution=24, threshold=20.0)
  monkeypatch.setattr(colors_lib, '_POINTS_PER_CALL', 1000)
  calls = []

  def counted(points):
    calls.append(len(points))
    return ball()(points)

  pieces = extract(counted, resolution=24, threshold=20.0)
  np.testing.assert_array_equal(whole.vertices, pieces.vertices)
  np.testing.assert_array_equal(whole.faces, pieces.faces)
  assert set(calls) == {1000} and len(calls) > 24**3 / 1000


def test_no_surface_raises_with_the_highest_density():
  with pytest.raises(ValueError, match='no surface: the greatest density found is 80, threshold=200; lower'):
    extract(ball(0.6), resolution=9, threshold=200.0)
  with pytest.raises(ValueError, match='no surface'):
    extract(lambda points: (np.zeros(len(points)), points), resolution=8, threshold=1.0)


@pytest.mark.parametrize(
  'kwargs',
  [
    dict(resolution=4, threshold=1.0),
    dict(resolution=16, threshold=0.0),
    dict(resolution=16, faces=3),
    dict(resolution=16, keep=1.5),
  ],
)
def test_invalid_arguments_raise(kwargs):
  with pytest.raises(ValueError, match='must be'):
    extract(ball(), **kwargs)


def test_glb_is_y_up_with_its_front_at_plus_z(tmp_path):
  mesh = extract(boxes, resolution=41, threshold=25.0)
  glb.write(mesh, tmp_path / 'a.glb')
  loaded = load(tmp_path / 'a.glb')
  assert loaded.volume > 0 and len(loaded.faces) == len(mesh.faces)
  colors = colors_of(loaded)
  for channel, centre in enumerate(([0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5])):  # Red is right, green up, blue in front.
    part = loaded.vertices[colors[:, channel] > 0.8]
    np.testing.assert_allclose((part.min(0) + part.max(0)) / 2, centre, atol=0.03)
  turned = np.stack([mesh.vertex_normals[:, 0], mesh.vertex_normals[:, 2], -mesh.vertex_normals[:, 1]], axis=-1)
  assert np.sum(loaded.vertex_normals * turned, axis=-1).mean() > 0.95


def test_glb_stores_linear_colours(tmp_path):
  def grey(points):
    return (ball()(points)[0], np.full((len(points), 3), 0.5))

  glb.write(extract(grey, resolution=16, threshold=20.0), tmp_path / 'a.glb')
  # sRGB 0.5 is linear 0.214.
  np.testing.assert_allclose(colors_of(load(tmp_path / 'a.glb')), 0.214, atol=0.005)


def test_mesh_projects_onto_its_outline():
  mesh = extract(boxes, resolution=41, threshold=25.0)
  red = mesh.vertices[mesh.visual.vertex_colors[:, 0] > 200]
  pixels, distance = cameras.project(red, cameras.input_camera(), cameras.intrinsics_from_fov(50))
  assert np.all(distance > 1) and pixels[:, 0].min() > 0.6  # +x is right in the input view.
  green = mesh.vertices[mesh.visual.vertex_colors[:, 1] > 200]
  assert cameras.project(green, cameras.input_camera(), cameras.intrinsics_from_fov(50))[0][:, 1].max() < 0.4
