"""The Python API: images of any kind in; meshes, views, depth, files and planes out."""

import imageio.v3 as imageio
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import trimesh

import lrm_jax
from lrm_jax import reconstruct
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, rays
from lrm_jax.geometry.volume import Pixels
from lrm_jax.reconstruction import inputs

MESH = dict(resolution=16, threshold=0.01)


@pytest.fixture(scope='module')
def model(run_directory):
  return lrm_jax.from_pretrained(run_directory)


def block(color=(200, 30, 40)):
  pixels = np.zeros((40, 60, 4), np.uint8)
  pixels[10:30, 20:40] = [*color, 255]
  return pixels


@pytest.fixture(scope='module')
def cat(model, tmp_path_factory):
  path = tmp_path_factory.mktemp('images') / 'cat.png'
  Image.fromarray(block()).save(path)
  return model.reconstruct(path)


def test_paths_pil_images_and_arrays_give_the_same_reconstruction(model, cat):
  assert isinstance(cat, lrm_jax.Reconstruction) and cat.name == 'cat' and cat.has_mask
  assert cat.image.shape == (16, 16, 3) and cat.planes.shape == (3, 8, 8, 6)
  for same in (Image.fromarray(block()), block(), block() / np.float32(255)):
    other = model.reconstruct(same)
    assert other.name == 'image'
    np.testing.assert_array_equal(other.image, cat.image)
    np.testing.assert_array_equal(other.planes, cat.planes)


@pytest.mark.parametrize('batch_size', [None, 2])
def test_list_gives_a_list_for_any_batch_size(model, cat, batch_size):
  images = [block(), block((30, 200, 40)), block((30, 20, 240))]
  results = model.reconstruct(images, batch_size=batch_size)
  assert len(results) == 3
  np.testing.assert_allclose(results[0].planes, cat.planes, atol=1e-5)
  assert np.abs(results[1].planes - results[2].planes).max() > 1e-4


def test_views_have_the_documented_shapes(model, cat):
  one = cat.render(size=12)
  assert one.color.shape == (12, 12, 3) and one.depth.shape == one.opacity.shape == (12, 12)
  turn = cat.turntable(3, size=12)
  assert turn.color.shape == (3, 12, 12, 3)
  poses, intrinsics = model.turntable(3)
  expected = model.render(cat.features[None], poses, intrinsics, 12, skip=True)
  np.testing.assert_array_equal(turn.color, expected.color[0])
  np.testing.assert_allclose(cat.render(poses[0], intrinsics[0], 12).color[1], turn.color[1], atol=1e-6)


def test_occupancy_is_computed_once_for_all_views(model, cat, monkeypatch):
  """A view costs less than the grid, so views that follow the mouse would spend most of their time on it."""
  calls, compute = [], model.occupancy
  monkeypatch.setattr(model, 'occupancy', lambda planes: calls.append(planes.shape) or compute(planes))
  fresh = model.from_planes(cat.planes)
  first, second = fresh.render(size=12), fresh.render(size=12)
  assert calls == [(1, 3, 8, 8, 6)]
  np.testing.assert_array_equal(first.color, second.color)


def test_depth_is_that_of_the_object_and_infinite_beside_it(model):
  """A solid ball of radius 0.5, with planes of zeros and a network that is replaced."""
  ball = lrm_jax.Reconstruction(FakeBall(model), np.zeros((3, 1, 1, 1)))
  depth = ball.depth(size=16)
  assert np.isinf(depth[0, 0]) and depth[8, 8] == pytest.approx(1.5, abs=0.02)


class FakeBall:
  """Renders a ball of radius 0.5 exactly, with the cameras of a model."""

  def __init__(self, model):
    self.input_camera, self.intrinsics, self.turntable = model.input_camera, model.intrinsics, model.turntable

  def occupancy(self, planes):
    return None

  def render(self, planes, camera_to_world, intrinsics, size, *args, **kwargs):
    origins, directions = (
      np.asarray(x) for x in rays.pixel_rays(jnp.asarray(camera_to_world), jnp.asarray(intrinsics), size)
    )
    along = -np.sum(origins * directions, axis=-1)
    under = along**2 - np.sum(origins**2, axis=-1) + 0.25
    hit = (under > 0).astype(np.float32) * 0.9  # Nine tenths opaque.
    return Pixels(np.zeros((*hit.shape, 3)), hit * (along - np.sqrt(np.maximum(under, 0))), hit)


def test_save_writes_all_files_in_all_formats(cat, tmp_path):
  files = cat.save(tmp_path / 'out', formats=('obj', 'glb', 'stl'), size=12, num_frames=3, **MESH)
  assert set(files) == {'mesh', 'glb', 'stl', 'video', 'depth', 'planes', 'input'} and files['mesh'].name == 'cat.obj'
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {path.name for path in files.values()}
  assert imageio.imread(files['video'], plugin='FFMPEG').shape == (3, 12, 12, 3)
  whole = cat.mesh(**MESH)
  for kind in ('mesh', 'glb', 'stl'):
    assert len(trimesh.load_mesh(files[kind], process=False).faces) == len(whole.faces)


def test_planes_round_trip(model, cat, tmp_path):
  cat.save_planes(tmp_path / 'cat_planes.npz')
  again = model.from_planes(tmp_path / 'cat_planes.npz')
  assert again.name == 'cat'
  np.testing.assert_array_equal(again.planes, cat.planes)
  np.testing.assert_array_equal(again.image, cat.image)
  assert model.from_planes(cat.planes, name='dog').name == 'dog'


def test_failed_save_leaves_nothing_behind(cat, tmp_path):
  with pytest.raises(InputError, match='no surface'):
    cat.save(tmp_path / 'out', resolution=16, threshold=1e6)
  with pytest.raises(InputError, match='fbx is unknown'):
    cat.save(tmp_path / 'out', formats=['fbx'])
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'image, message',
  [
    (np.zeros((4, 4, 2)), r'an array of shape \(4, 4, 2\) is no image'),
    (np.zeros((0, 4, 3)), 'is no image'),
    (np.zeros((9, 9, 3), np.int64), 'int64 is not supported: use uint8, or floats in 0..1'),
    (np.full((9, 9, 3), 255.0), 'must be in 0..1, but its values are 255..255'),
    (np.full((9, 9, 3), np.nan), 'must be in 0..1'),
    (np.zeros((40, 40, 4), np.uint8), 'the image is completely transparent'),
    ('missing.png', 'missing.png: no such file'),
  ],
)
def test_what_is_no_image_raises(model, image, message):
  with pytest.raises(InputError, match=message):
    model.reconstruct(image)


def test_wrong_cameras_and_planes_raise(model, cat, tmp_path):
  with pytest.raises(InputError, match=r'camera_to_world has shape \(3, 4\), expected \(4, 4\)'):
    cat.render(np.zeros((3, 4)))
  with pytest.raises(InputError, match=r'intrinsics has shape \(2,\)'):
    cat.render(intrinsics=np.zeros(2))
  with pytest.raises(InputError, match=r'planes have shape \(3, 4, 4, 6\), those of this model have \(3, 8, 8, 6\)'):
    model.from_planes(np.zeros((3, 4, 4, 6)))
  (tmp_path / 'bad.npz').write_bytes(b'PK no zip')
  np.savez(tmp_path / 'other.npz', x=np.zeros(3))
  for name in ('bad.npz', 'other.npz'):
    with pytest.raises(InputError, match=f'{name} is no file of planes'):
      model.from_planes(tmp_path / name)
  with pytest.raises(InputError, match='no such file'):
    model.from_planes(tmp_path / 'missing.npz')
  with pytest.raises(InputError, match='batch_size=-1 must be at least 1'):
    model.reconstruct([block()], batch_size=-1)
  assert model.input_camera[1, 3] == cameras.INPUT_POSITION[1]


def test_folders_and_patterns_are_expanded(tmp_path):
  for name in ('b.png', 'a.JPG', 'notes.txt', 'sub/c.png'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'')
  (tmp_path / 'odd[1].png').write_bytes(b'')
  (tmp_path / 'empty').mkdir()

  def found(*sources):
    return [str(path.relative_to(tmp_path)) for path in inputs.find_images([tmp_path / name for name in sources])]

  assert found('.') == ['a.JPG', 'b.png', 'odd[1].png']
  assert found('*.png', 'b.png', 'missing.png') == ['b.png', 'odd[1].png', 'missing.png']
  assert found('**/c.png', 'odd[1].png') == ['sub/c.png', 'odd[1].png']
  with pytest.raises(InputError, match='empty contains no image'):
    found('empty')
  with pytest.raises(InputError, match='no file matches the pattern'):
    found('*.webp')


def test_command_takes_a_folder_and_prints_the_numbers_of_each_mesh(run_directory, tmp_path, capsys, monkeypatch):
  for name, color in (('a', (200, 0, 0)), ('b', (0, 200, 0)), ('c', (0, 0, 200))):
    Image.fromarray(block(color)).save(tmp_path / f'{name}.png')
  options = ['--formats=glb,ply', '--resolution=16', '--threshold=0.01', '--faces=500', '--keep=largest']
  options += ['--size=12', '--num_frames=3', '--batch_size=2', f'--out={tmp_path / "out"}']
  monkeypatch.setattr('sys.argv', ['reconstruct', str(tmp_path), f'--checkpoint={run_directory}', *options])
  assert not reconstruct.main()
  printed = capsys.readouterr()
  assert printed.out.count('1 part, watertight, threshold 0.01') + printed.out.count('removed), watertight') == 3
  for phase in ('surface', 'clean-up', 'colours', 'turntable', 'files'):
    assert phase in printed.err
  assert {path.suffix for path in (tmp_path / 'out').iterdir()} == {'.glb', '.ply', '.mp4', '.npz', '.png'}
  assert len(list((tmp_path / 'out').iterdir())) == 18
  assert len(trimesh.load_mesh(tmp_path / 'out' / 'b.ply').faces) <= 500


@pytest.mark.parametrize(
  'option, message',
  [
    ('--threshold=low', "--threshold=low: use a number or 'auto'"),
    ('--keep=most', "--keep=most: use 'largest', 'all' or a share"),
    ('--formats=fbx', '--formats=fbx: fbx is unknown'),
    ('--texture=4', 'a texture of 4 pixels'),
    ('--batch_size=0', '--batch_size=0 must be at least 1'),
  ],
)
def test_wrong_options_are_reported_before_the_model_is_loaded(tmp_path, monkeypatch, option, message):
  Image.fromarray(block()).save(tmp_path / 'a.png')
  monkeypatch.setattr('sys.argv', ['reconstruct', str(tmp_path / 'a.png'), '--checkpoint=nowhere', option])
  with pytest.raises(InputError, match=message):
    reconstruct.main()
