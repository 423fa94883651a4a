"""Tables of weights: what we call a parameter, what others call it, and how its axes lie; read in both directions.

A row's names may hold `{}`, the number of a layer: ours are stacked, [layers, ...], theirs one by one. Several names
in a row are parts that lie one after another along the first axis of the whole (q, k and v).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import math

from einops import EinopsError, rearrange
import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a tensor of theirs becomes one of ours, and back."""

  to_ours: Callable[[np.ndarray], np.ndarray]
  to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # [out, in] <-> [in, out]
PATCHES = Layout(  # A convolution [D, 3, p, q] that steps by its own size <-> a linear map of flat patches.
  lambda x: rearrange(x, 'd c p q -> (p q c) d'),
  lambda x: rearrange(x, '(p q c) d -> d c p q', c=3, p=math.isqrt(len(x) // 3)),
)
UPSAMPLER = Layout(  # A transposed convolution [D, C, 2, 2] of stride 2 <-> a linear map to 2 x 2 texels.
  lambda x: rearrange(x, 'd c p q -> d (p q c)'), lambda x: rearrange(x, 'd (p q c) -> d c p q', p=2, q=2)
)
PLANES = Layout(  # Tokens of three planes, channels first <-> in a row.
  lambda x: rearrange(x, 'plane d h w -> 1 (plane h w) d'),
  lambda x: rearrange(x, '1 (plane h w) d -> plane d h w', plane=3, h=math.isqrt(x.shape[1] // 3)),
)


@dataclasses.dataclass(frozen=True)
class Row:
  """`ours`: path in the tree of parameters, joined by '/'; `theirs`: its name, or the names of its parts.

  Their number of our layer i is `first` + `step` * i.
  """

  ours: str
  theirs: tuple[str, ...]
  layout: Layout = SAME
  first: int = 0
  step: int = 1

  def names(self, layers: int) -> Iterable[str]:
    for name in self.theirs:
      yield from (self.name(name, i) for i in range(layers)) if '{}' in name else (name,)

  def name(self, name: str, layer: int) -> str:
    return name.format(self.first + self.step * layer)


def linear(ours: str, *theirs: str, bias: bool = True, **numbering) -> tuple[Row, ...]:
  """Returns the rows of a linear map, whose output may be made of several of theirs."""
  rows = (Row(f'{ours}/kernel', tuple(f'{name}.weight' for name in theirs), LINEAR, **numbering),)
  return rows + (Row(f'{ours}/bias', tuple(f'{name}.bias' for name in theirs), **numbering),) * bias


def norm(ours: str, theirs: str) -> tuple[Row, ...]:
  """Returns the rows of a norm."""
  return Row(f'{ours}/scale', (f'{theirs}.weight',)), Row(f'{ours}/bias', (f'{theirs}.bias',))


def under(rows: Iterable[Row], ours: str, theirs: str) -> tuple[Row, ...]:
  """Returns the rows of a part that lies under `ours` in our tree, and whose names with them begin with `theirs`."""
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
  """Returns {our path: array, float32} of a table, for parameters of these shapes.

  Tensors are read one at a time. Names that begin with one of `unused` may be there and are not read. Raises ValueError
  with all that is missing, unexpected and misshaped at once.
  """
  result, known, problems = {}, set(), []
  for row in rows:
    if row.ours not in shapes:
      continue  # The model has no such part: where the file has it, it is unexpected.
    wanted = tuple(shapes[row.ours])
    layers = wanted[0] if '{}' in row.theirs[0] else 1
    known |= (names := set(row.names(layers)))
    if missing := sorted(names - tensors.keys()):
      problems += [f'{name} is missing' for name in missing]
      continue
    whole = np.empty(wanted, np.float32)
    for i, place in enumerate(whole if '{}' in row.theirs[0] else [whole]):
      found, shape = _part(row, tensors, i), wanted[1:] if '{}' in row.theirs[0] else wanted
      if isinstance(found, str) or found.shape != shape:
        told = found if isinstance(found, str) else f'makes {found.shape}'
        joined = ' + '.join(row.name(name, i) for name in row.theirs)
        problems.append(f'{joined} {told}, and the model has {row.ours} of {shape}')
      else:
        place[...] = found
    result[row.ours] = whole
  extra = sorted(name for name in tensors.keys() - known if not name.startswith(unused or ('\0',)))
  problems += [f'{name} {tuple(tensors[name].shape)} is unexpected' for name in extra]
  if missing := sorted(shapes.keys() - result.keys() - {row.ours for row in rows}):
    problems.append(f'there is no name for {", ".join(missing)} of the model')
  if problems:
    raise ValueError(f'{where} does not fit the model: {"; ".join(problems)}')
  return result


def save(rows: Iterable[Row], parameters: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (their name, tensor) of parameters {our path: array}, made one at a time: the inverse of `load`."""
  for row in rows:
    if row.ours not in parameters:
      continue
    whole = np.asarray(parameters[row.ours])
    for i, layer in enumerate(whole if '{}' in row.theirs[0] else [whole]):
      parts = np.split(row.layout.to_theirs(layer), len(row.theirs))
      yield from ((row.name(name, i), np.ascontiguousarray(part)) for name, part in zip(row.theirs, parts))


def need(tensors: Mapping[str, np.ndarray], where: str, *names: str) -> list[tuple[int, ...]]:
  """Returns the shapes of tensors; ValueError with all that are missing."""
  if missing := [name for name in names if name not in tensors]:
    raise ValueError(f'{where} does not fit the model: {"; ".join(f"{name} is missing" for name in missing)}')
  return [tuple(tensors[name].shape) for name in names]


def _part(row: Row, tensors: Mapping[str, np.ndarray], layer: int) -> np.ndarray | str:
  """Returns our array of one layer, or words where theirs cannot make it."""
  parts = [np.asarray(tensors[row.name(name, layer)]) for name in row.theirs]
  try:
    return row.layout.to_ours(np.concatenate(parts) if len(parts) > 1 else parts[0])
  except (EinopsError, ValueError):
    return f'has the shape {" and ".join(str(tuple(part.shape)) for part in parts)}'
