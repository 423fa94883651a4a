"""Plots of learning curves for the page."""

import io

from matplotlib.figure import Figure
import numpy as np


def curves(runs: dict[str, list[dict[str, float]]], levels: dict[str, float]) -> str:
  """Returns plots of the training loss and the held-out PSNR.

  `runs` {name: records of metrics.jsonl} are curves and `levels` {name: dB} are horizontal lines.
  """
  figure = Figure(figsize=(10, 3.4), layout='constrained')
  left, right = figure.subplots(1, 2)
  for number, (name, lines) in enumerate(runs.items()):

    def points(key, lines=lines):
      return np.array([(line['step'], line[key]) for line in lines if key in line]).reshape(-1, 2).T

    steps, loss = points('loss')
    left.plot(steps, loss, color=f'C{number}', alpha=0.25, lw=0.8)
    left.plot(steps, _smooth(loss), color=f'C{number}', label=name)
    right.plot(*points('eval_psnr'), 'o-', color=f'C{number}', ms=3, label=name)
  for number, (name, value) in enumerate(levels.items()):
    right.axhline(value, color='0.5', lw=1, ls=('-', '--', ':')[number % 3], label=name)
  left.set(xlabel='step', ylabel='loss', xscale='log', yscale='log', title='training loss')
  right.set(xlabel='step', ylabel='dB', xscale='log', title='PSNR of novel views, held-out objects')
  for axes in (left, right):
    axes.set_xticks([1, 10, 100, 1000, 10_000], labels=['1', '10', '100', '1000', '10 000'])
    axes.set_xticks([], minor=True)
    axes.set_xlim(1, max(10, *(line['step'] for lines in runs.values() for line in lines)))
    axes.grid(alpha=0.2, which='both')
    axes.legend(fontsize=8)
  stream = io.StringIO()
  figure.savefig(stream, format='svg')
  text = stream.getvalue()
  return text[text.index('<svg') :]


def _smooth(values: np.ndarray) -> np.ndarray:
  """Returns the running mean over the last tenth of the values so far."""
  total = np.concatenate([[0.0], np.cumsum(values)])
  last = np.arange(1, len(values) + 1)
  first = np.floor(0.9 * last).astype(int) * (last > 1)
  return (total[last] - total[first]) / (last - first)
