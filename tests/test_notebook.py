"""docs/notebook.ipynb runs from top to bottom; its stored outputs are small and without errors."""

import importlib
from pathlib import Path

import pytest

pytest.importorskip('nbclient', reason="nbclient is not installed: pip install '.[docs]'")
nbformat = pytest.importorskip('nbformat')

NOTEBOOK = Path(__file__).parents[1] / 'docs/notebook.ipynb'


def kinds(cell) -> list[str]:
  """Returns the kinds of a cell's outputs, of an image its type."""
  return [
    'image' if 'image/png' in output.get('data', {}) else output['output_type'] for output in cell.get('outputs', [])
  ]


@pytest.mark.slow
# Jupyter leaves sockets to the garbage collector.
@pytest.mark.filterwarnings('ignore::ResourceWarning', 'ignore::pytest.PytestUnraisableExceptionWarning')
def test_notebook_runs_and_shows_what_is_stored(tmp_path, monkeypatch):
  stored = nbformat.read(NOTEBOOK, as_version=4)
  monkeypatch.syspath_prepend(NOTEBOOK.parent / 'site')
  fresh = importlib.import_module('run_notebook').run(tmp_path)
  for new, old in zip(fresh.cells, stored.cells, strict=True):
    assert kinds(new) == kinds(old), f'the stored outputs are old: run docs/site/run_notebook.py\n{old.source}'
  written = {path.name for path in (tmp_path / 'out/notebook').iterdir()}
  assert written == {'chair.glb', 'chair.ply', 'chair.mp4', 'chair_depth.mp4', 'chair_planes.npz', 'chair_input.png'}


def test_stored_outputs_are_small_and_without_errors():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  assert NOTEBOOK.stat().st_size < 300_000
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert sum('image' in kinds(cell) for cell in code) >= 6
  outputs = [output for cell in code for output in cell.outputs]
  assert not any(output['output_type'] == 'error' or output.get('name') == 'stderr' for output in outputs)
