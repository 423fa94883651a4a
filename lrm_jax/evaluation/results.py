"""The result of an evaluation: results.json and results.md, the same bytes for the same inputs; comparing two results.

A result has a section for each protocol, with rows: the system and the baselines. A row has a summary of each metric
over objects, and the values of each object and each view. Undefined values are null.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import platform

import numpy as np

from lrm_jax import extras
from lrm_jax.errors import InputError
from lrm_jax.evaluation import statistics

FORMAT = 1
_PACKAGES = ('lrm_jax', 'jax', 'jaxlib', 'flax', 'numpy', 'scipy', 'trimesh', 'opencv-python-headless', 'pillow')
# Metrics of which less is better.
LOWER_IS_BETTER = ('chamfer', 'lpips', 'depth_error')
_UNITS = {'psnr': 'dB', 'psnr_seen': 'dB', 'depth_error': 'normalised world units'}


@dataclasses.dataclass
class Row:
  """The values of one system: `objects` {uid: {metric: value}}, and `views` {uid: [{view: number, metric: value}]}.

  `failed` {uid: reason} are objects for which the system had no result; their values are those of a single point.
  """

  objects: dict[str, dict[str, float]]
  views: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)
  failed: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def metrics(self) -> list[str]:
    """The names of the metrics, in order."""
    return list(dict.fromkeys(name for values in self.objects.values() for name in values))

  def column(self, metric: str) -> np.ndarray:
    """Returns the values [O] of a metric, NaN where it is not defined."""
    return np.array([values.get(metric, np.nan) for values in self.objects.values()], np.float64)

  def to_json(self) -> dict:
    """Returns the row with its summary."""
    result: dict = {'summary': {name: statistics.summary(self.column(name)) for name in self.metrics}}
    if self.failed:
      result['failed'] = self.failed
    return result | {'objects': self.objects} | ({'views': self.views} if self.views else {})


@dataclasses.dataclass
class Section:
  """The rows {name: row} of one protocol; the first row is the system that was evaluated."""

  protocol: str
  version: int
  settings: dict
  rows: dict[str, Row]

  def to_json(self) -> dict:
    """Returns the section."""
    rows = {name: row.to_json() for name, row in self.rows.items()}
    return {'protocol': self.protocol, 'version': self.version, 'settings': self.settings, 'rows': rows}


def to_text(about: Mapping, sections: Sequence[Section]) -> str:
  """Returns results.json: what was evaluated, package versions, and all sections."""
  document = {
    'format': FORMAT,
    **about,
    'versions': versions(),
    'sections': [section.to_json() for section in sections],
  }
  return json.dumps(plain(document), indent=1, allow_nan=False) + '\n'


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that values may depend on."""
  return {'python': platform.python_version()} | {name: extras.version(name) or 'not installed' for name in _PACKAGES}


def to_markdown(document: Mapping) -> str:
  """Returns results.md: a table for each protocol of the content of results.json."""
  lines = [f'# {document["system"]}', '']
  lines += [f'- {name}: {_inline(document[name])}' for name in document if name not in _NOT_LISTED]
  lines += [f'- versions: {", ".join(f"{name} {value}" for name, value in document["versions"].items())}', '']
  for section in document['sections']:
    lines += [f'## {section["protocol"]}, version {section["version"]}', '']
    lines += [f'- {name}: {_inline(value)}' for name, value in section['settings'].items()]
    rows = section['rows']
    metrics = list(dict.fromkeys(name for row in rows.values() for name in row['summary']))
    lines += ['', 'Mean over objects with its 95 % bootstrap interval; median below.', '']
    lines += ['| | ' + ' | '.join(title(name) for name in metrics) + ' |', '|---' * (len(metrics) + 1) + '|']
    for name, row in rows.items():
      lines.append(f'| {name.replace("_", " ")} | ' + ' | '.join(_cell(row['summary'].get(m)) for m in metrics) + ' |')
    failed = {name: row['failed'] for name, row in rows.items() if row.get('failed')}
    for name, reasons in failed.items():
      lines += [
        '',
        f'Without a result in the row {name}: ' + '; '.join(f'{uid} ({why})' for uid, why in reasons.items()),
      ]
    lines.append('')
  return '\n'.join(lines)


def title(metric: str) -> str:
  """Returns a metric's name with its unit and the direction that is better."""
  unit = f', {_UNITS[metric]}' if metric in _UNITS else ''
  return f'{metric}{unit} {"(lower is better)" if metric in LOWER_IS_BETTER else ""}'.strip()


def write(directory: Path, about: Mapping, sections: Sequence[Section]) -> dict:
  """Writes results.json and results.md; returns the content of results.json."""
  directory.mkdir(parents=True, exist_ok=True)
  text = to_text(about, sections)
  document = json.loads(text)
  for name, content in (('results.json', text), ('results.md', to_markdown(document))):
    fresh = directory / f'{name}.tmp'
    fresh.write_text(content)
    fresh.replace(directory / name)
  return document


def read(path: Path) -> dict:
  """Returns the content of results.json, given it or its directory. Raises InputError if it is not a result."""
  path = path / 'results.json' if path.is_dir() else path
  try:
    document = json.loads(path.read_text())
  except (OSError, json.JSONDecodeError) as error:
    raise InputError(f'{path} cannot be read as results.json of lrm_jax.evaluate --out=DIR: {error}') from error
  if not isinstance(document, dict) or document.get('format') != FORMAT:
    raise InputError(f'{path} is not a result of this version of lrm_jax.evaluate: evaluate again')
  return document


def compare(first: Mapping, second: Mapping) -> list[dict]:
  """Returns, for each protocol that both results have, the differences second - first of their systems, by object.

  Each entry has protocol, version and metrics {name: summary of the differences, with both means and `pairs`}. Raises
  InputError if a protocol has different versions or settings in the two, or if they have none in common.
  """
  sections = {section['protocol']: section for section in second['sections']}
  result = []
  for section in first['sections']:
    other = sections.get(section['protocol'])
    if other is None:
      continue
    for name in ('version', 'settings'):
      if section[name] != other[name]:
        raise InputError(
          f'{section["protocol"]} has {name} {_inline(section[name])} in the first result and {_inline(other[name])} '
          'in the second: only equal protocols can be compared, evaluate one of them again'
        )
    a, b = (next(iter(x['rows'].values())) for x in (section, other))
    metrics = {}
    for name in a['summary']:
      if name in b['summary']:
        values = [{uid: x.get(name) for uid, x in row['objects'].items()} for row in (a, b)]
        means = [row['summary'][name]['mean'] for row in (a, b)]
        metrics[name] = {**statistics.paired(*values), 'means': means}
    if all(not x['pairs'] for x in metrics.values()):
      raise InputError(f'{section["protocol"]}: the two results have no object in common')
    result.append({'protocol': section['protocol'], 'version': section['version'], 'metrics': metrics})
  if not result:
    raise InputError('the two results have no protocol in common')
  return result


def comparison_to_markdown(first: Mapping, second: Mapping, differences: Sequence[Mapping]) -> str:
  """Returns the differences of two results as Markdown tables."""
  lines = [f'# B - A: A = {first["system"]}, B = {second["system"]}', '']
  for section in differences:
    lines += [f'## {section["protocol"]}, version {section["version"]}', '']
    lines += ['| | A | B | B - A, paired by object | pairs | |', '|---|---|---|---|---|---|']
    for name, x in section['metrics'].items():
      verdict = 'no difference shown'
      if x['interval'] and (x['interval'][0] > 0 or x['interval'][1] < 0):
        verdict = 'B is better' if (x['mean'] < 0) == (name in LOWER_IS_BETTER) else 'A is better'
      means = ' | '.join('-' if value is None else f'{value:.4g}' for value in x['means'])
      lines.append(f'| {title(name)} | {means} | {_cell(x)} | {x["pairs"]} | {verdict} |')
    lines.append('')
  return '\n'.join(lines)


def hash_of(directory: str | os.PathLike) -> str:
  """Returns a SHA-256 over the names and contents of the files below a directory, or of one file."""
  root, digest = Path(directory), hashlib.sha256()
  for path in sorted(root.rglob('*')) if root.is_dir() else [root]:
    if path.is_file():
      digest.update(f'{path.relative_to(root)}\n{path.stat().st_size}\n'.encode())
      with path.open('rb') as stream:
        while block := stream.read(2**20):
          digest.update(block)
  return digest.hexdigest()


_NOT_LISTED = ('system', 'format', 'sections', 'versions')


def hash_of_arrays(arrays: Mapping) -> str:
  """Returns a SHA-256 of the names, shapes, types and values of arrays {name: array}."""
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f'{name} {array.shape} {array.dtype}\n'.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def plain(value):
  """Returns a tree with Python's numbers, and None for NaN, which JSON does not have."""
  if isinstance(value, Mapping):
    return {str(name): plain(x) for name, x in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(x) for x in value]
  if isinstance(value, (float, np.floating)):
    return float(value) if np.isfinite(value) else None
  return int(value) if isinstance(value, np.integer) else value


def _inline(value) -> str:
  if isinstance(value, Mapping):
    return ', '.join(f'{name} {_inline(x)}' for name, x in value.items())
  return '; '.join(map(_inline, value)) if isinstance(value, (list, tuple)) else str(value)


def _cell(x: Mapping | None) -> str:
  if not x or x['mean'] is None:
    return '-'
  low, high = x['interval']
  note = f' (undefined for {x["undefined"]})' if x['undefined'] else ''
  return f'{x["mean"]:.4g} [{low:.4g}, {high:.4g}]; {x["median"]:.4g}{note}'
