"""Keeps the finished objects of an evaluation, so that the same command continues after it was stopped.

  OUT/unfinished/settings.json     everything that the values depend on
  OUT/unfinished/objects.jsonl     a line for each finished object of each part, such as a system with an input view

Both are removed when the results are written. Values are stored exactly, so that a continued evaluation gives the same
bytes as an uninterrupted one.
"""

from collections.abc import Mapping
import contextlib
import json
from pathlib import Path
import shutil

from lrm_jax.errors import InputError
from lrm_jax.evaluation.results import plain

_FOLDER = 'unfinished'


class Part:
  """The finished objects of one part of an evaluation: {place in the selection: value}, where values are JSON."""

  def __init__(self, name: str = '', file: Path | None = None, values: dict[int, dict] | None = None):
    self._name, self._file, self._values = name, file, values if values is not None else {}

  def __contains__(self, place: object) -> bool:
    return place in self._values

  def __getitem__(self, place: int) -> dict:
    return self._values[place]

  def add(self, values: Mapping[int, dict]) -> None:
    """Adds the values of objects, and writes them at once. NaN is allowed."""
    self._values.update(values)
    if self._file is not None:
      lines = [json.dumps({'part': self._name, 'object': place, 'value': value}) for place, value in values.items()]
      with self._file.open('a') as stream:
        stream.write(''.join(line + '\n' for line in lines))


class Finished:
  """The finished objects of all parts, in OUT/unfinished. Without `out`, they are kept in memory only.

  `settings` are everything that the values depend on. Raises InputError, with the settings that differ, if the folder
  has objects of other settings, unless `restart` is set, which removes them.
  """

  def __init__(self, out: Path | None, settings: Mapping, *, restart: bool = False):
    self._folder = None if out is None else out / _FOLDER
    self._parts: dict[str, dict[int, dict]] = {}
    self.count = 0  # Objects that were found in the folder, summed over the parts.
    if self._folder is None:
      return
    if restart:
      shutil.rmtree(self._folder, ignore_errors=True)
    settings = json.loads(json.dumps(plain(settings)))
    path = self._folder / 'settings.json'
    if path.is_file():
      _check(path, settings)
      self._read()
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix('.tmp')
    fresh.write_text(json.dumps(settings, indent=1) + '\n')
    fresh.replace(path)

  def part(self, name: str) -> Part:
    """Returns the part of this name. Parts of the same name share their objects."""
    file = None if self._folder is None else self._folder / 'objects.jsonl'
    return Part(name, file, self._parts.setdefault(name, {}))

  def remove(self) -> None:
    """Removes the folder: the results are written."""
    if self._folder is not None:
      shutil.rmtree(self._folder, ignore_errors=True)

  def _read(self) -> None:
    assert self._folder is not None
    path, complete = self._folder / 'objects.jsonl', []
    for line in path.read_text().splitlines() if path.is_file() else []:
      with contextlib.suppress(json.JSONDecodeError):  # The process was killed while it wrote this line.
        entry = json.loads(line)
        self._parts.setdefault(entry['part'], {})[entry['object']] = entry['value']
        complete.append(line)
    fresh = path.with_suffix('.tmp')
    fresh.write_text(''.join(line + '\n' for line in complete))  # Lines can be appended again.
    fresh.replace(path)
    self.count = len(complete)


def _check(path: Path, settings: Mapping) -> None:
  try:
    found = json.loads(path.read_text())
  except (OSError, json.JSONDecodeError) as error:
    raise InputError(f'{path} is damaged ({error}): remove {path.parent}') from error
  names = [name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name)]
  if names:
    changes = '; '.join(
      f'{name} was {_short(found.get(name))} and is {_short(settings.get(name))}' for name in sorted(names)
    )
    raise InputError(
      f'{path.parent} has the finished objects of another evaluation ({changes}): give another --out, or discard them '
      'with --restart'
    )


def _short(value) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f'{text[:57]}...'
