"""Plots of the metrics of runs over their steps, as SVG: a panel for each metric, a line for each run.

Needs matplotlib, of the extra `train`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

_POINTS = 1000  # of a line, at most: a plot has no more pixels, and pages stay small
_STYLES = ('-', '--', ':', '-.')

Runs = Mapping[str, Sequence[Mapping[str, float]]]  # name of a run -> the lines of its metrics.jsonl


@dataclasses.dataclass(frozen=True)
class Panel:
  """One plot: the metric `name` over the steps.

  `smooth` draws the running mean over the values. `log_steps` and `log_values` choose logarithmic axes. `levels`
  {name: value} are horizontal lines.
  """

  name: str
  title: str
  unit: str = ''
  smooth: bool = False
  log_steps: bool = True
  log_values: bool = False
  levels: Mapping[str, float] = dataclasses.field(default_factory=dict)


def curves(panels: Sequence[Panel], runs: Runs, columns: int = 2) -> str:
  """Returns the panels as one SVG, `columns` beside each other, with one legend below. Runs may lack metrics."""
  rows = math.ceil(len(panels) / columns)
  last = max([10.0, *(line['step'] for lines in runs.values() for line in lines)])
  figure = Figure(figsize=(10, 3.0 * rows + 0.4), layout='constrained')
  grid = figure.subplots(rows, columns, squeeze=False)
  for axes, panel in zip(grid.flat, panels):
    _draw(axes, panel, runs, last)
  for axes in grid.flat[len(panels) :]:
    axes.set_axis_off()
  entries: dict[str, Artist] = {}
  for axes in grid.flat:
    entries |= {label: line for line, label in zip(*axes.get_legend_handles_labels())}
  if entries:
    widest = max(map(len, entries))
    columns = max(1, min(4, 130 // (widest + 6)))
    figure.legend(list(entries.values()), list(entries), loc='outside lower center', ncols=columns, fontsize=9)
  stream = io.StringIO()
  with rc_context({'svg.hashsalt': 'lrm_jax'}):
    figure.savefig(stream, format='svg', metadata={'Date': None})
  text = stream.getvalue()
  return text[text.index('<svg') :]


def points(lines: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
  """Returns the steps and values [2, N] of a metric in the lines of metrics.jsonl; other lines are left out."""
  return np.array([(line['step'], line[name]) for line in lines if name in line], np.float64).reshape(-1, 2).T


def _draw(axes: Axes, panel: Panel, runs: Runs, last: float) -> None:
  for number, (name, lines) in enumerate(runs.items()):
    steps, values = points(lines, panel.name)
    color, dashes = f'C{number % 10}', _STYLES[number // 10 % len(_STYLES)]
    shown = _spread(len(steps), panel.log_steps)
    if panel.smooth:
      axes.plot(steps[shown], values[shown], color=color, alpha=0.2, lw=0.8)
      values = _running_mean(values)
    few = 'o' if len(steps) <= 50 else ''
    axes.plot(steps[shown], values[shown], label=name, marker=few, ms=2.5, lw=1.3, color=color, ls=dashes)
  for number, (name, value) in enumerate(panel.levels.items()):
    axes.axhline(value, color='0.5', lw=1, ls=_STYLES[number % len(_STYLES)], label=name)
  axes.set(title=panel.title, ylabel=panel.unit, xlabel='step')
  axes.title.set_fontsize(10)
  if panel.log_steps:
    axes.set_xscale('log')
    ticks = [10**power for power in range(math.ceil(math.log10(last)) + 1)]
    axes.set_xticks(ticks, labels=[f'{tick:,}'.replace(',', ' ') for tick in ticks])
    axes.set_xticks([], minor=True)
  if panel.log_values:
    axes.set_yscale('log')
  axes.set_xlim(*((1, last) if panel.log_steps else (0, 1.02 * last)))
  axes.grid(alpha=0.2, which='both')
  axes.tick_params(labelsize=8, which='both')


def _spread(count: int, log: bool) -> np.ndarray:
  """Returns the indices of at most _POINTS of `count` values; with `log`, more of the first ones."""
  if count <= _POINTS:
    return np.arange(count)
  places = np.geomspace(1, count, _POINTS) - 1 if log else np.linspace(0, count - 1, _POINTS)
  return np.unique(places.round().astype(int))


def _running_mean(values: np.ndarray) -> np.ndarray:
  """Returns the mean over the last tenth of the values so far; values that are NaN are left out."""
  known = ~np.isnan(values)
  total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0))])
  number = np.concatenate([[0], np.cumsum(known)])
  last = np.arange(1, len(values) + 1)
  first = np.floor(0.9 * last).astype(int) * (last > 1)
  counts = number[last] - number[first]
  return np.where(counts > 0, (total[last] - total[first]) / np.maximum(counts, 1), np.nan)
