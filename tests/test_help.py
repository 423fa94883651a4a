"""--help of every command: each option has a text, long lists are in groups; completion of options in shells."""

import argparse
import importlib
import os
from pathlib import Path
import subprocess
import sys

from absl import flags
import pytest

from lrm_jax import train

ROOT = Path(__file__).parents[1]
MOST = 6  # options without groups
_path = list(sys.path)
sys.path.insert(0, str(ROOT / 'docs/site'))
commands = importlib.import_module('commands')
sys.path[:] = _path


def parser_of(module: str, monkeypatch) -> argparse.ArgumentParser:
  """Returns the parser with which a command parses its options."""
  if module == 'lrm_jax.view':
    pytest.importorskip('starlette', reason="Starlette is not installed: pip install '.[view]'")
  found = []

  def parse(parser, *args, **kwargs):
    found.append(parser)
    raise SystemExit(0)

  monkeypatch.setattr(argparse.ArgumentParser, 'parse_known_args', parse)
  monkeypatch.setattr('signal.signal', lambda *_: None)  # Some commands handle SIGTERM.
  with pytest.raises(SystemExit):
    commands.main_of(module).main()
  return found[0]


@pytest.mark.parametrize('module', commands.find())
def test_every_option_has_a_text_and_a_group(module, monkeypatch):
  parser = parser_of(module, monkeypatch)
  assert parser.description and parser.format_help()
  actions = [action for action in parser._actions if '--help' not in action.option_strings]
  for action in actions:
    assert action.help and len(action.help) > 8, f'{module}: {action.option_strings or action.dest} has no text'
  without = [action for group in (parser._optionals, parser._positionals) for action in group._group_actions]
  without = [action for action in without if action in actions]
  assert not without or len(actions) <= MOST, (
    f'{module} has {len(actions)} options: put them in groups (parser.add_argument_group), also '
    f'{", ".join(action.dest for action in without)}'
  )


def test_commands_are_found():
  found = commands.find()
  assert {'lrm_jax.reconstruct', 'lrm_jax.view', 'lrm_jax.export', 'lrm_jax.data.render'} <= set(found)
  assert 'lrm_jax.train' not in found  # Its flags are those of absl.


def test_help_of_the_training_has_all_its_flags():
  own = {flag.name for flag in flags.FLAGS.flags_by_module_dict()['lrm_jax.train']}
  assert own == {name for names in train.OPTIONS.values() for name in names}
  text = train.help_text()
  for name in own:
    assert f'  --{name}' in text and flags.FLAGS[name].help
  assert max(map(len, text.splitlines())) <= 120


def test_training_prints_its_help(capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['lrm_jax.train', '--config=base', '--help'])
  train.main()
  assert 'several processes:\n  --peer_timeout' in capsys.readouterr().out


def test_shells_complete_options():
  pytest.importorskip('argcomplete', reason="argcomplete is not installed: pip install '.[completion]'")
  line = 'python -m lrm_jax.data_check --s'
  environment = os.environ | {
    'PYTHONPATH': str(ROOT),
    '_ARGCOMPLETE': '3',  # The words `python -m MODULE` are the command.
    'COMP_LINE': line,
    'COMP_POINT': str(len(line)),
    '_ARGCOMPLETE_IFS': '\n',
    '_ARGCOMPLETE_STDOUT_FILENAME': '/dev/stdout',
    '_ARGCOMPLETE_SUPPRESS_SPACE': '1',
  }
  command = [sys.executable, '-m', 'lrm_jax.data_check']
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.stdout.split() == ['--split', '--sheet'], done.stderr
  checker = [sys.executable, '-m', 'argcomplete._check_module', 'lrm_jax.view']
  assert not subprocess.run(checker, cwd=ROOT, capture_output=True, text=True, check=False).stderr
