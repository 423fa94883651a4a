"""Compiles a training step for accelerators that are not attached: python bench/aot.py [TOPOLOGY ...] [--json=FILE]

Prints a Markdown table with, for each topology (default: h100:8, a100:16x8, v5e:4x4, v5p:2x2x2, v6e:4x4), the memory
per device, the compile time, the communication between devices, and the time of a step at --utilisation of the peak,
which is an assumption. Nothing runs on the accelerators: the memory is that of the compiled program, and the time is
not measured. A topology of two slices of TPUs, such as v5e:4x4:2, needs --set mesh.dcn=2.

  python -m venv /tmp/aot && /tmp/aot/bin/pip install -e '.[train]' 'jax[tpu]' jax-cuda12-plugin jax-cuda12-pjrt \
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

# {topology: (objects per device, changes to the configuration)}
TOPOLOGIES = {
  'h100:8': (8, {}),
  'a100:16x8': (8, {'mesh.data': 16, 'mesh.fsdp': 8}),
  'v5e:4x4': (4, {'model.remat': 'full'}),
  'v5p:2x2x2': (8, {}),
  'v6e:4x4': (8, {'model.remat': 'full'}),
}


def compile_one(name: str, config_name: str, objects: int, changes: dict) -> dict:
  """Returns the row of a topology. If the step cannot be compiled, the row has the message as `error`."""
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
    'memory': accelerators.usable(accelerators.ACCELERATORS[accelerators.parse(name)[0]]),
  }
  try:
    return row | dataclasses.asdict(dry_run.compile_step(config, accelerators.devices(name)))
  except Exception as error:  # The table shows any error, of XLA or of this library.
    return row | {'error': str(error).splitlines()[0][:200]}


def as_markdown(rows: list[dict], utilisation: float) -> str:
  """Returns the Markdown table of all rows."""
  lines = [
    '| topology | objects per device | changes to the configuration | parameters and optimizer, GiB | total, GiB | '
    f'compile time, s | communication per step | step at {utilisation:.0%} of the peak, s |',
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
    fits = '' if total < row['memory'] else ': DOES NOT FIT'
    traffic = ', '.join(
      f'{kind} {number} x, {gib(size)} GiB' for kind, (number, size) in sorted(row['collectives'].items())
    )
    seconds = row['operations'] / (row['devices'] * row['peak'] * utilisation)
    lines.append(
      f'{start} {gib(row["state_bytes"])} | {gib(total)} of {gib(row["memory"])}{fits} | {row["seconds"]:.0f} | '
      f'{traffic} | {seconds:.2f} |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('topologies', nargs='*', default=list(TOPOLOGIES), help='such as h100:8 or v5e:4x4')
  parser.add_argument('--config', default='base', help='name of a configuration (default: base)')
  parser.add_argument('--objects', type=int, help='objects per device (default: as in TOPOLOGIES, or 8)')
  parser.add_argument(
    '--set', nargs='*', default=[], metavar='KEY=VALUE', help='changes to the configuration, for all topologies'
  )
  parser.add_argument('--utilisation', type=float, default=0.4, help='assumed fraction of the peak (default: 0.4)')
  parser.add_argument('--json', type=Path, help='file for the results')
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
    # Each topology gets its own process, because a compiler keeps its memory.
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
  """Returns the value of a JSON text, or the text itself if it is not JSON."""
  try:
    return json.loads(text)
  except ValueError:
    return text


if __name__ == '__main__':
  main()
