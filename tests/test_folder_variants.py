"""Folders of views as other programs and systems write them are read like the plain ones, or refused by name."""

import json
import logging

import numpy as np
from PIL import Image
import pytest

from lrm_jax.datasets import folders
from lrm_jax.datasets.folders import images as folder_images
from lrm_jax.datasets.folders import lens
from lrm_jax.datasets.folders.images import Options
from lrm_jax.datasets.records import BrokenRecordError
from lrm_jax.geometry import images
from view_folders import NUM_VIEWS, write_nerf, write_openlrm, write_video

SIZE = 48


def read(root, **options):
  layout, found = folders.find(root)
  ((uid, folder),) = found.items()
  return folders.read(layout, uid, folder, Options(**options))


def silhouettes(record):
  return np.stack([images.decode(view)[..., 3] > 0.5 for view in record['views']])


def agreement(found, expected):
  """Returns the intersection over union of the silhouettes of two records, in the worst view."""
  a, b = silhouettes(found), silhouettes(expected)
  return ((a & b).sum((1, 2)) / (a | b).sum((1, 2))).min()


@pytest.fixture
def nerf(truth, tmp_path):
  """Returns (folder, record) of a plain folder in nerfstudio's layout: one transforms.json, images with alpha."""
  folder = write_nerf(tmp_path, truth)
  scenes = [json.loads((folder / f'transforms_{split}.json').read_text()) for split in ('train', 'test')]
  for split in ('train', 'test'):
    (folder / f'transforms_{split}.json').unlink()
  focal = float(truth[1][0] * SIZE)
  scene = dict(camera_model='OPENCV', fl_x=focal, fl_y=focal, cx=SIZE / 2, cy=SIZE / 2, w=SIZE, h=SIZE)
  scene['frames'] = [frame for part in scenes for frame in part['frames']]
  write(folder, scene)
  return folder, read(tmp_path)


def scene_of(folder):
  return json.loads((folder / 'transforms.json').read_text())


def write(folder, scene):
  (folder / 'transforms.json').write_text(json.dumps(scene))


def each_frame(change):
  """Returns a function that changes every frame of transforms.json."""

  def apply(folder):
    scene = scene_of(folder)
    for frame in scene['frames']:
      change(frame)
    write(folder, scene)

  return apply


def backslashes(frame):
  frame['file_path'] = frame['file_path'].removeprefix('./').replace('/', '\\') + '.png'


def encode_as(encoding):
  def apply(folder):
    text = (folder / 'transforms.json').read_text()
    (folder / 'transforms.json').write_bytes(text.encode(encoding))

  return apply


def rename_images(suffix):
  def apply(folder):
    for path in (folder / 'train').iterdir():
      path.rename(path.with_suffix(suffix))

  return apply


def convert_images(suffix, mode='RGBA', **options):
  """Returns a function that writes the images in another format, over white if they have no alpha."""

  def apply(folder):
    for path in sorted((folder / 'train').iterdir()):
      with Image.open(path) as image:
        white = Image.new('RGBA', image.size, 'white')
        white.alpha_composite(image)
        (image if mode == 'RGBA' else white.convert(mode)).save(path.with_suffix(suffix), **options)
      path.unlink()

  return apply


def rename_folder(folder):
  (folder / 'train').rename(folder / 'Train')


def three_rows(frame):
  frame['transform_matrix'] = frame['transform_matrix'][:3]


def absolute(prefix, separator='/'):
  def change(frame):
    frame['file_path'] = separator.join([prefix, *frame['file_path'].removeprefix('./').split('/')]) + '.png'

  return each_frame(change)


VARIANTS = {
  'backslashes': each_frame(backslashes),
  'absolute Windows paths': absolute('C:\\Users\\me\\lego', '\\'),
  'absolute paths of another machine': absolute('/home/me/lego'),
  'byte-order mark': encode_as('utf-8-sig'),
  'UTF-16, as PowerShell writes': encode_as('utf-16'),
  'upper-case suffix': rename_images('.PNG'),
  'mixed-case suffix': rename_images('.Png'),
  'folder in another case': rename_folder,
  'WebP': convert_images('.WEBP', lossless=True),
  'TIFF': convert_images('.tiff'),
  'poses of 3 x 4': each_frame(three_rows),
  'distortion of zero and null': each_frame(lambda frame: frame.update(k1=0, k2=0.0, p1=None)),
}


@pytest.mark.parametrize('kind', VARIANTS)
def test_names_and_encodings_of_other_systems_are_read(kind, nerf):
  folder, expected = nerf
  VARIANTS[kind](folder)
  record = read(folder.parent)
  np.testing.assert_allclose(record['camera_to_world'], expected['camera_to_world'], atol=1e-12)
  np.testing.assert_allclose(record['intrinsics'], expected['intrinsics'], atol=1e-12)
  assert agreement(record, expected) == 1


@pytest.mark.parametrize('suffix', ['.jpeg', '.JPG', '.bmp'])
def test_files_without_alpha_are_found_without_their_suffix(suffix, nerf):
  folder, expected = nerf
  convert_images(suffix, 'RGB', **({} if suffix == '.bmp' else {'quality': 98, 'subsampling': 0}))(folder)
  record = read(folder.parent, background='white')
  assert len(record['views']) == NUM_VIEWS and agreement(record, expected) > 0.9


def write_masks(folder, change, suffix='.png'):
  """Moves the alpha of the images to masks that transforms.json names, changed by a function of an 'L' image."""
  (folder / 'masks').mkdir()
  scene = scene_of(folder)
  for frame in scene['frames']:
    path = folder / (frame['file_path'] + '.png')
    name = f'{path.stem}{suffix}'
    with Image.open(path) as image:
      change(image.getchannel('A')).save(folder / 'masks' / name)
      noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
      background = Image.fromarray(noise).convert('RGBA')
      background.alpha_composite(image)
    background.convert('RGB').save(path.with_suffix('.jpg'), quality=95)
    path.unlink()
    frame |= {'file_path': frame['file_path'] + '.jpg', 'mask_path': f'masks\\{name}'}
  write(folder, scene)


def with_palette(mask):
  result = mask.point(lambda value: value // 255).convert('P')
  result.putpalette([0, 0, 0, 128, 0, 0])
  return result


def as_alpha(color):
  def change(mask):
    result = Image.new('RGBA', mask.size, color)
    result.putalpha(mask)
    return result

  return change


MASKS = {
  '0 and 255': lambda mask: mask,
  '0 and 1': lambda mask: mask.point(lambda value: value // 255),
  '0 and 128': lambda mask: mask.point(lambda value: value // 2),
  'bits': lambda mask: mask.convert('1'),
  'RGB': lambda mask: mask.convert('RGB'),
  '16 bits': lambda mask: Image.fromarray(np.asarray(mask).astype(np.uint16) * 257),
  'labels in a palette': with_palette,
  'labels 0 to 2': lambda mask: Image.fromarray((np.asarray(mask) // 255 * (1 + np.arange(SIZE) % 2)).astype(np.uint8)),
  'white with alpha': as_alpha('white'),
  'black with alpha': as_alpha('black'),
}


@pytest.mark.parametrize('kind', MASKS)
def test_masks_that_transforms_json_names_are_read(kind, nerf):
  folder, expected = nerf
  write_masks(folder, MASKS[kind])
  record = read(folder.parent)
  assert agreement(record, expected) == 1
  np.testing.assert_allclose(record['intrinsics'], expected['intrinsics'], atol=1e-12)


def test_masks_keep_soft_edges(tmp_path):
  values = np.array([[0, 64], [128, 255]], np.uint8)
  Image.fromarray(values).save(tmp_path / 'a.png')
  np.testing.assert_array_equal(folder_images.load_mask(tmp_path / 'a.png'), values)


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda folder: (folder / 'masks/r_3.png').unlink(), r'mask_path masks\\r_3.png is missing in'),
    (lambda folder: (folder / 'masks/r_3.png').write_bytes(b'no'), 'the mask r_3.png is not an image'),
    (
      lambda folder: Image.new('L', (24, 24), 255).save(folder / 'masks/r_3.png'),
      'the mask r_3.png is 24 x 24 pixels, but r_3.jpg is 48 x 48',
    ),
    (
      lambda folder: write(folder, scene_of(folder) | {'w': 96}),
      'r_0.jpg is 48 x 48 pixels, but w and h are 96 and 48',
    ),
    (each_frame(lambda frame: frame.pop('mask_path')), 'does not name its mask of masks/ in mask_path'),
    (each_frame(lambda frame: frame.update(file_path='train/r_0.jpg')), 'different poses have the same image'),
    (each_frame(lambda frame: frame.pop('file_path')), 'a frame has no file_path'),
    (each_frame(lambda frame: frame.update(transform_matrix=[1.0] * 16)), r'has the shape \[16\]'),
    (lambda folder: write(folder, {'frames': ['r_0']}), 'transforms.json cannot be read'),
  ],
)
def test_frames_that_do_not_fit_are_named(damage, message, nerf):
  folder, _ = nerf
  write_masks(folder, lambda mask: mask)
  damage(folder)
  with pytest.raises(BrokenRecordError, match=message):
    read(folder.parent)


def bend(rgba, focal, centre, coefficients):
  """Returns the image as a lens with distortion would take it: the inverse of lens.undistort, found by iteration."""
  import cv2

  k1, k2, p1, p2, k3, k4 = coefficients
  x0, y0 = np.meshgrid(*((np.arange(SIZE) + 0.5 - centre[axis]) / focal for axis in (0, 1)))
  x, y = x0.copy(), y0.copy()
  for _ in range(30):
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    x, y = (
      (x0 - 2 * p1 * x * y - p2 * (r2 + 2 * x * x)) / radial,
      (y0 - 2 * p2 * x * y - p1 * (r2 + 2 * y * y)) / radial,
    )
  columns, rows = x * focal + centre[0] - 0.5, y * focal + centre[1] - 0.5
  return cv2.remap(rgba, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR)


@pytest.mark.parametrize('coefficients', [dict(k1=0.6), dict(k1=-0.4, k2=0.1, p1=0.02, p2=-0.03)])
def test_distortion_of_nerfstudio_is_undone(coefficients, nerf):
  folder, expected = nerf
  focal, values = scene_of(folder)['fl_x'], [coefficients.get(name, 0.0) for name in lens.NAMES]
  for path in (folder / 'train').iterdir():
    with Image.open(path) as image:
      bent = bend(np.asarray(image), focal, np.array([SIZE / 2, SIZE / 2]), values)
    Image.fromarray(bent).save(path)
  ignored = agreement(read(folder.parent), expected)
  write(folder, scene_of(folder) | coefficients)
  undone = agreement(read(folder.parent), expected)
  assert undone > 0.94 and undone > ignored + 0.01, (undone, ignored)


@pytest.mark.parametrize('name', lens.NAMES)
def test_undistortion_is_the_inverse_of_the_lens(name):
  y, x = np.mgrid[:SIZE, :SIZE] / SIZE
  straight = np.round(np.stack([x, y, np.sin(3 * x + 2 * y) / 2 + 0.5, np.ones_like(x)], -1) * 255).astype(np.uint8)
  focal, centre = 40.0, np.array([23.0, 25.0])
  values = [0.1 * (name == other) for other in lens.NAMES]
  bent = bend(straight, focal, centre, values)
  found = lens.undistort(bent, np.array([focal, focal]), centre, np.array(values))
  inside = found[..., 3] == 255
  assert inside.mean() > 0.5
  assert np.abs(found.astype(int) - straight)[inside].max() <= 4
  assert np.abs(bent.astype(int) - straight)[bent[..., 3] == 255].max() > 4


def test_undistortion_equals_opencv():
  import cv2

  rgba = np.full((40, 60, 4), 255, np.uint8)
  rgba[..., :3] = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8), (7, 7), 2)
  focal, centre, values = np.array([50.0, 55.0]), np.array([31.0, 19.0]), np.array([0.1, -0.05, 0.01, -0.02, 0.03])
  matrix = np.array([[focal[0], 0, centre[0] - 0.5], [0, focal[1], centre[1] - 0.5], [0, 0, 1]])
  found = lens.undistort(rgba, focal, centre, values)
  inside = found[..., 3] == 255
  assert inside.mean() > 0.9
  assert np.abs(found.astype(int) - cv2.undistort(rgba, matrix, values))[inside].max() <= 4


@pytest.fixture
def video(truth, tmp_path):
  """Returns (folder, record) of a plain COLMAP folder."""
  folder = write_video(tmp_path, truth, binary=False)
  return folder, read(tmp_path, size=64)


def rig(folder, masks):
  """Moves the images to sub-folders by camera, so that stems repeat; `masks` is the pattern of the masks' names."""
  lines = (folder / 'sparse/0/images.txt').read_text()
  for view in range(NUM_VIEWS):
    camera, stem = ('front', 'back')[view % 2], f'{view // 2:04d}'
    (folder / 'images' / camera).mkdir(exist_ok=True)
    (folder / f'images/{view:03d}.jpg').rename(folder / f'images/{camera}/{stem}.jpg')
    target = folder / 'masks' / masks.format(camera=camera, stem=stem)
    target.parent.mkdir(exist_ok=True)
    (folder / f'masks/{view:03d}.jpg.png').rename(target)
    lines = lines.replace(f'{view:03d}.jpg', f'{camera}/{stem}.jpg')
  (folder / 'sparse/0/images.txt').write_text(lines)


@pytest.mark.parametrize('masks', ['{camera}/{stem}.png', '{camera}/{stem}.jpg.png', '{camera}/{stem}.PNG'])
def test_masks_in_subfolders_belong_to_their_camera(masks, video):
  folder, expected = video
  rig(folder, masks)
  record = read(folder.parents[1], size=64)
  order = [*range(1, NUM_VIEWS, 2), *range(0, NUM_VIEWS, 2)]  # The model is sorted by name: back, then front.
  np.testing.assert_allclose(
    np.linalg.inv(record['camera_to_world'][0]) @ record['camera_to_world'],
    (np.linalg.inv(expected['camera_to_world'][1]) @ expected['camera_to_world'])[order],
    atol=1e-6,
  )
  assert (silhouettes(record) == silhouettes(expected)[order]).all()


def test_the_mask_of_another_camera_is_never_used(video):
  folder, _ = video
  rig(folder, '{stem}.png')  # Both cameras write 0000.png, so the second overwrote the first.
  with pytest.raises(BrokenRecordError, match='masks/ has no mask for back/0000.jpg: none of back/0000.jpg.png'):
    read(folder.parents[1])


def test_the_mask_of_an_image_that_colmap_left_out_is_never_used(video):
  folder, _ = video
  rig(folder, '{camera}_{stem}.png')
  lines = (folder / 'sparse/0/images.txt').read_text().splitlines()
  kept = [i for i, line in enumerate(lines) if 'back' not in line and not (i and 'back' in lines[i - 1])]
  (folder / 'sparse/0/images.txt').write_text('\n'.join(lines[i] for i in kept) + '\n')
  for path in (folder / 'masks').glob('back_*.png'):
    path.rename(path.with_name(path.name.removeprefix('back_')))
  with pytest.raises(BrokenRecordError, match='masks/ has no mask for front/0000.jpg'):
    read(folder.parents[1])


def test_bare_masks_are_used_if_stems_are_unique(video):
  folder, expected = video
  lines = (folder / 'sparse/0/images.txt').read_text()
  (folder / 'images/front').mkdir()
  for view in range(NUM_VIEWS):
    (folder / f'images/{view:03d}.jpg').rename(folder / f'images/front/{view:03d}.jpg')
    (folder / f'masks/{view:03d}.jpg.png').rename(folder / f'masks/{view:03d}.png')
    lines = lines.replace(f'{view:03d}.jpg', f'front/{view:03d}.jpg')
  (folder / 'sparse/0/images.txt').write_text(lines)
  assert (silhouettes(read(folder.parents[1], size=64)) == silhouettes(expected)).all()


def flat_sparse(folder):
  for path in (folder / 'sparse/0').iterdir():
    path.rename(folder / 'sparse' / path.name)
  (folder / 'sparse/0').rmdir()


def colmap_text(change):
  def apply(folder):
    for path in (folder / 'sparse/0').iterdir():
      path.write_bytes(change(path.read_text()).encode())

  return apply


def without_points(text):
  return ''.join(line for line in text.splitlines(keepends=True) if not line.startswith('10.5'))


COLMAP = {
  'sparse without 0': flat_sparse,
  'byte-order mark': colmap_text(lambda text: '\ufeff' + text),
  'Windows line ends': colmap_text(lambda text: text.replace('\n', '\r\n')),
  'no lines of 2D points': colmap_text(without_points),
  'empty lines of 2D points': colmap_text(lambda text: text.replace('10.5 11.5 -1 20.0 21.0 7', '')),
  'images in upper case': lambda folder: [
    path.rename(path.with_suffix('.JPG')) for path in (folder / 'images').iterdir()
  ],
  'masks of 0 and 1': lambda folder: [
    Image.fromarray(np.asarray(Image.open(path)) // 255).save(path) for path in (folder / 'masks').iterdir()
  ],
}


@pytest.mark.parametrize('kind', COLMAP)
def test_variants_of_colmap_folders_are_read(kind, video):
  folder, expected = video
  COLMAP[kind](folder)
  record = read(folder.parents[1], size=64)
  np.testing.assert_allclose(record['camera_to_world'], expected['camera_to_world'], atol=1e-12)
  assert (silhouettes(record) == silhouettes(expected)).all()


def test_images_of_openlrm_may_have_suffixes_in_any_case(truth, tmp_path):
  folder = write_openlrm(tmp_path, truth)
  expected = read(tmp_path)
  for path in (folder / 'rgba').iterdir():
    path.rename(path.with_suffix('.PNG'))
  assert read(tmp_path)['views'] == expected['views']


def test_views_with_16_bits_are_not_clipped(truth, tmp_path, caplog):
  import cv2

  folder = write_openlrm(tmp_path, truth)
  expected = read(tmp_path)
  for path in (folder / 'rgba').iterdir():
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257)
  with caplog.at_level(logging.WARNING):
    record = read(tmp_path)
  for a, b in zip(record['views'], expected['views']):
    np.testing.assert_allclose(images.decode(a), images.decode(b), atol=1e-6)
  assert not caplog.records
