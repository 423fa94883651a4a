"""LoRA: it starts as the model without it, only its parameters are trained, and it is merged on export."""

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from conftest import DATA, TINY_MODEL
import lrm_jax
from lrm_jax.errors import InputError
from lrm_jax.export import export
from lrm_jax.geometry import cameras
from lrm_jax.models import lora, registry
from lrm_jax.storage import checkpoint
from lrm_jax.training import synthetic
from lrm_jax.training import trainer as trainer_lib
from lrm_jax.weights import pretrained

LORA = dict(lora_rank=2, lora_alpha=4.0, lora_projections=('q', 'v', 'out'))
OPENLRM = TINY_MODEL | dict(
  architecture='openlrm',
  nerf_width=64,
  nerf_depth=4,
  encoder_width=28,
  encoder_interpolate_offset=0.1,
  encoder_norm_epsilon=1e-12,
)


@jax.jit
def encode(model):
  """Returns the planes of a random image."""
  image = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
  pose = jnp.asarray(cameras.input_camera(), jnp.float32)[None]
  return model.encode(image, pose, jnp.asarray(cameras.intrinsics_from_fov(50), jnp.float32)[None])


def with_random(model, names=lambda path: True):
  """Returns a model, which may be abstract, whose parameters of these names are random."""
  rng, flat = np.random.default_rng(0), pretrained.flat_parameters(model)
  flat = {path: 0.2 * rng.normal(size=x.shape).astype(np.float32) if names(path) else x for path, x in flat.items()}
  return registry.with_parameters(model, traverse_util.unflatten_dict(flat, sep='/'))


def test_lora_starts_as_the_model_without_it_and_merges_into_it():
  plain, model = (registry.build_model(x, nnx.Rngs(0)) for x in (TINY_MODEL, TINY_MODEL | LORA))
  expected = encode(plain)
  np.testing.assert_array_equal(encode(model), expected)
  model = with_random(model, lora.is_lora)
  assert np.abs(encode(model) - expected).max() > 0.05
  merged = lora.merge(pretrained.flat_parameters(model), lora.settings(LORA)[0])
  merged = registry.with_parameters(plain, traverse_util.unflatten_dict(merged, sep='/'))
  np.testing.assert_allclose(encode(merged), encode(model), rtol=1e-5, atol=1e-5)


def test_each_chosen_projection_has_its_own_pair_of_matrices():
  flat = pretrained.flat_parameters(registry.abstract_model(TINY_MODEL | LORA))
  block = 'decoder/blocks/'
  assert flat[block + 'self_attention/qkv/lora_a'].shape == (2, 2, 32, 2)  # layers, q and v, width, rank
  assert flat[block + 'cross_attention/kv/lora_a'].shape == (2, 1, 24, 2)
  assert flat[block + 'cross_attention/kv/lora_b'].shape == (2, 1, 2, 32)
  only_k = registry.abstract_model(TINY_MODEL | LORA | dict(lora_projections=['k']))
  assert {path.split('/')[-2] for path in pretrained.flat_parameters(only_k) if lora.is_lora(path)} == {'qkv', 'kv'}


@pytest.mark.parametrize(
  'change, message',
  [
    ({'lora_rank': -1}, 'lora_rank = -1'),
    ({'lora_projections': ('q', 'qkv')}, 'lora_projections = .* must be some of k, out, q, v'),
    ({'lora_projections': ()}, 'lora_projections'),
    ({'lora_alpha': 0.0}, 'lora_alpha = 0.0 must be positive'),
  ],
)
def test_impossible_settings_are_refused(change, message):
  with pytest.raises(InputError, match=message):
    registry.abstract_model(TINY_MODEL | LORA | change)


@pytest.mark.slow
def test_training_changes_only_lora_and_gives_only_it_an_optimizer_state(tiny_config, tmp_path):
  tiny_config.data.path = ''
  tiny_config.model.update(LORA)
  trainer = trainer_lib.Trainer(tiny_config, lpips=None, synthetic_data=True)
  state = trainer.first_state()
  before = {path: np.asarray(x) for path, x in traverse_util.flatten_dict(state['params'], sep='/').items()}
  moments = [str(path) for path, x in jax.tree_util.tree_leaves_with_path(state['opt_state']) if x.ndim]
  assert moments and all('lora_' in path for path in moments)
  compiled = trainer.compile()
  batch = {name: x for name, x in synthetic.batch(tiny_config, tiny_config.batch_size).items() if name != 'record'}
  with jax.set_mesh(trainer.mesh):
    batch = {name: jax.device_put(x, jax.sharding.NamedSharding(trainer.mesh, jax.P())) for name, x in batch.items()}
    for number in (1, 2, 3):
      state, metrics = compiled(state, batch, np.float32(number), None)
  assert metrics['skipped'] == 0
  after = traverse_util.flatten_dict(state['params'], sep='/')
  assert {path for path in before if not np.array_equal(before[path], after[path])} == set(filter(lora.is_lora, before))
  checkpoint.write_model(tmp_path, state['params'], tiny_config, step=3, dtype=jnp.float32)
  unmerged, merged = checkpoint.restore(tmp_path)[0], pretrained.load(tmp_path)[0]
  assert not any(map(lora.is_lora, pretrained.flat_parameters(merged)))
  np.testing.assert_allclose(encode(merged), encode(unmerged), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module')
def openlrm_run(tmp_path_factory):
  """(a run of OpenLRM with LoRA, its planes of an image)"""
  directory = tmp_path_factory.mktemp('openlrm') / 'run'
  model = with_random(registry.abstract_model(OPENLRM | LORA))
  config = ConfigDict({'model': OPENLRM | LORA, 'data': DATA})
  checkpoint.write_model(directory, registry.parameters(model), config, step=1, dtype=jnp.float32)
  return directory, encode(model)


@pytest.mark.parametrize(
  'format, tolerance',
  [
    pytest.param('openlrm', 1e-5, marks=pytest.mark.slow),
    pytest.param('torch', 1e-5, marks=pytest.mark.slow),
    ('lrm_jax', 0.1),
  ],
)
def test_exported_model_has_lora_merged(openlrm_run, tmp_path, format, tolerance):
  """The format lrm_jax stores bfloat16."""
  directory, expected = openlrm_run
  exported = lrm_jax.from_pretrained(export(directory, tmp_path / 'out', format=format)).model
  assert not any(map(lora.is_lora, pretrained.flat_parameters(exported)))
  np.testing.assert_allclose(encode(exported), expected, rtol=tolerance, atol=tolerance)
