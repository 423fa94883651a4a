"""Trains a model: python -m lrm_jax.train --config=base [--workdir=DIR] [--config.batch_size=16 ...]

--config is the name of a configuration of the package (base, quickstart, ...) or a Python file. Every value can be
overridden on the command line.
The same command resumes a stopped run, on any number of processes and devices; launch/ has scripts for clusters.
Writes DIR/config.json, DIR/checkpoints, DIR/metrics.jsonl, DIR/tensorboard, DIR/images; DIR may be on gs:// or s3://.
Exit codes: 0 finished; 2 bad input that a person must correct; 75 stopped by SIGTERM, everything is saved; other codes:
a failure, and the same command resumes from the last checkpoint.
--check=N checks the configuration and all inputs for N devices in seconds, and stops; launch scripts do so first.
--dry_run prints the parameters, memory and operations of a step and stops. With --topology=v5e:16x16 (h100:8,
a100:16x8, ...) it does so for devices that are not attached, and estimates the days of the training.
"""

import importlib.resources
from pathlib import Path
import sys
import textwrap

from absl import flags, logging
import jax
from ml_collections import ConfigDict, config_flags

from lrm_jax.command_line import enable_compilation_cache, run_main, silence_repeated_tracebacks
from lrm_jax.distributed import processes
from lrm_jax.errors import FailureError, InputError, one_line, out_of_memory
from lrm_jax.storage import checkpoint
from lrm_jax.training import inputs
from lrm_jax.training.dry_run import dry_run
from lrm_jax.training.loop import train
from lrm_jax.training.timing import parse_steps

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The configuration: a name or a Python file.', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory (default: runs/<name of the configuration>).')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print parameters, memory and operations of a step, then stop.')
_CHECK = flags.DEFINE_integer(
  'check', None, 'Check the configuration and all inputs for this number of devices, then stop. Needs no device.'
)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'The devices that --dry_run assumes: v5e:4x4, h100:8, a100:16x8, ...')
_PROFILE_STEPS = flags.DEFINE_string(
  'profile_steps', None, 'Steps to profile, FIRST:LAST, written to DIR/profile for TensorBoard and Perfetto.'
)
_SYNTHETIC_DATA = flags.DEFINE_bool(
  'synthetic_data', False, 'Train on random batches, without evaluation and checkpoints: the speed without the input.'
)
_PEER_TIMEOUT = flags.DEFINE_integer(
  'peer_timeout', 60, 'Seconds of silence after which another process is considered dead.', lower_bound=5
)
_UTILISATION = flags.DEFINE_float('utilisation', 0.4, 'The share of peak FLOP/s that --dry_run assumes.')
# The order of the options in --help.
OPTIONS = {
  'run': ('config', 'workdir'),
  'before a run': ('check', 'dry_run', 'topology', 'utilisation'),
  'speed': ('profile_steps', 'synthetic_data'),
  'several processes': ('peer_timeout',),
}


def help_text() -> str:
  """Returns what --help prints: absl's own lists the flags of all libraries, without an order."""
  lines = [__doc__.strip()]
  for title, names in OPTIONS.items():
    lines += ['', f'{title}:']
    for name in names:
      flag = flags.FLAGS[name]
      default = '' if flag.default in (None, False) else f' (default: {flag.default})'
      words = f'{flag.help.rstrip(".")}{default}'
      lines += textwrap.wrap(words, 100, initial_indent=f'  --{name:<16}', subsequent_indent=' ' * 20)
    if title == 'run':
      lines.append('  --config.KEY=VALUE  A value of the configuration; configs/base.py lists them, with units')
  return '\n'.join(lines)


def config_file(name: str) -> str:
  """Returns the file of a named configuration, such as 'base'. Other values of --config are returned unchanged.

  A variant may follow the name after a colon. Raises InputError if there is no configuration of this name.
  """
  stem, colon, variant = name.partition(':')
  if not stem or stem.endswith('.py') or '/' in stem:
    return name
  configs = importlib.resources.files('lrm_jax.configs')
  file = configs / f'{stem}.py'
  if not file.is_file():
    names = sorted(Path(entry.name).stem for entry in configs.iterdir() if entry.name.endswith('.py'))
    raise InputError(
      f'--config={name}: unknown configuration; give a Python file or one of '
      f'{", ".join(name for name in names if name != "__init__")}'
    )
  return f'{file}{colon}{variant}'


def parse(argv: list[str]) -> ConfigDict:
  """Returns the configuration of a command line. Raises InputError for an unknown key or a value of the wrong type."""
  argv = list(argv)
  for i, word in enumerate(argv):
    if word.startswith('--config='):
      argv[i] = '--config=' + config_file(word.removeprefix('--config='))
    elif word == '--config' and i + 1 < len(argv):
      argv[i + 1] = config_file(argv[i + 1])
  try:
    flags.FLAGS(argv)
    config = _CONFIG.value
    if config is None:
      raise InputError(
        'no configuration: give --config=quickstart, the name of another configuration, or a Python file'
      )
    config.to_dict()  # If the file could not be read, this raises the reason.
    return config
  except (OSError, flags.Error, AttributeError, KeyError, TypeError, ImportError) as error:
    message = str(error).replace('\\n', '. ').replace("\\'", '').replace("'", '')
    raise InputError(f'{message} (the file that --config names lists the keys and their types)') from error


# What XLA's message contains if a peer, or the connection to it, is lost. Other errors are bugs or defective devices.
_LOST_PEER = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'CANCELLED', 'Gloo', 'NCCL', 'onnection', 'task died')


def explain(error: BaseException, workdir: str | Path) -> Exception | None:
  """Returns the one sentence for an error of the devices, or None if its traceback says more.

  If memory ran out, the sentence says what to lower. Before the first checkpoint that is an InputError, because the
  same configuration would fail again. Afterwards it has fitted before, so something else took the memory: a
  FailureError, which launchers retry.
  """
  message = one_line(error)
  if out_of_memory(error):
    remedy = (
      'lower config.rays_per_chunk, raise config.gradient_accumulation (fewer objects at once), set '
      "config.model.remat = 'full', or raise config.mesh.fsdp (more devices share the parameters); on the host, lower "
      'config.data.num_workers'
    )
    sentence = f'out of memory ({message[:200] or "of the host"}): {remedy}'
    return FailureError(sentence) if checkpoint.saved_steps(workdir) else InputError(sentence)
  if processes.several() and any(part in message for part in _LOST_PEER):
    return FailureError(
      f'process {jax.process_index()} cannot continue, most likely because another process ended; the same command '
      f'resumes from the last checkpoint ({message[:300]})'
    )
  return None


def main() -> None:
  """Runs the command: a dry run, or a training in this process and its peers."""
  if {'--help', '-h'} & set(sys.argv[1:]):
    print(help_text())
    return
  config = parse(sys.argv)
  enable_compilation_cache()
  logging.set_verbosity(logging.WARNING)  # Orbax and tensorflow-datasets log a lot at INFO.
  silence_repeated_tracebacks()
  if _DRY_RUN.value:
    dry_run(config, _TOPOLOGY.value, _UTILISATION.value)
    return
  file = config_flags.get_config_filename(flags.FLAGS['config'])
  workdir = _WORKDIR.value or Path('runs') / Path(file.split(':')[0]).stem
  if _CHECK.value is not None:
    jax.config.update('jax_platforms', 'cpu')  # The devices may be missing or in use.
    print(*inputs.check(config, workdir, _CHECK.value), 'the inputs are complete; nothing was written', sep='\n')
    return
  if _TOPOLOGY.value:
    raise InputError('--topology needs --dry_run: a training runs on the attached devices')
  processes.join(peer_timeout=_PEER_TIMEOUT.value)
  try:
    result = train(
      config, workdir, profile_steps=parse_steps(_PROFILE_STEPS.value), synthetic_data=_SYNTHETIC_DATA.value
    )
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if (explained := explain(error, workdir)) is None:
      raise
    raise explained from error
  if jax.process_index() == 0:
    scores = ', '.join(f'{name} {value:.3f}' for name, value in result.items())
    done = f'all {config.num_train_steps} steps are done; to train longer, raise config.num_train_steps'
    print(f'{workdir}: {scores or done}')


if __name__ == '__main__':
  run_main(main, processes.leave)
