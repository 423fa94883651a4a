"""The train step and its state, with a model that compiles in a moment: one colour, scaled by the mean of the image."""

import shutil

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax.errors import InputError
from lrm_jax.geometry.volume import Pixels
from lrm_jax.models import registry
from lrm_jax.models.triplane_model import TriplaneModel
from lrm_jax.storage import checkpoint, paths
from lrm_jax.training import loop
from lrm_jax.training import optimizer as optimizer_lib
from lrm_jax.training import step as step_lib
from lrm_jax.training.optimizer import make_optimizer

SETTINGS = dict(
  learning_rate=0.1, beta1=0.9, beta2=0.95, weight_decay=0.05, warmup_steps=1, clip_norm=1.0, num_train_steps=100
)


class OneColor(TriplaneModel):
  """Renders every view as one colour: the mean of the input image times `kernel`, plus `bias`."""

  def __init__(self, rngs: nnx.Rngs):
    self.encoder = nnx.Linear(3, 3, rngs=rngs)
    self.decoder = nnx.Linear(3, 3, rngs=rngs)

  def encode(self, image, camera_to_world, intrinsics):
    del camera_to_world, intrinsics
    return jnp.broadcast_to(self.encoder(image.mean((1, 2)))[:, None, None, None], (len(image), 3, 2, 2, 3))

  def render(self, planes, poses, intrinsics, size, background, key, *, rays_per_chunk):
    del intrinsics, background, key, rays_per_chunk
    color = self.decoder(planes[:, 0, 0, 0])[:, None, None, None]
    shape = (*poses.shape[:2], size, size)
    return Pixels(jnp.broadcast_to(color, (*shape, 3)), jnp.ones(shape), jnp.ones(shape))


@pytest.fixture
def batch(rng):
  shapes = {
    'image': (2, 4, 4, 3),
    'camera_to_world': (2, 4, 4),
    'intrinsics': (2, 4),
    'target_color': (2, 3, 4, 4, 3),
    'target_opacity': (2, 3, 4, 4),
    'target_camera_to_world': (2, 3, 4, 4),
    'target_intrinsics': (2, 3, 4),
    'background': (2, 3, 3),
  }
  return {name: jnp.asarray(rng.uniform(size=shape), jnp.float32) for name, shape in shapes.items()}


def make_step(monkeypatch, *, optimizer=SETTINGS, ema_decay=0.0, **kwargs):
  """Returns (initial state, jitted step) of the model of one colour."""
  monkeypatch.setattr(registry, 'build_model', lambda sizes, rngs: OneColor(rngs))
  transform, schedule = make_optimizer(**optimizer)
  init = step_lib.state_init({}, transform, 0, ema=ema_decay > 0)
  step = step_lib.make_train_step(
    nnx.eval_shape(lambda: OneColor(nnx.Rngs(0))),
    transform,
    schedule,
    window=4,
    rays_per_chunk=0,
    loss_weights={},
    ema_decay=ema_decay,
    **kwargs,
  )
  return jax.jit(init)(), jax.jit(step, donate_argnums=0)


def arrays(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_equal_trees(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def test_moving_average_follows_its_recursion_and_does_not_change_the_training(monkeypatch, batch):
  plain, plain_step = make_step(monkeypatch)
  state, step = make_step(monkeypatch, ema_decay=0.15)
  expected = arrays(state['params'])
  for number in range(4):
    plain, _ = plain_step(plain, batch, np.float32(number))
    state, _ = step(state, batch, np.float32(number))
    assert_equal_trees(state['params'], plain['params'])
    decay = min(0.15, (1 + number) / (10 + number))
    expected = [decay * m + (1 - decay) * p for m, p in zip(expected, arrays(state['params']))]
    for found, m in zip(arrays(step_lib.averaged(state)), expected):
      np.testing.assert_allclose(found, m, rtol=1e-5, atol=1e-7)
  assert_equal_trees(step_lib.averaged(plain), plain['params'])
  before = arrays(state['ema'])
  state, metrics = step(state, batch | {'target_color': batch['target_color'] * np.nan}, np.float32(4))
  assert metrics['skipped'] == 1 and all(map(np.array_equal, before, arrays(state['ema'])))


def test_moving_average_is_saved_read_and_resumed(monkeypatch, batch, tmp_path):
  state, step = make_step(monkeypatch, ema_decay=0.5)
  for number in range(2):
    state, _ = step(state, batch, np.float32(number))
  checkpoints = checkpoint.manager(tmp_path)
  checkpoint.save(checkpoints, state)
  checkpoint.finish(checkpoints)
  exported, _ = checkpoint.restore_parameters(tmp_path, abstract(state['params']))
  assert_equal_trees(exported, state['ema'])
  assert np.any(exported['encoder']['bias'] != state['params']['encoder']['bias'])
  assert_equal_trees(checkpoint.restore_state(checkpoints, abstract(state))[0], state)
  # A run without it ignores it. A checkpoint without it starts it from the parameters, in other memory.
  without = {name: tree for name, tree in state.items() if name != 'ema'}
  assert_equal_trees(checkpoint.restore_state(checkpoints, abstract(without))[0], without)
  shutil.rmtree(tmp_path / 'checkpoints' / '2' / 'ema')
  resumed, _ = checkpoint.restore_state(checkpoints, abstract(state))
  checkpoints.close()
  assert_equal_trees(resumed['ema'], state['params'])
  step(resumed, batch, np.float32(2))  # Parameters and average are both donated.


@pytest.mark.parametrize('accumulation', [1, 2])
def test_images_as_bytes_give_the_losses_of_images_as_floats(monkeypatch, batch, rng, accumulation):
  names = {'image', 'target_color', 'target_opacity'}
  batch |= {name: jnp.asarray(rng.integers(0, 256, batch[name].shape), jnp.uint8) for name in names}
  floats = {name: np.asarray(x, np.float32) / 255 if name in names else x for name, x in batch.items()}
  results = []
  for inputs in (batch, floats):
    state, step = make_step(monkeypatch, accumulation=accumulation)
    results.append([])
    for number in range(3):
      state, metrics = step(state, inputs, np.float32(number))
      results[-1].append([metrics['loss'], metrics['grad_norm']])
  np.testing.assert_allclose(*results, rtol=1e-6)


def test_frozen_parameters_stay_have_no_optimizer_state_and_no_part_in_the_gradient_norm(monkeypatch, batch):
  plain, step = make_step(monkeypatch, optimizer=SETTINGS | {'clip_norm': 1e9})
  _, plain_metrics = step(plain, batch, np.float32(1))
  state, step = make_step(
    monkeypatch, optimizer=SETTINGS | {'clip_norm': 1e9, 'freeze': ['encoder/*']}, freeze=['encoder/*']
  )
  before = jax.tree.map(np.array, state['params'])
  assert not [path for path, _ in jax.tree_util.tree_leaves_with_path(state['opt_state']) if 'encoder' in str(path)]
  state, metrics = step(state, batch, np.float32(1))
  assert_equal_trees(state['params']['encoder'], before['encoder'])
  assert np.all(state['params']['decoder']['kernel'] != before['decoder']['kernel'])
  assert metrics['loss'] == plain_metrics['loss'] and metrics['grad_norm'] < plain_metrics['grad_norm']


def test_multipliers_scale_the_learning_rate_of_matching_parameters(monkeypatch, batch):
  changes = []
  for multipliers in ((), ('*=0.5', 'encoder/*=0.1')):
    state, step = make_step(monkeypatch, optimizer=SETTINGS | {'multipliers': multipliers})
    before = jax.tree.map(np.array, state['params'])
    state, _ = step(state, batch, np.float32(1))
    changes.append(jax.tree.map(lambda p, q: np.asarray(p) - q, state['params'], before))
  for part, factor in (('encoder', 0.1), ('decoder', 0.5)):
    for full, scaled in zip(*(jax.tree.leaves(change[part]) for change in changes)):
      np.testing.assert_allclose(scaled, factor * full, rtol=2e-3, atol=1e-7)


def test_patterns_that_match_nothing_or_everything_are_refused():
  params = {'encoder': {'kernel': 0}, 'decoder': {'kernel': 0}}
  optimizer_lib.check_patterns(params, ['encoder/*'], ['*/kernel=0.5'])
  for freeze, multipliers, message in (
    (['encodr/*'], [], "'encodr/\\*' matches no parameter"),
    ([], ['head*=2'], "'head\\*' matches no parameter"),
    (['*'], [], 'no parameter to train'),
    (['!*/kernel'], [], "'!.*/kernel' matches no parameter"),
    (['encoder/*', '!encoder/*'], [], 'no parameter to train'),
  ):
    with pytest.raises(InputError, match=message):
      optimizer_lib.check_patterns(params, freeze, multipliers)
  for text in ('encoder/*', 'encoder/*=fast', '=0.1', 'encoder/*=-1'):
    with pytest.raises(InputError, match='write PATTERN=FACTOR'):
      optimizer_lib.parse_multipliers([text])


@pytest.mark.parametrize(
  'metric, best',
  [('eval_psnr', 2), ('eval_lpips', 3), ('eval_mask_iou', 2), ('eval_videos_ssim', 2), ('eval_videos_depth_error', 3)],
)
def test_best_checkpoint_is_kept_beside_the_last_two_without_its_optimizer_state(metric, best, tmp_path):
  policy = loop._best_policy(paths.directory(tmp_path), metric)
  checkpoints = checkpoint.manager(tmp_path, keep_every=4, best=policy)
  state = {
    'step': np.int32(0),
    'params': {'x': jnp.ones(3)},
    'opt_state': {'x': jnp.zeros(3)},
    'guard': {'loss': jnp.float32(1), 'skipped': jnp.int32(0)},
  }
  rising, falling = {1: 20.0, 2: 25.0, 3: 24.0, 5: 23.0}, {1: 0.5, 2: 0.4, 3: 0.2, 5: 0.3}
  values = rising if best == 2 else falling
  for step in range(1, 9):
    scores = {metric: values[step]} if step in values else {}
    if scores:
      checkpoint.finish(checkpoints)
      assert policy.improves(scores[metric], checkpoints.all_steps()) == (step <= best)
    checkpoint.save(checkpoints, state | {'step': np.int32(step)}, {'scores': scores})
  checkpoint.finish(checkpoints)
  assert checkpoint.saved_steps(tmp_path) == [best, 4, 7, 8]
  complete = [path.parent.name for path in sorted((tmp_path / 'checkpoints').glob('*/opt_state'))]
  assert set(complete) == {'7', '8'}
  checkpoints.close()
  restored, _ = checkpoint.restore_parameters(tmp_path, abstract(state['params']), step=best)
  assert_equal_trees(restored, state['params'])
  for step in ('7', '8'):
    shutil.rmtree(tmp_path / 'checkpoints' / step)
  with pytest.raises(InputError, match='has no optimizer state.*init_from'):
    checkpoint.restore_state(checkpoint.manager(tmp_path), abstract(state | {'step': jnp.int32(0)}))


def test_checkpoint_is_overdue_after_the_given_minutes(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(loop.time, 'monotonic', lambda: now[0])
  overdue, never = loop._Overdue(2.0, every=10), loop._Overdue(0.0, every=10)
  now[0] = 119.0
  assert not overdue.at(3)
  now[0] = 120.0
  assert overdue.at(3) and not never.at(3)
  overdue.restart()
  assert not overdue.at(4)
