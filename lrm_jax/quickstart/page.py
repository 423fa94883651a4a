"""Builds a self-contained HTML page from tables, learning curves, images, videos and rotating meshes.

The page needs no network. Each function returns a string of HTML; images, videos and meshes are embedded in base64.
Legend: H W image, V views.
"""

import base64
from collections.abc import Mapping, Sequence
import html
import io
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from lrm_jax.geometry import images

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2330; background: #fff; max-width: 1080px; margin: 2.5rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.9rem; margin-bottom: .2rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
p.note, figcaption, td.note { color: #5b6475; font-size: .9rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #e3e6ec; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } tr.ours td { font-weight: 600; }
section { border-top: 1px solid #e3e6ec; padding: 1.2rem 0; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.column { display: flex; flex-direction: column; gap: .6rem; }
.row table th, .row table td { border: 0; padding: 1px; font-size: .8rem; font-weight: 400; color: #5b6475; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
img, video, canvas { display: block; } canvas { border: 1px solid #e3e6ec; border-radius: 4px; cursor: grab;
  touch-action: none; }
"""


def document(title: str, *parts: str) -> str:
  """Returns a complete page: the parts in order, and the script that shows meshes."""
  script = (Path(__file__).parent / 'viewer.js').read_text()
  return (
    f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
    f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
    f'<h1>{html.escape(title)}</h1>\n' + '\n'.join(parts) + f'\n<script>{script}</script></body></html>\n'
  )


def paragraph(text: str, *, note: bool = False) -> str:
  """Returns a paragraph; a `note` is smaller."""
  return f'<p{" class=note" if note else ""}>{html.escape(text)}</p>'


def heading(text: str) -> str:
  """Returns a heading."""
  return f'<h2>{html.escape(text)}</h2>'


def table(header: Sequence[str], rows: Sequence[Sequence], ours: Sequence[int] = ()) -> str:
  """Returns a table; floats have two decimals (three below 1.5), and rows in `ours` are emphasised."""

  def cell(x):
    if not isinstance(x, float):
      return str(x)
    return f'{x:.3f}' if abs(x) < 1.5 else f'{x:.2f}'

  lines = ['<table><tr>' + ''.join(f'<th>{html.escape(name)}</th>' for name in header) + '</tr>']
  for number, row in enumerate(rows):
    cells = ''.join(f'<td>{html.escape(cell(value))}</td>' for value in row)
    lines.append(f'<tr{" class=ours" if number in ours else ""}>{cells}</tr>')
  return '\n'.join(lines) + '</table>'


def image(pixels: np.ndarray, width: int) -> str:
  """Returns an image [H, W, 3] in 0..1, shown `width` px wide."""
  stream = io.BytesIO()
  Image.fromarray(images.to_bytes(pixels)).save(stream, 'PNG')
  return f'<img width="{width}" alt="" src="data:image/png;base64,{_base64(stream.getvalue())}">'


def image_rows(rows: Mapping[str, Sequence[np.ndarray]], width: int) -> str:
  """Returns rows of images, each with its name in front."""
  lines = []
  for name, row in rows.items():
    cells = ''.join(f'<td>{image(pixels, width)}</td>' for pixels in row)
    lines.append(f'<tr><th>{html.escape(name)}</th>{cells}</tr>')
  return '<table>' + '\n'.join(lines) + '</table>'


def video(path: Path, width: int, caption: str) -> str:
  """Returns a video from an MP4 file that plays in a loop, `width` px wide."""
  source = f'data:video/mp4;base64,{_base64(path.read_bytes())}'
  return (
    f'<figure><video width="{width}" src="{source}" autoplay loop muted playsinline></video>'
    f'<figcaption>{html.escape(caption)}</figcaption></figure>'
  )


def mesh(path: Path, width: int, caption: str) -> str:
  """Returns a rotating mesh from a GLB file, `width` px wide; the mouse rotates and zooms it."""
  return (
    f'<figure><canvas width="{2 * width}" height="{2 * width}" style="width:{width}px;height:{width}px" '
    f'data-glb="{_base64(path.read_bytes())}"></canvas><figcaption>{html.escape(caption)}</figcaption></figure>'
  )


def column(*parts: str) -> str:
  """Returns the parts below each other."""
  return '<div class="column">' + '\n'.join(parts) + '</div>'


def section(title: str, *parts: str) -> str:
  """Returns a section with a title and the parts beside each other."""
  return f'<section><h3>{html.escape(title)}</h3><div class="row">' + '\n'.join(parts) + '</div></section>'


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


def _base64(data: bytes) -> str:
  return base64.b64encode(data).decode()
