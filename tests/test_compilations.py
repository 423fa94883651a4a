"""In steady state nothing is compiled: no other training step, and no other object, needs a compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrm_jax
from lrm_jax.distributed import sharding
from lrm_jax.training import cost
from lrm_jax.training import trainer as train_lib

COMPILED = '/jax/core/compile/backend_compile_duration'


@pytest.fixture
def compilations():
  """A list to which each compilation during the test adds an entry."""
  entries = []

  def listen(event, seconds, **kwargs):
    del seconds, kwargs
    if event == COMPILED:
      entries.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield entries
  jax.monitoring.unregister_event_duration_listener(listen)


def test_compilations_are_counted(compilations):
  jax.jit(lambda x: x * 2 + 1)(jnp.ones(3))
  first = len(compilations)
  assert first >= 1
  jax.jit(lambda x: x * 3 - 1)(jnp.ones(5))
  assert len(compilations) > first


@pytest.mark.slow
def test_another_object_compiles_nothing(compilations, rng):
  """Other images give other densities, and other numbers of blocks, vertices and visible samples."""
  model = lrm_jax.from_pretrained('quickstart')
  camera = model.turntable(3)

  def reconstruct(image):
    planes = model.encode(image[None])
    model.mesh(planes, resolution=40)
    for skip in (False, True):
      model.render(planes, *camera, size=24, skip=skip)
    model.query(planes, rng.uniform(-1, 1, (1, 50, 3)))

  size = model.image_size
  images = [np.ones((size, size, 3), np.float32) for _ in range(4)]
  for number, image in enumerate(images):
    image[10 + number : 30 + 2 * number, 12 : 40 - 3 * number] = rng.uniform(size=3)
  reconstruct(images[0])
  before = len(compilations)
  for image in images[1:]:
    reconstruct(image)
  assert len(compilations) == before


@pytest.mark.slow
def test_another_step_compiles_nothing(compilations, tiny_config):
  trainer = train_lib.Trainer(tiny_config, lpips=None)
  batches = trainer.batches(0)
  with jax.set_mesh(trainer.mesh):
    state, compiled = trainer.first_state(), trainer.compile()
    counts = []
    for step in range(5):
      state, metrics = compiled(state, next(batches)[0], np.float32(step), None)
      jax.block_until_ready(metrics)
      counts.append(len(compilations))
  batches.close()
  assert counts[-1] == counts[1], (
    'only the first two steps may compile: the state comes from initialisation, then from a step'
  )
  shapes = cost.abstract_batch(tiny_config, sharding.batch_sharding(trainer.mesh))
  assert shapes.keys() == {
    'image',
    'camera_to_world',
    'intrinsics',
    'target_color',
    'target_opacity',
    'target_camera_to_world',
    'target_intrinsics',
    'background',
  }
