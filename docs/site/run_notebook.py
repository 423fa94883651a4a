"""Runs docs/notebook.ipynb and stores its outputs: python docs/site/run_notebook.py

Needs pip install '.[docs]'. What depends on the time of the run, and second copies of images, are not stored.
"""

from pathlib import Path
import tempfile

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[1] / 'notebook.ipynb'


def run(folder: str | Path) -> nbformat.NotebookNode:
  """Returns the notebook with fresh outputs, run in `folder`. Raises the first error of a cell."""
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=1800, kernel_name='python3', resources={'metadata': {'path': str(folder)}}
  )
  client.execute()
  for cell in notebook.cells:
    cell.metadata.pop('execution', None)
    for output in cell.get('outputs', []):
      output.get('data', {}).pop('image/jpeg', None)
  return notebook


if __name__ == '__main__':
  with tempfile.TemporaryDirectory() as place:
    nbformat.write(run(place), NOTEBOOK)
