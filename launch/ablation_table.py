"""Writes the table of launch/ablations.py: each variant, and its difference from the base, with 95 % intervals."""

from collections.abc import Sequence
import json
from pathlib import Path
import statistics as plain_statistics

from matplotlib.figure import Figure
import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.evaluation import results, statistics
from lrm_jax.training import metric_writer

_METRICS = ('psnr', 'ssim', 'lpips', 'mask_iou', 'depth_error')
INTERVALS = (
  '95 % percentile intervals of a bootstrap over objects and seeds: each resample draws objects, and for each variant '
  'seeds, with replacement. The objects are the same for both variants of a difference. With a single seed, an '
  'interval covers only the objects.'
)


def write(out: Path, name: str, runs: Sequence, left_out: Sequence[str]) -> None:
  """Writes DIR/ablations.json, .md and .png from the finished runs; each has variant, seed, overrides and workdir."""
  table = make(name, runs, left_out)
  for suffix, text in (('json', json.dumps(table, indent=1) + '\n'), ('md', to_markdown(table))):
    fresh = out / f'ablations.{suffix}.tmp'
    fresh.write_text(text)
    fresh.replace(out / f'ablations.{suffix}')
  fresh = out / 'ablations.png.tmp'
  plot(table).savefig(fresh, dpi=130, format='png', metadata={'Software': None})
  fresh.replace(out / 'ablations.png')


def make(name: str, runs: Sequence, left_out: Sequence[str]) -> dict:
  """Returns the content of ablations.json."""
  finished: dict[str, list] = {}
  for run in runs:
    if run.result.is_file():
      finished.setdefault(run.variant, []).append(run)
  documents = {variant: [results.read(run.result) for run in some] for variant, some in finished.items()}
  metrics = [metric for metric in _METRICS if any(_has(d, metric) for some in documents.values() for d in some)]
  base = next(iter(dict.fromkeys(run.variant for run in runs)))
  common = dict(next(run for run in runs if run.variant == base).overrides)
  first = next(iter(documents.values()))[0]
  for variant, some in documents.items():
    if any(_objects(document).keys() != _objects(first).keys() for document in some):
      raise InputError(f'{variant} was evaluated on other objects than the others: remove its folders `evaluation`')
  rows = {}
  for variant, some in finished.items():
    overrides = {key: value for key, value in some[0].overrides.items() if key != 'seed' and common.get(key) != value}
    row: dict = {'overrides': overrides, 'seeds': [run.seed for run in some], 'step_seconds': _step_seconds(some)}
    for metric in metrics:
      row[metric] = None
      if not all(_has(document, metric) for document in documents[variant]):
        continue  # Such as the error of the depth where a variant renders nothing.
      values = _values(documents[variant], metric)
      row[metric] = {
        'mean': float(values.mean()),
        'interval': statistics.crossed_interval(values),
        'of_seeds': [float(x) for x in values.mean(axis=1)],
      }
      if variant != base and all(_has(document, metric) for document in documents.get(base, [{}])):
        reference = _values(documents[base], metric)
        row[metric]['difference'] = float(values.mean() - reference.mean())
        row[metric]['difference_interval'] = statistics.crossed_interval(values, reference)
    rows[variant] = row
  return {
    'sweep': name,
    'data': first['data'],
    'split': first['split'],
    'objects': first['objects'],
    'protocol': f'{first["sections"][0]["protocol"]}, version {first["sections"][0]["version"]}',
    'intervals': INTERVALS,
    'base': base,
    'metrics': metrics,
    'unfinished': [str(run.workdir) for run in runs if not run.result.is_file()],
    'left_out': list(left_out),
    'variants': rows,
  }


def to_markdown(table: dict) -> str:
  """Returns ablations.md."""
  lines = [f'# Ablations: {table["sweep"]}', '']
  lines += [f'- {name}: {table[name]}' for name in ('data', 'split', 'objects', 'protocol', 'intervals')]
  lines += [f'- not finished: {name}' for name in table['unfinished']]
  lines += [f'- left out: {name}' for name in table['left_out']]
  lines += [
    '',
    f'The first row has the means of {table["base"]}, the others the differences from it, bold where the interval '
    'excludes 0.',
    '',
    f'| | values | seeds | {" | ".join(map(results.title, table["metrics"]))} | step, s | by {table["metrics"][0]} |',
    '|---' * (len(table['metrics']) + 5) + '|',
  ]
  for variant, row in table['variants'].items():
    cells = [variant, ', '.join(f'`{key}={value}`' for key, value in row['overrides'].items()), str(len(row['seeds']))]
    for metric in table['metrics']:
      x = row[metric]
      if x is None or (variant != table['base'] and 'difference' not in x):
        cells.append('-')
      elif variant == table['base']:
        cells.append(_cell(x['mean'], x['interval']))
      else:
        cells.append(_cell(x['difference'], x['difference_interval'], '+'))
    cells.append('-' if row['step_seconds'] is None else f'{row["step_seconds"]:.3g}')
    cells.append(_verdict(row[table['metrics'][0]], table['metrics'][0], variant == table['base']))
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def plot(table: dict) -> Figure:
  """Returns a plot of the differences from the base in the first metric, with their intervals; dots are seeds."""
  metric, base = table['metrics'][0], table['base']
  rows = {name: row[metric] for name, row in table['variants'].items() if 'difference' in (row[metric] or {})}
  figure = Figure(figsize=(8, 1.4 + 0.32 * len(rows)), layout='constrained')
  axes = figure.subplots()
  reference = table['variants'][base][metric]['mean'] if base in table['variants'] else 0.0
  for place, x in enumerate(rows.values()):
    low, high = x['difference_interval']
    axes.plot([low, high], [place, place], color='C0', lw=2)
    axes.plot(x['difference'], place, 'o', color='C0')
    axes.plot(np.array(x['of_seeds']) - reference, [place] * len(x['of_seeds']), '|', color='0.4', ms=9)
  axes.axvline(0, color='0.5', lw=1)
  axes.set_yticks(range(len(rows)), labels=list(rows))
  axes.invert_yaxis()
  axes.grid(alpha=0.2, axis='x')
  axes.set(xlabel=f'{results.title(metric)}: difference from {base}, with its 95 % interval', title=table['sweep'])
  return figure


def _has(document: dict, metric: str) -> bool:
  """Returns whether a metric is defined for all objects of a result; not for an empty one."""
  return bool(document) and all(values.get(metric) is not None for values in _objects(document).values())


def _objects(document: dict) -> dict[str, dict]:
  """Returns {uid: {metric: value}} of the system of a result."""
  return next(iter(document['sections'][0]['rows'].values()))['objects']


def _values(documents: Sequence[dict], metric: str) -> np.ndarray:
  """Returns the values [S, O] of a metric, of the same objects for each seed."""
  rows = [_objects(document) for document in documents]
  return np.array([[row[uid][metric] for uid in sorted(row)] for row in rows], np.float64)


def _step_seconds(runs: Sequence) -> float | None:
  """Returns the median time of a step, over all runs of a variant."""
  lines = [line for run in runs for line in metric_writer.read(run.workdir)]
  known = [line['step_seconds'] for line in lines if 'step_seconds' in line]
  return plain_statistics.median(known) if known else None


def _cell(value: float, interval: Sequence[float], sign: str = '') -> str:
  """Returns a mean or, with `sign`, a difference, with its interval; bold is a difference whose interval excludes 0."""
  digits = f'{sign}.2f' if max(map(abs, interval)) >= 1 else f'{sign}.3f'
  text = f'{value:{digits}} [{interval[0]:{digits}}, {interval[1]:{digits}}]'
  return f'**{text}**' if sign and not interval[0] <= 0 <= interval[1] else text


def _verdict(x: dict | None, metric: str, is_base: bool) -> str:
  if is_base:
    return 'the base'
  if 'difference_interval' not in (x or {}):
    return '-'
  low, high = x['difference_interval']
  if low <= 0 <= high:
    return 'no difference shown'
  return 'better' if (low > 0) != (metric in results.LOWER_IS_BETTER) else 'worse'
