# PYTHON_ARGCOMPLETE_OK
"""Writes a page about runs: python -m lrm_jax.report RUN... [--out=report.html]

A RUN is the --workdir of a training, finished or not, or the name of a shipped model. The page has the curves of
training and evaluation (metrics.jsonl), with all runs in one plot, their speed, what differs between their
configurations, and the newest evaluation images. It is one file and needs no network.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import os
from pathlib import Path
import statistics

from ml_collections import ConfigDict
import numpy as np

from lrm_jax import extras
from lrm_jax.command_line import run_main
from lrm_jax.errors import InputError

extras.require('train', 'grain', 'optax', 'matplotlib', purpose='the report')

from lrm_jax.evaluation import page, results  # noqa: E402  (the sentence about missing packages comes first)
from lrm_jax.evaluation.curves import Panel, curves, points  # noqa: E402
from lrm_jax.storage import checkpoint, paths  # noqa: E402
from lrm_jax.training import metric_writer, resume  # noqa: E402
from lrm_jax.weights import pretrained  # noqa: E402

# The metrics of speed: (name in metrics.jsonl, title, unit, how the lines are summed up).
_SPEED = (
  ('step_seconds', 'time per step', 's', statistics.median),
  ('data_seconds', 'waiting for data, per step', 's', statistics.mean),
  ('images_per_second', 'objects per second', '1/s', statistics.median),
  ('mfu', 'model FLOP utilisation', '', statistics.median),
  ('goodput', 'goodput', '', lambda values: values[-1]),
  ('memory_peak_gib', 'peak of device memory', 'GiB', max),
)
_TITLES = {
  'loss': 'training loss',
  'mse': 'mean squared error, training views',
  'grad_norm': 'norm of the gradient',
  'learning_rate': 'learning rate',
}
_NOT_SHOWN = ('step', 'skipped')
_EVALUATION = 'eval_'


@dataclasses.dataclass(frozen=True)
class Run:
  """What is read of a run: the lines of metrics.jsonl and starts.jsonl, its configuration, and its newest images."""

  lines: list[dict[str, float]]
  starts: list[dict]
  config: ConfigDict
  images: dict[str, tuple[int, np.ndarray]]

  def last(self, name: str) -> tuple[int, float] | None:
    """Returns (step, value) of the newest value of a metric that is not NaN, or None."""
    known = [(line['step'], line[name]) for line in self.lines if not np.isnan(line.get(name, np.nan))]
    return (int(known[-1][0]), known[-1][1]) if known else None


def read(directory: str | Path) -> Run:
  """Returns a run. Raises InputError if the directory is none, or if its metrics are empty."""
  lines = metric_writer.read(directory)
  if not lines:
    raise InputError(f'{directory} has no step in its metrics.jsonl yet: wait for the first one')
  return Run(
    lines,
    metric_writer.read_starts(directory),
    checkpoint.read_config(directory),
    metric_writer.newest_images(directory),
  )


def names_of(directories: Sequence[str]) -> list[str]:
  """Returns a name for each directory: its path without what all have in common; of a single one, its last part."""
  absolute = [os.fspath(paths.directory(directory)).rstrip('/') for directory in directories]
  if len(set(absolute)) < len(absolute):
    twice = next(name for name in absolute if absolute.count(name) > 1)
    raise InputError(f'{twice} is given twice: give each run once')
  common = os.path.commonpath([path.rpartition('/')[0] for path in absolute])
  return [path.removeprefix(common).lstrip('/') for path in absolute]


def document(runs: dict[str, Run]) -> str:
  """Returns the page of runs {name: run}."""
  title = next(iter(runs)) if len(runs) == 1 else f'{len(runs)} runs'
  lines = {name: run.lines for name, run in runs.items()}
  found = list(dict.fromkeys(name for run in runs.values() for line in run.lines for name in line))
  speed = [name for name, *_ in _SPEED if name in found]
  evaluation = [name for name in found if name.startswith(_EVALUATION)]
  rest = [name for name in found if name not in (*speed, *evaluation, *_NOT_SHOWN)]
  training = sorted(rest, key=lambda name: (name not in _TITLES, list(_TITLES).index(name) if name in _TITLES else 0))
  parts = [_overview(runs)]
  if evaluation:
    parts += [
      page.heading('Evaluation on held-out objects'),
      _scores(runs, evaluation),
      curves([Panel(name, _evaluation_title(name), log_steps=False) for name in evaluation], lines),
    ]
  if training:
    panels = [
      Panel(name, _TITLES.get(name, name), smooth=name != 'learning_rate', log_values=_is_positive(runs, name))
      for name in training
    ]
    parts += [page.heading('Training'), curves(panels, lines)]
    parts.append(page.paragraph('Thick lines are means over the last tenth of the steps so far.', note=True))
  if speed:
    panels = [Panel(name, title, unit, log_steps=False) for name, title, unit, _ in _SPEED if name in speed]
    parts += [page.heading('Speed'), _speed(runs, speed), curves(panels, lines, 3)]
  parts += _differences(runs) + _images(runs)
  return page.document(f'Training: {title}', *parts)


def _overview(runs: dict[str, Run]) -> str:
  rows = []
  for name, run in runs.items():
    newest = run.starts[-1] if run.starts else {}
    steps = run.config.get('num_train_steps')
    rows.append(
      (
        name,
        f'{run.lines[-1]["step"]:,}' + (f' of {steps:,}' if steps else ''),
        _number(run.last('loss')),
        newest.get('time', '-'),
        len(run.starts) or '-',
        (newest.get('git') or '-')[:10],
        newest.get('devices', '-'),
      )
    )
  return page.scrolling(page.table(['', 'step', 'loss', 'last start', 'starts', 'git', 'devices'], rows))


def _scores(runs: dict[str, Run], metrics: Sequence[str]) -> str:
  """Returns the table of the newest value of each metric, and its best one with its step."""
  rows = []
  for name, run in runs.items():
    cells = []
    for metric in metrics:
      steps, values = points(run.lines, metric)
      known = ~np.isnan(values)
      if not known.any():
        cells.append('-')
        continue
      lower = metric.endswith(results.LOWER_IS_BETTER)
      best = int(np.flatnonzero(known)[np.argmin(values[known]) if lower else np.argmax(values[known])])
      newest = int(np.flatnonzero(known)[-1])
      note = '' if best == newest else f' (best {values[best]:.4g}, step {int(steps[best]):,})'
      cells.append(f'{values[newest]:.4g}{note}')
    rows.append((name, *cells))
  return page.scrolling(page.table(['', *(metric.removeprefix(_EVALUATION) for metric in metrics)], rows))


def _speed(runs: dict[str, Run], metrics: Sequence[str]) -> str:
  chosen = [entry for entry in _SPEED if entry[0] in metrics]
  rows = []
  for name, run in runs.items():
    # The first line has the time of the compilation.
    columns = [[line[metric] for line in run.lines[1:] or run.lines if metric in line] for metric, *_ in chosen]
    rows.append((name, *(f'{entry[3](values):.4g}' if values else '-' for entry, values in zip(chosen, columns))))
  return page.scrolling(page.table(['', *(f'{title}, {unit}'.strip(', ') for _, title, unit, _ in chosen)], rows))


def _differences(runs: dict[str, Run]) -> list[str]:
  """Returns the table of the configuration values that differ between runs; a row for each value."""
  if len(runs) < 2:
    return []
  changes = resume.differences(*(run.config for run in runs.values()))
  parts = [page.heading('Differences of the configurations')]
  if not changes:
    return [*parts, page.paragraph('None.')]
  return [*parts, page.scrolling(page.table(['config', *runs], [(name, *values) for name, values in changes.items()]))]


def _images(runs: dict[str, Run]) -> list[str]:
  parts = []
  for name, run in runs.items():
    for kind, (step, pixels) in run.images.items():
      width = min(1000, max(pixels.shape[1], 600))
      parts.append(page.section(f'{name}: {kind}, step {step:,}', page.image(pixels, width)))
  if not parts:
    return []
  note = 'A row for each object: its input, then target, render and depth of some of its novel views.'
  return [page.heading('Newest evaluation images'), page.paragraph(note, note=True), *parts]


def _evaluation_title(name: str) -> str:
  metric = name.removeprefix(_EVALUATION)
  return metric + (' (lower is better)' if metric.endswith(results.LOWER_IS_BETTER) else '')


def _is_positive(runs: dict[str, Run], name: str) -> bool:
  """Returns whether a metric can be drawn on a logarithmic axis: a learning rate, for example, begins with 0."""
  return name != 'learning_rate' and all(line.get(name, 1) > 0 for run in runs.values() for line in run.lines)


def _number(found: tuple[int, float] | None) -> str:
  return f'{found[1]:.4g}' if found else '-'


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='lrm_jax.report', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('runs', nargs='+', metavar='RUN', help='the --workdir of a training, or a shipped model')
  parser.add_argument('--out', type=Path, default=Path('report.html'), help='the page (default: report.html)')
  args = parser.parse_args()
  if args.out.suffix != '.html' or args.out.is_dir():
    raise InputError(f'--out={args.out} must be a file that ends with .html')
  directories = [_directory(run) for run in args.runs]
  text = document({name: read(directory) for name, directory in zip(names_of(directories), directories)})
  args.out.parent.mkdir(parents=True, exist_ok=True)
  fresh = args.out.with_suffix('.html.tmp')
  fresh.write_text(text)
  fresh.replace(args.out)
  print(f'Open {args.out}')


def _directory(run: str) -> str:
  shipped = pretrained.SHIPPED / run
  return str(shipped) if '://' not in run and not Path(run).is_dir() and shipped.is_dir() else run


if __name__ == '__main__':
  run_main(main)
