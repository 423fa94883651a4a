"""What Sphinx adds to the Markdown pages: the navigation, and reference pages made of docstrings and of --help.

A page of the reference has blocks of these kinds, which are replaced when it is read:

    ```{package} lrm_jax.geometry      a section for each public module, with its docstrings
    ```{options} all                   a section for each command, with what `--help` prints

Docstrings are Markdown, as the pages are; Sphinx would take them for reStructuredText.
"""

import importlib
import pkgutil
import re
import textwrap

from docutils import nodes
from docutils.parsers.rst import Directive
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

import commands

NOT_IMPORTED = {'lrm_jax.export.torch_lrm'}  # It needs PyTorch; docs/weights.md describes it.
_BLOCK = re.compile(r'^```\{(package|options)\} (\S+)\n```$', re.MULTILINE)


class MarkdownText(Directive):
  """A block of Markdown inside reStructuredText: a docstring."""

  has_content = True

  def run(self) -> list[nodes.Node]:
    document = self.state.document
    holder = document.copy()  # Its own content, with the settings of the page.
    holder.reporter = document.reporter
    MystParser().parse('\n'.join(self.content), holder)
    return holder.children


def markdown_docstring(app, what, name, obj, options, lines: list[str]) -> None:
  """Wraps the lines of a docstring into the directive for Markdown, in place."""
  if lines:
    text = to_markdown('\n'.join(lines))
    lines[:] = ['.. markdown-text::', '', *('   ' + line for line in text.split('\n')), '']


def to_markdown(docstring: str) -> str:
  """Returns a docstring as Markdown: code, which we indent by two spaces, by four; attributes as a list."""
  blocks = re.split(r'\n{2,}', docstring.strip('\n'))
  for number, block in enumerate(blocks):
    in_list = number > 0 and blocks[number - 1].startswith('- ')
    if not in_list and all(line.startswith('  ') for line in block.split('\n')):
      blocks[number] = textwrap.indent(block, '    ')
    elif block.startswith('Attributes:\n'):
      blocks[number] = re.sub(r'(?m)^  (\w+):', r'- `\1`:', block)
  return '\n\n'.join(blocks)


def short_names(app, what, name, obj, options, signature: str | None, returns: str | None):
  """Returns a signature with the public name of JAX's arrays."""
  return tuple(text and text.replace('jaxlib._jax.Array', 'Array') for text in (signature, returns))


def modules_of(name: str) -> list[str]:
  """Returns the name of a module and, of a package, those of its public modules too, in order."""
  paths = getattr(importlib.import_module(name), '__path__', [])
  inner = sorted(info.name for info in pkgutil.iter_modules(paths, f'{name}.'))
  public = [module for module in inner if not module.rpartition('.')[2].startswith('_') and module not in NOT_IMPORTED]
  return [name, *(found for module in public for found in modules_of(module))]


def _sections(package: str) -> str:
  """Returns the Markdown that documents a package and its modules."""
  parts = []
  for name in modules_of(package):
    heading = '' if name == package else f'## {name.removeprefix("lrm_jax.")}\n\n'
    parts.append(f'{heading}```{{eval-rst}}\n.. automodule:: {name}\n```\n')
  return '\n'.join(parts)


def _options() -> str:
  """Returns the Markdown with the options of all commands."""
  names = [*commands.find(), 'lrm_jax.train']
  return '\n'.join(f'## {name}\n\n```text\n{commands.help_of(name)}\n```\n' for name in names)


def replace_blocks(app: Sphinx, docname: str, source: list[str]) -> None:
  """Replaces the blocks of reference pages, and adds the navigation to the front page."""

  def block(match: re.Match) -> str:
    kind, name = match.groups()
    return _sections(name) if kind == 'package' else _options()

  source[0] = _BLOCK.sub(block, source[0])
  if docname == app.config.root_doc:
    for caption, pages in app.config.navigation.items():
      source[0] += f'\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n' + '\n'.join(pages) + '\n```\n'


def setup(app: Sphinx) -> dict:
  app.add_config_value('navigation', {}, 'env')
  app.add_directive('markdown-text', MarkdownText)
  app.connect('autodoc-process-docstring', markdown_docstring)
  app.connect('autodoc-process-signature', short_names)
  app.connect('source-read', replace_blocks)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}
