"""Tables of weights: what we call a parameter, what others call it, and how its axes lie; read in both directions.

A row's names may hold `{}`, the number of a layer: ours are stacked, [layers, ...], theirs one by one. Several names
in a row are parts that lie one after another along the first axis of the whole (q, k and v).
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import math

from einops import rearrange
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
    lambda x: rearrange(x, '(p q c) d -> d c p q', c=3, p=math.isqrt(len(x) // 3)))


@dataclasses.dataclass(frozen=True)
class Row:
  """`ours`: path in the tree of parameters, joined by '/'; `theirs`: its name, or the names of its parts."""

  ours: str
  theirs: tuple[str, ...]
  layout: Layout = SAME

  def names(self, layers: int) -> Iterable[str]:
    for name in self.theirs:
      yield from (name.format(i) for i in range(layers)) if '{}' in name else (name,)


def load(
    rows: Iterable[Row], tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *,
    unused: tuple[str, ...] = (), where: str = 'the file',
) -> dict[str, np.ndarray]:
  """Returns {our path: array, float32} of a table, for parameters of these shapes.

  Names that begin with one of `unused` may be there and are not read. Raises ValueError with all that is missing,
  unexpected and misshaped at once.
  """
  result, known, problems = {}, set(), []
  for row in rows:
    wanted = shapes[row.ours]
    layers = wanted[0] if '{}' in row.theirs[0] else 1
    known |= (names := set(row.names(layers)))
    if missing := sorted(names - tensors.keys()):
      problems += [f'{name} is missing' for name in missing]
      continue
    parts = [_whole(row, tensors, i) for i in range(layers)]
    if any(part.shape != parts[0].shape for part in parts):
      problems.append(f'{row.theirs[0]} has not the same shape in all layers')
      continue
    whole = np.stack(parts) if '{}' in row.theirs[0] else parts[0]
    if whole.shape != tuple(wanted):
      problems.append(f'{" + ".join(row.theirs)} makes {row.ours} of {whole.shape}, and the model has {tuple(wanted)}')
    result[row.ours] = np.asarray(whole, np.float32)
  extra = sorted(name for name in tensors.keys() - known if not name.startswith(unused or ('\0',)))
  problems += [f'{name} {tensors[name].shape} is unexpected' for name in extra]
  if problems:
    raise ValueError(f'{where} does not fit the model: {"; ".join(problems)}')
  return result


def save(rows: Iterable[Row], parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns {their name: tensor} of parameters {our path: array}: the inverse of `load`."""
  tensors = {}
  for row in rows:
    whole = np.asarray(parameters[row.ours])
    layers = whole if '{}' in row.theirs[0] else whole[None]
    for i, layer in enumerate(layers):
      parts = np.split(row.layout.to_theirs(layer), len(row.theirs))
      tensors |= {name.format(i): np.ascontiguousarray(part) for name, part in zip(row.theirs, parts)}
  return tensors


def _whole(row: Row, tensors: Mapping[str, np.ndarray], layer: int) -> np.ndarray:
  parts = [tensors[name.format(layer)] for name in row.theirs]
  return row.layout.to_ours(np.concatenate(parts) if len(parts) > 1 else parts[0])
