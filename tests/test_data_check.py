"""data_check detects mistakes in cameras and images, names them, and draws a contact sheet."""

import io
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from conftest import ball, encode_png
from lrm_jax import data_check
from lrm_jax.datasets import contact_sheet, inspection
from lrm_jax.datasets.records import open_split
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, images
from view_folders import write_openlrm

EMBEDDED = 'data/embedded/object_views/1.0.0'
FLIP = np.diag([1.0, -1, -1, 1]).astype(np.float32)
Y_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float32)


@pytest.fixture(scope='module')
def records():
  source = open_split(EMBEDDED, 'test')
  return [source[i] for i in range(0, 36, 7)]


def with_poses(change):
  return lambda record: record | {'camera_to_world': change(record['camera_to_world'])}


def opaque(record):
  solid = []
  for view in record['views']:
    pixels = images.to_bytes(images.over(images.decode(view), 1.0))
    solid.append(encode_png(np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)))
  return record | {'views': solid}


def cropped(record):
  views = [encode_png(images.to_bytes(images.decode(view))[40:90, 40:90]) for view in record['views']]
  return record | {'views': views}


# A change to a record, the kind of problem that it causes, and a pattern of its description.
MISTAKES = {
  'OpenCV axes': (with_poses(lambda x: x @ FLIP), 'silhouettes', 'OpenCV axes .*flip the second and third column'),
  'inverted': (with_poses(np.linalg.inv), 'silhouettes', 'world-to-camera matrices: invert'),
  'inverted, OpenCV': (
    with_poses(lambda x: np.linalg.inv(x @ FLIP)),
    'silhouettes',
    'with OpenCV axes: invert them, then',
  ),
  'y up': (with_poses(lambda x: Y_UP @ x), 'up', 'the world must have z up'),
  'shifted': (
    with_poses(lambda x: x + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4], np.float32)),
    'aim',
    'miss the origin by',
  ),
  'pixels': (lambda r: r | {'intrinsics': r['intrinsics'] * 128}, 'focal length', 'must be divided by the image size'),
  'opaque': (opaque, 'opaque', '14 of 14 views .* have no transparency'),
  'cropped': (cropped, 'cut off', 'the object reaches the border'),
  'empty': (lambda r: r | {'views': [encode_png(np.zeros((64, 64, 4), np.uint8))] * 14}, 'empty', 'fully transparent'),
  'one place': (with_poses(lambda x: np.tile(x[:1], (14, 1, 1))), 'one place', 'all cameras have the same position'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_detected(records, mistake):
  change, kind, pattern = MISTAKES[mistake]
  found = [inspection.inspect(change(record)).problems.get(kind, '') for record in records]
  assert sum(bool(re.search(pattern, text)) for text in found) >= len(found) - 1, found


def test_a_missing_split_is_reported_with_the_options_that_help():
  with pytest.raises(
    InputError, match="no split 'dev'; it has test, train, validation: choose one with --split .*--test_share"
  ):
    open_split(EMBEDDED, 'dev')


def test_correct_records_have_no_problems(records):
  for record in records:
    findings = inspection.inspect(record)
    assert not findings.problems and findings.agreement > 0.8
    np.testing.assert_allclose(findings.fovs, 50, atol=1e-3)
    np.testing.assert_allclose(findings.aims, 0, atol=0.1)
    assert findings.sizes == (128,) and findings.formats == ('WEBP',) and findings.normalised[0] == pytest.approx(2)


@pytest.mark.slow
def test_shuffled_views_lower_the_median_agreement(tmp_path, truth):
  source = open_split(EMBEDDED, 'test')
  rng = np.random.default_rng(0)
  shuffled = with_poses(lambda x: x[rng.permutation(14)])
  agreement = [inspection.inspect(shuffled(source[i])).agreement for i in range(0, 36, 4)]
  assert np.median(agreement) < data_check._AGREE
  assert np.median([inspection.inspect(source[i]).agreement for i in range(0, 36, 4)]) > 0.97


def test_visual_hull_of_a_ball_is_a_ball(truth):
  poses, intrinsics = truth
  silhouettes = np.stack([ball(pose, intrinsics, 64, 0.5)[..., 3] > 0 for pose in poses])
  points = np.random.default_rng(0).uniform(-1, 1, (20000, 3))
  kept = inspection.visual_hull(poses, np.tile(intrinsics, (len(poses), 1)), silhouettes, points)
  distance = np.linalg.norm(points, axis=-1)
  assert kept[distance < 0.49].all() and kept[distance > 0.8].mean() < 0.02


def test_contact_sheet_draws_the_axes_over_the_views(records):
  sheet = contact_sheet.draw(records[:2], size=64, num_views=4)
  assert sheet.size == (4 * 64, 2 * (64 + 14))
  first = np.asarray(sheet)[14:78, :64].astype(int)
  red, green, blue = (first[..., i] - np.delete(first, i, axis=-1).max(axis=-1) for i in range(3))
  # In the input view, x points to the right from the centre, and z up.
  assert np.mean(red[31:34, 45:60] > 60) > 0.5 and np.mean(blue[5:20, 31:34] > 60) > 0.3
  assert green.max() < 200


def run(*args):
  return subprocess.run(
    [sys.executable, '-m', 'lrm_jax.data_check', *map(str, args)], capture_output=True, text=True, check=False
  )


def test_command_prints_statistics_and_exits_with_0(tmp_path):
  result = run('embedded', '--objects=5', '--sheet', tmp_path / 'sheet.png')
  assert result.returncode == 0, result.stdout + result.stderr
  for text in (
    '390 train, 36 test, 35 validation',
    '5 of 390 checked',
    '14 per object, 128 px, WEBP',
    'field of view 50.0 degrees',
    'no problems found',
  ):
    assert text in result.stdout
  with Image.open(tmp_path / 'sheet.png') as sheet:
    assert sheet.size == (8 * 128, 5 * (128 + 14))


def test_command_lists_the_problems_and_exits_with_1(truth, tmp_path):
  folder = write_openlrm(tmp_path / 'in', truth, size=64)
  for path in (folder / 'pose').glob('*.npy'):
    np.save(path, (np.concatenate([np.load(path), [[0, 0, 0, 1]]]) @ FLIP)[:3])
  (tmp_path / 'in/other/pose').mkdir(parents=True)
  np.save(tmp_path / 'in/other/intrinsics.npy', np.zeros(3))
  result = run(tmp_path / 'in', '--sheet', tmp_path / 'sheet.png')
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  assert 'OpenLRM' in result.stdout and '2 of 2 checked, 1 broken' in result.stdout
  assert 'broken: other: ' in result.stdout and 'silhouettes: 1 of 1 objects; the first is ball: ' in result.stdout
  assert 'flip the second and third column' in result.stdout


@pytest.mark.parametrize(
  'args, message',
  [
    (('nowhere',), 'nowhere is not a directory'),
    ((EMBEDDED, '--split=dev'), "no split 'dev'"),
    ((EMBEDDED, '--objects=-1'), 'must not be negative'),
  ],
)
def test_bad_input_is_reported_in_one_line(args, message):
  result = run(*args)
  assert result.returncode == 2 and message in result.stderr and 'Traceback' not in result.stderr


def with_view(record, index, change):
  """Returns the record with one view changed by a function of its RGBA bytes, straight alpha."""
  views = list(record['views'])
  with Image.open(io.BytesIO(views[index])) as image:
    views[index] = encode_png(change(np.array(image.convert('RGBA'))))
  return record | {'views': views}


def copied_image(record):
  return record | {'views': [*record['views'][:5], record['views'][8], *record['views'][6:]]}


def copied_lossy_image(record):
  stream = io.BytesIO()
  with Image.open(io.BytesIO(record['views'][8])) as image:
    image.save(stream, 'WEBP', quality=95, alpha_quality=100)
  return record | {'views': [*record['views'][:5], stream.getvalue(), *record['views'][6:]]}


def copied_mask(record):
  with Image.open(io.BytesIO(record['views'][8])) as image:
    alpha = np.array(image.convert('RGBA'))[..., 3]

  def change(rgba):
    noise = np.random.default_rng(0).integers(0, 255, (*rgba.shape[:2], 3), np.uint8)
    return np.dstack([np.where(rgba[..., 3:] > 0, rgba[..., :3], noise), alpha])

  return with_view(record, 5, change)


def one_color(rgba):
  return np.dstack([np.full(rgba.shape[:2] + (3,), 127, np.uint8), rgba[..., 3]])


def all_one_color(record):
  for index in range(len(record['views'])):
    record = with_view(record, index, one_color)
  return record


def half_cut(rgba):
  rgba = rgba.copy()
  rows = np.flatnonzero(rgba[..., 3].any(1))
  rgba[: rows.mean().astype(int)] = 0
  return rgba


def sideways(rgba):
  return np.rot90(rgba).copy()


def darker(rgba):
  return np.dstack([(0.6 * rgba[..., :3]).astype(np.uint8), rgba[..., 3]])


def bgr(rgba):
  return rgba[..., [2, 1, 0, 3]]


ODD = {
  'the same image twice': (copied_image, 'same image', 'views 5 and 8 have the same image but different cameras'),
  'a lossy copy of an image': (copied_lossy_image, 'same image', 'views 5 and 8 have the same image'),
  'the mask of another view': (copied_mask, 'same mask', 'views 5 and 8 have the same mask but different cameras'),
  'a view of one colour': (lambda r: with_view(r, 3, one_color), 'one colour', '1 of 14 views .the first is 3. show'),
  'all views of one colour': (all_one_color, 'one colour', 'all views show the object in one colour'),
  'half of the object cut off': (lambda r: with_view(r, 4, half_cut), 'odd view', 'view 4 of 14 do not fit the others'),
  'a darker view': (
    lambda r: with_view(r, 4, darker),
    'other colours',
    'other colours .*: 4 .red -.*, green -.*, blue -',
  ),
  'a view that lies on its side': (lambda r: with_view(r, 6, sideways), 'odd view', 'view 6 of 14 do not fit'),
}


@pytest.mark.parametrize('kind', ODD)
def test_single_views_that_do_not_fit_are_named(kind, records):
  change, problem, pattern = ODD[kind]
  record = records[1]
  assert not inspection.inspect(record).problems
  assert re.search(pattern, inspection.inspect(change(record)).problems.get(problem, ''))


def test_view_with_swapped_channels_is_named():
  record = open_split(EMBEDDED, 'train')[0]  # A blue car.
  found = inspection.inspect(with_view(record, 4, bgr)).problems
  assert list(found) == ['other colours']
  assert re.search(r': 4 .red .[0-9]+, green .[0-9], blue -[0-9]+.;', found['other colours'])


def test_masks_swapped_between_two_cameras_are_named(records):
  found = []
  for record in records:
    views = list(record['views'])
    views[5], views[8] = views[8], views[5]
    found.append(inspection.inspect(record | {'views': views}).problems.get('odd view', ''))
  assert sum(text.startswith('views 5, 8 of 14') for text in found) >= len(found) // 2, found


def test_equal_views_of_a_symmetric_object_are_no_problem():
  """A ball without a texture looks the same from all sides, so equal views are no copies."""
  poses, intrinsics = cameras.orbit(8), cameras.intrinsics_from_fov(50)
  views = [ball(pose, intrinsics, 64, 0.5) for pose in poses]
  for view in views:
    view[..., :3] = np.mgrid[:64, :64][0][..., None] * 3
  record = {
    'uid': 'ball',
    'views': [encode_png(view) for view in views],
    'camera_to_world': poses,
    'intrinsics': np.tile(intrinsics, (8, 1)),
  }
  assert not inspection.inspect(record).problems
