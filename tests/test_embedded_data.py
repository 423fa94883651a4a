"""The embedded dataset is complete, split by object, attributed, and its cameras match its images."""

import io
from pathlib import Path
import pickle

import numpy as np
from PIL import Image
import pytest
import trimesh

from lrm_jax.data.build import read_list
from lrm_jax.datasets.records import open_split, split_sizes
from lrm_jax.geometry import cameras

ROOT = Path(__file__).resolve().parents[1]
DATASET = ROOT / 'data/embedded/object_views/1.0.0'
SPLITS = ROOT / 'data/splits'
OBJECTS = sorted((ROOT / 'tests/objects').glob('*.glb'))
SPLIT_NAMES = ('train', 'validation', 'test')
RADIUS = 1.5 * np.sin(np.deg2rad(25))


@pytest.fixture(scope='module')
def records():
  """{split: {uid: record}} of the whole dataset."""
  return {split: {_uid(record): record for record in open_split(DATASET, split)} for split in SPLIT_NAMES}


def test_dataset_is_small_enough_to_be_committed():
  assert sum(path.stat().st_size for path in (ROOT / 'data/embedded').rglob('*')) < 24e6


def test_test_split_equals_the_list(records):
  held_out = read_list(SPLITS / 'embedded_test.txt')
  assert set(records['test']) == held_out
  assert not (set(records['train']) | set(records['validation'])) & held_out
  assert not set(_merged(records)) & read_list(SPLITS / 'embedded_excluded.txt')


def test_near_duplicates_are_in_the_same_split(records):
  groups = [line.split() for line in (SPLITS / 'embedded_twins.txt').read_text().splitlines() if line[:1] != '#']
  assert len(groups) > 40
  for group in groups:
    assert any(set(group) <= set(records[split]) for split in SPLIT_NAMES), group


def test_validation_split_is_taken_from_the_training_split(records):
  sizes = split_sizes(DATASET)
  assert sizes == {name: len(records[name]) for name in SPLIT_NAMES} and sizes['validation'] == 35
  assert not set(records['train']) & set(records['validation'])
  assert len({uid.split('__')[0] for uid in records['validation']}) >= 8  # Many sources.
  assert len(pickle.dumps(open_split(DATASET, 'train'))) < 1e5  # Data workers get a copy.


def test_wrong_lists_of_the_validation_split_raise(tmp_path):
  for path in DATASET.iterdir():
    (tmp_path / path.name).symlink_to(path)
  (tmp_path / 'validation.txt').unlink()
  (tmp_path / 'validation.txt').write_text('# A comment.\n0 another\n')
  with pytest.raises(ValueError, match='record 0 of the split train is not another'):
    open_split(tmp_path, 'validation')
  (tmp_path / 'validation.txt').write_text('aws__Bed_01\n')
  with pytest.raises(ValueError, match="'aws__Bed_01' must be an index and a uid"):
    open_split(tmp_path, 'train')
  with pytest.raises(ValueError, match='no slices'):
    open_split(DATASET, 'train[:10]')


def test_every_object_is_attributed(records):
  lines = (ROOT / 'data/embedded/ATTRIBUTION.tsv').read_text().splitlines()
  header, *rows = (line.split('\t') for line in lines)
  rows = {row[0]: dict(zip(header, row)) for row in rows}
  assert set(rows) == set(_merged(records))
  assert all(row['licence'] and row['attribution'] for row in rows.values())


def test_cameras_are_in_the_ranges_of_the_paper(records):
  for record in _all(records):
    poses = record['camera_to_world'].astype(np.float64)
    np.testing.assert_allclose(poses[0], cameras.input_camera(), atol=1e-6)
    np.testing.assert_allclose(poses, cameras.look_at(poses[:, :3, 3]), atol=1e-5)
    distance = np.linalg.norm(poses[1:, :3, 3], axis=-1)
    assert np.all((distance >= 1.5 - 1e-5) & (distance <= 3.0 + 1e-5))
    assert np.all((poses[1:, 2, 3] >= -0.75 - 1e-5) & (poses[1:, 2, 3] <= 1.60 + 1e-5))
    intrinsics = np.tile(cameras.intrinsics_from_fov(50), (len(poses), 1))
    np.testing.assert_allclose(record['intrinsics'], intrinsics, atol=1e-6)


def test_every_view_shows_the_whole_object(records):
  for record in list(_all(records))[::6]:
    for view, encoded in enumerate(record['views']):
      pixels = _pixels(encoded)
      assert pixels.shape == (128, 128, 4)
      alpha = pixels[..., 3]
      assert alpha.max() > 127, (_uid(record), view)
      # If the object fills the image, the pixel filter spreads it to the border pixels, but not with full opacity.
      assert np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]]).max() < 128, (_uid(record), view)


@pytest.mark.parametrize('path', OBJECTS, ids=lambda path: path.stem)
def test_vertices_project_onto_the_masks(records, path):
  record = _merged(records)[path.stem]
  vertices = trimesh.load(path, force='mesh', process=False).vertices
  points = vertices @ record['object_to_world'][:3, :3].T + record['object_to_world'][:3, 3]
  np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-4)
  np.testing.assert_allclose(np.linalg.norm(points, axis=-1).max(), RADIUS, rtol=1e-4)
  pixels, distance = cameras.project(points, record['camera_to_world'], record['intrinsics'])
  assert np.all(distance > 0)
  for view, encoded in enumerate(record['views']):
    assert_on_mask(pixels[view], _pixels(encoded)[..., 3])


def test_wrong_cameras_fail_the_projection_test(records):
  # Control for the test above: the poses of the neighbouring views, and mirrored poses.
  path = next(path for path in OBJECTS if 'deckChair' in path.stem)
  record = records['train'][path.stem]
  vertices = trimesh.load(path, force='mesh', process=False).vertices
  points = vertices @ record['object_to_world'][:3, :3].T + record['object_to_world'][:3, 3]
  for wrong in (np.roll(record['camera_to_world'], 1, axis=0), cameras.mirror(record['camera_to_world'])):
    pixels, _ = cameras.project(points, wrong, record['intrinsics'])
    for view in (3, 7):
      with pytest.raises(AssertionError):
        assert_on_mask(pixels[view], _pixels(record['views'][view])[..., 3])


def assert_on_mask(pixels: np.ndarray, alpha: np.ndarray) -> None:
  """Asserts that points [P, 2], projected by `cameras.project`, are on a mask [H, W], and that their extents agree.

  Points may be one pixel outside of the mask. The edges of the mask (alpha above 8) may be 1.5 pixels from the
  outermost points, which is the width of the renderer's filter. The outermost points of a mesh are vertices in every
  view.
  """
  size = len(alpha)
  column, row = np.moveaxis(np.floor(pixels * size).astype(int), -1, 0)
  assert np.all((column >= 0) & (column < size) & (row >= 0) & (row < size))
  padded = np.pad(alpha > 0, 1)
  near = np.any([padded[i : i + size, j : j + size] for i in range(3) for j in range(3)], axis=0)
  assert near[row, column].mean() > 0.995
  rows, columns = np.nonzero(alpha > 8)
  low, high = (pixels * size).min(0), (pixels * size).max(0)
  np.testing.assert_allclose(low, [columns.min(), rows.min()], atol=1.5)
  np.testing.assert_allclose(high, [columns.max() + 1, rows.max() + 1], atol=1.5)


def _merged(records):
  return {uid: record for split in records.values() for uid, record in split.items()}


def _all(records):
  return (record for split in records.values() for record in split.values())


def _uid(record) -> str:
  return record['uid'].decode() if isinstance(record['uid'], bytes) else record['uid']


def _pixels(encoded: bytes) -> np.ndarray:
  with Image.open(io.BytesIO(encoded)) as image:
    return np.asarray(image.convert('RGBA'))
