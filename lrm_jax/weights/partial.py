"""Starting a model from one of other sizes: which of its arrays are taken, which are resized, and which stay fresh.

- Arrays of the same shape are taken.
- Of layers that are stacked, [layers, ...], the first ones are taken if only their number differs.
- Position tables and triplane tokens are resized to another number of patches or tokens along a side, and the kernel
  that maps a token to its texels to another number of texels. All by cubic interpolation with antialiasing.
- The kernel of the patches is resized to another number of pixels along a side. With larger patches, a model computes
  for an image what it computed for the image reduced by area means, as lrm_jax/geometry/images.py reduces it.
- All others stay as they were initialised.
Legend: D width, T patches along a side of a table, R tokens along a side of a plane, u texels along a side of a token,
p pixels along a side of a patch.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import math

from einops import rearrange
import jax
import jax.numpy as jnp
import numpy as np

from lrm_jax.models.position_tables import antialiased_cubic_matrix, resized

_STACKS = {'blocks', 'hidden'}
_PATCHES = 'patch_embedding/kernel'  # [3 p^2, D]
_RESIZED = ('position_embedding', 'decoder/tokens', 'decoder/upsampler/kernel', _PATCHES)
_TEXEL_BIAS = 'decoder/upsampler_bias'  # [C], which gives the number of channels of a texel.


@dataclasses.dataclass(frozen=True)
class Fit:
  """How the parameters of a model start from those of another; each field lists paths.

  `layers` are stacks of another number of layers. `unused` are paths of the other model, all others of this one.
  """

  equal: tuple[str, ...]
  layers: tuple[str, ...]
  resized: tuple[str, ...]
  fresh: tuple[str, ...]
  unused: tuple[str, ...]

  @property
  def taken(self) -> tuple[str, ...]:
    """The paths that start from the other model."""
    return (*self.equal, *self.layers, *self.resized)


Shapes = Mapping[str, tuple[int, ...]]


def fit(found: Shapes, wanted: Shapes) -> Fit:
  """Returns how parameters of the shapes `wanted` start from those of the shapes `found`, both {path: shape}."""
  kinds: dict[str, list[str]] = {'equal': [], 'layers': [], 'resized': [], 'fresh': []}
  for path in wanted:
    kinds[_kind(path, found, wanted) if path in found else 'fresh'].append(path)
  taken = {path for kind in ('equal', 'layers', 'resized') for path in kinds[kind]}
  unused = tuple(path for path in found if path not in taken)
  return Fit(**{kind: tuple(paths) for kind, paths in kinds.items()}, unused=unused)


def describe(chosen: Fit, found: Shapes, wanted: Shapes) -> list[str]:
  """Returns lines that list what is taken, resized, left fresh and not used; NAME/* is everything below NAME."""
  lines = []
  if chosen.equal:
    lines.append(f'taken: {_grouped(chosen.equal, wanted)}')
  for numbers in sorted({(found[path][0], wanted[path][0]) for path in chosen.layers}):
    paths = [path for path in chosen.layers if (found[path][0], wanted[path][0]) == numbers]
    lines.append(f'the first {min(numbers)} layers, of {numbers[0]} for {numbers[1]}: {_grouped(paths, wanted)}')
  lines += [f'resized: {path} from {found[path]} to {wanted[path]}' for path in chosen.resized]
  if chosen.fresh:
    lines.append(f'left fresh: {_grouped(chosen.fresh, wanted)}')
  if chosen.unused:
    lines.append(f'not used: {_grouped(chosen.unused, found)}')
  return lines


def convert(path: str, array, shape: tuple[int, ...], channels: int) -> jax.Array:
  """Returns an array for a parameter of this shape, for which `fit` has found that it is resized or has other layers.

  If the parameter has more layers than the array, only those of the array are returned. `channels` are those of the
  planes.
  """
  if _STACKS & set(path.split('/')):
    return array[: shape[0]]
  if path.endswith('position_embedding'):
    before, after = (math.isqrt(x[1] - 1) for x in (array.shape, shape))
    return resized(jnp.asarray(array), antialiased_cubic_matrix(before, after))
  if path.endswith('tokens'):
    grid = rearrange(array, '1 (plane h w) d -> plane h w d', plane=3, h=math.isqrt(array.shape[1] // 3))
    return rearrange(_resized_grid(grid, math.isqrt(shape[1] // 3)), 'plane h w d -> 1 (plane h w) d')
  if path.endswith(_PATCHES):
    before, after = (math.isqrt(x[0] // 3) for x in (array.shape, shape))
    reduce = _area_matrix(after, before)
    grid = rearrange(array, '(p q c) d -> p q c d', c=3, p=before)
    grid = jnp.einsum('pi,qj,pqcd->ijcd', reduce, reduce, grid, precision=jax.lax.Precision.HIGHEST)
    return rearrange(grid, 'p q c d -> (p q c) d')
  grid = rearrange(array, 'd (p q c) -> d p q c', c=channels, p=math.isqrt(array.shape[1] // channels))
  return rearrange(_resized_grid(grid, math.isqrt(shape[1] // channels)), 'd p q c -> d (p q c)')


def _resized_grid(grid, size: int) -> jax.Array:
  """Returns [n, h, w, c] with h = w resized to `size`."""
  matrix = antialiased_cubic_matrix(grid.shape[1], size)
  return jnp.einsum('ih,jw,nhwc->nijc', matrix, matrix, grid, precision=jax.lax.Precision.HIGHEST)


def _area_matrix(length: int, size: int) -> np.ndarray:
  """Returns the matrix [size, length] of means over equal parts of `length` samples, which share samples if need be."""
  edges = np.arange(size + 1) * length / size
  samples = np.arange(length)
  overlap = np.minimum(edges[1:, None], samples + 1) - np.maximum(edges[:-1, None], samples)
  return (np.maximum(overlap, 0) * size / length).astype(np.float32)


def _kind(path: str, found: Shapes, wanted: Shapes) -> str:
  old, new = found[path], wanted[path]
  if old == new:
    return 'equal'
  if len(old) == len(new) and old[1:] == new[1:] and _STACKS & set(path.split('/')):
    return 'layers'
  is_upsampler = path.endswith('upsampler/kernel')
  same_width = old[0] == new[0] if is_upsampler else old[-1] == new[-1]
  same_channels = not is_upsampler or found.get(_TEXEL_BIAS) == wanted.get(_TEXEL_BIAS)
  return 'resized' if path.endswith(_RESIZED) and same_width and same_channels else 'fresh'


def _grouped(paths: Iterable[str], everything: Iterable[str]) -> str:
  """Returns the paths as a text, in which NAME/* replaces all paths below NAME if all of `everything` are listed."""
  chosen, names = set(paths), []
  others = {'/'.join(path.split('/')[:n]) for path in set(everything) - chosen for n in range(1, path.count('/') + 2)}
  for path in sorted(chosen):
    parts = path.split('/')
    prefixes = ['/'.join(parts[:n]) for n in range(1, len(parts))]
    whole = next((f'{prefix}/*' for prefix in prefixes if prefix not in others), path)
    if whole not in names:
      names.append(whole)
  return ', '.join(names)
