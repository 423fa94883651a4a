"""Writes report.html: a summary table, distributions, and the best, median and worst objects; it needs no network."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrm_jax.datasets.views import HeldOut, ViewRules, color
from lrm_jax.evaluation import page, results
from lrm_jax.geometry import images

_SHOWN = 3  # objects of each kind
_VIEWS = 5  # novel views of each object
_WIDTH = 96  # px


class Rendered(NamedTuple):
  """Predicted views of an object: colours [V, s, s, 3]; depth (sum_i w_i t_i) and opacity [V, s, s], or None."""

  color: np.ndarray
  depth: np.ndarray | None = None
  opacity: np.ndarray | None = None


Renders = Callable[[Mapping, int], Rendered | None]  # (views of one object, its place) -> its predicted views


def from_folder(folder: Path, views: Mapping, rules: ViewRules) -> Rendered | None:
  """Returns the views in a folder of predictions, white where one is missing; None if the folder has none."""
  found = {}
  for place, number in enumerate(views['number'][0]):
    for path in folder.glob(f'{int(number):03d}.*') if folder.is_dir() else ():
      found[place] = images.over(images.resize(images.decode(path.read_bytes()), rules.size), rules.background)
  if not found:
    return None
  blank = np.ones((rules.size, rules.size, 3), np.float32)
  return Rendered(np.stack([found.get(place, blank) for place in range(len(views['number'][0]))]))


def write(path: Path, document: Mapping, held_out: HeldOut, renders: Renders) -> None:
  """Writes the report of a result, the content of results.json."""
  parts = [page.paragraph(', '.join(f'{n}: {document[n]}' for n in ('hash', 'data', 'split', 'objects')), note=True)]
  for section in document['sections']:
    parts += _section(section)
  if document['sections']:
    parts += _objects(document['sections'][0], held_out, renders)
  fresh = path.with_suffix('.html.tmp')
  fresh.write_text(page.document(f'Evaluation of {document["system"]}', *parts))
  fresh.replace(path)


def error_map(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Returns colours [..., 3]: white where images in 0..1 agree, red where the mean error of the channels is 0.5."""
  error = np.clip(2 * np.mean(np.abs(image - reference), axis=-1, keepdims=True), 0, 1)
  return (1 - error * np.array([0.25, 1.0, 1.0])).astype(np.float32)


def _section(section: Mapping) -> list[str]:
  rows = section['rows']
  metrics = list(dict.fromkeys(name for row in rows.values() for name in row['summary']))

  def cell(summary):
    if not summary or summary['mean'] is None:
      return '-'
    return '{:.4g}  [{:.4g}, {:.4g}]'.format(summary['mean'], *summary['interval'])

  lines = [(name.replace('_', ' '), *(cell(row['summary'].get(m)) for m in metrics)) for name, row in rows.items()]
  parts = [
    page.heading(f'{section["protocol"]}, version {section["version"]}'),
    page.table(['', *map(results.title, metrics)], lines, ours=[0]),
    page.paragraph('Mean over objects with its 95 % bootstrap interval.', note=True),
    page.paragraph('; '.join(f'{name}: {value}' for name, value in section['settings'].items()), note=True),
  ]
  for metric in metrics:
    values = {
      name.replace('_', ' '): np.array([_value(x, metric) for x in row['objects'].values()])
      for name, row in rows.items()
    }
    values = {name: x for name, x in values.items() if not np.all(np.isnan(x))}
    if values:
      parts.append(page.section(f'{results.title(metric)}: a dot for each object', page.distributions(values)))
  return parts


def _objects(section: Mapping, held_out: HeldOut, renders: Renders) -> list[str]:
  """Returns the best, median and worst objects by the first metric of a section."""
  objects = next(iter(section['rows'].values()))['objects']
  metric = next(iter(next(iter(objects.values()))))
  values = np.array([_value(objects[uid], metric) for uid in held_out.uids])
  known = np.flatnonzero(~np.isnan(values))
  order = known[np.argsort(-values[known], kind='stable')]
  if metric in results.LOWER_IS_BETTER:
    order = order[::-1]
  middle = max(0, (len(order) - _SHOWN) // 2)
  groups = {'Best': order[:_SHOWN], 'Median': order[middle : middle + _SHOWN], 'Worst': order[::-1][:_SHOWN]}
  parts, seen = [], set()
  for title, places in groups.items():
    fresh = [int(place) for place in places if place not in seen]
    seen |= set(fresh)
    if fresh:
      parts.append(page.heading(f'{title} objects by {metric} ({section["protocol"]})'))
    parts += [_object(held_out, place, f'{held_out.uids[place]}: {values[place]:.4g}', renders) for place in fresh]
  return parts


def _object(held_out: HeldOut, place: int, title: str, renders: Renders) -> str:
  views = held_out.load([place])
  truth, background = color(views)[0], held_out.rules.background
  truth = truth if background == 1.0 else color(views, background)[0]
  chosen = [v for v in range(1, len(truth)) if views['valid'][0, v]][:_VIEWS]
  rows = {'target': [truth[v] for v in chosen]}
  found = renders(views, place)
  if found is not None:
    rows['prediction'] = [found.color[v] for v in chosen]
    rows['error'] = [error_map(found.color[v], truth[v]) for v in chosen]
    if found.depth is not None and found.opacity is not None:
      rows['depth'] = [images.depth_to_color(found.depth[v], found.opacity[v]) for v in chosen]
  inputs = views['image'][0].reshape(-1, *views['image'].shape[-3:])
  figures = ''.join(page.figure(image, 2 * _WIDTH // len(inputs), 'input') for image in inputs)
  return page.section(title, figures, page.image_rows(rows, _WIDTH))


def _value(values: Mapping, metric: str) -> float:
  value = values.get(metric)
  return float('nan') if value is None else float(value)
