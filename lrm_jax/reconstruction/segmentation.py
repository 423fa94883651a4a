"""The interface of what finds the object of a photograph; segmenters.py has the implementations. Legend: H W image."""

import dataclasses
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """`mask` [H, W] in 0..1 is the object. `doubt` in 0..1 is how unsure the segmenter is; None if it does not know.

  The doubt of GrabCut is the share of the object that a second start changes: 1 - intersection over union.
  """

  mask: np.ndarray
  doubt: float | None = None


class Segmenter(Protocol):
  """Returns the object in RGB bytes [H, W, 3]; `name` is for messages."""

  name: str

  def __call__(self, rgb: np.ndarray) -> Segmentation: ...
