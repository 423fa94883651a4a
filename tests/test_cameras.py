"""Cameras: normalisation, crops and mirroring are consistent with projection."""

import numpy as np
import pytest

from lrm_jax.geometry import cameras


@pytest.fixture
def views(rng):
  positions = rng.normal(size=(5, 3))
  return cameras.look_at(2.3 * positions / np.linalg.norm(positions, axis=-1, keepdims=True))


INTRINSICS = np.array([0.9, 1.1, 0.45, 0.52])


def test_look_at_projects_its_target_to_the_centre_and_up_to_the_top(views):
  pixels, distance = cameras.project(np.array([[0.0, 0, 0], [0, 0, 0.1]]), views, cameras.intrinsics_from_fov(50))
  np.testing.assert_allclose(pixels[:, 0], 0.5, atol=1e-9)
  np.testing.assert_allclose(distance[:, 0], 2.3)
  assert np.all(pixels[:, 1, 1] < 0.5)  # Rows count downwards.
  np.testing.assert_allclose(pixels[:, 1, 0], 0.5, atol=1e-9)


def test_look_at_raises_if_view_is_parallel_to_up():
  with pytest.raises(ValueError, match='move it'):
    cameras.look_at([0.0, 0.0, 3.0])


def test_normalisation_applies_one_similarity_to_the_scene(views, rng):
  points = rng.uniform(-0.5, 0.5, (20, 3))
  moved, similarity = cameras.normalise_to_input_view(views, input_view=3)
  np.testing.assert_allclose(moved[3], cameras.input_camera(), atol=1e-9)
  before, _ = cameras.project(points, views, INTRINSICS)
  after, _ = cameras.project(points @ similarity[:3, :3].T, moved, INTRINSICS)
  np.testing.assert_allclose(after, before, atol=1e-9)
  np.testing.assert_allclose(
    moved[:, :3, :3] @ moved[:, :3, :3].swapaxes(-1, -2), np.broadcast_to(np.eye(3), (5, 3, 3)), atol=1e-9
  )


def test_window_intrinsics_project_like_the_cropped_image(views, rng):
  points = rng.uniform(-0.5, 0.5, (20, 3))
  size, left, top, window = 48, 7, 11, 32
  whole, _ = cameras.project(points, views, INTRINSICS)
  cut, _ = cameras.project(points, views, cameras.window_intrinsics(INTRINSICS, size, left, top, window))
  np.testing.assert_allclose(cut * window + [left, top], whole * size, atol=1e-9)


def test_mirrored_cameras_project_mirrored_points_to_flipped_images(views, rng):
  points = rng.uniform(-0.5, 0.5, (20, 3))
  before, _ = cameras.project(points, views, INTRINSICS)
  flipped = INTRINSICS * [1, 1, -1, 1] + [0, 0, 1, 0]
  after, _ = cameras.project(points * [-1, 1, 1], cameras.mirror(views), flipped)
  np.testing.assert_allclose(after, before * [-1, 1] + [1, 0], atol=1e-9)
  assert np.all(np.linalg.det(cameras.mirror(views)[:, :3, :3]) > 0.99)


def test_orbit_starts_at_the_input_view_and_moves_towards_positive_x():
  poses = cameras.orbit(4)
  np.testing.assert_allclose(poses[0], cameras.input_camera(), atol=1e-9)
  np.testing.assert_allclose(poses[1][:3, 3], [2, 0, 0], atol=1e-9)
