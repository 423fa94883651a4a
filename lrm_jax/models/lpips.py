"""LPIPS: how different two pictures look, by the features of a frozen VGG16.

The weights are not ours to ship. They are read from one `.npz` file with these arrays, named as torchvision's
`vgg16().features` and the `lpips` package's linear heads name them:
  features.{0,2,5,7,10,12,14,17,19,21,24,26,28}.weight [O, I, 3, 3] and .bias [O]
  lin{0,1,2,3,4}.model.1.weight [1, C, 1, 1]
With PyTorch, torchvision and lpips installed, this makes it:
  python -c "import numpy, torchvision, lpips; w = torchvision.models.vgg16(weights='IMAGENET1K_V1').state_dict(); \
  w |= lpips.LPIPS(net='vgg').state_dict(); numpy.savez('vgg16_lpips.npz', **{k: v.numpy() for k, v in w.items() \
  if k.startswith('features.') or (k.startswith('lin') and 'model.1' in k and not k.startswith('lins'))})"

Source: Zhang et al. 2018, version 0.1; Simonyan & Zisserman 2014.
Legend: B pictures, H W picture, h w feature map, C channels.
"""

from pathlib import Path
import zipfile

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

# Convolutions of the five stages whose last activation is compared; a max pool lies between stages.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)  # Channels of each stage.
_SMALLEST = 16  # pixels: four pools must leave something.


class LPIPS(nnx.Module):
  """The network: frozen, float32. `lpips(x, y)` is 0 for equal pictures, and about 1 for unlike ones."""

  def __init__(self, weights: dict[str, np.ndarray]):
    kernel = lambda i: np.transpose(weights[f'features.{i}.weight'], (2, 3, 1, 0))
    array = lambda x: nnx.Variable(jnp.asarray(x, jnp.float32))
    self.kernels = nnx.List([nnx.List([array(kernel(i)) for i in stage]) for stage in STAGES])
    self.biases = nnx.List([nnx.List([array(weights[f'features.{i}.bias']) for i in stage]) for stage in STAGES])
    self.heads = nnx.List([array(weights[f'lin{k}.model.1.weight'].reshape(-1)) for k in range(len(STAGES))])

  def __call__(self, image: Float[Array, 'B H W 3'], reference: Float[Array, 'B H W 3']) -> Float[Array, 'B']:
    """Returns the distance of pictures in 0..1; gradients flow to the pictures, never to the network."""
    if min(image.shape[1:3]) < _SMALLEST:
      raise ValueError(f'LPIPS needs pictures of at least {_SMALLEST} pixels, not {image.shape[1]} x {image.shape[2]}')
    distance = 0.0
    for head, x, y in zip(self.heads, self.features(image), self.features(reference)):
      difference = jnp.square(_unit(x) - _unit(y))
      distance += jnp.mean(difference @ jax.lax.stop_gradient(head[...]), axis=(1, 2))
    return distance

  def features(self, image: Float[Array, 'B H W 3']) -> list[Float[Array, 'B h w C']]:
    """Returns the last activation of each stage."""
    x = (2 * image - 1 - jnp.array([-0.030, -0.088, -0.188])) / jnp.array([0.458, 0.448, 0.450])
    result = []
    for kernels, biases in zip(self.kernels, self.biases):
      if result:
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')
      for kernel, bias in zip(kernels, biases):
        x = jax.lax.conv_general_dilated(
            x, jax.lax.stop_gradient(kernel[...]), (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        x = jax.nn.relu(x + jax.lax.stop_gradient(bias[...]))
      result.append(x)
    return result


def load_lpips(path: str | Path) -> LPIPS:
  """Returns the network with weights from a file; a clear error where there is none, or it lacks something."""
  if not path or not Path(path).is_file():
    raise ValueError(
        f'LPIPS needs VGG16 weights, and there are none at {str(path)!r}: make the .npz file that lrm_jax/models/lpips.py '
        'describes and give its path (--config.loss.lpips_weights=FILE in training), or do without '
        '(--config.loss.lpips_weight=0)')
  if not zipfile.is_zipfile(path):
    raise ValueError(f'{path} is no .npz file, or only part of one: lrm_jax/models/lpips.py tells how to make it')
  needed = {f'features.{i}.{part}' for stage in STAGES for i in stage for part in ('weight', 'bias')}
  needed |= {f'lin{k}.model.1.weight' for k in range(len(STAGES))}
  with np.load(path) as file:
    if missing := sorted(needed - set(file.files)):
      raise ValueError(f'{path} lacks {", ".join(missing)}: lrm_jax/models/lpips.py tells how to make it')
    return LPIPS({name: file[name] for name in needed})


def abstract_lpips() -> LPIPS:
  """Returns the network with VGG16's shapes in the place of arrays: to count what it costs."""

  def build():
    weights, inputs = {}, 3
    for k, (stage, width) in enumerate(zip(STAGES, WIDTHS)):
      for i in stage:
        weights |= {f'features.{i}.weight': np.zeros((width, inputs, 3, 3)), f'features.{i}.bias': np.zeros(width)}
        inputs = width
      weights[f'lin{k}.model.1.weight'] = np.zeros((1, width, 1, 1))
    return LPIPS(weights)

  return jax.eval_shape(build)


def _unit(x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
  """Features of length 1 at each place; the small number keeps the gradient finite where all of them are 0."""
  return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-20) + 1e-10)
