"""The registry of makers of things. A maker yields (solid, material) for each part of one thing, which stands."""

from collections.abc import Callable, Iterator
import dataclasses

import numpy as np

from .materials import Look, Material
from .solids import Solid

Parts = Iterator[tuple[Solid, Material]]


@dataclasses.dataclass(frozen=True)
class Maker:
  """`make(rng, look)` yields the parts; `size` in metres is what the thing measures; `weight` is its share."""

  name: str
  make: Callable[[np.random.Generator, Look], Parts]
  size: float
  weight: float


MAKERS: dict[str, Maker] = {}


def maker(size: float, weight: float = 1.0):
  """Registers a function as the maker of things called like it."""

  def register(function):
    MAKERS[function.__name__] = Maker(function.__name__, function, size, weight)
    return function

  return register


def chance(rng: np.random.Generator, probability: float) -> bool:
  return bool(rng.random() < probability)


def pick(rng: np.random.Generator, *options):
  """Returns one of the options."""
  return options[rng.integers(len(options))]
