"""The Reconstructor API, the reconstruct command, and its messages for bad input."""

import os
from pathlib import Path
import subprocess
import sys

import imageio.v3 as imageio
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import trimesh

import lrm_jax
from lrm_jax import reconstruct
from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.reconstruction import glb, preprocess, reconstructor, video

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def model(run_directory):
  return lrm_jax.from_pretrained(run_directory)


@pytest.fixture(scope='module')
def planes(model):
  return model.encode(np.random.default_rng(0).random((2, 16, 16, 3), np.float32))


def write_image(path, mode='RGBA'):
  pixels = np.zeros((40, 60, 4), np.uint8)
  pixels[10:30, 20:40] = [200, 30, 40, 255]
  Image.fromarray(pixels).convert(mode).save(path)
  return path


def test_results_have_the_documented_shapes(model, planes):
  assert model.image_size == 16 and model.step == 7
  assert planes.shape == (2, 3, 8, 8, 6)
  poses, intrinsics = np.stack([cameras.orbit(3)] * 2), np.tile(model.intrinsics, (2, 3, 1))
  pixels = model.render(planes, poses, intrinsics, 12)
  assert pixels.color.shape == (2, 3, 12, 12, 3)
  assert pixels.depth.shape == pixels.opacity.shape == (2, 3, 12, 12)
  density, color = model.query(planes, np.zeros((2, 5, 3)))
  assert density.shape == (2, 5) and color.shape == (2, 5, 3)
  assert density.min() >= 0 and color.min() >= 0 and color.max() <= 1
  meshes = model.mesh(planes, resolution=16, threshold=float(density.min()) / 2)
  assert len(meshes) == 2 and all(isinstance(mesh, trimesh.Trimesh) and mesh.volume > 0 for mesh in meshes)


def test_default_camera_is_the_input_camera(model, planes):
  images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
  pose, intrinsics = cameras.look_at([0, -2, 0]), cameras.intrinsics_from_fov(50)
  given = model.encode(images, np.stack([pose] * 2), np.stack([intrinsics] * 2))
  np.testing.assert_array_equal(planes, given)
  other = model.encode(images, np.stack([cameras.look_at([0, -1.5, 1])] * 2))
  assert np.abs(np.asarray(other) - planes).max() > 1e-3


def test_views_do_not_depend_on_the_number_per_call(model, planes, monkeypatch):
  poses, intrinsics = np.stack([cameras.orbit(5)] * 2), np.tile(model.intrinsics, (2, 5, 1))
  first, again = (model.render(planes, poses, intrinsics, 8) for _ in range(2))
  monkeypatch.setattr(reconstructor, '_RAYS_PER_CALL', 2 * 2 * 64)  # Two views per call; the last call is padded.
  reported = []
  pieces = model.render(planes, poses, intrinsics, 8, progress=reported.append)
  assert reported == [2, 2, 1]
  for name in first._fields:
    np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    np.testing.assert_allclose(getattr(first, name), getattr(pieces, name), atol=1e-6)


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda m, p: m.encode(np.zeros((2, 32, 32, 3))), r'images have shape \(2, 32, 32, 3\)'),
    (lambda m, p: m.encode(np.zeros((16, 16, 3))), 'images have shape'),
    (
      lambda m, p: m.encode(np.zeros((1, 16, 16, 3)), np.eye(4)),
      r'camera_to_world has shape \(4, 4\), expected \(1, 4, 4\)',
    ),
    (lambda m, p: m.encode(np.zeros((1, 16, 16, 3)), intrinsics=np.zeros((1, 3))), 'intrinsics has shape'),
    (lambda m, p: m.render(p, np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4)), 8), 'camera_to_world has shape'),
    (lambda m, p: m.render(p, np.zeros((2, 2, 4, 4)), np.zeros((2, 2, 4)), 0), 'must be at least 1'),
    (lambda m, p: m.query(p, np.zeros((1, 5, 3))), 'points has shape'),
    (lambda m, p: m.mesh(p, resolution=16, threshold=1e6), 'no surface: the greatest density found is'),
  ],
)
def test_wrong_shapes_raise(model, planes, call, message):
  with pytest.raises(ValueError, match=message):
    call(model, planes)


def test_missing_model_raises(tmp_path):
  with pytest.raises(InputError, match='Model nowhere was not found'):
    lrm_jax.from_pretrained('nowhere')
  with pytest.raises(InputError, match='does not contain a model in a known format.*config.json'):
    lrm_jax.from_pretrained(tmp_path)


class Wall(TriplaneModel):
  """A fake model that always reconstructs a red box, to the right of the centre as seen by the input camera."""

  image_size = 16

  def query(self, planes, points):
    inside = jnp.max(jnp.abs(points - jnp.array([0.4, 0.0, 0.0])), axis=-1) < 0.2
    return 50.0 * inside, jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0]), points.shape)

  def grid_tables(self, planes, coordinates):
    return coordinates

  def block_densities(self, tables, places, count, face):
    x, y, z = (tables[places[:, axis]][:, : 1 if axis == face else None] for axis in range(3))
    points = jnp.broadcast_arrays(x[:, :, None, None], y[:, None, :, None], z[:, None, None, :])
    density = self.query(None, jnp.stack(points, axis=-1))[0]
    return density if face is None else density.squeeze(face + 1)


def test_mesh_is_not_mirrored(tmp_path):
  (mesh,) = reconstructor.Reconstructor(Wall()).mesh(np.zeros((1, 3, 4, 4, 2)), resolution=41)
  np.testing.assert_allclose(mesh.bounds.mean(0), [0.4, 0, 0], atol=0.03)
  pixels, _ = cameras.project(mesh.vertices, cameras.input_camera(), cameras.intrinsics_from_fov(50))
  assert pixels[:, 0].min() > 0.55
  glb.write(mesh, tmp_path / 'a.glb')
  np.testing.assert_allclose(trimesh.load_scene(tmp_path / 'a.glb').bounds.mean(0), [0.4, 0, 0], atol=0.03)


def test_video_round_trip(tmp_path):
  frames = np.ones((5, 15, 31, 3), np.float32) * np.linspace(0.2, 0.8, 5)[:, None, None, None]
  video.write_video(frames, tmp_path / 'a.mp4')
  read = imageio.imread(tmp_path / 'a.mp4', plugin='FFMPEG')
  assert read.shape == (5, 16, 32, 3)  # Many players require even sizes.
  np.testing.assert_allclose(read.mean((1, 2, 3)) / 255, np.linspace(0.2, 0.8, 5), atol=0.02)


def test_turntable_starts_in_front_and_turns_once():
  poses, intrinsics = video.turntable_cameras(8, cameras.intrinsics_from_fov(50))
  assert poses.shape == (1, 8, 4, 4) and intrinsics.shape == (1, 8, 4)
  positions = poses[0, :, :3, 3]
  assert positions[0, 1] < -1.8 and abs(positions[0, 0]) < 1e-6 and positions[2, 0] > 1.8 and positions[4, 1] > 1.8
  np.testing.assert_allclose(np.linalg.norm(positions, axis=-1), 2, atol=1e-6)


def test_images_of_the_same_name_do_not_overwrite_each_other():
  paths = [Path('a/cat.png'), Path('b/cat.jpg'), Path('cat_2.png'), Path('cat.png')]
  assert reconstruct.names_of(paths) == ['cat', 'cat_2', 'cat_2_2', 'cat_3']


def test_outputs_of_one_image_do_not_overwrite_those_of_another():
  names = reconstruct.names_of([Path('cat.png'), Path('cat_depth.png'), Path('CAT.png'), Path('x/cat_planes.jpg')])
  assert names == ['cat', 'cat_depth_2', 'CAT_2', 'cat_planes_2']


class PreparesOnly:
  """A model that prepares images and encodes nothing, for tests of the command around it."""

  def prepare(self, path, camera='default', fov=None, **options):
    return preprocess.prepare(path, 16, **options)

  def encode_each(self, images, batch_size=None):
    return [None] * len(images)


def run_in_process(monkeypatch, out, *args):
  """Runs the command in this process with a fake model, and returns its exit code. Meshes are empty files."""

  def reconstruct_nothing(model, image, out, name, **options):
    out.mkdir(parents=True, exist_ok=True)
    (out / f'{name}.glb').touch()
    return {'mesh': out / f'{name}.glb'}

  monkeypatch.setattr(reconstruct, 'from_pretrained', lambda source: PreparesOnly())
  monkeypatch.setattr(reconstruct, 'reconstruct', reconstruct_nothing)
  monkeypatch.setattr(sys, 'argv', ['reconstruct', *map(str, args), f'--out={out}'])
  with pytest.raises(SystemExit) as info:
    run_main(reconstruct.main)
  return info.value.code


def test_good_images_are_made_and_bad_ones_are_listed_at_the_end(tmp_path, capsys, monkeypatch):
  good, animated = write_image(tmp_path / 'good.png'), write_image(tmp_path / 'animated.png')
  with Image.open(good) as image:
    image.save(animated, save_all=True, append_images=[image.rotate(90)])
  truncated, tiny = tmp_path / 'truncated.png', tmp_path / 'tiny.png'
  truncated.write_bytes(good.read_bytes()[:100])
  Image.new('RGB', (1, 1)).save(tiny)
  images = (good, truncated, tmp_path / 'missing.png', tiny, animated)
  assert run_in_process(monkeypatch, tmp_path / 'out', *images) == 2
  captured = capsys.readouterr()
  assert {path.name for path in (tmp_path / 'out').glob('*.glb')} == {'good.glb', 'animated.glb'}
  assert 'animated.png has 2 frames: only the first is used' in captured.err
  assert len(captured.out.splitlines()) == 2
  *errors, last = captured.err.splitlines()[-4:]
  assert last == '3 of 5 images could not be reconstructed'
  for line, message in zip(
    errors, ('truncated.png is not a readable', 'missing.png: no such', 'tiny.png is 1 x 1 pixels')
  ):
    assert line.startswith('error: ') and message in line


def test_max_pixels_refuses_large_images(tmp_path, capsys, monkeypatch):
  image = write_image(tmp_path / 'a.png')
  assert run_in_process(monkeypatch, tmp_path / 'out', image, '--max_pixels=2399') == 2
  assert '60 x 40 = 2,400 pixels, more than the limit of 2,399' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def command(*args):
  """Runs the command in its own process and returns the result."""
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.run(
    [sys.executable, '-m', 'lrm_jax.reconstruct', *map(str, args)],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )


def test_command_writes_mesh_videos_and_planes(run_directory, tmp_path):
  (tmp_path / 'other').mkdir()
  inputs = [write_image(tmp_path / 'cat.png'), write_image(tmp_path / 'other' / 'cat.png', 'RGB')]
  out = tmp_path / 'made' / 'here'
  result = command(
    *inputs,
    f'--checkpoint={run_directory}',
    f'--out={out}',
    '--resolution=16',
    '--threshold=0.01',
    '--size=16',
    '--num_frames=4',
  )
  assert result.returncode == 0, result.stderr
  assert 'no transparency' in result.stderr and 'Traceback' not in result.stderr
  ends = '.glb', '.mp4', '_depth.mp4', '_input.png', '_planes.npz'
  expected = {f'{name}{end}' for name in ('cat', 'cat_2') for end in ends}
  assert {path.name for path in out.iterdir()} == expected
  for name in ('cat', 'cat_2'):
    assert trimesh.load_scene(out / f'{name}.glb').bounds.shape == (2, 3)
    assert imageio.imread(out / f'{name}.mp4', plugin='FFMPEG').shape == (4, 16, 16, 3)
    assert np.load(out / f'{name}_planes.npz')['planes'].shape == (3, 8, 8, 6)


@pytest.mark.parametrize(
  'image, options, message',
  [
    ('missing.png', (), 'missing.png: no such file'),
    ('broken.png', (), 'broken.png is not a readable image'),
    ('good.png', ('--checkpoint=nowhere',), 'Model nowhere was not found'),
    ('good.png', ('--size=0',), '--size=0 must be at least 1'),
    ('good.png', ('--threshold=1000000',), 'no surface'),
    ('good.png', ('--resolution=2',), 'resolution=2 must be at least 8'),
  ],
)
def test_bad_input_prints_one_line_and_writes_no_files(
  run_directory, tmp_path, capsys, monkeypatch, image, options, message
):
  write_image(tmp_path / 'good.png')
  (tmp_path / 'broken.png').write_bytes(b'\x89PNG no image')
  out = tmp_path / 'out'
  monkeypatch.setattr(
    sys,
    'argv',
    [
      'reconstruct',
      str(tmp_path / image),
      f'--checkpoint={run_directory}',
      f'--out={out}',
      '--resolution=16',
      '--size=16',
      '--num_frames=2',
      *options,
    ],
  )
  with pytest.raises(SystemExit) as info:
    run_main(reconstruct.main)
  error = capsys.readouterr().err
  assert info.value.code == 2
  assert error.startswith('error: ') and error.count('\n') == 1 and message in error
  assert not out.exists() or not list(out.iterdir())
