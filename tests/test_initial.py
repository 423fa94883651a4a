"""Initial parameters of a training: from a model of the same sizes, of other sizes, and with LoRA."""

from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from conftest import DATA, TINY_MODEL
from lrm_jax.distributed import sharding
from lrm_jax.errors import InputError
from lrm_jax.geometry import images
from lrm_jax.models import encoder, registry
from lrm_jax.storage import checkpoint
from lrm_jax.training import trainer as trainer_lib
from lrm_jax.weights import initial, partial, pretrained

LORA = dict(lora_rank=2, lora_alpha=4.0, lora_projections=('q', 'v', 'out'))


def flat(params):
  return traverse_util.flatten_dict(params, sep='/')


def random_parameters(sizes, seed):
  """Returns {path: array} for a model of these sizes."""
  rng = np.random.default_rng(seed)
  shapes = flat(registry.parameters(registry.abstract_model(sizes)))
  return {path: 0.3 * rng.normal(size=x.shape).astype(np.float32) for path, x in shapes.items()}


def write_run(directory, **changes):
  """Writes a run of the tiny model with these changes and random parameters; returns {path: array}."""
  sizes = TINY_MODEL | changes
  params = random_parameters(sizes, 0)
  config = ConfigDict({'model': sizes, 'data': DATA})
  checkpoint.write_model(directory, traverse_util.unflatten_dict(params, sep='/'), config, step=1, dtype=jnp.float32)
  return params


def start(config, source, *, partial=True, **changes):
  """Returns ({path: array} of the initial parameters from a source, lines about them)."""
  config.init_from, config.init_partial = str(source), partial
  config.model.update(changes)
  shapes = flat(registry.parameters(registry.abstract_model(config.model.to_dict())))
  where = sharding.shardings(sharding.make_mesh(), shapes)
  target = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[path]) for path, x in shapes.items()}
  given, lines = initial.load(config, target)
  return {path: np.asarray(x) for path, x in given.items()}, lines


@pytest.mark.slow
def test_model_of_another_depth_takes_the_first_layers(tiny_config, tmp_path):
  saved = write_run(tmp_path / 'run')
  given, lines = start(tiny_config, tmp_path / 'run', decoder_depth=3, encoder_depth=1)
  assert given.keys() == saved.keys()
  for path, array in given.items():
    np.testing.assert_array_equal(array, saved[path][:1] if path.startswith('encoder/blocks/') else saved[path])
  text = '\n'.join(lines)
  assert f'initial parameters: {tmp_path / "run"}\n' in text and ' nerf/*' in text and 'encoder/norm/*' in text
  assert '  the first 1 layers, of 2 for 1: encoder/blocks/*' in lines
  assert '  the first 2 layers, of 2 for 3: decoder/blocks/*' in lines
  trainer = trainer_lib.Trainer(tiny_config, lpips=None, synthetic_data=True)
  first, random = (flat(trainer.first_state(x)['params']) for x in (given, None))
  for path, array in first.items():
    if path.startswith('decoder/blocks/'):
      np.testing.assert_array_equal(array[:2], saved[path])
      np.testing.assert_array_equal(array[2], random[path][2])
    else:
      np.testing.assert_array_equal(array, given[path])


def test_model_of_another_width_takes_the_parts_that_fit(tiny_config, tmp_path):
  saved = write_run(tmp_path / 'run', nerf_width=24)
  given, lines = start(tiny_config, tmp_path / 'run')
  assert saved.keys() - given.keys() == {
    path for path in saved if path.startswith('nerf/') and path != 'nerf/last/bias'
  }
  for path, array in given.items():
    np.testing.assert_array_equal(array, saved[path])
  assert any(line.startswith('  left fresh: nerf/first/*, nerf/hidden/*, nerf/last/kernel') for line in lines)
  with pytest.raises(InputError, match=r'does not match config.model: nerf/.*add --config.init_partial=True'):
    start(tiny_config, tmp_path / 'run', partial=False)


def test_tables_and_tokens_are_resized(tiny_config, tmp_path):
  """A table that varies linearly along a side stays linear away from its ends; texels of equal values stay equal."""
  sizes = dict(encoder_table_size=4, triplane_resolution=8, triplane_upsample=1)
  saved = write_run(tmp_path / 'run', **sizes)
  first, lines = start(tiny_config, tmp_path / 'run', encoder_table_size=8, image_size=64)
  table = first['encoder/position_embedding']
  assert table.shape == (1, 65, 24)
  np.testing.assert_array_equal(table[0, 0], saved['encoder/position_embedding'][0, 0])
  assert first['decoder/tokens'].shape == (1, 3 * 16, 32)
  kernel, old = first['decoder/upsampler/kernel'].reshape(32, 2, 2, 6), saved['decoder/upsampler/kernel']
  np.testing.assert_allclose(kernel, np.broadcast_to(old.reshape(32, 1, 1, 6), kernel.shape), rtol=1e-5, atol=1e-6)
  for path, before, after in (
    ('encoder/position_embedding', (1, 17, 24), (1, 65, 24)),
    ('decoder/tokens', (1, 192, 32), (1, 48, 32)),
    ('decoder/upsampler/kernel', (32, 6), (32, 24)),
  ):
    assert f'  resized: {path} from {before} to {after}' in lines
  ramp = np.broadcast_to(np.arange(8.0)[:, None, None], (8, 8, 2))
  tokens = np.concatenate([ramp.reshape(-1, 2), -ramp.reshape(-1, 2), 0 * ramp.reshape(-1, 2)])[None]
  small = np.asarray(partial.convert('decoder/tokens', jnp.asarray(tokens), (1, 48, 2), 6)).reshape(3, 4, 4, 2)
  np.testing.assert_allclose(small[0, 1:3, :, 0], np.broadcast_to([[2.5], [4.5]], (2, 4)), atol=0.05)
  np.testing.assert_allclose(small[1], -small[0], atol=1e-5)
  assert np.abs(small[2]).max() == 0


@pytest.mark.parametrize('patch_size', [16, 12])
def test_larger_patches_start_as_the_smaller_ones_see_the_reduced_image(tiny_config, tmp_path, patch_size):
  """For 16 px of 8 px, this is exact for images reduced by area means; so is it for 12 px, which share pixels."""
  saved = write_run(tmp_path / 'run', image_size=32, patch_size=8)
  first, lines = start(tiny_config, tmp_path / 'run', image_size=4 * patch_size, patch_size=patch_size)
  kernels = saved['encoder/patch_embedding/kernel'], first['encoder/patch_embedding/kernel']
  assert f'  resized: encoder/patch_embedding/kernel from {kernels[0].shape} to {kernels[1].shape}' in lines
  image = np.random.default_rng(0).random((4 * patch_size, 4 * patch_size, 3), np.float32)
  large, small = (
    encoder.patches(jnp.asarray(x)[None], size) for x, size in ((image, patch_size), (images.resize(image, 32), 8))
  )
  np.testing.assert_allclose(large @ kernels[1], small @ kernels[0], atol=1e-4)


def test_smaller_patches_keep_what_they_say_of_even_colours(tiny_config, tmp_path):
  saved = write_run(tmp_path / 'run', image_size=32, patch_size=8)
  first, _ = start(tiny_config, tmp_path / 'run', image_size=16, patch_size=4)
  kernels = saved['encoder/patch_embedding/kernel'], first['encoder/patch_embedding/kernel']
  sums = [kernel.reshape(-1, 3, kernel.shape[1]).sum(0) for kernel in kernels]
  np.testing.assert_allclose(*sums, atol=1e-5)


def test_model_of_which_no_layer_fits_is_refused(tiny_config, tmp_path):
  write_run(tmp_path / 'run', encoder_width=36, decoder_width=40, camera_width=8, nerf_width=12, patch_size=4)
  with pytest.raises(InputError, match=r'has no layer that fits config.model .*: give a model with the same widths'):
    start(tiny_config, tmp_path / 'run')


def test_check_describes_what_would_be_taken_without_reading_it(tiny_config, tmp_path):
  write_run(tmp_path / 'run', nerf_width=24)
  (tmp_path / 'run' / 'checkpoints' / '1' / 'params' / '_METADATA').unlink()
  tiny_config.init_from, tiny_config.init_partial = str(tmp_path / 'run'), True
  assert any('left fresh: nerf/first' in line for line in initial.check(tiny_config))


def test_parameters_of_lora_start_fresh(tiny_config, tmp_path):
  saved = write_run(tmp_path / 'run')
  given, lines = start(tiny_config, tmp_path / 'run', partial=False, **LORA)
  assert given.keys() == saved.keys()
  assert lines == [f'initial parameters: {tmp_path / "run"}; those of LoRA start fresh']


@pytest.mark.parametrize('changes, merged', [({}, True), (LORA, False), (LORA | dict(lora_rank=3), True)])
def test_run_with_lora_is_merged_unless_the_settings_are_equal(tiny_config, tmp_path, changes, merged):
  saved = write_run(tmp_path / 'run', **LORA)
  first, lines = start(tiny_config, tmp_path / 'run', partial=False, **changes)
  path = 'decoder/blocks/cross_attention/q/'
  change = 2 * np.einsum('lpdr,lpre->lpde', saved[path + 'lora_a'], saved[path + 'lora_b'])[:, 0]
  expected = saved[path + 'kernel'] + (change if merged else 0)
  np.testing.assert_allclose(first[path + 'kernel'], expected, rtol=1e-5, atol=1e-6)
  assert ('with its LoRA merged' in lines[0]) == merged
  if not merged:
    np.testing.assert_array_equal(first[path + 'lora_a'], saved[path + 'lora_a'])
  model = pretrained.load(tmp_path / 'run')[0]
  np.testing.assert_allclose(
    pretrained.flat_parameters(model)[path + 'kernel'], saved[path + 'kernel'] + change, atol=1e-5
  )
