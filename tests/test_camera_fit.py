"""The camera of a photograph: fields of view from EXIF, the size that follows, the search, and level results."""

import sys
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest
import trimesh

import lrm_jax
from lrm_jax import reconstruct
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras
from lrm_jax.reconstruction import camera_fit, preprocess


def photograph(path, width=400, height=300, radius=60, **options):
  """Writes an image of a disc on a transparent background; returns the path."""
  y, x = np.mgrid[:height, :width]
  disc = (x - width / 2 + 0.5) ** 2 + (y - height / 2 + 0.5) ** 2 < radius**2
  Image.fromarray(np.uint8([0, 90, 200, 255]) * disc[..., None]).save(path, **options)
  return path


def exif(focal):
  result = Image.Exif()
  result[0x8769] = {0xA405: focal}
  return result


def covered(image):
  """Returns the share of an image's side that its object covers."""
  return np.mean((image.min(-1) < 0.9).any(0))


@pytest.mark.parametrize(
  'width, height, focal, expected', [(400, 300, 26, 67.3), (300, 400, 26, 67.3), (600, 400, 50, 39.6)]
)
def test_field_of_view_is_that_of_35_mm_film(tmp_path, width, height, focal, expected):
  """Film is 36 mm wide: 50 mm are 39.6 degrees. Other formats are compared by their diagonals."""
  path = photograph(tmp_path / 'a.png', width, height, exif=exif(focal))
  assert camera_fit.fov_of(path) == pytest.approx(expected, abs=0.05)


def test_photographs_without_the_tag_have_no_known_field_of_view(tmp_path):
  assert camera_fit.fov_of(photograph(tmp_path / 'a.png')) is None
  assert camera_fit.fov_of(photograph(tmp_path / 'b.png', exif=exif(0))) is None


@pytest.fixture(scope='module')
def model(run_directory):
  return lrm_jax.from_pretrained(run_directory)


def test_the_models_own_field_of_view_keeps_the_size_of_the_object(model, tmp_path):
  """The image is then the central square of the photograph, as its camera saw it."""
  path = photograph(tmp_path / 'a.png', 240, 240, radius=60)
  prepared = model.prepare(path, fov=model.fov)
  seen = preprocess.uncropped(preprocess.read(path)[0], model.image_size)
  np.testing.assert_allclose(prepared.image, seen, atol=0.05)
  assert '50 degrees as given: the object covers 0.50 of the input' in prepared.notes[-1]


def test_longer_lenses_make_the_object_smaller(model, tmp_path):
  path = photograph(tmp_path / 'a.png', 240, 240, radius=96, exif=exif(26))  # The disc covers 0.8 of the side.
  wide, exact, narrow = (model.prepare(path, fov=fov) for fov in (50, 40, 10))
  assert covered(wide.image) > covered(exact.image) > covered(narrow.image)
  assert 'its perspective asks for 0.15, which the model has not seen' in narrow.notes[-1]
  assert 'by its EXIF data' in model.prepare(path, camera='exif').notes[-1]
  plain = model.prepare(path)
  np.testing.assert_array_equal(
    model.prepare(photograph(tmp_path / 'b.png', 240, 240, 96), camera='exif').image, plain.image
  )


def test_search_takes_the_size_that_fits_best(tmp_path):
  """A model whose reconstruction is right only if the object covers 0.66 of its input."""
  size = 64
  path = photograph(tmp_path / 'a.png')
  found = preprocess.read_object(path)
  wanted = camera_fit.centred(SimpleNamespace(image_size=size, input_background=1.0), found, 'a', 0.9).image

  def render(planes, poses, intrinsics, side, background, *, skip):
    wrong = np.abs(planes - 0.66)
    # The magnification undoes the size in the input: the object covers 0.9 of each rendered image.
    np.testing.assert_allclose(intrinsics[:, 0, 0] * planes, 0.9 * cameras.intrinsics_from_fov(50)[0], rtol=0.05)
    return SimpleNamespace(color=np.stack([(wanted + one * 0.3)[None] for one in wrong]))

  model = SimpleNamespace(
    image_size=size,
    fov=50.0,
    input_background=1.0,
    input_camera=cameras.input_camera(),
    encode=lambda batch: np.array([covered(image) for image in batch]),
    render=render,
  )
  prepared = camera_fit.prepare(model, found, path, 'search', None)
  assert covered(prepared.image) == pytest.approx(0.66, abs=0.02)
  assert 'the object covers 0.66' in prepared.notes[-1] and prepared.notes[-1].count(':') == len(camera_fit._TRIED) + 2


def test_search_runs_on_a_model(model, tmp_path):
  prepared = model.prepare(photograph(tmp_path / 'a.png'), camera='search')
  assert prepared.image.shape == (16, 16, 3) and 'fits best' in prepared.notes[-1]


def test_images_without_an_outline_are_used_whole(model, tmp_path):
  path = tmp_path / 'a.png'
  Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
  np.testing.assert_array_equal(model.prepare(path, fov=30).image, model.prepare(path).image)


@pytest.mark.parametrize(
  'options, message',
  [
    (['--camera=best'], '--camera=best is unknown: use default, exif, search'),
    (['--camera=exif', '--fov=30'], 'give either --fov=30 or --camera=exif'),
    (['--fov=170'], '--fov=170 must be between 1 and 150'),
    (['--elevation=90'], '--elevation=90 must be between -89 and 89'),
  ],
)
def test_wrong_options_are_one_sentence(monkeypatch, tmp_path, options, message):
  monkeypatch.setattr(sys, 'argv', ['reconstruct', 'a.png', f'--out={tmp_path / "out"}', *options])
  with pytest.raises(InputError, match=message):
    reconstruct.main()
  assert not (tmp_path / 'out').exists()


def test_elevation_makes_results_level(model, tmp_path):
  """A pole that the input camera sees from 30 degrees above stands upright in files, and in the turntable."""
  pole = trimesh.creation.cylinder(0.1, 1.0)
  turn = camera_fit.turn(30.0, [1, 0, 0])
  np.testing.assert_allclose(turn[:3, :3] @ [0, -np.cos(np.pi / 6), 0.5], [0, -1, 0], atol=1e-9)  # The camera.
  tilted = trimesh.Trimesh(pole.vertices @ turn[:3, :3].T, pole.faces, process=False)
  tilted.visual.vertex_colors = np.full((len(pole.vertices), 4), 255, np.uint8)
  result = model.reconstruct(photograph(tmp_path / 'a.png'), elevation=30.0)
  seen = []

  class Camera:
    def __getattr__(self, name):
      return getattr(model, name)

    def render(self, planes, poses, *rest, **options):
      seen.append(np.asarray(poses)[0])
      return model.render(planes, poses, *rest, **options)

  object.__setattr__(result, 'model', Camera())
  files = result.save(tmp_path, mesh=tilted, formats=('ply',), size=8, num_frames=4)
  extents = trimesh.load_mesh(files['mesh']).extents
  np.testing.assert_allclose(extents, [0.2, 0.2, 1.0], atol=0.01)
  up = np.linalg.inv(turn)[:3, :3] @ seen[0][:, :3, 3].T  # Positions in the level world: all at one height.
  np.testing.assert_allclose(up[2], 2 * np.sin(np.deg2rad(20)), atol=1e-5)
  with pytest.raises(InputError, match='an elevation of 91 degrees is not possible'):
    model.reconstruct(tmp_path / 'a.png', elevation=91)
