"""Several input views: equal to one view where only one is given; cameras, layouts, the command, training, PyTorch."""

import json
import subprocess
import sys

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from conftest import DATA, TINY_MODEL, load_torch_lrm
from lrm_jax import evaluate
from lrm_jax.datasets import examples, pipeline
from lrm_jax.datasets.views import HeldOut, ViewRules
from lrm_jax.errors import InputError
from lrm_jax.evaluation import novel_views, results, view_protocols
from lrm_jax.export import export
from lrm_jax.geometry import cameras
from lrm_jax.models import registry
from lrm_jax.models.lrm import LRM
from lrm_jax.reconstruction import several_views
from lrm_jax.reconstruction.reconstructor import Reconstructor, from_pretrained
from lrm_jax.storage import checkpoint
from lrm_jax.training import loop

SIZES = TINY_MODEL | {'num_input_views': 3}
INTRINSICS = cameras.intrinsics_from_fov(50).astype(np.float32)


def perturbed(model, seed=0):
  rng = np.random.default_rng(seed)
  params = registry.parameters(model)
  return registry.with_parameters(
    model, jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
  )


@pytest.fixture(scope='module')
def model():
  """A model of up to three views, with perturbed parameters: an untrained one ignores cameras and tags."""
  return perturbed(LRM(**SIZES, rngs=nnx.Rngs(0)))


@pytest.fixture(scope='module')
def views():
  """(images [2, 3, 16, 16, 3], camera_to_world [2, 3, 4, 4], intrinsics [2, 3, 4])."""
  rng = np.random.default_rng(1)
  images = rng.random((2, 3, 16, 16, 3), np.float32)
  poses = np.tile(cameras.orbit(4)[[0, 1, 2]].astype(np.float32), (2, 1, 1, 1))
  return jnp.asarray(images), jnp.asarray(poses), jnp.tile(INTRINSICS, (2, 3, 1))


def test_one_view_gives_the_planes_of_the_model_with_one_view(model, views):
  images, poses, intrinsics = views
  params = registry.parameters(model)
  single = registry.with_parameters(
    LRM(**TINY_MODEL, rngs=nnx.Rngs(0)), {name: tree for name, tree in params.items() if name != 'view_tags'}
  )
  expected = single.encode(images[:, 0], poses[:, 0], intrinsics[:, 0])
  np.testing.assert_array_equal(model.encode(images[:, 0], poses[:, 0], intrinsics[:, 0]), expected)
  np.testing.assert_array_equal(model.encode(images[:, :1], poses[:, :1], intrinsics[:, :1]), expected)


def test_repeated_views_count_once(model, views):
  images, poses, intrinsics = views
  once = model.encode(images[:, :1], poses[:, :1], intrinsics[:, :1])
  thrice = model.encode(*(x[:, [0, 0, 0]] for x in views))
  np.testing.assert_allclose(thrice, once, atol=1e-5)


def test_order_of_the_other_views_makes_no_difference_but_their_cameras_do(model, views):
  images, poses, intrinsics = views
  planes = np.asarray(model.encode(*views))
  np.testing.assert_allclose(model.encode(*(x[:, [0, 2, 1]] for x in views)), planes, atol=1e-5)
  assert np.abs(model.encode(images, poses[:, [0, 2, 1]], intrinsics) - planes).max() > 1e-3
  assert np.abs(model.encode(*(x[:, :2] for x in views)) - planes).max() > 1e-3


def test_tags_start_at_zero(views):
  _, poses, intrinsics = views
  model = LRM(**SIZES, rngs=nnx.Rngs(0))
  tokens = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 5, 24)), jnp.float32)
  np.testing.assert_array_equal(model.view_tags(tokens, poses, intrinsics), tokens.reshape(2, 15, 24))


def test_too_many_views_are_refused(model, views):
  with pytest.raises(InputError, match='at most 3 input views'):
    model.encode(*(jnp.concatenate([x, x], axis=1) for x in views))
  with pytest.raises(InputError, match='num_input_views=0 must be at least 1'):
    LRM(**TINY_MODEL, num_input_views=0, rngs=nnx.Rngs(0))


def test_examples_have_one_to_all_input_views_in_the_frame_of_the_first(records_of_views):
  make = examples.MakeExample(
    image_size=16, window=8, resize_min=16, resize_max=16, num_side_views=1, num_input_views=3
  )
  counts = set()
  for seed in range(30):
    example = make(records_of_views, np.random.default_rng(seed))
    assert example['image'].shape == (3, 16, 16, 3) and example['image'].dtype == np.uint8
    assert example['camera_to_world'].shape == (3, 4, 4) and example['intrinsics'].shape == (3, 4)
    np.testing.assert_allclose(example['camera_to_world'][0], cameras.input_camera(), atol=1e-6)
    np.testing.assert_array_equal(example['camera_to_world'][0], example['target_camera_to_world'][0])
    different = len(np.unique(example['camera_to_world'].reshape(3, 16).round(4), axis=0))
    counts.add(different)
    for place in range(3):  # Views are repeated in turn, image and camera together.
      np.testing.assert_array_equal(example['image'][place], example['image'][place % different])
      np.testing.assert_array_equal(example['camera_to_world'][place], example['camera_to_world'][place % different])
  assert counts == {1, 2, 3}


def test_shares_say_how_often_examples_have_how_many_views(records_of_views):
  make = examples.MakeExample(
    image_size=16,
    window=8,
    resize_min=16,
    resize_max=16,
    num_side_views=1,
    num_input_views=3,
    input_view_shares=(3.0, 0.0, 1.0),
  )
  found = [make(records_of_views, np.random.default_rng(seed))['camera_to_world'] for seed in range(60)]
  counts = [len(np.unique(poses.reshape(3, 16).round(4), axis=0)) for poses in found]
  assert set(counts) == {1, 3} and 30 < counts.count(1) < 58


@pytest.mark.parametrize('shares', [(1.0,), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0)])
def test_wrong_shares_are_refused(tiny_config, shares):
  data = {**tiny_config.data.to_dict(), 'input_view_shares': shares}
  with pytest.raises(InputError, match='input_view_shares = .* for each number of input views from 1 to .* = 3'):
    pipeline.training_sources(data, image_size=16, input_position=(0, -2, 0), num_input_views=3)


def test_examples_do_not_change_for_models_of_one_view(records_of_views):
  make = examples.MakeExample(image_size=16, window=8, resize_min=16, resize_max=16, num_side_views=1)
  example = make(records_of_views, np.random.default_rng(0))
  assert example['image'].shape == (16, 16, 3) and example['camera_to_world'].shape == (4, 4)


@pytest.fixture(scope='module')
def records_of_views():
  from conftest import encode_png

  rng = np.random.default_rng(3)
  views = [encode_png(rng.integers(0, 255, (16, 16, 4), np.uint8)) for _ in range(5)]
  return {
    'uid': b'noise',
    'views': views,
    'camera_to_world': cameras.orbit(5, (0, -1.7, 0.4), 10).astype(np.float32),
    'intrinsics': np.tile(INTRINSICS, (5, 1)),
  }


@pytest.mark.slow
def test_training_with_several_views_changes_the_tags(tiny_config, tmp_path):
  tiny_config.model.num_input_views = 2
  tiny_config.num_train_steps = 3
  loop.train(tiny_config, tmp_path)
  model, config, step = checkpoint.restore(tmp_path)
  assert step == 3 and config.model.num_input_views == 2
  assert np.abs(registry.parameters(model)['view_tags']['embedding']['contract']['kernel']).max() > 0


@pytest.fixture(scope='module')
def run_of_three(tmp_path_factory, model):
  directory = tmp_path_factory.mktemp('three')
  checkpoint.write_model(directory, registry.parameters(model), ConfigDict({'model': SIZES, 'data': DATA}), step=1)
  return directory


@pytest.mark.slow
def test_export_to_pytorch_gives_the_same_planes(run_of_three, tmp_path, views):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install torch==2.13.0')
  exported = load_torch_lrm(export(run_of_three, tmp_path / 'out', format='torch'))
  with torch.no_grad():
    for count in (1, 2, 3):
      part = [x[:, :count] for x in views]
      found = exported.encode(*(torch.tensor(np.array(x)) for x in part)).numpy()
      np.testing.assert_allclose(found, from_pretrained(run_of_three).encode(*part), atol=1e-4)
  with pytest.raises(ValueError, match='at most 3 input views'):
    exported.encode(*(torch.tensor(np.concatenate([x, x], axis=1)) for x in map(np.array, views)))


def write_square(path, width, height):
  rgba = np.zeros((64, 64, 4), np.uint8)
  rgba[32 - height // 2 : 32 + height // 2, 32 - width // 2 : 32 + width // 2] = (200, 40, 40, 255)
  Image.fromarray(rgba).save(path)
  return path


def prepared(model, paths, *, whole):
  return several_views.prepare(paths, model.image_size, whole=whole, fill=model.fill, background=model.input_background)


def test_views_of_a_layout_share_one_scale(run_of_three, tmp_path):
  model = from_pretrained(run_of_three)
  paths = [write_square(tmp_path / 'front.png', 40, 20), write_square(tmp_path / 'side.png', 20, 20)]
  front, side = prepared(model, paths, whole=False)
  widths = [int(np.sum(view.image[8, :, 1] < 0.7)) for view in (front, side)]
  assert widths[0] == pytest.approx(16 * model.fill, abs=1) and widths[1] == pytest.approx(widths[0] / 2, abs=1)
  result = model.reconstruct_views(paths)
  poses, intrinsics = several_views.layout_cameras(['front', 'right'], model.input_position, model.intrinsics)
  expected = model.encode(np.stack([front.image, side.image])[None], poses[None].astype(np.float32), intrinsics[None])
  np.testing.assert_allclose(result.planes, expected[0], atol=1e-6)
  assert result.name == 'front'
  np.testing.assert_allclose(poses[1][:3, 3], [2, 0, 0], atol=1e-9)  # At the right of the object.


def test_views_with_cameras_are_used_whole_in_the_frame_of_the_first(run_of_three, tmp_path):
  model = from_pretrained(run_of_three)
  paths = [write_square(tmp_path / 'a.png', 40, 20), write_square(tmp_path / 'b.png', 20, 20)]
  poses = cameras.orbit(5, (0, -1.7, 0.4), 10)[:2]
  result = model.reconstruct_views(paths, poses)
  images = [view.image for view in prepared(model, paths, whole=True)]
  moved, _ = cameras.normalise_to_input_view(poses)
  expected = model.encode(np.stack(images)[None], moved[None], np.tile(model.intrinsics, (1, 2, 1)))
  np.testing.assert_allclose(result.planes, expected[0], atol=1e-6)


def test_models_of_one_view_refuse_two(run_directory, tmp_path):
  paths = [write_square(tmp_path / 'a.png', 40, 20)] * 2
  with pytest.raises(InputError, match='takes 1 to 1 views of an object, not 2'):
    from_pretrained(run_directory).reconstruct_views(paths)
  with pytest.raises(InputError, match='takes 1 to 1 views'):
    from_pretrained(run_directory).encode(np.zeros((1, 2, 16, 16, 3)), np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4)))


POSE = cameras.input_camera().tolist()


@pytest.mark.parametrize(
  'content, message',
  [
    ('[', 'is not a JSON file'),
    ({'frames': []}, 'must be a list of 2 cameras, one per view in their order; it is a dict'),
    ([{'camera_to_world': POSE}], 'it is a list of 1'),
    ([{}, {}], 'view 0 has no camera_to_world'),
    ([{'camera_to_world': POSE}, {'camera_to_world': 'left'}], 'view 1: camera_to_world must be numbers'),
    ([{'camera_to_world': [[1, 2], [3, 4]]}] * 2, 'has the shape [2, 2]'),
    ([{'camera_to_world': (2 * np.eye(4)).tolist()}] * 2, 'are not a rotation'),
    ([{'camera_to_world': np.eye(4).tolist()}] * 2, 'the camera is at the origin'),
    ([{'camera_to_world': POSE, 'fov': 500}] * 2, 'fov = 500 must be between 1 and 150'),
    ([{'camera_to_world': POSE, 'intrinsics': [600, 600, 256, 256]}] * 2, 'divided by the image size'),
  ],
)
def test_bad_files_of_cameras_are_refused(content, message, tmp_path):
  path = tmp_path / 'cameras.json'
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  with pytest.raises(InputError) as error:
    several_views.read_cameras(path, 2, INTRINSICS)
  assert message in str(error.value)


def test_cameras_of_a_file(tmp_path):
  path = tmp_path / 'cameras.json'
  path.write_text(json.dumps([{'camera_to_world': POSE[:3]}, {'camera_to_world': POSE, 'fov': 40}]))
  poses, intrinsics = several_views.read_cameras(path, 2, INTRINSICS)
  np.testing.assert_allclose(poses, [POSE, POSE])
  np.testing.assert_allclose(intrinsics, [INTRINSICS, cameras.intrinsics_from_fov(40)])


@pytest.mark.parametrize(
  'layout, count, message',
  [
    ('front,top', 2, "'top' is not a side"),
    ('back,front', 2, 'must begin with front'),
    ('front,front', 2, 'have each side once'),
    ('front,back', 3, 'has 2 sides, and there are 3 views'),
    (None, 5, 'the default layout has 4 sides, and there are 5 views'),
  ],
)
def test_bad_layouts_are_refused(layout, count, message):
  with pytest.raises(InputError, match=message):
    several_views.parse_layout(layout, count)


@pytest.mark.slow
def test_command_reconstructs_an_object_from_views(run_of_three, tmp_path):
  paths = [str(write_square(tmp_path / 'a.png', 40, 20)), str(write_square(tmp_path / 'b.png', 20, 20))]
  options = ['--checkpoint', str(run_of_three), '--out', str(tmp_path / 'out'), '--num_frames=2', '--size=16']
  options += ['--resolution=16', '--threshold=0.01']

  def run(*words):
    command = [sys.executable, '-m', 'lrm_jax.reconstruct', *words, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)

  done = run('--views', *paths, '--layout=front,back')
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'out/a.glb').is_file() and (tmp_path / 'out/a_planes.npz').is_file()
  for words, message in [
    ((), 'give either images'),
    ((paths[0], '--layout=front'), '--layout and --cameras are those of --views'),
    (('--views', *paths, '--layout=front'), '--layout=front has 1 sides'),
    (('--views', *paths, *paths), 'takes 1 to 3 views'),
    (('--views', *paths, '--batch_size=2'), '--batch_size=2 is for images of several objects'),
    (('--views', *paths, '--cameras=nowhere.json'), 'nowhere.json cannot be read'),
  ]:
    done = run(*words)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr, done.stderr


def test_reconstructor_knows_the_number_of_views(model):
  assert Reconstructor(model).num_input_views == 3


def evaluate_several(monkeypatch, checkpoint, dataset, *options):
  words = ['--protocol=several-views', f'--checkpoint={checkpoint}', f'--data={dataset}', '--size=16', *options]
  monkeypatch.setattr(sys, 'argv', ['evaluate', *words])
  evaluate.main()


@pytest.mark.slow
def test_evaluation_with_several_views_scores_the_same_views_for_any_number(
  run_of_three, dataset, tmp_path, monkeypatch
):
  sections = {}
  for count in (1, 3):
    out = tmp_path / str(count)
    evaluate_several(monkeypatch, run_of_three, dataset, f'--num_input_views={count}', '--no_baselines', f'--out={out}')
    [sections[count]] = results.read(out)['sections']
    assert sections[count]['settings']['input views'] == list(range(count))
    for views in sections[count]['rows']['model']['views'].values():
      assert [view['view'] for view in views] == [0, 4]
  psnr = {count: section['rows']['model']['summary']['psnr']['mean'] for count, section in sections.items()}
  assert psnr[1] != psnr[3]


@pytest.mark.slow
def test_evaluation_renders_what_the_model_makes_of_several_views(run_of_three, dataset):
  held_out = view_protocols.several_views(HeldOut(dataset, 'test', ViewRules(image_size=16, size=16)), 2)
  views = held_out.load([1])
  assert views['image'].shape == (1, 2, 16, 16, 3) and views['number'].tolist() == [[0, 4]]
  model = from_pretrained(run_of_three)
  planes = model.encode(views['image'], views['input_camera_to_world'], views['input_intrinsics'])
  cameras_of_views = jnp.asarray(views['camera_to_world']), jnp.asarray(views['intrinsics'])
  expected = model.model.render(jnp.asarray(planes), *cameras_of_views, 16)
  np.testing.assert_allclose(novel_views.predict(model.model, views).color, expected.color, atol=1e-4)
  # The first camera is the input camera, and all are in its frame, as of one input view.
  single = HeldOut(dataset, 'test', ViewRules(image_size=16, size=16)).load([1])
  np.testing.assert_allclose(views['input_camera_to_world'][0], single['camera_to_world'][0, :2], atol=1e-6)
  np.testing.assert_allclose(views['camera_to_world'][0], single['camera_to_world'][0, [0, 4]], atol=1e-6)
  np.testing.assert_array_equal(views['image'][:, 0], single['image'])


@pytest.mark.parametrize(
  'options, message',
  [
    (['--num_input_views=4'], 'takes 1 to 3 input views'),
    (['--num_input_views=0'], r'--num_input_views=0 must be 1 to 4'),
    (['--num_input_views=2', '--protocol=lrm'], '--num_input_views=2 is for --protocol=several-views'),
  ],
)
def test_evaluation_refuses_other_numbers_of_views(run_of_three, dataset, monkeypatch, options, message):
  with pytest.raises(InputError, match=message):
    evaluate_several(monkeypatch, run_of_three, dataset, *options)
