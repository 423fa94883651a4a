"""Protocols that compare views: a fixed input view, each of several in turn, or several at once, scored on all others.

Legend: O objects, V views.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from lrm_jax.datasets.views import HeldOut
from lrm_jax.errors import InputError
from lrm_jax.evaluation import baselines
from lrm_jax.evaluation.finished import Finished
from lrm_jax.evaluation.image_metrics import Networks
from lrm_jax.evaluation.novel_views import Batches, Scores, evaluate
from lrm_jax.evaluation.results import Row, Section
from lrm_jax.geometry import images

VERSIONS = {'novel-views': 1, 'lrm': 1, 'several-views': 1}
KEPT_VIEWS = 4  # first views of an object, from which the protocol several-views takes its input
_SUFFIXES = ('.png', '.webp', '.jpg')
System = Callable[[int], Scores]  # number of the input view -> scores


def section(
  name: str, held_out: HeldOut, input_views: Sequence[int], systems: Mapping[str, System], settings: Mapping
) -> Section:
  """Returns the section of a protocol: a row for each system. With several input views, an object's value is the mean.

  `settings` are stated in the result, with those of the protocol.
  """
  rows, rules = {}, held_out.rules
  for system, scores_of in systems.items():
    scores = {number: scores_of(number) for number in input_views}
    rows[system] = row(held_out.uids, scores)
  about = {
    'input views': list(input_views) if rules.num_input_views == 1 else list(range(rules.num_input_views)),
    'scored on': f'{"all other views" if rules.first_novel == 1 else f"views from {rules.first_novel} on"}; mean over '
    'the views, then over objects',
    'view size': rules.size,
    'background': rules.background,
    'depth_error': 'mean absolute error in the world normalised to the input camera, where both masks are opaque; no '
    'scale or shift is fitted',
  }
  return Section(name, VERSIONS[name], about | dict(settings), rows)


def several_views(held_out: HeldOut, num_input_views: int) -> HeldOut:
  """Returns the objects with the first `num_input_views` views as the input, and views from KEPT_VIEWS on to score.

  So the scores of 1 to KEPT_VIEWS input views are of the same views. Raises InputError for other numbers.
  """
  if not 1 <= num_input_views <= KEPT_VIEWS:
    raise InputError(f'--num_input_views={num_input_views} must be 1 to {KEPT_VIEWS}')
  rules = dataclasses.replace(held_out.rules, num_input_views=num_input_views, first_novel=KEPT_VIEWS)
  return HeldOut(held_out.path, held_out.split, rules, held_out.indices)


def row(uids: Sequence[str], scores: Mapping[int, Scores]) -> Row:
  """Returns the row of scores {number of the input view: scores}."""
  objects, views = {}, {}
  for place, uid in enumerate(uids):
    means = []
    for one in scores.values():
      values = {name: float(x[place]) for name, x in one.per_object().items()}
      means.append(values | {'psnr_seen': float(one.values['psnr'][place, 0])})
    objects[uid] = {name: float(np.mean([m[name] for m in means])) for name in means[0]}
    views[uid] = [
      {'input': number, 'view': int(view), **{name: float(x[place, v]) for name, x in one.values.items()}}
      for number, one in scores.items()
      for v, view in enumerate(one.number[place])
      if view >= 0
    ]
  return Row(objects, views)


def trivial_systems(
  held_out: HeldOut, mean_view: np.ndarray, nearest: baselines.Nearest | None, networks: Networks, finished: Finished
) -> dict[str, System]:
  """Returns the baselines that learn nothing, as systems."""
  found: dict[int, dict[str, Scores]] = {}

  def scores(name):
    def of(number):
      if number not in found:
        found[number] = baselines.trivial(
          held_out, mean_view, networks, input_number=number, nearest=nearest, finished=finished
        )
      return found[number][name]

    return of

  names = ['white', 'mean_view', 'input_view'] + (['nearest_training_object'] if nearest is not None else [])
  return {name: scores(name) for name in names}


def folder_system(held_out: HeldOut, directory: Path, networks: Networks, finished: Finished) -> System:
  """Returns the system whose views are the images DIRECTORY/UID/NUMBER.png (or .webp, .jpg), NUMBER as in 003.

  They are predicted from input view 0; the image of view 0 may be missing. With an alpha channel the images are placed
  on the background, and their masks are evaluated too. Raises InputError if an image is missing or not square.
  """
  first = _image_path(directory / held_out.uids[0], len(held_out.record(0)['views']) - 1)
  assert first is not None
  with Image.open(first) as image:
    has_alpha = 'A' in image.getbands()

  def predicted(place, views):
    folder = directory / held_out.uids[place]
    return {'predicted': np.stack([_read(folder, int(number), held_out.rules.size) for number in views['number']])}

  def scores(number):
    if number:
      raise InputError(f'views in a folder are predicted from input view 0, not {number}: use --protocol=novel-views')
    batches = Batches(held_out, extra=predicted)
    predict = baselines.given_views if has_alpha else baselines.given_colors
    background = np.float32(held_out.rules.background)
    result, _ = evaluate(batches, predict, background, networks, finished=finished.part('predictions'))
    for values in result.values.values():
      for place, uid in enumerate(held_out.uids):
        if _image_path(directory / uid, 0, required=False) is None:
          values[place, 0] = np.nan
    return result

  return scores


def _image_path(folder: Path, number: int, required: bool = True) -> Path | None:
  found = [path for suffix in _SUFFIXES if (path := folder / f'{number:03d}{suffix}').is_file()]
  if not found and required:
    raise InputError(f'{folder} has no image {number:03d}{{{",".join(_SUFFIXES)}}}: each view of an object needs one')
  return found[0] if found else None


def _read(folder: Path, number: int, size: int) -> np.ndarray:
  path = _image_path(folder, number, required=number > 0)
  if path is None:
    return np.full((size, size, 4), 255, np.uint8)
  image = images.decode(path.read_bytes())
  if image.shape[0] != image.shape[1]:
    raise InputError(f'{path} is {image.shape[1]} x {image.shape[0]} pixels: views must be square')
  return images.to_bytes(images.resize(image, size))
