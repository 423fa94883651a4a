"""The check of data finds what is wrong with cameras and pictures, says what it is, and draws what it saw."""

import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from conftest import encode_png
from lrm_jax import data_check
from lrm_jax.datasets import contact_sheet, inspection
from lrm_jax.datasets.records import open_split
from lrm_jax.geometry import images
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


WRONG = {
  'OpenCV axes': (with_poses(lambda x: x @ FLIP), 'outlines', 'OpenCV axes .*flip the second and third column'),
  'inverted': (with_poses(np.linalg.inv), 'outlines', 'world-to-camera matrices: invert'),
  'inverted, OpenCV': (
    with_poses(lambda x: np.linalg.inv(x @ FLIP)),
    'outlines',
    'with OpenCV axes: invert them, then',
  ),
  'y up': (with_poses(lambda x: Y_UP @ x), 'up', 'the world must have z up'),
  'shifted': (
    with_poses(lambda x: x + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4], np.float32)),
    'aim',
    'degrees past the origin',
  ),
  'pixels': (lambda r: r | {'intrinsics': r['intrinsics'] * 128}, 'focal length', 'must be divided by the size'),
  'opaque': (opaque, 'opaque', '14 of 14 views .* have no transparency'),
  'cropped': (cropped, 'cut off', 'the object reaches the border'),
  'empty': (lambda r: r | {'views': [encode_png(np.zeros((64, 64, 4), np.uint8))] * 14}, 'empty', 'show nothing'),
  'one place': (with_poses(lambda x: np.tile(x[:1], (14, 1, 1))), 'one place', 'all cameras stand in one place'),
}


@pytest.mark.parametrize('kind', WRONG)
def test_what_is_wrong_is_found(records, kind):
  import re

  spoil, name, words = WRONG[kind]
  found = [inspection.inspect(spoil(record)).problems.get(name, '') for record in records]
  assert sum(bool(re.search(words, text)) for text in found) >= len(found) - 1, found


def test_what_is_right_has_no_problems(records):
  for record in records:
    findings = inspection.inspect(record)
    assert not findings.problems and findings.agreement > 0.8
    np.testing.assert_allclose(findings.fovs, 50, atol=1e-3)
    np.testing.assert_allclose(findings.aims, 0, atol=0.1)
    assert findings.sizes == (128,) and findings.formats == ('WEBP',) and findings.normalised[0] == pytest.approx(2)


def test_views_in_the_wrong_order_are_found_in_the_whole(tmp_path, truth):
  source = open_split(EMBEDDED, 'test')
  rng = np.random.default_rng(0)
  shuffled = with_poses(lambda x: x[rng.permutation(14)])
  agreement = [inspection.inspect(shuffled(source[i])).agreement for i in range(0, 36, 4)]
  assert np.median(agreement) < data_check._AGREE  # pylint: disable=protected-access
  assert np.median([inspection.inspect(source[i]).agreement for i in range(0, 36, 4)]) > 0.97


def test_the_hull_of_a_ball_is_a_ball(truth):
  from conftest import ball

  poses, intrinsics = truth
  outlines = np.stack([ball(pose, intrinsics, 64, 0.5)[..., 3] > 0 for pose in poses])
  points = np.random.default_rng(0).uniform(-1, 1, (20000, 3))
  kept = inspection.visual_hull(poses, np.tile(intrinsics, (len(poses), 1)), outlines, points)
  distance = np.linalg.norm(points, axis=-1)
  assert kept[distance < 0.49].all() and kept[distance > 0.8].mean() < 0.02


def test_the_sheet_shows_views_with_the_axes_over_them(records):
  sheet = contact_sheet.draw(records[:2], size=64, num_views=4)
  assert sheet.size == (4 * 64, 2 * (64 + 14))
  first = np.asarray(sheet)[14:78, :64].astype(int)
  red, green, blue = (first[..., i] - np.delete(first, i, axis=-1).max(axis=-1) for i in range(3))
  # In the input view x runs to the right from the middle, z upwards.
  assert np.mean(red[31:34, 45:60] > 60) > 0.5 and np.mean(blue[5:20, 31:34] > 60) > 0.3
  assert green.max() < 200


def run(*args):
  return subprocess.run(
    [sys.executable, '-m', 'lrm_jax.data_check', *map(str, args)], capture_output=True, text=True, check=False
  )


def test_the_command_says_what_is_there_and_exits_with_0(tmp_path):
  result = run(EMBEDDED, '--objects=5', '--sheet', tmp_path / 'sheet.png')
  assert result.returncode == 0, result.stdout + result.stderr
  for words in (
    '425 train, 36 test',
    '5 of 425 looked at',
    '14 .. 14 an object, 128 px, WEBP',
    'field of view 50.0 .. 50.0',
    'nothing wrong was found',
  ):
    assert words in result.stdout
  with Image.open(tmp_path / 'sheet.png') as sheet:
    assert sheet.size == (8 * 128, 5 * (128 + 14))


def test_the_command_lists_what_is_wrong_and_exits_with_1(truth, tmp_path):
  folder = write_openlrm(tmp_path / 'in', truth, size=64)
  for path in (folder / 'pose').glob('*.npy'):
    np.save(path, (np.concatenate([np.load(path), [[0, 0, 0, 1]]]) @ FLIP)[:3])
  (tmp_path / 'in/other/pose').mkdir(parents=True)
  np.save(tmp_path / 'in/other/intrinsics.npy', np.zeros(3))
  result = run(tmp_path / 'in', '--sheet', tmp_path / 'sheet.png')
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  assert 'OpenLRM' in result.stdout and '2 of 2 looked at, 1 broken' in result.stdout
  assert 'broken: other: ' in result.stdout and 'outlines: 1 of 1 objects, the first is ball: ' in result.stdout
  assert 'flip the second and third column' in result.stdout


@pytest.mark.parametrize(
  'args, words',
  [
    (('nowhere',), 'nowhere is no directory'),
    ((EMBEDDED, '--split=dev'), "no split 'dev'"),
    ((EMBEDDED, '--objects=-1'), 'must be 0 or more'),
  ],
)
def test_bad_input_is_one_line(args, words):
  result = run(*args)
  assert result.returncode == 2 and words in result.stderr and 'Traceback' not in result.stderr
