"""The optimizer: weight decay, gradient clipping, the learning rate schedule, and Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import TINY_MODEL
from lrm_jax.errors import InputError
from lrm_jax.models import registry
from lrm_jax.training import step as step_lib
from lrm_jax.training.optimizer import decayed, layer_factors, make_optimizer

SETTINGS = dict(
  learning_rate=1e-3, beta1=0.9, beta2=0.95, weight_decay=0.05, warmup_steps=10, clip_norm=1.0, num_train_steps=100
)


@pytest.fixture(scope='module')
def params():
  return step_lib.state_init(TINY_MODEL, make_optimizer(**SETTINGS)[0], 0)()['params']


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_only_kernels_decay(params):
  mask = flat(decayed(params))
  assert all(name.endswith('kernel') == decays for name, decays in mask.items())
  assert mask['decoder/blocks/mlp/expand/kernel'] and not mask['decoder/blocks/mlp/expand/bias']
  assert not mask['decoder/tokens'] and not mask['encoder/position_embedding'] and not mask['encoder/norm/scale']


def test_unused_pooler_does_not_decay():
  sizes = {name: value for name, value in TINY_MODEL.items() if name != 'camera_width'}
  sizes |= dict(architecture='triposr', nerf_depth=4, decoder_width=32)
  mask = flat(decayed(registry.parameters(registry.abstract_model(sizes))))
  assert not mask['pooler/kernel'] and mask['decoder/first/kernel']


def test_schedule_has_warm_up_peak_and_cosine():
  _, schedule = make_optimizer(**SETTINGS)
  np.testing.assert_allclose([schedule(0), schedule(10), schedule(55), schedule(100)], [0, 1e-3, 5e-4, 0], atol=1e-9)


def test_warm_up_must_be_shorter_than_the_training():
  with pytest.raises(ValueError, match='warmup_steps=100'):
    make_optimizer(**{**SETTINGS, 'warmup_steps': 100})


@pytest.mark.slow
def test_first_adam_step_has_unit_size_for_any_gradient(params):
  transform, _ = make_optimizer(**{**SETTINGS, 'weight_decay': 0.0})
  grads = jax.tree.map(lambda x: 1e4 * jnp.ones_like(x), params)
  updates, _ = transform.update(grads, transform.init(params), params)
  for update in jax.tree.leaves(updates):
    np.testing.assert_allclose(update, 1.0, atol=1e-2)


@pytest.mark.slow
def test_muon_updates_of_layer_kernels_are_nearly_orthogonal(params):
  transform, _ = make_optimizer(**{**SETTINGS, 'weight_decay': 0.0}, muon=True)
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape), jnp.float32), params)
  updates = flat(transform.update(grads, transform.init(params), params)[0])
  kernel = np.asarray(updates['decoder/blocks/mlp/expand/kernel'])
  for layer in kernel / (0.2 * np.sqrt(128)):
    values = np.linalg.svd(layer, compute_uv=False)
    assert values.min() > 0.5 and values.max() < 1.5
  assert np.abs(np.abs(updates['decoder/blocks/norm1/modulation/kernel']) - 1).max() < 0.05


def test_deterministic_training_sets_the_options_of_xla():
  """The step compiles with them; on a CPU they change nothing."""
  assert step_lib.compiler_options(deterministic=False) == {}
  options = step_lib.compiler_options(deterministic=True)
  assert options['xla_gpu_deterministic_ops']
  program = jax.jit(lambda x: jnp.zeros(3).at[x].add(1.0)).lower(jnp.arange(2)).compile(compiler_options=options)
  np.testing.assert_array_equal(program(jnp.arange(2)), [1, 1, 0])
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_gpu_no_such_option'):
    jax.jit(lambda x: x).lower(1.0).compile(compiler_options={'xla_gpu_no_such_option': True})


def test_layer_decay_falls_from_the_top_layer_to_the_embeddings(params):
  factors = flat(layer_factors(params, {'encoder': 0.5, 'decoder': 0.9}))
  for name in ('attention/qkv/kernel', 'norm1/scale'):
    np.testing.assert_allclose(np.ravel(factors[f'encoder/blocks/{name}']), [0.25, 0.5])
  assert factors['encoder/position_embedding'] == factors['encoder/patch_embedding/kernel'] == 0.5**3
  np.testing.assert_allclose(np.ravel(factors['decoder/blocks/mlp/expand/kernel']), [0.81, 0.9], rtol=1e-6)
  assert factors['decoder/tokens'] == factors['decoder/camera_embedding/expand/bias'] == 0.9**3
  for name in ('encoder/norm/scale', 'decoder/norm/scale', 'decoder/upsampler/kernel', 'nerf/hidden/kernel'):
    assert factors[name] == 1


def test_layer_decay_multiplies_the_learning_rate_beside_multipliers_and_frozen_parameters():
  params = {'encoder': {'blocks': {'kernel': jnp.ones((3, 2, 2))}, 'class_token': jnp.ones(2), 'norm': jnp.ones(2)}}
  grads = jax.tree.map(jnp.ones_like, params)
  settings = {**SETTINGS, 'weight_decay': 0.0, 'layer_decay': ['encoder=0.5'], 'multipliers': ['*/kernel=3']}
  for freeze in ((), ('*/norm',)):
    transform, _ = make_optimizer(**settings, freeze=freeze)
    update = jax.jit(transform.update)(grads, transform.init(params), params)[0]['encoder']
    for layer, expected in zip(update['blocks']['kernel'], (0.375, 0.75, 1.5)):
      np.testing.assert_allclose(layer, expected, rtol=1e-5)
    np.testing.assert_allclose(update['class_token'], 0.5**4, rtol=1e-5)
    np.testing.assert_allclose(update['norm'], 0 if freeze else 1, rtol=1e-5)


@pytest.mark.parametrize('text', ['0.75', 'nerf=0.5', 'encoder=1.5', 'encoder=0', 'encoder=fast', ''])
def test_malformed_layer_decay_is_refused(text):
  with pytest.raises(InputError, match='write PART=FACTOR'):
    make_optimizer(**SETTINGS, layer_decay=[text])
