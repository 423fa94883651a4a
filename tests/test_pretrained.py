"""The included models can be loaded by name, are small, and beat the baselines on held-out objects."""

from pathlib import Path

import numpy as np
import pytest

import lrm_jax
from lrm_jax.datasets.records import uid as record_uid
from lrm_jax.datasets.views import HeldOut, ViewRules, load_views
from lrm_jax.evaluation import baselines, novel_views
from lrm_jax.weights import pretrained

DATA = Path(__file__).parents[1] / 'data/embedded/object_views/1.0.0'


NAMES = ('demo', 'quickstart')


@pytest.fixture(scope='module', params=NAMES)
def model(request):
  return lrm_jax.from_pretrained(request.param)


@pytest.mark.parametrize('name', NAMES)
def test_shipped_model_is_small(name):
  assert sum(path.stat().st_size for path in pretrained.find(name).rglob('*')) < 12e6


def test_authors_of_the_training_objects_of_the_demo_are_listed():
  rows = (pretrained.find('demo') / 'ATTRIBUTION.tsv').read_text(encoding='utf-8').splitlines()
  listed = {row.split('\t')[0] for row in rows[1:]}
  held_out = HeldOut(DATA, 'test', ViewRules(image_size=64, size=64))
  assert len(listed) == 390 + 282
  assert not listed & {record_uid(held_out.record(place)) for place in range(len(held_out))}


def test_shipped_model_makes_a_coloured_mesh(model):
  views = load_views(DATA, 'test', image_size=model.image_size, size=32, indices=[0])
  mesh = model.mesh(model.encode(views['image']), resolution=64)[0]
  assert len(mesh.faces) > 200 and mesh.volume > 0
  assert np.ptp(mesh.visual.vertex_colors[:, :3], axis=0).max() > 20
  assert np.abs(mesh.bounds).max() < 1


@pytest.mark.slow
def test_shipped_model_beats_the_baselines_by_3_db(model):
  held_out = HeldOut(DATA, 'test', ViewRules(image_size=model.image_size, size=64))
  scores = novel_views.evaluate_model(novel_views.Batches(held_out), model.model)[0].means()
  mean_view = baselines.mean_training_view(DATA, 'train', 64)
  trivial = {name: scores.means() for name, scores in baselines.trivial(held_out, mean_view).items()}
  best = max(values['psnr'] for values in trivial.values())
  print(f'{scores["psnr"]:.2f} dB, best baseline {best:.2f} dB')
  assert scores['psnr'] > best + 3
  assert scores['ssim'] > max(values['ssim'] for values in trivial.values())
