"""Tables that map lrm_jax parameters to third-party tensors, used for both loading and saving.

Each row gives the path of an lrm_jax parameter, the third-party name, and the conversion between the two layouts.
A third-party name may contain `{}`, the layer number: lrm_jax stacks layers, [layers, ...], while third-party files
store them one by one. If a row has several names, such as q, k and v, their tensors are concatenated along the first
axis.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import math

from einops import EinopsError, rearrange
import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.weights.tensor import Tensor

# Parts of names that PyTorch's wrappers add: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = ('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')


@dataclasses.dataclass(frozen=True)
class Layout:
  """Converts a third-party tensor to the layout of lrm_jax and back."""

  to_ours: Callable[[np.ndarray], np.ndarray]
  to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # [out, in] <-> [in, out]
PATCHES = Layout(  # A convolution [D, 3, p, q] with stride equal to its size <-> a linear layer on flattened patches.
  lambda x: rearrange(x, 'd c p q -> (p q c) d'),
  lambda x: rearrange(x, '(p q c) d -> d c p q', c=3, p=math.isqrt(len(x) // 3)),
)
UPSAMPLER = Layout(  # A transposed convolution [D, C, 2, 2] with stride 2 <-> a linear layer to 2 x 2 texels.
  lambda x: rearrange(x, 'd c p q -> d (p q c)'), lambda x: rearrange(x, 'd (p q c) -> d c p q', p=2, q=2)
)
PLANES = Layout(  # Tokens of three planes [3, D, h, w] <-> one sequence [1, 3 h w, D].
  lambda x: rearrange(x, 'plane d h w -> 1 (plane h w) d'),
  lambda x: rearrange(x, '1 (plane h w) d -> plane d h w', plane=3, h=math.isqrt(x.shape[1] // 3)),
)


@dataclasses.dataclass(frozen=True)
class Row:
  """Maps one lrm_jax parameter to its third-party tensors.

  `ours` is the path in the parameter tree, joined by '/'; `theirs` are the third-party names of its parts, usually one.
  Layer i of lrm_jax has the third-party number `first` + `step` * i.
  """

  ours: str
  theirs: tuple[str, ...]
  layout: Layout = SAME
  first: int = 0
  step: int = 1

  def names(self, layers: int) -> Iterable[str]:
    """Yields the third-party names of all parts of all layers."""
    for name in self.theirs:
      if '{}' in name:
        yield from (self.name(name, i) for i in range(layers))
      else:
        yield name

  def name(self, name: str, layer: int) -> str:
    """Returns the third-party name of a part in one layer, counted from 0."""
    return name.format(self.first + self.step * layer)


def linear(ours: str, *theirs: str, bias: bool = True, **numbering) -> tuple[Row, ...]:
  """Returns the rows of a linear layer, which may combine several third-party layers by concatenating their outputs."""
  rows = [Row(f'{ours}/kernel', tuple(f'{name}.weight' for name in theirs), LINEAR, **numbering)]
  if bias:
    rows.append(Row(f'{ours}/bias', tuple(f'{name}.bias' for name in theirs), **numbering))
  return tuple(rows)


def norm(ours: str, theirs: str) -> tuple[Row, ...]:
  """Returns the rows of a normalisation layer."""
  return Row(f'{ours}/scale', (f'{theirs}.weight',)), Row(f'{ours}/bias', (f'{theirs}.bias',))


def under(rows: Iterable[Row], ours: str, theirs: str) -> tuple[Row, ...]:
  """Returns the rows of a submodule, with prefix `ours` added to its paths and `theirs` to its third-party names."""
  return tuple(
    dataclasses.replace(row, ours=ours + row.ours, theirs=tuple(theirs + name for name in row.theirs)) for row in rows
  )


def load(
  rows: Iterable[Row],
  tensors: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int, ...]],
  *,
  unused: tuple[str, ...] = (),
  where: str = 'the file',
) -> dict[str, np.ndarray]:
  """Returns {parameter path: float32 array} for parameters of the given shapes.

  Tensors are read one at a time. Tensors whose names start with one of `unused` are ignored. `where` names the source
  in error messages. Raises one InputError that lists all missing, unexpected and misshaped tensors.
  """
  result, known, problems, missing_names = {}, set(), [], []
  for row in rows:
    if row.ours not in shapes:
      continue  # The model has no such parameter. If the file has it, it is reported as unexpected.
    full_shape = tuple(shapes[row.ours])
    is_stacked = '{}' in row.theirs[0]
    names = set(row.names(full_shape[0] if is_stacked else 1))
    known |= names
    if missing := sorted(names - tensors.keys()):
      missing_names += missing
      continue
    array = np.empty(full_shape, np.float32)
    shape = full_shape[1:] if is_stacked else full_shape
    for i, layer in enumerate(array if is_stacked else [array]):
      found = _part(row, tensors, i)
      if isinstance(found, str) or found.shape != shape:
        problem = found if isinstance(found, str) else f'converts to shape {found.shape}'
        joined = ' + '.join(row.name(name, i) for name in row.theirs)
        problems.append(f'{joined} {problem}, but {row.ours} of the model has shape {shape}')
      else:
        layer[...] = found
    result[row.ours] = array
  extra = sorted(name for name in tensors.keys() - known if not name.startswith(unused or ('\0',)))
  problems = [f'{name} is missing{similar(name, extra)}' for name in missing_names] + problems
  problems += [f'{name} {tuple(tensors[name].shape)} is unexpected' for name in extra]
  if missing := sorted(shapes.keys() - result.keys() - {row.ours for row in rows}):
    problems.append(f'the name table has no entry for {", ".join(missing)} of the model')
  if problems:
    found = f'. {names_in(tensors)}' if missing_names else ''
    raise InputError(f'{where} does not match the model: {"; ".join(problems)}{found}')
  return result


def save(rows: Iterable[Row], parameters: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (third-party name, tensor) of {parameter path: array}, converted one at a time; the inverse of `load`."""
  for row in rows:
    if row.ours not in parameters:
      continue
    array = np.asarray(parameters[row.ours])
    for i, layer in enumerate(array if '{}' in row.theirs[0] else [array]):
      parts = np.split(row.layout.to_theirs(layer), len(row.theirs))
      yield from ((row.name(name, i), np.ascontiguousarray(part)) for name, part in zip(row.theirs, parts))


def without_wrappers(tensors: Mapping[str, Tensor], anchor: str, where: str) -> dict[str, Tensor]:
  """Returns the tensors of one model, without the prefixes of programs that wrapped or stored it.

  Removed are parts such as `module` and `_orig_mod` (PyTorch's wrappers) anywhere, and a prefix of the name `anchor`,
  which the model is known to have, such as `state_dict.model.`; other tensors, such as the optimiser's, are then left
  out. If no tensor has that name, a prefix that all names share is removed. Raises InputError if there are several
  models.
  """
  result = {}
  for name, tensor in tensors.items():
    short = '.'.join(part for part in name.split('.') if part not in _WRAPPERS)
    if short in result:
      raise InputError(f'{where} contains {short} twice, with and without the prefix of a wrapper: save one model')
    result[short] = tensor
  prefixes = sorted({name.removesuffix(anchor) for name in result if name == anchor or name.endswith(f'.{anchor}')})
  if '' in prefixes:
    return result
  if len(prefixes) > 1:
    raise InputError(
      f'{where} contains several models, with the prefixes {", ".join(prefixes)}: save the tensors of one of them'
    )
  if prefixes:
    return {name.removeprefix(prefixes[0]): x for name, x in result.items() if name.startswith(prefixes[0])}
  while len(firsts := {name.partition('.')[0] for name in result}) == 1 and all('.' in name for name in result):
    result = {name.removeprefix(f'{min(firsts)}.'): tensor for name, tensor in result.items()}
  return result


def similar(name: str, names: Iterable[str]) -> str:
  """Returns ' (but there is X)' for the one of `names` that shares most of the last parts of a missing name, or ''."""
  parts = name.split('.')[::-1]

  def shared(other):
    return next((i for i, (a, b) in enumerate(zip(parts, other.split('.')[::-1])) if a != b), len(parts))

  best = max(sorted(names), key=shared, default='')
  return f' (but there is {best})' if shared(best) >= min(2, len(parts)) else ''


def names_in(tensors: Mapping[str, object], count: int = 6) -> str:
  """Returns a sentence with the number of tensors and the names of the first."""
  names = sorted(tensors)
  rest = f' and {len(names) - count} more' if len(names) > count else ''
  return f'It has {len(names)} tensors: {", ".join(names[:count])}{rest}'


def need(tensors: Mapping[str, np.ndarray], where: str, *names: str) -> list[tuple[int, ...]]:
  """Returns the shapes of the named tensors; raises InputError that lists all missing names."""
  if missing := [name for name in names if name not in tensors]:
    problems = '; '.join(f'{name} is missing{similar(name, tensors)}' for name in missing)
    raise InputError(f'{where} does not match the model: {problems}. {names_in(tensors)}')
  return [tuple(tensors[name].shape) for name in names]


def _part(row: Row, tensors: Mapping[str, np.ndarray], layer: int) -> np.ndarray | str:
  """Returns the array of one layer in the layout of lrm_jax, or an error message if it cannot be converted."""
  parts = [np.asarray(tensors[row.name(name, layer)]) for name in row.theirs]
  try:
    return row.layout.to_ours(np.concatenate(parts) if len(parts) > 1 else parts[0])
  except (EinopsError, ValueError):
    return f'has the shape {" and ".join(str(tuple(part.shape)) for part in parts)}'
