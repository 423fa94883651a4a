"""Training: python -m lrm_jax.train --config=configs/quickstart.py [--workdir=DIR] [--config.batch_size=16 ...]

The same command again resumes where the run stopped, bit for bit, on as many processes and devices as there are then;
launch/ has it for clusters. Exit codes: 0 done; 2 bad input, a person is needed; 75 told to stop (SIGTERM), all is saved;
others: something failed, and the same command again goes on from the last checkpoint. `--dry_run` prints what a step needs, and stops;
`--dry_run --topology=v5e:16x16` (h100:8, a100:16x8, ...) what it would on devices that are not here, and the days.
Writes DIR/config.json, DIR/checkpoints, DIR/metrics.jsonl, DIR/tensorboard, DIR/images; DIR may be on gs:// or s3://.
"""

import importlib.resources
from pathlib import Path
import sys

from absl import flags, logging
import jax
from ml_collections import ConfigDict, config_flags

from lrm_jax.command_line import enable_compilation_cache, run_main, silence_repeated_tracebacks
from lrm_jax.distributed import processes
from lrm_jax.errors import Failure
from lrm_jax.training.dry_run import dry_run
from lrm_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The configuration, a Python file.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory (default: runs/<name of the configuration>).')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print parameters, memory and operations of a step, then stop.')
_TOPOLOGY = flags.DEFINE_string('topology', None, 'Devices that --dry_run is for: v5e:4x4, h100:8, a100:16x8, ...')
_PEER_TIMEOUT = flags.DEFINE_integer(
  'peer_timeout', 60, 'Seconds after which a process of several that is silent counts as dead.', lower_bound=5
)
_UTILISATION = flags.DEFINE_float('utilisation', 0.4, 'Share of the peak that --dry_run takes a training to reach.')


def config_file(name: str) -> str:
  """Returns the file of a configuration that is part of the package, 'base', and any other `name` unchanged.

  A variant may follow the name, after a colon. Raises ValueError where there is no such configuration.
  """
  stem, colon, variant = name.partition(':')
  if not stem or stem.endswith('.py') or '/' in stem:
    return name
  configs = importlib.resources.files('lrm_jax.configs')
  file = configs / f'{stem}.py'
  if not file.is_file():
    names = sorted(Path(entry.name).stem for entry in configs.iterdir() if entry.name.endswith('.py'))
    raise ValueError(
      f'--config={name}: there is no such configuration; give a Python file, or one of '
      f'{", ".join(name for name in names if name != "__init__")}'
    )
  return f'{file}{colon}{variant}'


def parse(argv: list[str]) -> ConfigDict:
  """Returns the configuration of a command line; ValueError for an unknown key or a value of the wrong type."""
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
      raise ValueError('no configuration: give --config=configs/quickstart.py, or another of configs/')
    config.to_dict()  # A file that could not be read raises here what was wrong with it.
    return config
  except (OSError, flags.Error, AttributeError, KeyError, TypeError, ImportError) as error:
    words = str(error).replace('\\n', '. ').replace("\\'", '').replace("'", '')
    raise ValueError(f'{words} (see the keys and types in the file that --config names)') from error


def main() -> None:
  config = parse(sys.argv)
  enable_compilation_cache()
  logging.set_verbosity(logging.WARNING)  # Orbax and the datasets tell a lot at INFO.
  silence_repeated_tracebacks()
  if _DRY_RUN.value:
    return dry_run(config, _TOPOLOGY.value, _UTILISATION.value)
  if _TOPOLOGY.value:
    raise ValueError('--topology is for --dry_run: a training runs on the devices that are here')
  processes.join(peer_timeout=_PEER_TIMEOUT.value)
  file = config_flags.get_config_filename(flags.FLAGS['config'])
  workdir = _WORKDIR.value or Path('runs') / Path(file.split(':')[0]).stem
  try:
    result = train(config, workdir)
  except jax.errors.JaxRuntimeError as error:
    if not processes.several():
      raise
    raise Failure(
      f'process {jax.process_index()} cannot go on, most likely since another has ended; the same command goes on '
      f'from the last checkpoint ({" ".join(str(error).split())[:300]})'
    ) from error
  if jax.process_index() == 0:
    figures = ', '.join(f'{name} {value:.3f}' for name, value in result.items())
    print(
      f'{workdir}: {figures or f"all {config.num_train_steps} steps are done; for more, raise config.num_train_steps"}'
    )


if __name__ == '__main__':
  run_main(main, processes.leave)
