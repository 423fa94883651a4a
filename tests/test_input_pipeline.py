"""The input pipeline: cameras and windows match the images; batches depend only on the seed and the step."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest

from conftest import encode_png
from lrm_jax.datasets import examples, pipeline
from lrm_jax.datasets.records import open_split
from lrm_jax.datasets.views import load_views
from lrm_jax.errors import InputError
from lrm_jax.geometry import cameras, images
from lrm_jax.training.trainer import Trainer

SETTINGS = dict(image_size=16, window=12, resize_min=14, resize_max=30, num_side_views=2)
MAKE = examples.MakeExample(**SETTINGS)
POINT = np.array([0.21, -0.13, 0.17])


@pytest.fixture(scope='module')
def dots():
  """A record with 7 views of one world point, drawn as a soft dot, by cameras with an off-centre principal point."""
  rng = np.random.default_rng(5)
  positions = rng.normal(size=(7, 3)) * [1, 1, 0.4]
  positions *= (rng.uniform(1.5, 3.0, 7) / np.linalg.norm(positions, axis=-1))[:, None]
  poses = cameras.look_at(positions)
  intrinsics = np.tile([1.1, 1.15, 0.47, 0.52], (7, 1))
  centres, _ = cameras.project(POINT[None], poses, intrinsics)
  places = (np.arange(96) + 0.5) / 96
  views = []
  for x, y in centres[:, 0]:
    alpha = np.exp(-((places[None] - x) ** 2 + (places[:, None] - y) ** 2) / (2 * 0.02**2))
    pixels = np.zeros((96, 96, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 255, np.round(255 * alpha)
    views.append(encode_png(pixels))
  return {
    'uid': b'dot',
    'views': views,
    'camera_to_world': poses.astype(np.float32),
    'intrinsics': intrinsics.astype(np.float32),
  }


def make_dataset(dataset, **kwargs):
  rules = {field.name for field in dataclasses.fields(examples.MakeExample)}
  make = dataclasses.replace(MAKE, **{name: kwargs.pop(name) for name in rules & kwargs.keys()})
  return pipeline.make_dataset([pipeline.Source(dataset, 'train', make)], **{'batch_size': 4, **kwargs})


def take(dataset, count, **kwargs):
  batches = make_dataset(dataset, **kwargs)
  result = [next(batches) for _ in range(count)]
  batches.close()
  return result


def assert_same(x, y):
  assert x.keys() == y.keys()
  for name in x:
    np.testing.assert_array_equal(x[name], y[name], err_msg=name)


def centroid(opacity):
  """Returns the centroid (column, row) of a dot, divided by the image size, or None if the window cuts it."""
  opacity = opacity / 255
  border = max(opacity[0].max(), opacity[-1].max(), opacity[:, 0].max(), opacity[:, -1].max())
  if opacity.sum() < 0.5 or border > 0.004:
    return None
  places = (np.arange(len(opacity)) + 0.5) / len(opacity)
  return np.array([opacity.sum(0) @ places, opacity.sum(1) @ places]) / opacity.sum()


@pytest.mark.parametrize('mirror', [False, True])
@pytest.mark.parametrize('normalise', [False, True])
def test_window_cameras_project_a_point_to_its_pixel(dots, normalise, mirror):
  make = dataclasses.replace(MAKE, normalise_cameras=normalise, mirror=mirror, window=24, resize_min=26, resize_max=50)
  seen, mirrored = 0, set()
  for seed in range(30):
    example = make(dots, np.random.default_rng(seed))
    # The input view is random, and determines the normalised world: try the world of every view.
    worlds = []
    for view in range(7):
      similarity = np.eye(4)
      if normalise:
        _, similarity = cameras.normalise_to_input_view(dots['camera_to_world'], view)
      point = similarity[:3, :3] @ POINT
      worlds += [(False, point)] + ([(True, point * [-1, 1, 1])] if mirror else [])
    errors = []
    for reflected, point in worlds:
      pixels, _ = cameras.project(point[None], example['target_camera_to_world'], example['target_intrinsics'])
      found = [(centroid(opacity), pixel[0]) for opacity, pixel in zip(example['target_opacity'], pixels)]
      distances = [np.linalg.norm(place - pixel) * 24 for place, pixel in found if place is not None]
      errors.append((max(distances, default=0), len(distances), reflected))
    error, count, reflected = min(errors)
    if count == 3:  # All windows contain the whole dot: exactly one world must explain them.
      assert error < 0.1, 'error in pixels of the window'
      seen += 1
      mirrored.add(reflected)
  assert seen >= 3
  assert mirrored == ({False, True} if mirror else {False})


def test_input_view_is_the_first_target_and_is_normalised(dataset):
  for batch in take(dataset, 3, window=16, resize_min=16, resize_max=16):
    np.testing.assert_allclose(batch['camera_to_world'][:, :3, 3], [[0, -2, 0]] * 4, atol=1e-5)
    np.testing.assert_allclose(batch['camera_to_world'], [cameras.input_camera()] * 4, atol=1e-5)
    np.testing.assert_array_equal(batch['target_camera_to_world'][:, 0], batch['camera_to_world'])
    # A window of the size of the view is the whole view, here at the size of the input image.
    np.testing.assert_array_equal(batch['target_color'][:, 0], batch['image'])
    np.testing.assert_allclose(batch['target_intrinsics'][:, 0], batch['intrinsics'], atol=1e-6)
    # Cameras still look at the origin, and the views of an object are all different.
    forward = -batch['target_camera_to_world'][..., :3, 2]
    towards = -batch['target_camera_to_world'][..., :3, 3]
    np.testing.assert_allclose(np.cross(forward, towards), 0, atol=1e-5)
    positions = batch['target_camera_to_world'][..., :3, 3]
    assert np.all(np.linalg.norm(positions - np.roll(positions, 1, axis=1), axis=-1) > 1e-3)


def test_keys_shapes_and_dtypes_of_a_batch(dataset):
  (batch,) = take(dataset, 1, background=(0.25,), input_background=0.25)
  shapes = {
    'image': (4, 16, 16, 3),
    'camera_to_world': (4, 4, 4),
    'intrinsics': (4, 4),
    'target_color': (4, 3, 12, 12, 3),
    'target_opacity': (4, 3, 12, 12),
    'target_camera_to_world': (4, 3, 4, 4),
    'target_intrinsics': (4, 3, 4),
    'background': (4, 3, 3),
    'record': (4,),
  }
  assert {name: value.shape for name, value in batch.items()} == shapes
  images = {'image', 'target_color', 'target_opacity'}
  assert {name for name, value in batch.items() if value.dtype == np.uint8} == images
  assert {name for name, value in batch.items() if value.dtype == np.float32} == shapes.keys() - images - {'record'}
  assert batch['record'].dtype == np.int32
  # 0.25 is not a multiple of 1/255: the background is rounded like the pixels that it is compared with.
  np.testing.assert_array_equal(batch['background'], np.float32(64) / np.float32(255))
  outside = batch['target_opacity'] == 0
  np.testing.assert_array_equal(batch['target_color'][outside], 64)


def test_processes_together_read_the_batch_of_one_process(dataset):
  whole = take(dataset, 5, mirror=True)
  for rows in ((0, 1), (2, 3), (1, 3)):  # (1, 3) occurs with meshes in another device order.
    for part, batch in zip(take(dataset, 5, mirror=True, rows=rows), whole):
      assert_same(part, {name: value[list(rows)] for name, value in batch.items()})


def test_starting_at_a_step_equals_uninterrupted_iteration(dataset):
  batches = take(dataset, 6, batch_size=3)  # There are 4 objects, so batches span epochs.
  for start in (1, 4):
    for late, expected in zip(take(dataset, 2, batch_size=3, start=3 * start), batches[start:]):
      assert_same(late, expected)


def test_another_batch_size_continues_with_the_next_example(dataset):
  """Two batches of 3 and then batches of 4 see the same examples, in the same order, as batches of 2."""
  parts = take(dataset, 2, batch_size=3) + take(dataset, 2, batch_size=4, start=6)
  whole = take(dataset, 7, batch_size=2)
  assert_same(*({name: np.concatenate([batch[name] for batch in x]) for name in x[0]} for x in (parts, whole)))


def test_images_are_rounded_to_bytes_at_the_end(dots, monkeypatch):
  make = dataclasses.replace(MAKE, mirror=True, permute_colors=True, background=(0.0, 0.6, 1.0))
  for seed in range(5):
    example = make(dots, np.random.default_rng(seed))
    with monkeypatch.context() as patch:
      patch.setattr(examples, '_to_bytes', lambda pixels: pixels)
      exact = make(dots, np.random.default_rng(seed))
    assert example.keys() == exact.keys()
    for name, value in exact.items():
      if example[name].dtype == np.uint8:
        assert value.dtype == np.float32
        np.testing.assert_array_equal(example[name], images.to_bytes(value))
      else:
        np.testing.assert_array_equal(example[name], value)


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_batches_larger_than_a_chunk_are_put_together_in_order(dataset, workers, monkeypatch):
  whole = take(dataset, 3, batch_size=12)
  monkeypatch.setattr(pipeline, '_CHUNK', 5)
  for batch, expected in zip(take(dataset, 3, batch_size=12, num_workers=workers), whole):
    assert_same(batch, expected)


def test_batch_is_put_together_without_holding_all_its_chunks():
  chunks: list[weakref.ref] = []

  def read():
    for number in range(8):
      assert sum(chunk() is not None for chunk in chunks) <= 1
      values = np.full((2, 3), number, np.int32)
      chunks.append(weakref.ref(values))
      yield {'record': values, 'broken': np.zeros(2, np.int32)}
      del values

  batches = pipeline.Batches(read(), chunks=4)
  for first in (0, 4):
    np.testing.assert_array_equal(next(batches)['record'][:, 0], np.repeat(np.arange(first, first + 4), 2))


def test_batch_on_the_devices_has_no_second_copy_on_the_host(tiny_config, monkeypatch):
  read, held = pipeline.Batches.__next__, []

  def watched(self):
    batch = read(self)
    held.append(weakref.ref(batch['image']))
    return batch

  monkeypatch.setattr(pipeline.Batches, '__next__', watched)
  batches = Trainer(tiny_config, lpips=None).batches(0)
  batch, _ = next(batches)
  del batch  # A CPU device may use the host's memory without copying it.
  gc.collect()
  assert [image() for image in held] == [None]
  batches.close()


def test_batches_do_not_depend_on_the_number_of_workers(dataset):
  for x, y in zip(take(dataset, 4), take(dataset, 4, num_workers=2)):
    assert_same(x, y)


def test_every_epoch_has_every_object_once_in_a_new_order(dataset):
  orders = [tuple(batch['record']) for batch in take(dataset, 8)]
  assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
  assert len(set(orders)) > 1
  other = [tuple(batch['record']) for batch in take(dataset, 8, seed=1)]
  assert other != orders


def test_windows_differ_between_epochs(dataset):
  first, second = take(dataset, 2)
  row = list(second['record']).index(first['record'][0])
  assert not np.array_equal(first['target_intrinsics'][0], second['target_intrinsics'][row])


def test_only_picked_views_are_decoded(dots, monkeypatch):
  decoded = []
  decode = images.decode
  monkeypatch.setattr(images, 'decode', lambda encoded: decoded.append(encoded) or decode(encoded))
  MAKE(dots, np.random.default_rng(0))
  # Readers of other tests may still be running.
  decoded = [encoded for encoded in decoded if encoded in dots['views']]
  assert len(decoded) == len(set(decoded)) == 3


def test_frontal_view_is_the_input_with_the_given_probability(dots):
  def share(probability):
    make = dataclasses.replace(MAKE, frontal_input_probability=probability)
    rng = np.random.default_rng(0)
    return np.mean([make._pick(dots, rng)[0] == 0 for _ in range(700)])

  assert share(1.0) == 1
  assert share(0.0) == pytest.approx(1 / 7, abs=0.05)
  assert share(0.5) == pytest.approx(0.5 + 0.5 / 7, abs=0.06)


def test_colours_are_permuted_equally_in_all_views(dots):
  make = dataclasses.replace(
    MAKE, permute_colors=True, background=(0.0,), input_background=0.0, window=30, resize_min=30, resize_max=30
  )
  channels = set()
  for seed in range(20):
    example = make(dots, np.random.default_rng(seed))
    light = np.stack([example['image'].sum((0, 1)), *example['target_color'].sum((1, 2))]).astype(int)
    assert np.all((light > 0).sum(axis=1) == 1)  # The dot is pure red in the file.
    in_view = set(np.argmax(light, axis=1))
    assert len(in_view) == 1
    channels |= in_view
  assert channels == {0, 1, 2}


def test_foreground_bias_centres_windows_on_the_object(dots):
  def share(bias):
    make = dataclasses.replace(MAKE, foreground_bias=bias, resize_min=30)
    rng = np.random.default_rng(0)
    examples = [make(dots, rng) for _ in range(20)]
    return np.mean([opacity.max() > 127 for example in examples for opacity in example['target_opacity']])

  assert share(1.0) == 1
  assert share(0.0) < 0.9


def test_foreground_bias_accepts_blank_views(dots):
  blank = dots | {'views': [encode_png(np.zeros((32, 32, 4), np.uint8))] * 7}
  example = dataclasses.replace(MAKE, foreground_bias=1.0)(blank, np.random.default_rng(0))
  np.testing.assert_array_equal(example['target_color'], 255)


def test_single_pixels_are_drawn_on_the_object_and_weighted_to_the_mean_of_the_view(dots):
  rng, square = np.random.default_rng(0), np.zeros((64, 64, 4), np.uint8)
  square[10:34, 20:50] = rng.integers(0, 256, (24, 30, 4))
  square[10:34, 20:50, 3] = 255
  record = dots | {'views': [encode_png(square)] * 7}
  make = dataclasses.replace(MAKE, rays='foreground', foreground_share=0.5, window=32, resize_min=64, resize_max=64)
  white = np.where(square[..., 3:] > 0, square[..., :3], 255)
  means = []
  for _ in range(20):
    example = make(record, rng)
    column, row = np.moveaxis(np.floor(example['target_position'] * 64).astype(int), -1, 0)
    np.testing.assert_array_equal(example['target_color'], white[row, column])
    np.testing.assert_allclose(example['target_position'] * 64 % 1, 0.5, atol=1e-4)
    np.testing.assert_array_equal(example['target_intrinsics'], record['intrinsics'][:3])
    on_object = example['target_opacity'] > 0
    assert np.all(on_object.mean((1, 2)) > 0.5)
    np.testing.assert_allclose(np.unique(example['target_weight']), [1 / (0.5 * 4096 / 720 + 0.5), 2], rtol=1e-6)
    errors = example['target_weight'][..., None] * example['target_color']
    means.append([example['target_weight'].mean(), (example['target_weight'] * on_object).mean(), errors.mean()])
  np.testing.assert_allclose(np.mean(means, axis=0), [1, 720 / 4096, white.mean()], rtol=0.02)


def test_single_pixels_of_a_blank_view_are_uniform(dots):
  blank = dots | {'views': [encode_png(np.zeros((32, 32, 4), np.uint8))] * 7}
  example = dataclasses.replace(MAKE, rays='foreground')(blank, np.random.default_rng(0))
  np.testing.assert_array_equal(example['target_weight'], 1)
  assert example['target_position'].min() > 0 and example['target_position'].max() < 1


def test_small_views_are_upsampled(dots):
  make = dataclasses.replace(MAKE, image_size=128, window=110, resize_min=112, resize_max=120)
  example = make(dots, np.random.default_rng(0))
  assert example['image'].shape == (128, 128, 3)
  assert example['target_color'].shape == (3, 110, 110, 3)


def test_too_few_views_raises_with_advice(dataset):
  batches = make_dataset(dataset, num_side_views=5)
  with pytest.raises(ValueError, match=r'ball_\d has 5 views, too few .* 5 side views: lower'):
    next(batches)
  batches.close()


def test_damaged_view_is_named(dots):
  broken = dots | {'views': [view[:200] for view in dots['views']]}
  with pytest.raises(ValueError, match=r'view \d of dot cannot be decoded'):
    MAKE(broken, np.random.default_rng(0))


def test_missing_dataset_and_split_raise(dataset, tmp_path):
  with pytest.raises(InputError, match='is not a dataset.*data/build.py'):
    make_dataset(tmp_path)
  with pytest.raises(ValueError, match="no split 'valid'; it has test, train"):
    load_views(dataset, 'valid', image_size=8, size=8)


def test_load_views_returns_all_views_with_normalised_cameras(dataset):
  views = load_views(dataset, 'test', image_size=16, size=24, indices=[1, 0, 7], background=0.5, input_background=0.5)
  source = open_split(dataset, 'test')
  assert views['image'].shape == (2, 16, 16, 3)
  assert views['color'].shape == (2, 5, 24, 24, 3) and views['opacity'].shape == (2, 5, 24, 24)
  np.testing.assert_allclose(views['camera_to_world'][:, 0], [cameras.input_camera()] * 2, atol=1e-5)
  for row, index in enumerate([1, 0]):
    record = source[index]
    assert views['uid'][row] == record['uid'].decode()
    np.testing.assert_allclose(views['intrinsics'][row], record['intrinsics'])
    view = images.resize(images.decode(record['views'][3]), 24)
    np.testing.assert_allclose(views['color'][row, 3], images.over(view, 0.5), atol=0.8 / 255)  # Views have 8 bits.


def test_load_views_without_objects_raises(dataset):
  with pytest.raises(ValueError, match="no objects .* 'test' .* has 2"):
    load_views(dataset, 'test', image_size=16, size=24, indices=[7])


def mixture(dataset, other, **kwargs):
  """Returns 4 batches of two datasets; the second has each record three times per epoch, and keeps its distances."""
  sources = [
    pipeline.Source(dataset, 'train', MAKE),
    pipeline.Source(other, 'test', dataclasses.replace(MAKE, keep_distance=True), 3.0, 'video'),
  ]
  batches = pipeline.make_dataset(sources, **{'batch_size': 5, **kwargs})
  result = [next(batches) for _ in range(4)]
  batches.close()
  return result


def test_epoch_of_a_mixture_has_each_record_the_given_number_of_times(dataset):
  """4 records once and 2 records three times: 10 examples, two batches."""
  batches = mixture(dataset, dataset)
  for epoch in (batches[:2], batches[2:]):
    records = np.concatenate([batch['record'] for batch in epoch])
    assert sorted(records) == [0, 1, 2, 3] + 3 * [4] + 3 * [5]
    assert 0 < np.mean(records[:5] >= 4) < 1, 'the datasets must be mixed, not concatenated'


def test_each_dataset_of_a_mixture_has_its_own_settings(dataset):
  for batch in mixture(dataset, dataset):
    distance = np.linalg.norm(batch['camera_to_world'][:, :3, 3], axis=-1)
    direction = batch['camera_to_world'][:, :3, 3] / distance[:, None]
    np.testing.assert_allclose(direction, [[0, -1, 0]] * 5, atol=1e-5)
    np.testing.assert_allclose(distance[batch['record'] < 4], 2, atol=1e-5)
    source = open_split(dataset, 'test')
    for record, d in zip(batch['record'], distance):
      if record >= 4:
        own = np.linalg.norm(source[record - 4]['camera_to_world'][:, :3, 3], axis=-1)
        assert np.abs(own - d).min() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_mixture_is_sharded_and_resumed_like_a_single_dataset(dataset, workers):
  whole = mixture(dataset, dataset, batch_size=4)
  halves = [0, 1], [2, 3]
  parts = [mixture(dataset, dataset, batch_size=4, rows=rows, num_workers=workers) for rows in halves]
  late = mixture(dataset, dataset, batch_size=4, start=12, num_workers=workers)
  assert_same(late[0], whole[3])
  for step, batch in enumerate(whole):
    for part, rows in zip(parts, halves):
      assert_same(part[step], {name: value[rows] for name, value in batch.items()})


def test_training_sources_of_a_configuration(dataset):
  data = dict(
    path='a',
    times=1.0,
    train_split='train',
    background=(1.0,),
    num_side_views=3,
    window=8,
    resize_min=8,
    resize_max=9,
    mirror=False,
    mixture={'video': dict(path='', times=3.0), 'scans': dict(path='b', times=0.5, mirror=True)},
  )

  def read(**changes):
    return pipeline.training_sources(data | changes, image_size=16, input_position=(1.9, 0, 0))

  first, second = read()
  assert (first.path, first.times, first.name, first.make.mirror) == ('a', 1.0, '', False)
  assert (second.path, second.times, second.name, second.make.mirror) == ('b', 0.5, 'scans', True)
  assert second.make.input_position == (1.9, 0, 0) and second.make.resize_max == 9
  for entry, message in [
    (dict(path='b', mirrored=True), 'scans has the unknown values mirrored: '),
    (dict(path='b', window=9), r'scans.window = 9 must equal config.data.window = 8'),
    (dict(path='b', times=0.0), r'scans.times = 0.0 must be positive'),
  ]:
    with pytest.raises(ValueError, match=message):
      read(mixture={'scans': entry})


class Damaged:
  """Wraps records, some of which are damaged."""

  def __init__(self, records, damaged, damage):
    self.records, self.damaged, self.damage = records, damaged, damage

  def __len__(self):
    return len(self.records)

  def __getitem__(self, index):
    record = dict(self.records[index])
    return record | self.damage(record) if index in self.damaged else record


# The changed values of a record, for each kind of damage.
DAMAGES = {
  'truncated image': lambda r: {'views': [view[:200] for view in r['views']]},
  'image that is not square': lambda r: {'views': [encode_png(np.zeros((8, 9, 4), np.uint8))] * len(r['views'])},
  'NaN pose': lambda r: {'camera_to_world': np.full_like(r['camera_to_world'], np.nan)},
  'singular matrix': lambda r: {'camera_to_world': 0 * r['camera_to_world']},
  'mirrored camera': lambda r: {'camera_to_world': r['camera_to_world'] * np.array([1, 1, -1, 1], np.float32)},
  'missing view': lambda r: {'views': r['views'][:-1]},
  'missing camera': lambda r: {'intrinsics': r['intrinsics'][1:]},
  'focal length of zero': lambda r: {'intrinsics': 0 * r['intrinsics']},
  'camera at the origin': lambda r: {'camera_to_world': np.tile(np.eye(4, dtype=np.float32), (len(r['views']), 1, 1))},
  'too few views': lambda r: {name: r[name][:2] for name in ('views', 'camera_to_world', 'intrinsics')},
}


@pytest.mark.parametrize('kind', DAMAGES)
def test_broken_records_are_logged_and_replaced_up_to_a_limit(dataset, kind, monkeypatch, caplog):
  records = open_split(dataset, 'train')
  monkeypatch.setattr(pipeline, 'open_split', lambda *args: Damaged(records, {2}, DAMAGES[kind]))
  good = take(dataset, 2, max_broken_share=0.5)
  name = records[2]['uid'].decode()
  assert all(2 not in batch['record'] for batch in good) and all(sorted(b['record']) == [0, 1, 3, 3] for b in good)
  assert 'record 2 is broken' in caplog.text and name in caplog.text
  for limit, message in [(0.1, '1 broken records among 4 examples.*max_broken_share = 0.1'), (0.0, name)]:
    with pytest.raises(ValueError, match=message):
      take(dataset, 2, max_broken_share=limit)


def test_dataset_with_only_broken_records_raises(dataset, monkeypatch):
  records = open_split(dataset, 'train')
  monkeypatch.setattr(pipeline, 'open_split', lambda *args: Damaged(records, range(4), DAMAGES['focal length of zero']))
  with pytest.raises(ValueError, match='ball_. has a focal length of 0'):
    take(dataset, 1, max_broken_share=1.0)
