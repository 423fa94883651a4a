"""Folders of views give back the cameras that they were made with, whatever their layout, and name what is wrong."""

import json

import numpy as np
from PIL import Image
import pytest

from conftest import ball
from lrm_jax.datasets import folders, inspection
from lrm_jax.datasets.folders import colmap, video
from lrm_jax.datasets.folders.pictures import Options
from lrm_jax.datasets.records import BrokenRecordError
from lrm_jax.geometry import cameras, images
from view_folders import NUM_VIEWS, write_nerf, write_openlrm, write_video


def relative(poses):
  """Returns the poses as the first camera sees them, the second at a distance of 1: what no similarity changes."""
  moved = np.linalg.inv(poses[0]) @ poses
  moved = moved / np.array(np.cbrt(np.linalg.det(moved[:, :3, :3])))[:, None, None]
  moved[:, :3, 3] /= np.linalg.norm(moved[1, :3, 3])
  return moved[:, :3]


def read_only(root, **options):
  layout, found = folders.find(root)
  ((uid, folder),) = found.items()
  return layout, folders.read(layout, uid, folder, Options(**options))


def test_openlrm_gives_back_its_cameras(truth, tmp_path):
  write_openlrm(tmp_path, truth)
  layout, record = read_only(tmp_path)
  assert layout == 'openlrm' and record['uid'] == 'ball'
  np.testing.assert_allclose(record['camera_to_world'], truth[0], atol=1e-12)
  np.testing.assert_allclose(record['intrinsics'], [truth[1]] * NUM_VIEWS, atol=1e-12)
  assert record['views'][2] == (tmp_path / 'ball/rgba/002.png').read_bytes()
  assert not inspection.inspect(record).problems


@pytest.mark.parametrize('per_frame', [False, True])
def test_nerf_gives_back_its_cameras_of_all_splits(truth, tmp_path, per_frame):
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
def test_a_video_gives_back_its_relative_cameras(truth, tmp_path, binary, model):
  """Turned, shifted and scaled as COLMAP's worlds are: up, centre and size are found."""
  write_video(tmp_path, truth, binary=binary, similarity=SIMILARITY, model=model, off_centre=0.04)
  layout, record = read_only(tmp_path, size=64)
  assert layout == 'video' and record['uid'] == '12__ab34'
  poses = record['camera_to_world']
  np.testing.assert_allclose(relative(poses), relative(truth[0]), atol=1e-4)
  # The world is upright: heights are those of the truth, by one factor; a turn around z is free.
  factor = np.linalg.norm(poses[:, :3, 3], axis=-1) / np.linalg.norm(truth[0][:, :3, 3], axis=-1)
  np.testing.assert_allclose(factor, video.RADIUS / 0.5, rtol=0.04)
  np.testing.assert_allclose(poses[:, 2, :3], truth[0][:, 2, :3], atol=1e-4)
  findings = inspection.inspect(record)
  assert not findings.problems and findings.agreement > 0.97
  # Normalised to an input view, with its own distance, they are those of the truth, up to that factor.
  ours, theirs = (cameras.normalise_to_input_view(x, keep_distance=True)[0] for x in (poses, truth[0]))
  np.testing.assert_allclose(ours[:, :3, :3], theirs[:, :3, :3], atol=1e-4)
  np.testing.assert_allclose(np.linalg.norm(ours[0, :3, 3]), np.linalg.norm(theirs[0, :3, 3]) * factor[0], rtol=1e-6)


def test_views_of_a_video_show_the_object_where_their_cameras_project_it(truth, tmp_path):
  write_video(tmp_path, truth, binary=True, similarity=SIMILARITY)
  _, record = read_only(tmp_path, size=96, fill=0.6)
  # The ball's centre, in the new world: where all cameras saw it in the middle.
  middle = video.nearest_point(record['camera_to_world'][:, :3, 3], -record['camera_to_world'][:, :3, 2])
  radius = 0.5 * np.linalg.norm(record['camera_to_world'][0, :3, 3] - middle) / np.linalg.norm(truth[0][0, :3, 3])
  for encoded, pose, intrinsics in zip(record['views'], record['camera_to_world'], record['intrinsics']):
    moved = pose.copy()
    moved[:3, 3] -= middle
    expected = ball(moved, intrinsics, 96, radius)[..., 3] > 127
    found = images.decode(encoded)[..., 3] > 0.5
    assert np.sum(expected & found) / np.sum(expected | found) > 0.95
    np.testing.assert_allclose(max(np.ptp(np.argwhere(found), axis=0) + 1) / 96, 0.6, atol=0.05)


def test_up_is_found_from_an_arc_too():
  arc = cameras.look_at([[2 * np.cos(a), 2 * np.sin(a), 0.8] for a in np.linspace(0, 0.6, 5)])
  turn = SIMILARITY[:3, :3] / 3.7
  turned = arc.copy()
  turned[:, :3, :3] = turn @ arc[:, :3, :3]
  np.testing.assert_allclose(video.upright(turned) @ turn @ [0, 0, 1], [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize('model, values', [('SIMPLE_RADIAL', (0.3,)), ('OPENCV', (0.25, -0.1, 0.01, -0.01))])
def test_distortion_is_taken_out(truth, tmp_path, model, values):
  """Masks as a lens bends them: the outlines fit together again, and would not if they were left as they are."""
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
    ('bent', f'1 {model} {width} {height} ' + ' '.join(map(str, numbers))),
    ('left', f'1 SIMPLE_PINHOLE {width} {height} {focal} {centre[0]} {centre[1]}'),
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
  assert agreement['bent'] > 0.97 and agreement['bent'] > agreement['left'] + 0.01, agreement


def test_distortion_that_is_not_known_is_refused(truth, tmp_path):
  write_video(tmp_path / 'a', truth, binary=False, model='FOV')
  with pytest.raises(BrokenRecordError, match='cameras of the model FOV are not taken'):
    read_only(tmp_path / 'a')
  folder = write_nerf(tmp_path / 'b', truth)
  scene = json.loads((folder / 'transforms_train.json').read_text()) | {'k1': 0.1}
  (folder / 'transforms_train.json').write_text(json.dumps(scene))
  with pytest.raises(BrokenRecordError, match='cameras with distortion .* undistort'):
    read_only(tmp_path / 'b')


def test_binary_and_text_models_are_the_same(truth, tmp_path):
  text, binary = (
    colmap.read(write_video(tmp_path / str(b), truth, binary=b, similarity=SIMILARITY) / 'sparse/0')
    for b in (False, True)
  )
  for a, b in zip(text, binary):
    np.testing.assert_allclose(a.camera_to_world, b.camera_to_world, atol=1e-12)
    np.testing.assert_array_equal(a.focal, b.focal)
    assert (a.name, a.size) == (b.name, b.size)


def test_pictures_that_are_not_square_get_borders(truth, tmp_path):
  folder = write_openlrm(tmp_path, truth)
  size = 48
  focal, centre = truth[1][:2] * size, truth[1][2:] * size
  for view in range(NUM_VIEWS):
    with Image.open(folder / f'rgba/{view:03d}.png') as picture:
      picture.crop((0, 8, 48, 40)).save(folder / f'rgba/{view:03d}.png')
  np.save(folder / 'intrinsics.npy', np.array([focal, centre - [0, 8], [48, 32]]))
  _, record = read_only(tmp_path)
  np.testing.assert_allclose(record['intrinsics'], [truth[1]] * NUM_VIEWS, atol=1e-12)
  assert images.decode(record['views'][0]).shape == (48, 48, 4)
  assert not inspection.inspect(record).problems


def test_pictures_without_alpha_need_to_be_told_their_background(truth, tmp_path):
  folder = write_openlrm(tmp_path, truth)
  expected = []
  for view in range(NUM_VIEWS):
    path = folder / f'rgba/{view:03d}.png'
    with Image.open(path) as picture:
      expected.append(np.asarray(picture)[..., 3] > 0)
      white = Image.new('RGB', picture.size, 'white')
      white.paste(picture, mask=picture.getchannel('A'))
    white.save(path)
  with pytest.raises(BrokenRecordError, match='000.png has no alpha.*--background=white'):
    read_only(tmp_path)
  _, record = read_only(tmp_path, background='white')
  for encoded, outline in zip(record['views'], expected):
    assert np.mean((images.decode(encoded)[..., 3] > 0.5) == outline) > 0.99


def spoil_pose(folder, change):
  path = folder / 'pose/001.npy'
  np.save(path, change(np.load(path)))


SPOILED = {
  'a truncated picture': (
    lambda f: (f / 'rgba/002.png').write_bytes((f / 'rgba/002.png').read_bytes()[:150]),
    '002.png is no whole picture',
  ),
  'what is no picture': (lambda f: (f / 'rgba/002.png').write_text('hello'), '002.png is no whole picture'),
  'a pose of another shape': (lambda f: spoil_pose(f, lambda x: x[:, :3]), r'001.npy has the shape \[3, 3\]'),
  'a pose that is no number': (lambda f: spoil_pose(f, lambda x: x * np.nan), 'values that are no numbers'),
  'a singular matrix': (lambda f: spoil_pose(f, lambda x: x * 0), 'view 1 of ball is no rotation'),
  'a mirrored camera': (lambda f: spoil_pose(f, lambda x: x * [1, 1, -1, 1]), 'view 1 of ball is no rotation'),
  'a damaged array': (lambda f: (f / 'pose/001.npy').write_bytes(b'\x93NUMPY'), '001.npy is no array'),
  'a missing view': (lambda f: (f / 'rgba/003.png').unlink(), '003 is in one of them alone'),
  'a missing camera': (lambda f: (f / 'pose/003.npy').unlink(), '003 is in one of them alone'),
  'a size of zero': (lambda f: np.save(f / 'intrinsics.npy', np.zeros((3, 2))), 'a picture of 0 x 0'),
  'no focal length': (lambda f: np.save(f / 'intrinsics.npy', [[0, 0], [24, 24], [48, 48]]), 'focal length of 0'),
}


@pytest.mark.parametrize('kind', SPOILED)
def test_what_is_wrong_is_named(kind, truth, tmp_path):
  spoil, words = SPOILED[kind]
  spoil(write_openlrm(tmp_path, truth))
  with pytest.raises(BrokenRecordError, match=words):
    read_only(tmp_path)


@pytest.mark.parametrize(
  'name, words', [('cameras.bin', 'damaged COLMAP model'), ('images.bin', 'damaged COLMAP model')]
)
def test_a_damaged_model_is_named(name, words, truth, tmp_path):
  folder = write_video(tmp_path, truth, binary=True)
  path = folder / 'sparse/0' / name
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(BrokenRecordError, match=words):
    read_only(tmp_path)


def test_an_empty_mask_and_a_missing_one_are_named(truth, tmp_path):
  folder = write_video(tmp_path, truth, binary=True)
  Image.new('L', (96, 72)).save(folder / 'masks/004.jpg.png')
  with pytest.raises(BrokenRecordError, match='the mask of 004.jpg is empty'):
    read_only(tmp_path)
  (folder / 'masks/004.jpg.png').unlink()
  with pytest.raises(BrokenRecordError, match='masks/ has none of 004.jpg, 004.jpg.png'):
    read_only(tmp_path)


def test_what_holds_nothing_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='is no directory'):
    folders.find(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='holds no views that are known; looked for: .*openlrm|OpenLRM.*COLMAP'):
    folders.find(tmp_path)
  with pytest.raises(ValueError, match="layout 'lego' is unknown: one of rendered, openlrm, nerf, video"):
    folders.find(tmp_path, 'lego')
