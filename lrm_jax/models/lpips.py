"""LPIPS: the perceptual distance of two images, computed from the features of a frozen VGG16.

The weights are not distributed with this package, because we do not own them. lrm_jax/weights/vgg.py loads third-party
files and data/lpips_weights.py downloads the published ones. This module uses the names of torchvision
(`vgg16().features`) and of the linear heads of the `lpips` package:
  features.{0,2,5,7,10,12,14,17,19,21,24,26,28}.weight [O, I, 3, 3] and .bias [O]
  lin{0,1,2,3,4}.model.1.weight [1, C, 1, 1]

Source: Zhang et al. 2018 (LPIPS, version 0.1); Simonyan & Zisserman 2014 (VGG16).
Legend: B images, H W image, h w feature map, O I output and input channels, C channels.
"""

from collections.abc import Mapping, Sequence
import functools

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lrm_jax.errors import InputError
from lrm_jax.models.encoder import IMAGE_MEAN, IMAGE_STD

# Indices of the convolutions in the five stages. The last activation of each stage is compared; max pooling separates
# the stages.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)  # Channels of each stage.
# For inputs in 0..1. The `lpips` package takes inputs in -1..1, with the equivalent shift 2 MEAN - 1 and scale 2 STD.
MEAN, STD = IMAGE_MEAN, IMAGE_STD
# Accelerators would round to bfloat16 or TF32. With the sizes of configs/base.py the network is 1 % of the operations
# of a step (0.12 of 10.9 TFLOP per object), so the precision costs little.
_PRECISION = jax.lax.Precision.HIGHEST
# Feature maps whose shorter side has at most so many pixels are convolved by one product of matrices for each place of
# the kernel. On CPUs, XLA's convolution is far slower for maps of 2 x 2, which images of 32 px have, and about as fast
# for those of 4 x 4 (bench/perceptual.py).
SMALL_MAP = 3
_MIN_SIZE = 16  # Pixels. Smaller images would be empty after four poolings.


class LPIPS(nnx.Module):
  """The frozen network, in float32. `lpips(x, y)` is 0 for equal images and about 1 for very different ones.

  `weights` has the names and shapes that `shapes` returns. The network subtracts `mean` from red, green and blue in
  0..1 and divides by STD, so the zero padding of the first convolution represents the colour `mean`. `source` describes
  the weights; it is reported with each LPIPS value. Images must have at least `smallest` pixels along a side.
  """

  smallest = _MIN_SIZE

  def __init__(self, weights: Mapping[str, np.ndarray], *, mean: Sequence[float] | np.ndarray = MEAN, source: str = ''):
    def kernel(i):
      return np.transpose(weights[f'features.{i}.weight'], (2, 3, 1, 0))

    def array(x):
      return nnx.Variable(jnp.asarray(x, jnp.float32))

    self.source = source
    self.mean = array(mean)
    self.kernels = nnx.List([nnx.List([array(kernel(i)) for i in stage]) for stage in STAGES])
    self.biases = nnx.List([nnx.List([array(weights[f'features.{i}.bias']) for i in stage]) for stage in STAGES])
    self.heads = nnx.List([array(weights[f'lin{k}.model.1.weight'].reshape(-1)) for k in range(len(STAGES))])

  def __call__(self, image: Float[Array, 'B H W 3'], reference: Float[Array, 'B H W 3']) -> Float[Array, 'B']:
    """Returns the distances of images in 0..1. Gradients flow to the images, but not to the network.

    Computes in float32, or in float64 if the images are float64. Raises InputError for images below 16 x 16 pixels.
    """
    if min(image.shape[1:3]) < _MIN_SIZE:
      raise InputError(
        f'LPIPS needs images that are at least {_MIN_SIZE} pixels wide and high, not '
        f'{image.shape[1]} x {image.shape[2]}: use larger images'
      )
    distance = jnp.zeros(len(image))
    for head, x, y in zip(self.heads, self.features(image), self.features(reference)):
      difference = jnp.square(_normalised(x) - _normalised(y))
      distance += jnp.mean(jnp.matmul(difference, _frozen(head, x.dtype), precision=_PRECISION), axis=(1, 2))
    return distance

  def features(self, image: Float[Array, 'B H W 3']) -> list[Float[Array, 'B h w C']]:
    """Returns the last activation of each of the five stages."""
    x = (image - _frozen(self.mean, jnp.float32)) / jnp.array(STD)
    result = []
    for kernels, biases in zip(self.kernels, self.biases):
      if result:
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')
      for kernel, bias in zip(kernels, biases):
        x = jax.nn.relu(_convolved(x, _frozen(kernel, x.dtype)) + _frozen(bias, x.dtype))
      result.append(x)
    return result


def shapes() -> dict[str, tuple[int, ...]]:
  """Returns {name: shape} of all weights of the network."""
  result: dict[str, tuple[int, ...]] = {}
  inputs = 3
  for k, (stage, width) in enumerate(zip(STAGES, WIDTHS)):
    for i in stage:
      result |= {f'features.{i}.weight': (width, inputs, 3, 3), f'features.{i}.bias': (width,)}
      inputs = width
    result[f'lin{k}.model.1.weight'] = (1, width, 1, 1)
  return result


def abstract_lpips() -> LPIPS:
  """Returns the network with shapes in place of arrays, to estimate its compute and memory cost."""
  return jax.eval_shape(lambda: LPIPS({name: np.zeros(shape) for name, shape in shapes().items()}))


def _convolved(x: Float[Array, 'B h w I'], kernel: Float[Array, '3 3 I O']) -> Float[Array, 'B h w O']:
  """Returns the convolution of a feature map with a kernel, padded with zeros to keep its size."""
  height, width = x.shape[1:3]
  if min(height, width) > SMALL_MAP:
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision=_PRECISION
    )
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  places = [
    jnp.matmul(padded[:, i : i + height, j : j + width], kernel[i, j], precision=_PRECISION)
    for i in range(3)
    for j in range(3)
  ]
  return functools.reduce(jnp.add, places)


def _frozen(variable: nnx.Variable, dtype) -> Array:
  """Returns the value of a variable without a gradient, in `dtype`."""
  return jax.lax.stop_gradient(variable[...]).astype(dtype)


def _normalised(x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
  """Returns features scaled to unit length at each pixel. The 1e-20 keeps the gradient finite if all features are 0."""
  return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-20) + 1e-10)
