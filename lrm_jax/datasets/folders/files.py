"""Finds and reads the files that a folder of views refers to, whichever system and program wrote their names."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lrm_jax.errors import InputError

IMAGE_SUFFIXES = ('.png', '.webp', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')


def find(folder: Path, name: str, suffixes: Iterable[str] = ('',)) -> Path | None:
  """Returns the file `name` + suffix below a folder, for the first suffix that has one, or None.

  `name` may use backslashes and differ in case from the file. If it is the absolute path of another machine, its
  longest end that exists below the folder is used.
  """
  name = name.replace('\\', '/')
  parts = PurePosixPath(name).parts
  is_absolute = name.startswith('/') or name[1:3] == ':/'
  starts = range(1, len(parts)) if is_absolute else (0,)
  for suffix in suffixes:
    if (whole := Path(name + suffix)).is_absolute() and whole.is_file():
      return whole
    for start in starts:
      found = _in_any_case(folder, [*parts[start:-1], parts[-1] + suffix])
      if found is not None:
        return found
  return None


def _in_any_case(folder: Path, parts: list[str]) -> Path | None:
  if (exact := folder.joinpath(*parts)).is_file():
    return exact
  for part in parts:
    if part == '..' or (folder / part).exists():
      folder = folder / part
      continue
    same = [path for path in folder.iterdir() if path.name.casefold() == part.casefold()] if folder.is_dir() else []
    if len(same) != 1:
      return None
    folder = same[0]
  return folder if folder.is_file() else None


def images(folder: Path) -> list[Path]:
  """Returns the image files of a folder, with a suffix in any case, sorted by name."""
  return sorted(path for path in folder.glob('*') if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def read_text(path: Path) -> str:
  """Returns the text of a file in UTF-8 or UTF-16, without its byte-order mark; InputError if it is not text."""
  data = path.read_bytes()
  encoding = 'utf-16' if data[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig'
  try:
    return data.decode(encoding)
  except UnicodeDecodeError as error:
    raise InputError(f'{path.name} is not a text file in UTF-8 or UTF-16 ({error})') from error
