"""LPIPS equals a direct float64 implementation of its definition, in value and in gradient."""

import functools
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax import evaluate
from lrm_jax.evaluation import novel_views
from lrm_jax.geometry import cameras
from lrm_jax.models import lpips
from lrm_jax.weights import vgg

# The network is an argument, because constants of this size take long to compile.
compare = jax.jit(lambda network, x, y: network(x, y))
distance_and_gradients = jax.jit(
  jax.value_and_grad(lambda x, y, network: (jnp.sum(d := network(x, y)), d), argnums=(0, 1), has_aux=True)
)


@pytest.fixture(scope='module')
def weights():
  """Returns random weights with the published names and shapes. As in trained networks, heads are not negative."""
  rng, result = np.random.default_rng(0), {}
  for name, shape in lpips.shapes().items():
    if name.startswith('lin'):
      result[name] = rng.uniform(0, 1, shape).astype(np.float32)
    else:
      scale = np.sqrt(2 / np.prod(shape[1:])) if name.endswith('weight') else 0.1
      result[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
  return result


@pytest.fixture(scope='module')
def distance(weights):
  return functools.partial(compare, lpips.LPIPS(weights))


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(1).uniform(size=(2, 2, 20, 18, 3)).astype(np.float32)


def scaled(images):
  """Returns the inputs of torchvision's networks, as the lpips package computes them: -1..1, shifted and scaled."""
  return (2 * images - 1 - jnp.array([-0.030, -0.088, -0.188])) / jnp.array([0.458, 0.448, 0.450])


def caffe(images):
  """Returns the inputs of Caffe's networks: blue, green, red in 0..255 minus their mean."""
  return 255 * images[..., ::-1] - jnp.array([103.939, 116.779, 123.68])


def plain_lpips(weights, x, y, prepare=scaled):
  """Returns the distances of images [B, H, W, 3], as the lpips package defines them."""
  total, pair = 0.0, prepare(jnp.stack([x, y]))
  for k, stage in enumerate(lpips.STAGES):
    if k:
      height, width = pair.shape[2] // 2 * 2, pair.shape[3] // 2 * 2
      pair = functools.reduce(jnp.maximum, [pair[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])
    for layer in stage:
      padded = jnp.pad(pair, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
      kernel, (height, width) = weights[f'features.{layer}.weight'], pair.shape[2:4]
      around = jnp.stack([padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)
      pair = jnp.tensordot(around, kernel.reshape(*kernel.shape[:2], 9), axes=((4, 5), (1, 2)))
      pair = jnp.maximum(pair + weights[f'features.{layer}.bias'], 0)
    unit = pair / (jnp.linalg.norm(pair, axis=-1, keepdims=True) + 1e-10)
    head = weights[f'lin{k}.model.1.weight'].reshape(-1)
    total += jnp.mean(jnp.square(unit[0] - unit[1]) @ head, axis=(1, 2))
  return total


def float64_reference(weights, images, prepare=scaled):
  """Returns (distances, gradients with respect to both images) in float64."""
  with jax.enable_x64(True):
    wide = {name: jnp.asarray(array, jnp.float64) for name, array in weights.items()}

    def plain(x, y, wide):
      return (jnp.sum(d := plain_lpips(wide, x, y, prepare)), d)

    (_, distances), gradients = jax.jit(jax.value_and_grad(plain, argnums=(0, 1), has_aux=True))(
      *images.astype(np.float64), wide
    )
    return np.asarray(distances), [np.asarray(gradient) for gradient in gradients]


def assert_close(found, expected, tolerance):
  """Compares each distance relative to its value, and gradients relative to the largest component."""
  np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
  for gradient, reference in zip(found[1], expected[1]):
    np.testing.assert_allclose(gradient, reference, atol=tolerance * np.max(np.abs(reference)))


@pytest.mark.slow
def test_distances_and_gradients_equal_the_definition(weights, images):
  expected = float64_reference(weights, images)
  network = lpips.LPIPS(weights)
  (_, distances), gradients = distance_and_gradients(*images, network)
  assert distances.dtype == np.float32
  assert_close((distances, gradients), expected, 1e-5)
  with jax.enable_x64(True):  # With float64 images, the rounding errors of float32 vanish.
    (_, distances), gradients = distance_and_gradients(*images.astype(np.float64), network)
  assert_close((distances, gradients), expected, 1e-6)


@pytest.mark.parametrize('shape', [(1, 1), (2, 2), (3, 5), (2, 9), (4, 4)])
def test_small_maps_are_convolved_like_large_ones(shape, monkeypatch):
  rng = np.random.default_rng(2)
  x = jnp.asarray(rng.normal(size=(2, *shape, 8)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 8, 6)), jnp.float32)
  found = lpips._convolved(x, kernel)
  monkeypatch.setattr(lpips, 'SMALL_MAP', 0)
  np.testing.assert_allclose(found, lpips._convolved(x, kernel), atol=1e-4)


def torchvision_of(torch):
  """Returns what the lpips package needs of torchvision, which it imports for the layers of VGG16: features 0 to 30."""
  layers, inputs = [], 3
  for stage, width in zip(lpips.STAGES, lpips.WIDTHS):
    for _ in stage:
      layers += [torch.nn.Conv2d(inputs, width, 3, padding=1), torch.nn.ReLU(inplace=True)]
      inputs = width
    layers.append(torch.nn.MaxPool2d(2, 2))
  module, models = types.ModuleType('torchvision'), types.ModuleType('torchvision.models')
  models.vgg16 = lambda pretrained: types.SimpleNamespace(features=torch.nn.Sequential(*layers))  # type: ignore[attr-defined]
  module.models = models  # type: ignore[attr-defined]
  return module


@pytest.mark.slow
def test_distances_equal_those_of_the_lpips_package(weights, images, monkeypatch):
  """The package's own code and published heads; VGG16 has random weights, because its published ones are 500 MB."""
  torch = pytest.importorskip('torch', reason="PyTorch is not installed: pip install '.[torch]'")
  monkeypatch.setitem(sys.modules, 'torchvision', torchvision_of(torch))
  package = pytest.importorskip('lpips', reason='lpips is not installed: pip install --no-deps lpips==0.1.4')
  original = package.LPIPS(net='vgg', pnet_rand=True, verbose=False)
  parameters = original.state_dict()
  for block, stage in enumerate(lpips.STAGES, start=1):
    for index, part in ((index, part) for index in stage for part in ('weight', 'bias')):
      parameters[f'net.slice{block}.{index}.{part}'] = torch.from_numpy(weights[f'features.{index}.{part}'])
  original.load_state_dict(parameters)
  network = lpips.LPIPS(vgg.load({name: tensor.numpy() for name, tensor in parameters.items()}))
  larger = np.random.default_rng(2).uniform(size=(2, 2, 64, 48, 3)).astype(np.float32)
  larger[1] = np.clip(larger[0] + 0.1 * larger[1], 0, 1)  # A small distance, as of a good render.
  for x, y in (images, larger):
    theirs = [torch.from_numpy(np.moveaxis(image, -1, 1)) for image in (x, y)]
    with torch.no_grad():
      expected = original(*theirs, normalize=True).numpy().reshape(-1)
    np.testing.assert_allclose(compare(network, x, y), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_converted_caffe_network_equals_the_original_including_its_padding(weights, images):
  caffe_weights = weights | {'features.0.weight': weights['features.0.weight'] / 64}
  names = {
    f'features.{index}': f'conv{block}_{number}'
    for block, stage in enumerate(lpips.STAGES, start=1)
    for number, index in enumerate(stage, start=1)
  }
  renamed = {f'{names[stem]}.{part}': caffe_weights[f'{stem}.{part}'] for stem in names for part in ('weight', 'bias')}
  network = lpips.LPIPS(
    vgg.load(renamed) | vgg.load({f'lin{k}.model.1.weight': caffe_weights[f'lin{k}.model.1.weight'] for k in range(5)}),
    mean=vgg.CAFFE_MEAN,
  )
  expected = float64_reference(caffe_weights, images, caffe)
  (_, distances), gradients = distance_and_gradients(*images, network)
  assert_close((distances, gradients), expected, 1e-5)


def test_distance_is_zero_for_equal_images_symmetric_and_monotonic(distance, images):
  x, y = images
  np.testing.assert_allclose(distance(x, x), 0, atol=1e-12)
  np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-6)
  near = distance(x, 0.95 * x + 0.05 * y)
  assert np.all(near > 0) and np.all(near < 0.5 * distance(x, y))


def test_gradients_are_finite_and_do_not_reach_the_network(weights, images):
  network = lpips.LPIPS(weights)
  gradient = jax.jit(jax.grad(lambda network, x, y: jnp.sum(network(x, y)), argnums=(0, 1)))
  blank = np.ones_like(images[0])
  for x, y in ((images[0], images[1]), (images[0], images[0]), (blank, blank), (blank, images[0])):
    frozen, moving = gradient(network, x, y)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(frozen))
    assert np.all(np.isfinite(moving))
    assert (np.max(np.abs(moving)) > 1e-6) == np.any(x != y)


def test_images_below_16_pixels_raise(distance):
  with pytest.raises(ValueError, match='at least 16 pixels wide and high, not 8 x 8'):
    distance(np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3)))


def test_abstract_network_has_the_shapes_of_a_loaded_one(weights):
  def shapes(network):
    return [leaf.shape for leaf in jax.tree.leaves(network)]

  assert shapes(lpips.abstract_lpips()) == shapes(lpips.LPIPS(weights))


def true_views(state, batch, rays_per_chunk):
  del state, rays_per_chunk
  return novel_views.Prediction(batch['color'])


def test_evaluate_reports_which_lpips_network_was_used(dataset, tmp_path, capsys, monkeypatch):
  def network(x, y):
    return jnp.mean(jnp.square(x - y), axis=(1, 2, 3))

  def evaluate_model(batches, model, networks, finished):
    del model, finished
    return novel_views.evaluate(batches, true_views, None, networks)

  network = jax.tree_util.Partial(network)
  network.source = 'some.npz: a network'
  monkeypatch.setattr(evaluate, 'load_lpips', lambda paths: network)
  monkeypatch.setattr(
    evaluate,
    'from_pretrained',
    lambda source: types.SimpleNamespace(
      image_size=16, model=None, input_position=cameras.INPUT_POSITION, input_background=1.0
    ),
  )
  monkeypatch.setattr(evaluate.novel_views, 'evaluate_model', evaluate_model)
  monkeypatch.setattr(evaluate, '_hash', lambda args, reconstructor: '')
  monkeypatch.setattr(evaluate, '_renders', lambda *args: lambda views, place: None)
  monkeypatch.setattr(
    sys,
    'argv',
    ['evaluate', f'--data={dataset}', '--size=16', '--lpips_network=some.npz', f'--out={tmp_path}', '--no_baselines'],
  )
  evaluate.main()
  assert 'LPIPS network: some.npz: a network\n' in capsys.readouterr().out
  document = json.loads((tmp_path / 'results.json').read_text())
  assert document['lpips_network'] == 'some.npz: a network'
  assert document['sections'][0]['rows']['model']['summary']['lpips']['mean'] == 0
