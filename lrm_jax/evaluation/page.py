"""Builds a self-contained HTML page from tables, distributions, images, videos and rotating meshes.

The page needs no network. Each function returns a string of HTML; images, videos and meshes are embedded in base64.
Legend: H W image, V views.
"""

import base64
from collections.abc import Mapping, Sequence
import html
import io
from pathlib import Path

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
.scrolling { overflow-x: auto; margin-bottom: 1rem; } .scrolling td { white-space: nowrap; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
img, video, model-viewer { display: block; } model-viewer { border: 1px solid #e3e6ec; border-radius: 4px; }
"""


def document(title: str, *parts: str, script: str = '') -> str:
  """Returns a complete page: the parts in order, and a script (an ES module), such as the one that shows meshes."""
  return (
    f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
    f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
    f'<h1>{html.escape(title)}</h1>\n' + '\n'.join(parts) + f'\n<script type="module">{script}</script></body></html>\n'
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


def scrolling(part: str) -> str:
  """Returns a wide part that scrolls sideways instead of widening the page."""
  return f'<div class="scrolling">{part}</div>'


def image(pixels: np.ndarray, width: int) -> str:
  """Returns an image [H, W, 3] in 0..1, shown `width` px wide."""
  stream = io.BytesIO()
  Image.fromarray(images.to_bytes(pixels)).save(stream, 'PNG')
  return f'<img width="{width}" alt="" src="data:image/png;base64,{_base64(stream.getvalue())}">'


def figure(pixels: np.ndarray, width: int, caption: str) -> str:
  """Returns an image [H, W, 3] in 0..1 with a caption."""
  return f'<figure>{image(pixels, width)}<figcaption>{html.escape(caption)}</figcaption></figure>'


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
  """Returns a rotating mesh from a GLB file, `width` px wide; the mouse rotates and zooms it.

  The page needs the script of <model-viewer>. The first view is from the input camera, 2 world units away.
  """
  return (
    f'<figure><model-viewer style="width:{width}px;height:{width}px" camera-controls auto-rotate auto-rotate-delay="0" '
    'rotation-per-second="32deg" interaction-prompt="none" camera-orbit="0deg 90deg 2m" camera-target="0m 0m 0m" '
    'min-camera-orbit="auto auto 1m" max-camera-orbit="auto auto 5m" field-of-view="50deg" max-field-of-view="50deg" '
    f'tone-mapping="linear" alt="{html.escape(caption)}" '
    f'src="data:model/gltf-binary;base64,{_base64(path.read_bytes())}"></model-viewer>'
    f'<figcaption>{html.escape(caption)}</figcaption></figure>'
  )


def column(*parts: str) -> str:
  """Returns the parts below each other."""
  return '<div class="column">' + '\n'.join(parts) + '</div>'


def section(title: str, *parts: str) -> str:
  """Returns a section with a title and the parts beside each other."""
  return f'<section><h3>{html.escape(title)}</h3><div class="row">' + '\n'.join(parts) + '</div></section>'


def distributions(rows: Mapping[str, np.ndarray], width: int = 520) -> str:
  """Returns a plot with a line per row: a dot for each value that is not NaN, and a bar at their median."""
  known = {name: np.asarray(values, float)[~np.isnan(values)] for name, values in rows.items()}
  everything = np.concatenate(list(known.values()))
  if not len(everything):
    return ''
  low, high = everything.min(), everything.max()
  left, right, step = 190, width - 12, 22
  scale = (right - left) / (high - low) if high > low else 0.0
  lines = [f'<svg width="{width}" height="{len(known) * step + 22}" font-size="12" fill="#5b6475">']
  for number, (name, values) in enumerate(known.items()):
    y = number * step + 12
    color = '#2455c3' if number == 0 else '#8a93a5'
    lines.append(f'<text x="0" y="{y + 4}">{html.escape(name)}</text>')
    lines += [
      f'<circle cx="{left + (x - low) * scale:.1f}" cy="{y}" r="3" fill="{color}" fill-opacity="0.4"></circle>'
      for x in values
    ]
    if len(values):
      x = left + (np.median(values) - low) * scale
      lines.append(f'<rect x="{x - 1:.1f}" y="{y - 8}" width="2" height="16" fill="#1d2330"></rect>')
  y = len(known) * step + 16
  lines.append(f'<text x="{left}" y="{y}">{low:.4g}</text>')
  lines.append(f'<text x="{right}" y="{y}" text-anchor="end">{high:.4g}</text></svg>')
  return '\n'.join(lines)


def _base64(data: bytes) -> str:
  return base64.b64encode(data).decode()
