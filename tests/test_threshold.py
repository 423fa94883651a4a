"""The automatic threshold puts the surface where the rendered volume shows one."""

import numpy as np
import pytest

from lrm_jax.reconstruction.threshold import rendered_threshold

AXIS = np.linspace(-1, 1, 64)
RADIUS = np.linalg.norm(np.stack(np.meshgrid(AXIS, AXIS, AXIS, indexing='ij')), axis=0)


def extent(density, threshold):
  """The greatest distance from the centre at which the density is above the threshold."""
  return RADIUS[density > threshold].max()


@pytest.mark.parametrize('peak', [20.0, 200.0])
def test_surface_of_a_solid_ball_is_its_border(peak):
  density = peak * np.clip((0.6 - RADIUS) / 0.05, 0, 1)
  assert abs(extent(density, rendered_threshold(density)) - 0.6) < 0.06


def test_haze_around_a_ball_is_not_part_of_the_surface():
  # A ray along the border of the haze loses more than half of its light on its long way, so the outline alone would
  # include the haze. The ray to the centre loses a third of it before the ball.
  haze = np.where(RADIUS < 0.8, 1.2, 0)
  density = haze + np.where(RADIUS < 0.5, 60.0, 0)
  assert abs(extent(density, rendered_threshold(density)) - 0.5) < 0.03


def test_thin_sheet_that_rays_see_is_found():
  density = np.zeros((64, 64, 64))
  density[20:40, 20:40, 31] = 60.0
  assert 0 < rendered_threshold(density) < 60


def test_line_between_the_rays_that_are_compared_is_not_an_empty_volume():
  density = np.zeros((96, 96, 96))
  density[47, 47] = 60.0
  assert 0 < rendered_threshold(density) < 60


def test_mirrored_and_turned_volume_has_the_same_threshold():
  density = 50 * np.exp(-((RADIUS / 0.4) ** 4))
  assert rendered_threshold(density) == pytest.approx(
    rendered_threshold(np.transpose(density[::-1], (2, 0, 1))), rel=1e-6
  )


@pytest.mark.parametrize('value', [0.0, 0.1])
def test_invisible_volume_raises(value):
  with pytest.raises(ValueError, match='no surface: the volume is empty, no ray through it loses more than'):
    rendered_threshold(np.full((16, 16, 16), value))
