"""OpenLRM and TripoSR models give the same results as the original PyTorch code, on the same random weights.

The expected values are in tests/golden, whose README describes each tensor. Tolerance: 1e-4 of a tensor's largest value
(1e-3 for gradients).
"""

import json
from pathlib import Path

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import yaml

import lrm_jax
from lrm_jax import export
from lrm_jax.geometry import rays, volume
from lrm_jax.models import registry, renderer, triplane
from lrm_jax.training import losses
from lrm_jax.weights import openlrm, pretrained, tables, triposr
from tests.conftest import load_torch_lrm

GOLDEN = Path(__file__).parent / 'golden'
OPENLRM = ('openlrm_dinov1', 'openlrm_dinov2reg')


def write_model(name: str, golden: dict, directory: Path) -> Path:
  """Writes a directory in the layout of OpenLRM or TripoSR from a golden file."""
  spec = json.loads((GOLDEN / 'configs.json').read_text())[f'golden/{name}']
  directory.mkdir(exist_ok=True)
  save_file(
    {key.removeprefix('state/'): x for key, x in golden.items() if key.startswith('state/')},
    directory / 'model.safetensors',
  )
  if name == 'triposr':
    config, encoder = spec['args'][:2]
    config = config | {'encoder_num_heads': encoder['heads']}
    (directory / 'config.yaml').write_text(yaml.safe_dump(config))
  else:
    kind, encoder, sizes = spec['args'][:3]
    config = sizes | {'encoder_type': kind, 'encoder_model_name': '', 'encoder_num_heads': encoder['heads']}
    (directory / 'config.json').write_text(json.dumps(config))
  return directory


@pytest.fixture(scope='module', params=OPENLRM + ('triposr',))
def case(request, tmp_path_factory):
  """Returns (name, golden tensors, model loaded from a directory written from them, that directory)."""
  golden = load_file(GOLDEN / f'{request.param}.safetensors')
  directory = write_model(request.param, golden, tmp_path_factory.mktemp(request.param) / 'model')
  return request.param, golden, lrm_jax.from_pretrained(directory), directory


def assert_close(found, golden, bound=1e-4):
  """Compares arrays relative to the largest golden value."""
  found, golden = np.asarray(found), np.asarray(golden)
  assert found.shape == golden.shape
  np.testing.assert_allclose(found, golden, rtol=0, atol=bound * np.abs(golden).max())


def image_of(golden):
  return jnp.asarray(
    golden['out/image_resized'] if 'out/image_resized' in golden else golden['in/image'].transpose(0, 2, 3, 1)
  )


def camera_of(golden):
  """Returns (camera_to_world [B, 4, 4], intrinsics [B, 4]) from OpenLRM's 16 values per camera."""
  source = golden['in/source_camera']
  pose = np.tile(np.eye(4, dtype=np.float32), (len(source), 1, 1))
  pose[:, :3] = source[:, :12].reshape(-1, 3, 4)
  return pose, source[:, 12:]


def planes_of(golden):
  return jnp.asarray(golden['out/planes'].transpose(0, 1, 3, 4, 2))


def test_image_tokens(case):
  _, golden, reconstructor, _ = case
  encoder, size = reconstructor.model.encoder, image_of(golden).shape[1] // reconstructor.model.encoder.patch_size
  assert_close(encoder.positions(size), golden['out/enc_pos_embed_interp'])
  assert_close(encoder(image_of(golden)), golden['out/encoder_tokens'])


def test_camera_embedding_decoder_tokens_and_planes(case):
  name, golden, reconstructor, _ = case
  decoder, context = reconstructor.model.decoder, jnp.asarray(golden['out/encoder_tokens'])
  if name == 'triposr':
    assert_close(decoder.transform(context), golden['out/decoder_tokens'].swapaxes(1, 2))
    planes = reconstructor.encode(image_of(golden))
  else:
    camera = decoder.embed_camera(*map(jnp.asarray, camera_of(golden)))
    assert_close(camera, golden['out/camera_embedding'])
    assert_close(decoder.transform(context, camera), golden['out/decoder_tokens'])
    planes = reconstructor.encode(image_of(golden), *camera_of(golden))
  assert_close(planes, planes_of(golden))


def test_density_and_colour_at_points(case):
  name, golden, reconstructor, _ = case
  model, planes, points = reconstructor.model, planes_of(golden), golden['in/points']
  folded = model.nerf.fold(planes)
  raw, color = model.nerf.raw_after_first(jax.vmap(model.features)(folded, jnp.asarray(points)))
  if name == 'triposr':
    names = ('out/point_density_raw', 'out/point_density_act', 'out/point_color')
  else:
    names = ('out/point_sigma_raw', 'out/point_sigma_act', 'out/point_rgb')
  assert_close(raw, golden[names[0]][..., 0])
  assert_close(color, golden[names[2]])
  density, color = reconstructor.query(planes, points)
  assert_close(density, golden[names[1]][..., 0])
  assert_close(color, golden[names[2]])


@pytest.mark.parametrize('name', OPENLRM)
def test_plane_features_at_points(name):
  golden = load_file(GOLDEN / f'{name}.safetensors')
  axes = triplane.plane_axes(('xy', 'xz', 'zy'))
  found = jax.vmap(lambda planes, points: triplane.sample_concatenated(planes, points, axes))(
    planes_of(golden), jnp.asarray(golden['in/points'])
  )
  assert_close(found, np.concatenate(golden['out/point_features'].swapaxes(0, 1), axis=-1))


@pytest.mark.parametrize('name', OPENLRM)
def test_total_variation(name):
  golden = load_file(GOLDEN / f'{name}.safetensors')
  assert_close(losses.total_variation(planes_of(golden))[None], golden['out/loss_tv'])


def openlrm_views(golden):
  """Returns (poses [B, V, 4, 4], intrinsics [B, V, 4], backgrounds [B, V, 3]); intrinsics select windows of views."""
  cameras = golden['in/render_cameras']
  poses, matrices = cameras[..., :16].reshape(2, 2, 4, 4), cameras[..., 16:].reshape(2, 2, 3, 3)
  size, corner = golden['in/render_resolutions'], golden['in/render_anchors']
  intrinsics = np.stack([matrices[..., 0, 0], matrices[..., 1, 1], matrices[..., 0, 2], matrices[..., 1, 2]], -1)
  # A view is a window of 16 px whose first pixel is at `corner` (row, column) of an image of `size` px.
  corner = np.concatenate([0 * corner, corner[..., ::-1]], axis=-1)
  return poses, ((intrinsics * size - corner) / 16).astype(np.float32), np.repeat(golden['in/render_bg_colors'], 3, -1)


def composited(model, planes, golden, variant):
  """Returns the pixels [B, V, 16, 16] over their backgrounds, for the golden rays and sample distances."""

  def get(key):
    return golden[f'out/render{variant}/{key}']

  distances = get('depths_coarse')
  if variant != 'C':
    distances = np.concatenate([distances, get('depths_fine')], axis=2)
  # For points on the faces of the cube the last bit decides whether they are inside. NumPy rounds each operation, as
  # PyTorch does.
  points = golden['out/ray_origins'][:, :, None] + distances * golden['out/ray_dirs'][:, :, None]
  inside = (np.abs(points) <= 1).all(-1)
  order = np.argsort(distances[..., 0], axis=-1, kind='stable')
  folded = model.nerf.fold(planes)[np.array([0, 0, 1, 1])]
  raw, color = model.nerf.raw_after_first(jax.vmap(model.features)(folded, jnp.asarray(points)))
  raw, color = jnp.where(inside, raw, -1e37), jnp.where(inside[..., None], color, 0)

  def take(x):
    return jnp.take_along_axis(jnp.asarray(x), order.reshape(order.shape + (1,) * (x.ndim - 3)), axis=2)

  pixels, _ = volume.composite_intervals(take(raw), take(color), take(distances[..., 0]), model.nerf.density)
  pixels = volume.over(pixels, jnp.asarray(openlrm_views(golden)[2].reshape(4, 1, 3)))
  return jax.tree.map(lambda x: x.reshape(2, 2, 16, 16, *x.shape[2:]), pixels)


@pytest.mark.parametrize('case', OPENLRM, indirect=True)
@pytest.mark.parametrize('variant', ['A', 'B', 'C'])
def test_compositing_at_given_distances(case, variant):
  _, golden, reconstructor, _ = case

  def get(key):
    return golden[f'out/render{variant}/{key}']

  pixels = composited(reconstructor.model, planes_of(golden), golden, variant)
  assert_close(pixels.color, get('images_rgb').transpose(0, 1, 3, 4, 2))
  assert_close(pixels.opacity, get('images_weight')[:, :, 0])
  seen = get('images_weight')[:, :, 0] > 1e-3
  depth = np.asarray(pixels.depth) / np.maximum(pixels.opacity, 1e-9)
  assert_close(depth[seen], get('images_depth')[:, :, 0][seen])


@pytest.mark.slow
@pytest.mark.parametrize('case', OPENLRM[:2], indirect=True)
def test_loss_and_gradients_of_openlrm(case):
  """OpenLRM's loss for variant B, and its gradients with respect to all parameters and to the planes."""
  _, golden, reconstructor, directory = case
  target = jnp.asarray(golden['in/target'].transpose(0, 1, 3, 4, 2))

  def loss_of_planes(model, planes):
    pixels = composited(model, planes, golden, 'B')
    return losses.reconstruction(pixels, target, target[..., 0], planes, total_variation_weight=5e-4)

  def loss_fn(params):
    model = registry.with_parameters(reconstructor.model, params)
    return loss_of_planes(model, model.encode(image_of(golden), *map(jnp.asarray, camera_of(golden))))

  (loss, parts), gradients = jax.value_and_grad(loss_fn, has_aux=True)(registry.parameters(reconstructor.model))
  assert_close(loss[None], golden['out/loss_total'])
  assert_close(parts['mse'][None], golden['out/loss_pixel'])
  gradient, _ = jax.grad(lambda planes: loss_of_planes(reconstructor.model, planes), has_aux=True)(planes_of(golden))
  assert_close(gradient, golden['out/grad/planes'].transpose(0, 1, 3, 4, 2), 1e-3)
  # Save the gradients as if they were weights, to get them by OpenLRM's names.
  config, _ = pretrained.read(directory, openlrm)
  openlrm.write(directory / 'gradients', config.to_dict(), traverse_util.flatten_dict(gradients, sep='/'))
  check_gradients(load_file(directory / 'gradients/model.safetensors'), golden)


def check_gradients(found, golden):
  """Compares gradients within 1e-3, or only their norms if the golden file has only norms."""
  norms = {key.removeprefix('out/gradnorm/'): x for key, x in golden.items() if key.startswith('out/gradnorm/')}
  whole = {key.removeprefix('out/grad/'): x for key, x in golden.items() if key.startswith('out/grad/')}
  whole = {name: x for name, x in whole.items() if not name.startswith('planes')}
  assert whole and whole.keys() <= found.keys() and norms.keys() <= found.keys()
  for name, gradient in whole.items():
    assert_close(found[name], gradient, 1e-3)
  for name, norm in norms.items():
    np.testing.assert_allclose(np.linalg.norm(found[name]), np.ravel(norm)[0], rtol=1e-3, atol=1e-7, err_msg=name)


@pytest.mark.parametrize('name', OPENLRM)
def test_coarse_and_fine_sample_distances(name):
  golden = load_file(GOLDEN / f'{name}.safetensors')

  def get(key):
    return golden[f'out/renderA/{key}']

  hit = golden['out/ray_near_raw'][..., 0] > -1
  near, far = (jnp.asarray(golden[f'out/ray_{end}_raw'][..., 0]) for end in ('near', 'far'))
  assert_close(rays.sample_ends(near, far, 8)[hit], get('depths_coarse')[..., 0][hit])
  uniform = np.broadcast_to((np.arange(8, dtype=np.float32) + 0.5) / 8, (4, 256, 8))
  fine = rays.sample_where_weights_are(
    *(jnp.asarray(get(key)[..., 0]) for key in ('depths_coarse', 'weights_coarse')), jnp.asarray(uniform)
  )
  assert_close(np.sort(fine, axis=-1), np.sort(get('depths_fine')[..., 0], axis=-1))


@pytest.mark.parametrize('name', OPENLRM)
def test_rendered_views_of_openlrm(name, tmp_path):
  golden = load_file(GOLDEN / f'{name}.safetensors')
  model = lrm_jax.from_pretrained(write_model(name, golden, tmp_path))
  poses, intrinsics, backgrounds = openlrm_views(golden)
  pixels = model.render(planes_of(golden), poses, intrinsics, 16, jnp.asarray(backgrounds))
  # The first view of each object is a whole image; the second is a window, whose rays are rounded differently.
  assert_close(pixels.color[:, 0], golden['out/renderA/images_rgb'].transpose(0, 1, 3, 4, 2)[:, 0])
  assert_close(pixels.opacity[:, 0], golden['out/renderA/images_weight'][:, 0, 0])
  difference = np.abs(pixels.color[:, 1] - golden['out/renderA/images_rgb'].transpose(0, 1, 3, 4, 2)[:, 1]).max(-1)
  assert np.mean(difference > 1e-4) < 0.2


def test_rendered_views_of_triposr(tmp_path):
  golden = load_file(GOLDEN / 'triposr.safetensors')
  model = lrm_jax.from_pretrained(write_model('triposr', golden, tmp_path)).model
  hit = golden['out/rays_valid'].astype(bool)

  def flat(x):
    return jnp.asarray(np.tile(x.reshape(1, -1, 3)[:, hit], (2, 1, 1)))

  pixels = renderer.render_rays(
    model.nerf.fold(planes_of(golden)),
    model.trace,
    flat(golden['in/rays_o']),
    flat(golden['in/rays_d']),
    rays_per_chunk=100,
    num_samples=16,
  )

  def hitting_pixels(key):
    return golden[f'out/render_{key}'].reshape(2, len(hit), -1)[:, hit]

  assert_close(volume.over(pixels, 1.0).color, hitting_pixels('rgb'))
  assert_close(pixels.opacity, hitting_pixels('opacity')[..., 0])
  assert_close(pixels.depth, hitting_pixels('depth_unnormalised')[..., 0])


@pytest.mark.slow
def test_gradients_of_triposr(tmp_path):
  """Gradients of the mean squared error of three views of the first object."""
  golden = load_file(GOLDEN / 'triposr.safetensors')
  model = lrm_jax.from_pretrained(write_model('triposr', golden, tmp_path)).model
  hit = golden['out/rays_valid'].astype(bool)

  def flat(key):
    return jnp.asarray(golden[key].reshape(1, -1, 3)[:, hit])

  def loss_fn(nerf, planes):
    trained = registry.with_parameters(model, registry.parameters(model) | {'nerf': nerf})
    pixels = renderer.render_rays(
      trained.nerf.fold(planes), trained.trace, flat('in/rays_o'), flat('in/rays_d'), rays_per_chunk=100, num_samples=16
    )
    return jnp.sum(jnp.square(volume.over(pixels, 1.0).color - flat('in/target'))) / golden['in/target'].size

  nerf, planes = jax.grad(loss_fn, argnums=(0, 1))(registry.parameters(model)['nerf'], planes_of(golden)[:1])
  assert_close(planes[0], golden['out/grad/planes0'].transpose(0, 2, 3, 1), 1e-3)
  rows = [row for row in triposr.rows(len(model.nerf.hidden.bias[...]) + 2) if row.ours.startswith('nerf/')]
  check_gradients(dict(tables.save(rows, traverse_util.flatten_dict({'nerf': nerf}, sep='/'))), golden)


def test_weights_are_written_back_exactly(case, tmp_path):
  name, _, reconstructor, directory = case
  before = load_file(directory / 'model.safetensors')
  kind = triposr if name == 'triposr' else openlrm
  config, _ = pretrained.read(directory, kind)
  kind.write(tmp_path / 'out', config.to_dict(), pretrained.flat_parameters(reconstructor.model))
  after = load_file(tmp_path / 'out/model.safetensors')
  assert after.keys() == before.keys()
  for key, x in before.items():
    assert np.array_equal(x, after[key]), key


def test_model_exported_to_pytorch_gives_the_same_results(case, tmp_path):
  torch = pytest.importorskip('torch', reason="PyTorch is not installed: pip install '.[torch]'")
  name, golden, _, directory = case
  model = load_torch_lrm(export.export(directory, tmp_path / 'out', format='torch'))
  images = torch.from_numpy(np.array(image_of(golden)))
  camera = () if name == 'triposr' else map(torch.from_numpy, camera_of(golden))
  with torch.no_grad():
    assert_close(model.encoder(images), golden['out/encoder_tokens'])
    assert_close(model.encode(images, *camera), planes_of(golden))
