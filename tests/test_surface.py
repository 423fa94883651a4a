"""Coarse-to-fine extraction gives exactly the dense surface, and it is closed for any slab size."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
import trimesh

import lrm_jax
from lrm_jax.datasets.records import open_split
from lrm_jax.geometry import images
from lrm_jax.reconstruction import mesh as mesh_lib
from lrm_jax.reconstruction import surface

EMBEDDED = 'data/embedded/object_views/1.0.0'


def wavy(points):
  """A wavy ball, cut by a sheet of thickness 0.02 that extends almost to the faces of the cube."""
  x, y, z = np.moveaxis(points, -1, 0)
  ball = 0.62 - np.linalg.norm(points, axis=-1) + 0.03 * np.sin(9 * x) * np.sin(9 * y) * np.sin(9 * z)
  sheet = np.where(np.maximum(np.abs(x), np.abs(y)) < 0.95, 0.01 - np.abs(z - 0.1), -1)
  return np.maximum(20 + 100 * np.maximum(ball, sheet), 0).astype(np.float32), points


def corner(points):
  """A ball that extends beyond three faces of the cube."""
  distance = np.linalg.norm(points - np.float32([0.9, 0.95, -0.9]), axis=-1)
  return np.maximum(20 + 100 * (0.7 - distance), 0).astype(np.float32), points


def extract(query, size, **kwargs):
  return surface.extract(mesh_lib.field_of(query).grid, np.linspace(-1, 1, size, dtype=np.float32), 20.0, **kwargs)


def as_set(vertices, triangles):
  return sorted(map(bytes, vertices[triangles]))


@pytest.mark.parametrize('size', [9, 33, 64, 101, 128])
@pytest.mark.parametrize('query', [wavy, corner])
@pytest.mark.parametrize('slab', [2**26, 2**13])
def test_coarse_to_fine_equals_dense(query, size, slab, monkeypatch):
  expected = extract(query, size, dense=True)
  assert as_set(*extract(query, size)) == as_set(*expected)
  monkeypatch.setattr(surface, '_SLAB', slab)
  for dense in (False, True):
    found = extract(query, size, dense=dense)
    # Vertices are rounded in the frame of their slab, so they are equal only up to rounding.
    assert len(found[0]) == len(expected[0]) and len(found[1]) == len(expected[1])
    middles = [vertices[triangles].mean(axis=1) for vertices, triangles in (found, expected)]
    assert cKDTree(middles[0]).query(middles[1])[0].max() < 1e-6
    mesh = trimesh.Trimesh(*found, process=False)
    assert mesh.is_watertight and mesh.volume > 0.1


def test_several_levels_equal_dense(monkeypatch):
  """From a smallest grid of 9 points, 128 are reached through 33; the sheet is found by following it from the ball."""
  expected = extract(wavy, 128, dense=True)
  monkeypatch.setattr(surface, '_SMALL', 10)
  assert as_set(*extract(wavy, 128)) == as_set(*expected)


def test_coarse_to_fine_evaluates_a_small_part_of_the_grid():
  field, count = mesh_lib.field_of(wavy), 0

  def grid(coordinates):
    evaluate = field.grid(coordinates)

    def counted(places, face):
      nonlocal count
      count += len(places) * surface.BLOCK ** (3 if face is None else 2)
      return evaluate(places, face)

    return counted

  surface.extract(grid, np.linspace(-1, 1, 200, dtype=np.float32), 20.0)
  assert count < 0.15 * 200**3


@pytest.mark.parametrize('radius, found', [(0.035, True), (0.004, False)])
def test_separate_part_with_a_point_of_the_small_grid_is_found(radius, found):
  """The documented bound: a ball as large as the diagonal of the small grid's cells (here of side 2 / 63 * 4 / 3)."""
  centre = np.float32([0.71, 0.71, 0.71])

  def query(points):
    parts = [0.5 - np.linalg.norm(points, axis=-1), radius - np.linalg.norm(points - centre, axis=-1)]
    return np.maximum(20 + 100 * np.maximum.reduce(parts), 0).astype(np.float32), points

  vertices, _ = extract(query, 256)
  assert (vertices.max() > 0.6) == found


def test_empty_field_gives_an_empty_surface():
  vertices, triangles = extract(lambda points: (np.zeros(len(points), np.float32), points), 32)
  assert vertices.shape == (0, 3) and triangles.shape == (0, 3)


def test_object_that_the_small_grid_misses_is_found_by_the_dense_grid():
  place = np.linspace(-1, 1, 128, dtype=np.float32)[65]  # The small grid has points 63 and 67.

  def ball(points):
    return (np.maximum(20 + 1000 * (0.012 - np.linalg.norm(points - place, axis=-1)), 0).astype(np.float32), points)

  assert as_set(*extract(ball, 128)) == as_set(*extract(ball, 128, dense=True)) != []


@pytest.fixture(scope='module')
def model():
  return lrm_jax.from_pretrained('quickstart')


@pytest.fixture(scope='module')
def planes(model):
  source = open_split(EMBEDDED, 'test')
  inputs = [images.resize(images.decode(source[i]['views'][0]), model.image_size) for i in (0, 5)]
  return model.encode(images.over(np.stack(inputs), 1.0))


def test_block_densities_of_a_model_equal_its_field(model, planes):
  field = model._field(planes[0])
  axis = np.linspace(-1, 1, 30, dtype=np.float32)
  points = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1)
  expected, _ = model.query(planes[:1], points.reshape(1, -1, 3))
  density = surface.small_grid(field.grid, axis)
  np.testing.assert_allclose(density.reshape(-1), expected[0], rtol=1e-4, atol=1e-4 * expected.max())


@pytest.mark.slow
def test_meshes_of_a_model_equal_the_dense_ones(model, planes):
  for fine, dense in zip(model.mesh(planes, resolution=100), model.mesh(planes, resolution=100, dense=True)):
    assert as_set(np.asarray(fine.vertices), fine.faces) == as_set(np.asarray(dense.vertices), dense.faces)
    assert fine.is_watertight
