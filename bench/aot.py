"""A training step compiled for accelerators that are not here: python bench/aot.py [TOPOLOGY ...] [--json=FILE]

For each topology (h100:8, a100:16x8, v5e:4x4, v5p:2x2x2, v6e:4x4 unless others are named): memory of a device, the time to
compile, what goes between devices, and the step's time at --utilisation of the peak, which is an assumption. Printed as a
table in Markdown. Nothing runs on the devices: what is compiled fits, what it takes in time is not measured.

  python -m venv /tmp/aot && /tmp/aot/bin/pip install -e . 'jax[tpu]' jax-cuda12-plugin jax-cuda12-pjrt \
      nvidia-cudnn-cu12 nvidia-cublas-cu12 nvidia-cuda-nvrtc-cu12
  /tmp/aot/bin/python bench/aot.py
"""

import argparse
import dataclasses
import importlib
import json
import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# name: objects a device, what differs from the configuration
TOPOLOGIES = {
  'h100:8': (8, {}),
  'a100:16x8': (8, {'mesh.data': 16, 'mesh.fsdp': 8}),
  'v5e:4x4': (4, {'model.remat': 'full'}),
  'v5p:2x2x2': (8, {}),
  'v6e:4x4': (8, {'model.remat': 'full'}),
}


def compile_one(name: str, config_name: str, objects: int, changes: dict) -> dict:
  """Returns what a topology takes, in this process; an error in words where it cannot be compiled."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  from lrm_jax.distributed import accelerators
  from lrm_jax.training import cost, dry_run

  config = importlib.import_module(f'lrm_jax.configs.{Path(config_name).stem}').get_config()
  num_devices = accelerators.count(name)
  config.batch_size = objects * num_devices
  config.update_from_flattened_dict(changes)
  row = {
    'topology': name,
    'objects_per_device': objects,
    'changes': changes,
    'devices': num_devices,
    'operations': cost.step_operations(config),
    'peak': accelerators.ACCELERATORS[accelerators.parse(name)[0]].peak,
    'memory': accelerators.ACCELERATORS[accelerators.parse(name)[0]].memory,
  }
  try:
    return row | dataclasses.asdict(dry_run.compile_step(config, accelerators.devices(name)))
  except Exception as error:  # XLA's, and ours: told in the table.
    return row | {'error': str(error).splitlines()[0][:200]}


def as_markdown(rows: list[dict], utilisation: float) -> str:
  """Returns the table."""
  lines = [
    '| topology | objects a device | differs from the config | parameters and optimizer, GiB | all, GiB, of | compiled in, s '
    f'| between devices, a step | a step at {utilisation:.0%} of the peak, s |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    changes = ', '.join(f'{name.split(".")[-1]} = {value}' for name, value in row['changes'].items())
    start = f'| {row["topology"]} | {row["objects_per_device"]} | {changes} |'
    if 'error' in row:
      lines.append(f'{start} {row["error"]} | | | | |')
      continue

    def gib(size):
      return f'{size / 2**30:.2f}'

    total = row['input_bytes'] + row['temporary_bytes']
    fits = '' if total < 0.94 * row['memory'] else ': DOES NOT FIT'
    told = ', '.join(
      f'{kind} {number} x, {gib(size)} GiB' for kind, (number, size) in sorted(row['collectives'].items())
    )
    seconds = row['operations'] / (row['devices'] * row['peak'] * utilisation)
    lines.append(
      f'{start} {gib(row["state_bytes"])} | {gib(total)} of {gib(row["memory"])}{fits} | {row["seconds"]:.0f} | '
      f'{told} | {seconds:.2f} |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('topologies', nargs='*', default=list(TOPOLOGIES))
  parser.add_argument('--config', default='configs/base.py')
  parser.add_argument('--objects', type=int, help='a device (default: as in the table of this file, or 8)')
  parser.add_argument(
    '--set', nargs='*', default=[], metavar='KEY=VALUE', help='differs from the configuration, for all'
  )
  parser.add_argument('--utilisation', type=float, default=0.4)
  parser.add_argument('--json', type=Path)
  parser.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  rows = []
  for name in args.topologies:
    objects, changes = TOPOLOGIES.get(name, (8, {}))
    changes = changes | {key: _value(value) for key, value in (pair.split('=', 1) for pair in args.set)}
    objects = args.objects or objects
    if args.one:
      print('\n' + json.dumps(compile_one(name, args.config, objects, changes)))
      return
    # A process each: what compiles for one keeps its memory.
    command = [
      sys.executable,
      __file__,
      name,
      '--one',
      '--config',
      args.config,
      '--objects',
      str(objects),
      '--set',
      *args.set,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      sys.exit(f'{name}: {done.stderr[-2000:]}')
    rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(as_markdown(rows[-1:], args.utilisation).splitlines()[-1], file=sys.stderr, flush=True)
    if args.json:
      args.json.write_text(json.dumps(rows, indent=2) + '\n')
  print(as_markdown(rows, args.utilisation))


def _value(text: str):
  try:
    return json.loads(text)
  except ValueError:
    return text


if __name__ == '__main__':
  main()
