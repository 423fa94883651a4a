"""Training: python -m lrm_jax.train --config=configs/quickstart.py [--workdir=DIR] [--config.batch_size=16 ...]

The same command again resumes where the run stopped, bit for bit, on as many processes and devices as there are then;
launch/ has it for clusters. Exit codes: 0 done; 2 bad input, a person is needed; 75 told to stop (SIGTERM), all is saved;
others: something failed, and the same command again goes on from the last checkpoint. `--dry_run` prints what a step needs, and stops;
`--dry_run --topology=v5e:16x16` (h100:8, a100:16x8, ...) what it would on devices that are not here, and the days.
Writes DIR/config.json, DIR/checkpoints, DIR/metrics.jsonl, DIR/tensorboard, DIR/images; DIR may be on gs:// or s3://.
"""

from pathlib import Path
import sys

from absl import flags
from absl import logging
import jax
from ml_collections import ConfigDict
from ml_collections import config_flags

from lrm_jax import cluster
from lrm_jax.dry_run import dry_run
from lrm_jax.errors import Failure, run_main
from lrm_jax.loop import train
from lrm_jax.startup import keep_compiled, quiet_stores

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The configuration, a Python file.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory (default: runs/<name of the configuration>).')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print parameters, memory and operations of a step, then stop.')
_TOPOLOGY = flags.DEFINE_string('topology', None, 'Devices that --dry_run is for: v5e:4x4, h100:8, a100:16x8, ...')
_PEER_TIMEOUT = flags.DEFINE_integer(
    'peer_timeout', 60, 'Seconds after which a process of several that is silent counts as dead.', lower_bound=5)
_UTILISATION = flags.DEFINE_float('utilisation', 0.4, 'Share of the peak that --dry_run takes a training to reach.')


def parse(argv: list[str]) -> ConfigDict:
  """Returns the configuration of a command line; ValueError for an unknown key or a value of the wrong type."""
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
  keep_compiled()
  logging.set_verbosity(logging.WARNING)  # Orbax and the datasets tell a lot at INFO.
  quiet_stores()
  if _DRY_RUN.value:
    return dry_run(config, _TOPOLOGY.value, _UTILISATION.value)
  if _TOPOLOGY.value:
    raise ValueError('--topology is for --dry_run: a training runs on the devices that are here')
  cluster.join(peer_timeout=_PEER_TIMEOUT.value)
  file = config_flags.get_config_filename(flags.FLAGS['config'])
  workdir = _WORKDIR.value or Path('runs') / Path(file.split(':')[0]).stem
  try:
    result = train(config, workdir)
  except jax.errors.JaxRuntimeError as error:
    if not cluster.several():
      raise
    raise Failure(f'process {jax.process_index()} cannot go on, most likely since another has ended; the same command goes on '
                  f'from the last checkpoint ({" ".join(str(error).split())[:300]})') from error
  if jax.process_index() == 0:
    figures = ', '.join(f'{name} {value:.3f}' for name, value in result.items())
    print(f'{workdir}: {figures or f"all {config.num_train_steps} steps are done; for more, raise config.num_train_steps"}')


if __name__ == '__main__':
  run_main(main, cluster.leave)
