"""Overfits a model to one object, and checks its renders, depth and mesh.

This tests the conventions end to end: cameras, planes, depth and mesh must agree with each other and with the data.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrm_jax.configs import quickstart
from lrm_jax.datasets.records import open_split
from lrm_jax.datasets.views import load_views
from lrm_jax.evaluation import image_metrics
from lrm_jax.geometry import cameras
from lrm_jax.models import registry
from lrm_jax.reconstruction.reconstructor import Reconstructor
from lrm_jax.training import step as step_lib
from lrm_jax.training.optimizer import make_optimizer

DATA = Path(__file__).parents[1] / 'data/embedded/object_views/1.0.0'
OBJECT, NUM_VIEWS, SIZE, NUM_STEPS = 'khronos__Avocado', 8, 32, 300


@pytest.fixture(scope='module')
def views():
  for split in ('train', 'test'):
    records = open_split(DATA, split)
    for index in range(len(records)):
      if records[index]['uid'] in (OBJECT, OBJECT.encode()):
        return load_views(DATA, split, image_size=64, size=SIZE, indices=[index])
  raise LookupError(OBJECT)


@pytest.fixture(scope='module')
def overfitted(views):
  """A model like the quickstart's, trained on 8 views of one object."""
  kwargs = {**quickstart.get_config().model.to_dict(), 'encoder_depth': 2, 'decoder_depth': 2, 'num_samples': 32}
  transform, schedule = make_optimizer(
    learning_rate=2e-3,
    beta1=0.9,
    beta2=0.95,
    weight_decay=0.0,
    warmup_steps=20,
    clip_norm=1.0,
    num_train_steps=NUM_STEPS,
    muon=True,
  )
  model = registry.abstract_model(kwargs)
  step = jax.jit(
    step_lib.make_train_step(
      model, transform, schedule, window=SIZE, rays_per_chunk=256, loss_weights=dict(lpips_weight=0.0, mask_weight=0.1)
    ),
    donate_argnums=0,
  )
  trained = {name: x[:, :NUM_VIEWS] for name, x in views.items() if name not in ('uid', 'image')}
  batch = {
    'image': views['image'],
    'camera_to_world': trained['camera_to_world'][:, 0],
    'intrinsics': trained['intrinsics'][:, 0],
    'target_color': trained['color'],
    'target_opacity': trained['opacity'],
    'target_camera_to_world': trained['camera_to_world'],
    'target_intrinsics': trained['intrinsics'],
    'background': np.ones((1, NUM_VIEWS, 3), np.float32),
  }
  state = jax.jit(step_lib.state_init(kwargs, transform, 0))()
  for number in range(NUM_STEPS):
    state, metrics = step(state, batch, jnp.float32(number))
  assert np.isfinite(metrics['loss'])
  return Reconstructor(registry.with_parameters(model, state['params']))


@pytest.mark.slow
def test_trained_views_reach_28_db(overfitted, views):
  planes = overfitted.encode(views['image'])
  pixels = overfitted.render(planes, views['camera_to_world'][:, :NUM_VIEWS], views['intrinsics'][:, :NUM_VIEWS], SIZE)
  psnr = image_metrics.psnr(pixels.color, views['color'][:, :NUM_VIEWS]).mean()
  print(f'{psnr:.2f} dB on {NUM_VIEWS} views after {NUM_STEPS} steps')
  assert psnr > 28


@pytest.mark.slow
def test_mesh_projects_onto_the_masks(overfitted, views):
  mesh = overfitted.mesh(overfitted.encode(views['image']), resolution=96)[0]
  assert mesh.volume > 0
  for view in range(NUM_VIEWS):
    mask = views['opacity'][0, view] > 0.5
    pixels, distance = cameras.project(
      np.asarray(mesh.vertices), views['camera_to_world'][0, view].astype(float), views['intrinsics'][0, view]
    )
    assert np.all(distance > 0)
    column, row = np.clip((pixels * SIZE).astype(int), 0, SIZE - 1).T
    # One pixel of tolerance at the edge of the mask.
    near = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
    assert near[row, column].mean() > 0.97, view
    # The bounding boxes of mesh and mask agree.
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    truth = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    found = np.concatenate([pixels.min(0), pixels.max(0)]) * SIZE
    assert np.abs(truth - found).max() < 2, (view, truth, found)


@pytest.mark.slow
def test_depth_agrees_with_the_mesh(overfitted, views):
  planes = overfitted.encode(views['image'])
  mesh = overfitted.mesh(planes, resolution=96)[0]
  pixels = overfitted.render(planes, views['camera_to_world'][:, :1], views['intrinsics'][:, :1], SIZE)
  middle = SIZE // 2
  depth = pixels.depth[0, 0, middle, middle] / pixels.opacity[0, 0, middle, middle]
  # The input camera is at [0, -2, 0]: along its axis, the mesh begins at the smallest y near x = z = 0.
  vertices = np.asarray(mesh.vertices)
  axis = vertices[np.hypot(vertices[:, 0], vertices[:, 2]) < 0.05]
  assert abs(2 + axis[:, 1].min() - depth) < 0.12
