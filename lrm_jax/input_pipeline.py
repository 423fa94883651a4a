"""From an `object_views` dataset to batches: random access, shuffled, decoded, cut, sharded by process, resumable.

Batches are NumPy float32 and the same whatever the number of workers or processes: a step's batch is a function of
the seed and the step. Pictures are in 0..1, over their background, channels last.
Legend: B objects, V = 1 + side views (view 0 is the input view), H W input picture, h w window.
Source: LRM (arXiv 2311.04400), section 4.1: views resized to a random size, a random window of each supervised.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from pathlib import Path

import grain
import numpy as np
import tensorflow_datasets as tfds

from lrm_jax import cameras, images


def open_split(path: str | Path, split: str):
  """Returns the records of a split, by random access; clear errors where there is no such dataset or split."""
  if not (Path(path) / 'dataset_info.json').is_file():
    raise FileNotFoundError(
        f'{path} is no dataset: it has no dataset_info.json; give the directory that data/build.py printed')
  builder = tfds.builder_from_directory(str(path))
  if split.split('[')[0] not in builder.info.splits:
    raise ValueError(f'{path} has no split {split!r}; it has {", ".join(sorted(builder.info.splits))}')
  return builder.as_data_source(split=split)


@dataclasses.dataclass(frozen=True)
class MakeExample(grain.transforms.RandomMap):
  """One record -> one training example: picks views, decodes only those, moves the cameras, cuts the windows."""

  image_size: int
  window: int
  resize_min: int
  resize_max: int
  num_side_views: int
  background: tuple[float, ...]  # Greys, of which each target view has one.
  input_background: float
  normalise_cameras: bool
  input_position: tuple[float, float, float]
  mirror: bool
  permute_colors: bool
  frontal_input_probability: float
  foreground_bias: float

  def random_map(self, indexed, rng: np.random.Generator) -> dict[str, np.ndarray]:
    index, record = indexed
    picked = self._pick(record, rng)
    poses = np.asarray(record['camera_to_world'], np.float64)[picked]
    intrinsics = np.asarray(record['intrinsics'], np.float64)[picked]
    pictures = [_decode(record, view) for view in picked]
    if self.mirror and rng.random() < 0.5:
      poses, pictures = cameras.mirror(poses), [picture[:, ::-1] for picture in pictures]
      intrinsics[:, 2] = 1 - intrinsics[:, 2]
    if self.normalise_cameras:
      poses, _ = cameras.normalise_to_input_view(poses, position=self.input_position)
    if self.permute_colors:
      channels = [*rng.permutation(3), 3]
      pictures = [picture[..., channels] for picture in pictures]
    image = images.over(images.resize(pictures[0], self.image_size), self.input_background)
    windows, cut_intrinsics = zip(*(self._window(*view, rng) for view in zip(pictures, intrinsics)))
    windows = np.stack(windows)
    greys = rng.choice(self.background, len(picked))
    example = {
        'image': image, 'camera_to_world': poses[0], 'intrinsics': intrinsics[0],
        'target_color': images.over(windows, greys[:, None, None, None]), 'target_opacity': windows[..., 3],
        'target_camera_to_world': poses, 'target_intrinsics': np.stack(cut_intrinsics),
        'background': np.tile(greys[:, None], (1, 3)),
    }
    example = {name: np.asarray(value, np.float32) for name, value in example.items()}
    return example | {'record': np.int32(index)}

  def _pick(self, record, rng) -> list[int]:
    count = len(record['views'])
    if count <= self.num_side_views:
      raise ValueError(
          f'{_uid(record)} has {count} views, too few for an input view and {self.num_side_views} side views: '
          'lower config.data.num_side_views or render more')
    first = 0 if rng.random() < self.frontal_input_probability else int(rng.integers(count))
    others = rng.choice(np.delete(np.arange(count), first), self.num_side_views, replace=False)
    return [first, *map(int, others)]

  def _window(self, picture, intrinsics, rng):
    """Returns (premultiplied window [w, w, 4], its intrinsics): the view at a random size, a random part of it."""
    size = int(rng.integers(self.resize_min, self.resize_max + 1))
    picture = images.resize(picture, size)
    corner = rng.integers(0, size - self.window + 1, 2)
    if rng.random() < self.foreground_bias:
      inside = np.argwhere(picture[..., 3] > 0.5)
      if len(inside):
        corner = np.clip(inside[rng.integers(len(inside))] - self.window // 2, 0, size - self.window)
    top, left = map(int, corner)
    cut = picture[top:top + self.window, left:left + self.window]
    return cut, cameras.window_intrinsics(intrinsics, size, left, top, self.window)


def make_dataset(
    path: str | Path, split: str, *, batch_size: int, image_size: int, window: int, resize_min: int, resize_max: int,
    num_side_views: int, background: Sequence[float] = (1.0,), input_background: float = 1.0,
    normalise_cameras: bool = True, input_position: Sequence[float] = cameras.INPUT_POSITION, mirror: bool = False,
    permute_colors: bool = False, frontal_input_probability: float = 0.0, foreground_bias: float = 0.0, seed: int = 0,
    process_index: int = 0, process_count: int = 1, start_step: int = 0, num_workers: int = 0,
) -> 'Batches':
  """Returns the endless batches of a split, from that of `start_step` on.

  `batch_size` objects a step over all processes; this process gets its share, objects process_index,
  process_index + process_count, ... of each step. With `num_workers` processes read ahead, else threads do.
  Keys: image [B, H, W, 3], camera_to_world [B, 4, 4], intrinsics [B, 4]; target_color [B, V, h, w, 3],
  target_opacity [B, V, h, w], target_camera_to_world [B, V, 4, 4], target_intrinsics [B, V, 4],
  background [B, V, 3]; record [B] int32, the object's place in the split.
  """
  if batch_size % process_count:
    raise ValueError(f'{batch_size=} objects cannot be shared evenly by {process_count} processes')
  source = open_split(path, split)
  make = MakeExample(
      image_size=image_size, window=window, resize_min=resize_min, resize_max=resize_max,
      num_side_views=num_side_views, background=tuple(background), input_background=input_background,
      normalise_cameras=normalise_cameras, input_position=tuple(input_position), mirror=mirror,
      permute_colors=permute_colors, frontal_input_probability=frontal_input_probability,
      foreground_bias=foreground_bias)
  # Random draws come before the slice by process: after it, all processes would draw the same numbers.
  dataset = grain.MapDataset.source(_Indexed(source)).seed(seed).shuffle().repeat(None).random_map(make)
  dataset = dataset[process_index::process_count].batch(batch_size // process_count)[start_step:]
  dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0 if num_workers else 1, prefetch_buffer_size=16))
  if num_workers:
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
  return Batches(iter(dataset), copy=num_workers > 0)


class Batches(Iterator[dict[str, np.ndarray]]):
  """An iterator that ends its workers when it is closed.

  With `copy`, batches leave the memory that is shared with workers, which is then given back at once.
  """

  def __init__(self, iterator, *, copy: bool = False):
    self._iterator, self._copy = iterator, copy

  def __next__(self) -> dict[str, np.ndarray]:
    batch = next(self._iterator)
    return {name: np.array(value) for name, value in batch.items()} if self._copy else batch

  def close(self) -> None:
    """Stops reading ahead; nothing follows."""
    # Grain's iterator is let go here: one that lives until the interpreter ends complains on its way out.
    iterator, self._iterator = self._iterator, iter(())
    if hasattr(iterator, 'close'):
      iterator.close()


def load_views(
    path: str | Path, split: str, *, image_size: int, size: int, indices: Sequence[int] | None = None,
    background: float = 1.0, input_background: float = 1.0,
    input_position: Sequence[float] = cameras.INPUT_POSITION,
) -> dict:
  """Returns every view of objects, for evaluation, the cameras moved so that view 0 is the input view.

  Keys: uid, a list of O; image [O, H, W, 3], view 0 at `image_size`; color [O, V, s, s, 3], opacity [O, V, s, s],
  camera_to_world [O, V, 4, 4], intrinsics [O, V, 4]. Indices beyond the split are left out; ValueError where none
  is left, or where objects differ in their number of views.
  """
  source = open_split(path, split)
  indices = range(len(source)) if indices is None else [i for i in indices if i < len(source)]
  if not len(indices):
    raise ValueError(f'no objects to evaluate: {split!r} of {path} has {len(source)}')
  uids, inputs, pictures, poses, intrinsics = [], [], [], [], []
  for index in indices:
    record = source[index]
    uids.append(_uid(record))
    views = [_decode(record, view) for view in range(len(record['views']))]
    inputs.append(images.over(images.resize(views[0], image_size), input_background))
    pictures.append(np.stack([images.resize(view, size) for view in views]))
    poses.append(cameras.normalise_to_input_view(record['camera_to_world'], position=input_position)[0])
    intrinsics.append(record['intrinsics'])
  if len(counts := {len(views) for views in pictures}) > 1:
    raise ValueError(f'objects of {split!r} of {path} have {sorted(counts)} views: evaluation takes equally many of each')
  pictures = np.stack(pictures)
  return {
      'uid': uids, 'image': np.stack(inputs), 'color': images.over(pictures, background), 'opacity': pictures[..., 3],
      'camera_to_world': np.stack(poses).astype(np.float32), 'intrinsics': np.stack(intrinsics).astype(np.float32),
  }


class _Indexed:
  """A source that says which record it gave."""

  def __init__(self, source):
    self._source = source

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    return index, self._source[index]


def _decode(record, view: int) -> np.ndarray:
  try:
    return images.decode(record['views'][view])
  except ValueError as error:
    raise ValueError(f'view {view} of {_uid(record)} cannot be decoded ({error}): build the dataset again') from error


def _uid(record) -> str:
  uid = record['uid']
  return uid.decode() if isinstance(uid, bytes) else str(uid)
