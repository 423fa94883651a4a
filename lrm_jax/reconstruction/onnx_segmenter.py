"""A network that finds the object of a photograph, in an ONNX file: U2-Net, IS-Net or BiRefNet.

Such files do not say how their input is scaled and what their output means. `recognise` finds the convention by the
names and shapes of the inputs and outputs, and by their number; docs/segmenters.md has the table. The conventions are
those of the code of U-2-Net, DIS and BiRefNet, and of the sessions of rembg.
Legend: H W image, S side of the network's input.
"""

from collections.abc import Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from lrm_jax import extras
from lrm_jax.errors import InputError, one_line
from lrm_jax.reconstruction.segmentation import Segmentation

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_FLAT = 1e-3  # range of an output that shows no object


@dataclasses.dataclass(frozen=True)
class Convention:
  """`size` in pixels; the input is (x - mean) / deviation of x in 0..1, divided by its maximum with `by_maximum`.

  The mask is the output's sigmoid, with `logits`; otherwise its smallest and largest values become 0 and 1.
  """

  name: str
  size: int
  mean: tuple[float, float, float] = _MEAN
  deviation: tuple[float, float, float] = _DEVIATION
  by_maximum: bool = False
  logits: bool = False


U2NET = Convention('U2-Net', 320, by_maximum=True)
ISNET = Convention('IS-Net', 1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
ISNET_ANIME = Convention('IS-Net (anime)', 1024, _MEAN, (1.0, 1.0, 1.0))
BIREFNET = Convention('BiRefNet', 1024, logits=True)


@dataclasses.dataclass(frozen=True)
class Tensor:
  """An input or output: its name, and its shape, with None for sizes that are not fixed."""

  name: str
  shape: tuple[int | None, ...]

  def __str__(self):
    return f'{self.name} [{", ".join("?" if size is None else str(size) for size in self.shape)}]'


def recognise(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Convention | None:
  """Returns the convention of a network with these inputs and outputs, with the size of its input; None if unknown."""
  first = inputs[0].shape
  image = len(inputs) == 1 and len(first) == 4 and first[1] in (3, None) and first[2] == first[3]
  if not image or not outputs or len(outputs[0].shape) != 4 or outputs[0].shape[1] not in (1, None):
    return None
  name, size, count = inputs[0].name, first[2], len(outputs)
  if count == 1 and (name == 'pixel_values' or (name, outputs[0].name) == ('input_image', 'output_image')):
    found = BIREFNET
  elif count == 7 or (count == 1 and size == U2NET.size):
    found = U2NET
  elif size == ISNET.size:
    found = ISNET_ANIME if (name, outputs[0].name) == ('img', 'mask') else ISNET
  else:
    return None
  return dataclasses.replace(found, size=size or found.size)


class OnnxSegmenter:
  """A segmenter (segmenters.py) from an ONNX file. It runs on the CPU, because JAX has the memory of the accelerator.

  Raises InputError if the file is missing, is no ONNX file, or has an unknown convention, and ImportError (extras.py)
  if onnxruntime is not installed.
  """

  def __init__(self, path: str | Path):
    extras.require('onnx', 'onnxruntime', purpose=f'--segmenter={path}')
    import onnxruntime

    if not Path(path).is_file():
      raise InputError(f'--segmenter={path}: no such file')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Its errors are exceptions, too.
    try:
      self._session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # The exceptions of onnxruntime have no common class.
      raise InputError(f'--segmenter={path} cannot be read as an ONNX file: {one_line(error)[:200]}') from error
    self._input = self._session.get_inputs()[0]
    inputs, outputs = _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs())
    convention = recognise(inputs, outputs)
    if convention is None or self._input.type not in ('tensor(float)', 'tensor(float16)'):
      raise InputError(
        f'--segmenter={path} is neither U2-Net, IS-Net nor BiRefNet: it has the input {", ".join(map(str, inputs))} '
        f'and {len(outputs)} outputs, the first {outputs[0]} (docs/segmenters.md lists what is recognised)'
      )
    self.convention = convention
    self.name = f'{Path(path).name} ({convention.name})'

  def __call__(self, rgb: np.ndarray) -> Segmentation:
    import cv2

    convention, (height, width) = self.convention, rgb.shape[:2]
    smaller = max(height, width) > convention.size
    image = cv2.resize(
      rgb, (convention.size, convention.size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )
    image = image.astype(np.float32) / (max(1, int(image.max())) if convention.by_maximum else 255)
    mean, deviation = np.array(convention.mean, np.float32), np.array(convention.deviation, np.float32)
    image = ((image - mean) / deviation).transpose(2, 0, 1)[None]
    kind = np.float16 if self._input.type == 'tensor(float16)' else np.float32
    names = [self._session.get_outputs()[0].name]
    output = self._session.run(names, {self._input.name: np.ascontiguousarray(image, kind)})[0]
    mask = mask_of(np.asarray(output, np.float32).reshape(output.shape[-2:]), convention)
    return Segmentation(np.clip(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1))


def mask_of(output: np.ndarray, convention: Convention) -> np.ndarray:
  """Returns the mask [S, S] in 0..1 of a network's output [S, S]; zeros if it is the same everywhere."""
  low, high = float(output.min()), float(output.max())
  if convention.logits:
    return special.expit(output) if low < 0 or high > 1 else output
  return (output - low) / (high - low) if high - low > _FLAT else np.zeros_like(output)


def _tensors(found: Sequence[Any]) -> list[Tensor]:
  return [Tensor(one.name, tuple(size if isinstance(size, int) else None for size in one.shape)) for one in found]
