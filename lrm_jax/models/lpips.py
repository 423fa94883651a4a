"""LPIPS: how different two pictures look, by the features of a frozen VGG16.

The weights are not ours to ship: lrm_jax/weights/vgg.py reads them from the files of others, data/perceptual.py
fetches some. Their names here are torchvision's (`vgg16().features`) and the `lpips` package's (its linear heads):
  features.{0,2,5,7,10,12,14,17,19,21,24,26,28}.weight [O, I, 3, 3] and .bias [O]
  lin{0,1,2,3,4}.model.1.weight [1, C, 1, 1]

Source: Zhang et al. 2018, version 0.1; Simonyan & Zisserman 2014.
Legend: B pictures, H W picture, h w feature map, C channels.
"""

from collections.abc import Mapping, Sequence

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

# Convolutions of the five stages whose last activation is compared; a max pool lies between stages.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)  # Channels of each stage.
# Of red, green, blue in 0..1 over ImageNet. The `lpips` package says the same of -1..1: shift 2 MEAN - 1, scale 2 STD.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_SMALLEST = 16  # pixels: four pools must leave something.


class LPIPS(nnx.Module):
  """The network: frozen, float32. `lpips(x, y)` is 0 for equal pictures, and about 1 for unlike ones.

  `mean` is what the network subtracts from red, green, blue in 0..1 before it divides by STD: the colour that lies
  around a picture, where its first convolution sees zeros. `source` says which weights these are, beside each figure.
  """

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
    """Returns the distance of pictures in 0..1; gradients flow to the pictures, never to the network.

    Computed in float32, or in float64 where the pictures are.
    """
    if min(image.shape[1:3]) < _SMALLEST:
      raise ValueError(f'LPIPS needs pictures of at least {_SMALLEST} pixels, not {image.shape[1]} x {image.shape[2]}')
    distance = 0.0
    for head, x, y in zip(self.heads, self.features(image), self.features(reference)):
      difference = jnp.square(_unit(x) - _unit(y))
      distance += jnp.mean(difference @ _frozen(head, x.dtype), axis=(1, 2))
    return distance

  def features(self, image: Float[Array, 'B H W 3']) -> list[Float[Array, 'B h w C']]:
    """Returns the last activation of each stage."""
    x = (image - _frozen(self.mean, jnp.float32)) / jnp.array(STD)
    result = []
    for kernels, biases in zip(self.kernels, self.biases):
      if result:
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')
      for kernel, bias in zip(kernels, biases):
        x = jax.lax.conv_general_dilated(
          x, _frozen(kernel, x.dtype), (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        x = jax.nn.relu(x + _frozen(bias, x.dtype))
      result.append(x)
    return result


def shapes() -> dict[str, tuple[int, ...]]:
  """Returns {name: shape} of the weights that the network is made of."""
  result, inputs = {}, 3
  for k, (stage, width) in enumerate(zip(STAGES, WIDTHS)):
    for i in stage:
      result |= {f'features.{i}.weight': (width, inputs, 3, 3), f'features.{i}.bias': (width,)}
      inputs = width
    result[f'lin{k}.model.1.weight'] = (1, width, 1, 1)
  return result


def abstract_lpips() -> LPIPS:
  """Returns the network with VGG16's shapes in the place of arrays: to count what it costs."""
  return jax.eval_shape(lambda: LPIPS({name: np.zeros(shape) for name, shape in shapes().items()}))


def _frozen(variable: nnx.Variable, dtype) -> Array:
  return jax.lax.stop_gradient(variable[...]).astype(dtype)


def _unit(x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
  """Features of length 1 at each place; the small number keeps the gradient finite where all of them are 0."""
  return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-20) + 1e-10)
