"""Folders of views: every layout returns the cameras that were written, and errors name the file and the reason."""

import json

import numpy as np
from PIL import Image
import pytest

from conftest import ball
from lrm_jax.datasets import folders, inspection
from lrm_jax.datasets.folders import colmap, video
from lrm_jax.datasets.folders.images import Options
from lrm_jax.datasets.records import BrokenRecordError
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, images
from view_folders import NUM_VIEWS, write_nerf, write_openlrm, write_video


def relative(poses):
  """Returns the poses relative to the first camera, scaled so that the second is at distance 1.

  They are invariant to a similarity transform of the world.
  """
  moved = np.linalg.inv(poses[0]) @ poses
  moved = moved / np.array(np.cbrt(np.linalg.det(moved[:, :3, :3])))[:, None, None]
  moved[:, :3, 3] /= np.linalg.norm(moved[1, :3, 3])
  return moved[:, :3]


def read_only(root, **options):
  layout, found = folders.find(root)
  ((uid, folder),) = found.items()
  return layout, folders.read(layout, uid, folder, Options(**options))


def test_openlrm_returns_the_written_cameras(truth, tmp_path):
  write_openlrm(tmp_path, truth)
  layout, record = read_only(tmp_path)
  assert layout == 'openlrm' and record['uid'] == 'ball'
  np.testing.assert_allclose(record['camera_to_world'], truth[0], atol=1e-12)
  np.testing.assert_allclose(record['intrinsics'], [truth[1]] * NUM_VIEWS, atol=1e-12)
  assert record['views'][2] == (tmp_path / 'ball/rgba/002.png').read_bytes()
  assert not inspection.inspect(record).problems


@pytest.mark.parametrize('per_frame', [False, True])
def test_nerf_returns_the_written_cameras_of_all_splits(truth, tmp_path, per_frame):
  write_nerf(tmp_path, truth, per_frame=per_frame)
  layout, record = read_only(tmp_path)
  assert layout == 'nerf' and record['uid'] == 'lego'
  np.testing.assert_allclose(record['camera_to_world'], truth[0], atol=1e-12)
  np.testing.assert_allclose(record['intrinsics'], [truth[1]] * NUM_VIEWS, atol=1e-12)
  assert not inspection.inspect(record).problems


SIMILARITY = np.eye(4)
SIMILARITY[:3, :3] = 3.7 * np.linalg.qr(np.random.default_rng(8).normal(size=(3, 3)))[0]
SIMILARITY[:3, :3] *= np.sign(np.linalg.det(SIMILARITY[:3, :3]))
SIMILARITY[:3, 3] = [4.0, -2.5, 7.0]


@pytest.mark.parametrize('binary', [False, True])
@pytest.mark.parametrize('model', ['PINHOLE', 'SIMPLE_PINHOLE', 'OPENCV'])
def test_video_returns_the_written_cameras_up_to_a_similarity(truth, tmp_path, binary, model):
  """The world is rotated, translated and scaled, as in COLMAP: up, centre and size are estimated."""
  write_video(tmp_path, truth, binary=binary, similarity=SIMILARITY, model=model, off_centre=0.04)
  layout, record = read_only(tmp_path, size=64)
  assert layout == 'video' and record['uid'] == '12__ab34'
  poses = record['camera_to_world']
  np.testing.assert_allclose(relative(poses), relative(truth[0]), atol=1e-4)
  # The world is upright: heights equal the true ones up to one factor. The rotation around z is arbitrary.
  factor = np.linalg.norm(poses[:, :3, 3], axis=-1) / np.linalg.norm(truth[0][:, :3, 3], axis=-1)
  np.testing.assert_allclose(factor, video.RADIUS / 0.5, rtol=0.04)
  np.testing.assert_allclose(poses[:, 2, :3], truth[0][:, 2, :3], atol=1e-4)
  findings = inspection.inspect(record)
  assert not findings.problems and findings.agreement > 0.97
  # Normalised to the input view with keep_distance, the cameras equal the true ones up to that factor.
  found, expected = (cameras.normalise_to_input_view(x, keep_distance=True)[0] for x in (poses, truth[0]))
  np.testing.assert_allclose(found[:, :3, :3], expected[:, :3, :3], atol=1e-4)
  np.testing.assert_allclose(np.linalg.norm(found[0, :3, 3]), np.linalg.norm(expected[0, :3, 3]) * factor[0], rtol=1e-6)


def test_cropped_views_of_a_video_match_their_cameras(truth, tmp_path):
  write_video(tmp_path, truth, binary=True, similarity=SIMILARITY)
  _, record = read_only(tmp_path, size=96, fill=0.6)
  # The centre of the ball in the new world: all cameras look at it.
  middle = video.nearest_point(record['camera_to_world'][:, :3, 3], -record['camera_to_world'][:, :3, 2])
  radius = 0.5 * np.linalg.norm(record['camera_to_world'][0, :3, 3] - middle) / np.linalg.norm(truth[0][0, :3, 3])
  for encoded, pose, intrinsics in zip(record['views'], record['camera_to_world'], record['intrinsics']):
    moved = pose.copy()
    moved[:3, 3] -= middle
    expected = ball(moved, intrinsics, 96, radius)[..., 3] > 127
    found = images.decode(encoded)[..., 3] > 0.5
    assert np.sum(expected & found) / np.sum(expected | found) > 0.95
    np.testing.assert_allclose(max(np.ptp(np.argwhere(found), axis=0) + 1) / 96, 0.6, atol=0.05)


def test_up_is_estimated_from_an_arc():
  arc = cameras.look_at([[2 * np.cos(a), 2 * np.sin(a), 0.8] for a in np.linspace(0, 0.6, 5)])
  turn = SIMILARITY[:3, :3] / 3.7
  turned = arc.copy()
  turned[:, :3, :3] = turn @ arc[:, :3, :3]
  np.testing.assert_allclose(video.upright(turned) @ turn @ [0, 0, 1], [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize('model, values', [('SIMPLE_RADIAL', (0.3,)), ('OPENCV', (0.25, -0.1, 0.01, -0.01))])
def test_lens_distortion_is_removed(truth, tmp_path, model, values):
  """Distorted masks match the cameras after they are undistorted, and match less if distortion is ignored."""
  import cv2

  width, height = 192, 144
  folder = write_video(tmp_path, truth, binary=False, width=width, height=height)
  focal, centre = 1.2 * width, np.array([width / 2, height / 2])
  matrix = np.array([[focal, 0, centre[0] - 0.5], [0, focal, centre[1] - 0.5], [0, 0, 1]])
  distortion = np.array(values if len(values) == 4 else (*values, 0, 0, 0))
  column, row = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
  straight = cv2.undistortPoints(np.stack([column, row], -1).reshape(-1, 1, 2), matrix, distortion, P=matrix)
  straight = straight.reshape(height, width, 2).astype(np.float32)
  for path in (folder / 'masks').iterdir():
    bent = cv2.remap(np.asarray(Image.open(path)), straight[..., 0], straight[..., 1], cv2.INTER_LINEAR)
    Image.fromarray(bent).save(path)
  numbers = {'SIMPLE_RADIAL': (focal, *centre, *values), 'OPENCV': (focal, focal, *centre, *values)}[model]
  agreement = {}
  for name, line in (
    ('undistorted', f'1 {model} {width} {height} ' + ' '.join(map(str, numbers))),
    ('distorted', f'1 SIMPLE_PINHOLE {width} {height} {focal} {centre[0]} {centre[1]}'),
  ):
    (folder / 'sparse/0/cameras.txt').write_text(line + '\n')
    _, record = read_only(tmp_path, size=96)
    middle = video.nearest_point(record['camera_to_world'][:, :3, 3], -record['camera_to_world'][:, :3, 2])
    radius = 0.5 * np.linalg.norm(record['camera_to_world'][0, :3, 3] - middle) / np.linalg.norm(truth[0][0, :3, 3])
    overlaps = []
    for encoded, pose, intrinsics in zip(record['views'], record['camera_to_world'], record['intrinsics']):
      moved = pose.copy()
      moved[:3, 3] -= middle
      expected, found = ball(moved, intrinsics, 96, radius)[..., 3] > 127, images.decode(encoded)[..., 3] > 0.5
      overlaps.append(np.sum(expected & found) / np.sum(expected | found))
    agreement[name] = np.mean(overlaps)
  assert agreement['undistorted'] > 0.97, agreement
  assert agreement['undistorted'] > agreement['distorted'] + 0.01, agreement


@pytest.mark.parametrize(
  'values, message',
  [
    ({'camera_model': 'OPENCV_FISHEYE', 'k1': 0.1}, 'the camera model OPENCV_FISHEYE is not supported.* Undistort'),
    ({'camera_model': 'EQUIRECTANGULAR'}, 'the camera model EQUIRECTANGULAR is not supported'),
    ({'k1': 0.1, 'k5': 0.1}, 'the camera model OPENCV with k5 is not supported'),
    ({'is_fisheye': True}, 'with is_fisheye is not supported'),
  ],
)
def test_unsupported_distortion_raises(truth, tmp_path, values, message):
  folder = write_nerf(tmp_path, truth)
  scene = json.loads((folder / 'transforms_train.json').read_text()) | values
  (folder / 'transforms_train.json').write_text(json.dumps(scene))
  with pytest.raises(BrokenRecordError, match=message):
    read_only(tmp_path)


def test_unsupported_camera_models_of_colmap_raise(truth, tmp_path):
  write_video(tmp_path, truth, binary=False, model='FOV')
  with pytest.raises(BrokenRecordError, match='the camera model FOV is not supported'):
    read_only(tmp_path)


def test_binary_and_text_models_are_equal(truth, tmp_path):
  text, binary = (
    colmap.read(write_video(tmp_path / str(b), truth, binary=b, similarity=SIMILARITY) / 'sparse/0')
    for b in (False, True)
  )
  for a, b in zip(text, binary):
    np.testing.assert_allclose(a.camera_to_world, b.camera_to_world, atol=1e-12)
    np.testing.assert_array_equal(a.focal, b.focal)
    assert (a.name, a.size) == (b.name, b.size)


def test_images_that_are_not_square_are_padded(truth, tmp_path):
  folder = write_openlrm(tmp_path, truth)
  size = 48
  focal, centre = truth[1][:2] * size, truth[1][2:] * size
  for view in range(NUM_VIEWS):
    with Image.open(folder / f'rgba/{view:03d}.png') as image:
      image.crop((0, 8, 48, 40)).save(folder / f'rgba/{view:03d}.png')
  np.save(folder / 'intrinsics.npy', np.array([focal, centre - [0, 8], [48, 32]]))
  _, record = read_only(tmp_path)
  np.testing.assert_allclose(record['intrinsics'], [truth[1]] * NUM_VIEWS, atol=1e-12)
  assert images.decode(record['views'][0]).shape == (48, 48, 4)
  assert not inspection.inspect(record).problems


def test_images_without_alpha_need_a_background_colour(truth, tmp_path):
  folder = write_openlrm(tmp_path, truth)
  expected = []
  for view in range(NUM_VIEWS):
    path = folder / f'rgba/{view:03d}.png'
    with Image.open(path) as image:
      expected.append(np.asarray(image)[..., 3] > 0)
      white = Image.new('RGB', image.size, 'white')
      white.paste(image, mask=image.getchannel('A'))
    white.save(path)
  with pytest.raises(BrokenRecordError, match='000.png has no alpha.*--background=white'):
    read_only(tmp_path)
  _, record = read_only(tmp_path, background='white')
  for encoded, silhouette in zip(record['views'], expected):
    assert np.mean((images.decode(encoded)[..., 3] > 0.5) == silhouette) > 0.99


def change_pose(folder, change):
  path = folder / 'pose/001.npy'
  np.save(path, change(np.load(path)))


# A change to an object of OpenLRM's layout, and the message that it causes.
DAMAGES = {
  'truncated image': (
    lambda f: (f / 'rgba/002.png').write_bytes((f / 'rgba/002.png').read_bytes()[:150]),
    '002.png is not an image, or is truncated',
  ),
  'not an image': (lambda f: (f / 'rgba/002.png').write_text('hello'), '002.png is not an image, or is truncated'),
  'pose of another shape': (lambda f: change_pose(f, lambda x: x[:, :3]), r'001.npy has the shape \[3, 3\]'),
  'NaN pose': (lambda f: change_pose(f, lambda x: x * np.nan), 'NaN or infinite values'),
  'singular matrix': (lambda f: change_pose(f, lambda x: x * 0), 'view 1 of ball is not a rotation'),
  'mirrored camera': (lambda f: change_pose(f, lambda x: x * [1, 1, -1, 1]), 'view 1 of ball is not a rotation'),
  'damaged array': (lambda f: (f / 'pose/001.npy').write_bytes(b'\x93NUMPY'), '001.npy cannot be read as an array'),
  'missing view': (lambda f: (f / 'rgba/003.png').unlink(), '003 is only in one of them'),
  'missing camera': (lambda f: (f / 'pose/003.npy').unlink(), '003 is only in one of them'),
  'image size of zero': (lambda f: np.save(f / 'intrinsics.npy', np.zeros((3, 2))), 'an image size of 0 x 0'),
  'focal length of zero': (lambda f: np.save(f / 'intrinsics.npy', [[0, 0], [24, 24], [48, 48]]), 'focal length of 0'),
}


@pytest.mark.parametrize('kind', DAMAGES)
def test_damage_is_named(kind, truth, tmp_path):
  damage, message = DAMAGES[kind]
  damage(write_openlrm(tmp_path, truth))
  with pytest.raises(BrokenRecordError, match=message):
    read_only(tmp_path)


@pytest.mark.parametrize('name', ['cameras.bin', 'images.bin'])
def test_damaged_colmap_model_is_named(name, truth, tmp_path):
  folder = write_video(tmp_path, truth, binary=True)
  path = folder / 'sparse/0' / name
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(BrokenRecordError, match='damaged COLMAP model'):
    read_only(tmp_path)


def test_empty_and_missing_masks_are_named(truth, tmp_path):
  folder = write_video(tmp_path, truth, binary=True)
  Image.new('L', (96, 72)).save(folder / 'masks/004.jpg.png')
  with pytest.raises(BrokenRecordError, match='the mask of 004.jpg is empty'):
    read_only(tmp_path)
  (folder / 'masks/004.jpg.png').unlink()
  with pytest.raises(
    BrokenRecordError, match='masks/ has no mask for 004.jpg: none of 004.jpg.png, 004.jpg, 004.png exists'
  ):
    read_only(tmp_path)


def test_missing_folders_and_unknown_layouts_raise(tmp_path):
  with pytest.raises(InputError, match='is not a directory'):
    folders.find(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='no dataset and no folders of views. Known layouts: .*OpenLRM.*COLMAP'):
    folders.find(tmp_path)
  with pytest.raises(ValueError, match="layout 'lego' is unknown: choose one of rendered, openlrm, nerf, video"):
    folders.find(tmp_path, 'lego')
