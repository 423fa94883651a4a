"""LoRA: attention whose projections x W become x W + (alpha / rank) x A B, where only A and B are trained.

A starts at noise and B at zero, so that a model with LoRA starts as the model without it. `merge` adds the product to
W.
Source: Hu et al. 2021 (LoRA, arXiv 2106.09685), section 4.1. As there, A and B belong to one of q, k, v or out; layers
that compute several of these at once have one pair for each.
Legend: B batch, N tokens, D input width, E output width, L layers, P adapted parts, R rank.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrm_jax.errors import InputError

PATTERN = '*/lora_?'  # The names of LoRA's parameters.
_PARTS = {'qkv': ('q', 'k', 'v'), 'q': ('q',), 'kv': ('k', 'v'), 'out': ('out',)}  # {layer: what it computes}


@dataclasses.dataclass(frozen=True)
class Settings:
  """The values lora_* of a configuration's section `model`. A rank of 0 means no LoRA."""

  rank: int = 0
  alpha: float = 16.0
  projections: tuple[str, ...] = ('q', 'v')


def settings(model_kwargs: Mapping) -> tuple[Settings, dict]:
  """Returns (LoRA's settings, the other values) of a section `model`. Raises InputError for impossible settings."""
  names = {f'lora_{field.name}': field.name for field in dataclasses.fields(Settings)}
  values = {name: model_kwargs[key] for key, name in names.items() if key in model_kwargs}
  if 'projections' in values:
    values['projections'] = tuple(values['projections'])
  found = Settings(**values)
  if found.rank < 0:
    raise InputError(f'config.model.lora_rank = {found.rank} must be at least 0 (no LoRA)')
  allowed = sorted({part for parts in _PARTS.values() for part in parts})
  if found.rank and not (found.projections and set(found.projections) <= set(allowed)):
    raise InputError(f'config.model.lora_projections = {found.projections} must be some of {", ".join(allowed)}')
  if found.rank and not found.alpha > 0:
    raise InputError(f'config.model.lora_alpha = {found.alpha} must be positive')
  return found, {key: value for key, value in model_kwargs.items() if key not in names}


class Projection(nnx.Linear):
  """A linear layer of attention. `adapt` adds LoRA to it."""

  def adapt(self, layer: str, chosen: Settings, rngs: nnx.Rngs) -> None:
    """Adds LoRA's parameters for those parts of the layer of this name that are chosen, to all layers of a stack."""
    selected = _selected(layer, chosen)
    if not selected:
      return
    *layers, width, out = self.kernel.shape
    noise = jax.random.normal(rngs.params(), (*layers, len(selected), width, chosen.rank)) * width**-0.5
    self.lora_a = nnx.Param(noise)  # [L, P, D, R]
    self.lora_b = nnx.Param(jnp.zeros((*layers, len(selected), chosen.rank, out // len(_PARTS[layer]))))  # [L, P, R, E]
    self.lora_layer, self.lora_settings = layer, chosen

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N E']:  # type: ignore[override]
    y = super().__call__(x)
    if not hasattr(self, 'lora_a'):
      return y
    x, a, b = self.promote_dtype((x, self.lora_a[...], self.lora_b[...]), dtype=self.dtype)
    change = jnp.einsum('bnpr,pre->bnpe', jnp.einsum('bnd,pdr->bnpr', x, a), b)
    change = change * (self.lora_settings.alpha / self.lora_settings.rank)
    return y + _all_parts(change.swapaxes(1, 2), self.lora_layer, self.lora_settings)


def add(model: nnx.Module, chosen: Settings, rngs: nnx.Rngs) -> None:
  """Adds LoRA to all attention of a model; with a rank of 0, does nothing."""
  if chosen.rank:
    for path, module in nnx.iter_modules(model):
      if isinstance(module, Projection):
        module.adapt(str(path[-1]), chosen, rngs)


def merge(parameters: Mapping[str, Any], chosen: Settings) -> dict[str, Any]:
  """Returns {path: array} of a model without LoRA that computes the same, given those of a model with it."""
  result = {path: x for path, x in parameters.items() if not is_lora(path)}
  for path, a in parameters.items():
    if path.endswith('/lora_a'):
      layer, kernel = path.split('/')[-2], path.replace('/lora_a', '/kernel')
      b = parameters[path.replace('/lora_a', '/lora_b')]
      change = jnp.einsum('...pdr,...pre->...pde', a, b, precision=jax.lax.Precision.HIGHEST)
      change = change * (chosen.alpha / chosen.rank)
      result[kernel] = result[kernel] + _all_parts(change, layer, chosen)
  return result


def is_lora(path: str) -> bool:
  """Returns whether a parameter belongs to LoRA, given its path such as 'encoder/blocks/attention/qkv/lora_a'."""
  return path.endswith(('/lora_a', '/lora_b'))


def _selected(layer: str, chosen: Settings) -> list[str]:
  return [part for part in _PARTS[layer] if part in chosen.projections]


def _all_parts(change: Float[Array, '*b P n E'], layer: str, chosen: Settings) -> Float[Array, '*b n F']:
  """Returns the changes of a layer's parts side by side; those of parts without LoRA are zero."""
  selected = _selected(layer, chosen)
  parts = [
    change[..., selected.index(part), :, :] if part in selected else jnp.zeros_like(change[..., 0, :, :])
    for part in _PARTS[layer]
  ]
  return jnp.concatenate(parts, axis=-1)
