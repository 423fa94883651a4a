"""The benchmarks run with tiny sizes, and write their results."""

import json
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

from training_processes import FAST_COMPILE

ROOT = Path(__file__).resolve().parents[1]


def run(*args, **environment):
  command = [sys.executable, *map(str, args)]
  return subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
  )


@pytest.mark.slow
def test_torch_reference_writes_ratios(tmp_path):
  pytest.importorskip('torch', reason="PyTorch is not installed: pip install '.[torch]'")
  done = run(
    'bench/torch_reference.py',
    '--smoke',
    '--repeats',
    1,
    '--json',
    tmp_path / 'a.json',
    '--only',
    'render_skipping',
    'mesh',
  )
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / 'a.json').read_text())
  assert list(results) == ['render_skipping', 'mesh']
  for result in results.values():
    assert result['ratio'] > 0 and result['ours_peak_bytes'] >= 0 and result['torch_peak_bytes'] >= 0
    assert result['ratio'] == pytest.approx(result['torch_seconds'] / result['ours_seconds'])


@pytest.mark.slow
def test_both_sides_of_a_row_compute_the_same():
  """The compared implementations give the same images, gradients and surfaces."""
  torch = pytest.importorskip('torch', reason="PyTorch is not installed: pip install '.[torch]'")
  import numpy as np

  from bench import torch_reference as bench

  row = bench.Render('render', bench.SMOKE)
  np.testing.assert_allclose(row.ours()(), row.torchs(64)().numpy(), atol=1e-4)
  row = bench.Mesh('mesh_dense', bench.SMOKE)
  (mesh,), (points, faces, colors) = row.ours()(), row.torchs(2**15)()
  assert abs(len(mesh.vertices) - len(points)) <= 2 and abs(len(mesh.faces) - len(faces)) <= 4
  row = bench.Render('render_train', bench.SMOKE)
  nerf, planes = row.ours()()[1]
  backward = row.torchs(64)
  theirs = next(cell.cell_contents for cell in backward.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))
  backward()
  np.testing.assert_allclose(np.asarray(nerf['last']['kernel']).T, theirs.nerf.last.weight.grad, rtol=1e-2, atol=1e-6)
  del colors, planes


@pytest.mark.slow
def test_gpu_benchmark_runs_on_a_cpu(tmp_path):
  """It tests correctness, runs every measurement, and writes JSON and Markdown; here accelerators are simulated."""
  done = run('bench/gpu.py', '--smoke', '--out', tmp_path, XLA_FLAGS=FAST_COMPILE)
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / 'gpu.json').read_text())
  assert results['correctness'] and all(row['passed'] for row in results['correctness'].values())
  for kind in ('LoRA', '2 input views', 'single pixels', 'depth', 'LPIPS'):
    assert any(name.startswith('training step') and kind in name for name in results['correctness']), kind
  assert {name.split()[0] for name in results['rows']} == {
    'product',
    'copy',
    'planes',
    'render',
    'mesh',
    'plane',
    'training',
    'input,',
    'evaluation,',
    'its',
  }
  assert all(row['seconds'] > 0 and row['peak_bytes_so_far'] > 0 for row in results['rows'].values())
  table = (tmp_path / 'gpu.md').read_text()
  assert all(name in table for name in results['rows']) and 'FAILED' not in table
  done = run('bench/gpu.py')
  assert done.returncode == 1 and 'sees no GPU' in done.stderr


@pytest.mark.slow
def test_run_writes_markdown_and_json(tmp_path):
  done = run(
    'bench/run.py',
    '--config=quickstart',
    '--smoke',
    '--repeats=1',
    '--only',
    'roofline',
    'planes',
    '--markdown',
    tmp_path / 'a.md',
    '--json',
    tmp_path / 'a.json',
  )
  assert done.returncode == 0, done.stderr
  assert 'planes of 1' in (tmp_path / 'a.md').read_text()
  assert json.loads((tmp_path / 'a.json').read_text())['planes of 1']['share_of_product'] > 0


@pytest.mark.slow
def test_aot_without_a_compiler_reports_what_to_install(tmp_path):
  """In an environment with the compiler, the row has results instead."""
  done = run('bench/aot.py', 'v5e:4x4', '--json', tmp_path / 'a.json', '--config=quickstart', '--objects=1')
  assert done.returncode == 0, done.stderr
  (row,) = json.loads((tmp_path / 'a.json').read_text())
  assert 'pip install' in row['error'] if 'error' in row else row['state_bytes'] > 0
  assert 'v5e:4x4' in done.stdout


@pytest.mark.slow
def test_input_benchmark_prints_rates(dataset):
  done = run('bench/input.py', '--data', dataset, '--seconds', 0.5, '--config', 'quickstart', '--workers', 0, 1)
  assert done.returncode == 0, done.stderr
  assert 'objects/s in one process' in done.stdout and 'H100' in done.stdout
  for name in ('0 workers', '1 worker'):
    assert re.search(rf'pipeline, {name}: [\d.]+ objects/s, [1-9][\d.]* per CPU second', done.stdout)
