"""The documentation as a site: `make docs` builds it in out/docs, without network, and stops at the first warning.

The pages are the Markdown files of the repository as GitHub shows them; this folder adds what only the site has: their
order, and the reference pages made of docstrings and --help (reference.py). The source directory is the repository
root, so that links to other files of it work in both places.
"""

import os
from pathlib import Path
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # Modules are imported for their docstrings; nothing is computed.
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

project = 'lrm_jax'
author = 'The lrm_jax authors'
extensions = ['sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'myst_nb', 'reference']
root_doc = 'README'
include_patterns = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'data/README.md',
  'tests/golden/README.md',
  'docs/**',
]
exclude_patterns = ['.*', 'out', 'runs', 'build', 'dist', 'docs/site', 'docs/.*', '**.ipynb_checkpoints']

# The order of the pages, below the front page: {caption: pages}.
navigation = {
  'Use': [
    'docs/coordinates',
    'docs/meshes',
    'docs/segmenters',
    'docs/camera',
    'docs/notebook',
    'docs/view',
    'docs/input_views',
    'docs/weights',
  ],
  'Train': [
    'docs/from_models_to_training',
    'docs/fine_tuning_triposr',
    'Training in detail <docs/training>',
    'docs/ablations',
  ],
  'Data': ['data/README', 'docs/data', 'docs/procedural'],
  'Scale': ['Clusters, long runs, faults <docs/operations>', 'docs/scale', 'docs/performance'],
  'Evaluate': [
    'docs/evaluation',
    'The model demo <docs/results/demo>',
    'The model quickstart <docs/results/quickstart>',
    'tests/golden/README',
  ],
  'Reference': [
    'docs/api/README',
    *(f'docs/api/{name}' for name in ('reconstruction', 'geometry', 'models', 'datasets', 'training', 'evaluation')),
    *(f'docs/api/{name}' for name in ('weights', 'export', 'storage', 'distributed', 'view', 'commands')),
    'docs/commands',
  ],
  'Help': ['docs/troubleshooting', 'All pages <docs/README>', 'CONTRIBUTING', 'CHANGELOG'],
}

myst_heading_anchors = 4  # Links such as page.md#heading work as on GitHub.
myst_links_external_new_tab = False
nb_execution_mode = 'off'  # tests/test_notebook.py runs the notebook; its outputs are in the file.
highlight_language = 'text'  # Blocks without a language are commands, as on GitHub.
smartquotes = False  # They would turn --option into a dash.

autodoc_member_order = 'bysource'
autodoc_inherit_docstrings = False
autodoc_default_options = {'members': True, 'special-members': '__call__', 'ignore-module-all': True}
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
add_module_names = False
toc_object_entries_show_parents = 'hide'

html_theme = 'furo'
html_title = 'lrm_jax'
html_static_path = ['static']
html_css_files = ['lrm_jax.css']
html_copy_source = False
html_show_sourcelink = False
html_additional_pages = {'index': 'to_front_page.html'}
templates_path = ['templates']

# Pages that are not in the list above, such as new results, come last.
_listed = {page.rpartition('<')[2].rstrip('>') for pages in navigation.values() for page in pages}
navigation['More'] = [
  page
  for path in sorted((ROOT / 'docs').rglob('*.md'))
  if (page := str(path.relative_to(ROOT).with_suffix(''))) not in _listed and 'docs/api/' not in page
]
