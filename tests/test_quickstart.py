"""The page is valid HTML and needs no network; the quickstart writes it from a checkpoint and a dataset."""

from html.parser import HTMLParser
import json
from pathlib import Path
import re
import sys

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np
import pytest
import trimesh

from conftest import DATA, TINY_MODEL
from lrm_jax.command_line import run_main
from lrm_jax.evaluation import page
from lrm_jax.evaluation.curves import Panel, curves
from lrm_jax.models import registry
from lrm_jax.models.lrm import LRM
from lrm_jax.quickstart import __main__
from lrm_jax.quickstart import run as run_module
from lrm_jax.quickstart.run import run
from lrm_jax.reconstruction import glb, video
from lrm_jax.storage import checkpoint


class Outline(HTMLParser):
  """Counts the elements of a page and checks that each one is closed."""

  def __init__(self, text):
    super().__init__()
    self.counts, self.open = {}, []
    self.feed(text)
    assert not self.open, f'never closed: {self.open}'

  def handle_starttag(self, tag, attrs):
    self.counts[tag] = self.counts.get(tag, 0) + 1
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.counts[tag] = self.counts.get(tag, 0) + 1

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def assert_needs_no_network(text):
  text = text.replace(run_module.MODEL_VIEWER.read_text(), '')  # tests/test_view_page.py watches its requests.
  assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) and 'import(' not in text and 'fetch(' not in text


def test_page_is_self_contained(tmp_path):
  ball = trimesh.creation.icosphere(subdivisions=1, radius=0.5)
  ball.visual.vertex_colors = np.full((len(ball.vertices), 4), 200, np.uint8)
  glb.write(ball, tmp_path / 'a.glb')
  video.write_video(np.zeros((2, 16, 16, 3)), tmp_path / 'a.mp4')
  lines = [{'step': step, 'loss': 1 / step} for step in (1, 10, 20)] + [{'step': 20, 'eval_psnr': 18.0}]
  text = page.document(
    'A <title>',
    page.paragraph('a < b'),
    page.table(['', 'dB'], [('ours', 12.345), ('white', 0.5)], ours=[0]),
    curves(
      [Panel('loss', 'loss', smooth=True), Panel('eval_psnr', 'PSNR', 'dB', levels={'white': 14.0})],
      {'run': lines, 'empty': [{'step': 1, 'loss': 1.0}]},
    ),
    page.section(
      'object',
      page.image_rows({'truth': [np.zeros((4, 4, 3))] * 2}, 32),
      page.column(page.video(tmp_path / 'a.mp4', 64, 'turntable')),
      page.mesh(tmp_path / 'a.glb', 64, 'mesh'),
    ),
    script=run_module.MODEL_VIEWER.read_text(),
  )
  counts = Outline(text).counts
  assert counts['img'] == 2 and counts['video'] == counts['model-viewer'] == counts['svg'] == 1
  assert 'A &lt;title&gt;' in text and 'a &lt; b' in text and '>12.35<' in text and '>0.500<' in text
  assert_needs_no_network(text)


@pytest.mark.slow
def test_quickstart_writes_page_and_metrics(dataset, tmp_path):
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32),
    registry.parameters(LRM(**TINY_MODEL, rngs=nnx.Rngs(0))),
  )
  checkpoint.write_model(tmp_path / 'run', params, ConfigDict({'model': TINY_MODEL, 'data': DATA}), step=3)
  out = tmp_path / 'out'
  for _ in range(2):  # The second run replaces the results of the first.
    summary = run(out, minutes=0.05, num_objects=2, checkpoint=str(tmp_path / 'run'), data=dataset)
    text = (out / 'index.html').read_text()
    assert Outline(text).counts['model-viewer'] == 2
    assert_needs_no_network(text)
    figures = json.loads((out / 'metrics.json').read_text())
    assert figures == json.loads(json.dumps(summary))
    for name in ('model', 'fresh', 'white', 'mean_view', 'input_view'):
      assert 0 < figures[f'psnr_{name}'] < 60
    assert figures['objects'] == 2 and figures['views'] == 4
    assert {'reconstruct', 'train', 'page'} <= figures['seconds'].keys()
    assert Path(figures['checkpoint']) == tmp_path / 'run'
    assert figures['fresh_steps'] < 100


@pytest.mark.parametrize(
  'options, message',
  [(('--minutes=0',), '--minutes=0 must be above 0'), (('--checkpoint=nowhere',), 'Model nowhere was not found')],
)
def test_bad_input_prints_one_line(tmp_path, capsys, monkeypatch, options, message):
  monkeypatch.setattr(sys, 'argv', ['quickstart', f'--out={tmp_path / "out"}', *options])
  with pytest.raises(SystemExit) as info:
    run_main(__main__.main)
  error = capsys.readouterr().err
  assert info.value.code == 2 and error.count('\n') == 1 and message in error
