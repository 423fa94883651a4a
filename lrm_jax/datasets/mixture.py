"""The datasets of a configuration: that of the section `data`, and those of the entries of `data.mixture`."""

from collections.abc import Iterator, Mapping

from lrm_jax.errors import InputError


def datasets(data: Mapping) -> Iterator[tuple[str, str, dict]]:
  """Yields (name, where, values) of each dataset with a path, the main one first; its name is ''.

  `where` is what messages call it, and `values` are those of `data`, overridden by those of its entry. An entry has its
  own path. Raises InputError if it overrides a value that the section does not have.
  """
  common = {name: value for name, value in data.items() if name != 'mixture'}
  for name, entry in {'': {}, **data.get('mixture', {})}.items():
    where = f'config.data.mixture.{name}' if name else 'config.data'
    if unknown := set(entry) - set(common):
      raise InputError(f'{where} has the unknown values {", ".join(sorted(unknown))}: config.data does not have them')
    if entry.get('path') if name else common['path']:
      yield name, where, common | dict(entry)
