"""Tests of the scripts in launch/, without a cluster: commands such as gcloud are replaced by stand-ins."""

import os
from pathlib import Path
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

import training_processes

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'


@pytest.mark.parametrize('script', sorted(LAUNCH.glob('*[!l]')), ids=lambda path: path.name)
def test_script_parses_and_states_its_assumptions(script):
  text = script.read_text()
  assert subprocess.run(['bash', '-n', script], check=False).returncode == 0
  assert 'Assumes:' in text and '# Settings' in text


@pytest.mark.parametrize('arguments', [[], ['0'], ['two', '--config=configs/quickstart.py']])
def test_invalid_number_of_processes_is_reported(arguments):
  done = subprocess.run([LAUNCH / 'local.sh', *arguments], capture_output=True, text=True, check=False)
  assert done.returncode == 2 and done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1


def stand_in(directory: Path, name: str, script: str) -> dict[str, str]:
  """Writes a script that replaces the command `name`; returns an environment that finds it first."""
  directory.mkdir(exist_ok=True)
  (directory / name).write_text(f'#!/usr/bin/env bash\n{script}')
  (directory / name).chmod(0o755)
  return {**os.environ, 'PATH': f'{directory}:{os.environ["PATH"]}', 'CALLS': str(directory / 'calls')}


# Replaces `python -m lrm_jax.train`: records its arguments, then exits with the next code of a list.
TRAINING = """
[ "$1" = -c ] && exec {python} "$@"
echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES gpus=${{CUDA_VISIBLE_DEVICES:-}} $*" >> "$CALLS"
[ "$JAX_PROCESS_ID" = 0 ] || exit 0
code=$(head -1 "$CODES"); sed -i 1d "$CODES"
exit "$code"
"""


@pytest.mark.parametrize(
  'codes, expected, rounds', [([0], 0, 1), ([2], 2, 1), ([134, 75, 0], 0, 3), ([1, 134, 137], 137, 3)]
)
def test_local_restarts_after_failures_but_not_after_bad_input(tmp_path, codes, expected, rounds):
  environment = stand_in(tmp_path / 'bin', 'training', TRAINING.format(python=sys.executable))
  (tmp_path / 'codes').write_text(''.join(f'{code}\n' for code in codes))
  done = subprocess.run(
    [LAUNCH / 'local.sh', '2', '--config=x.py'],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    timeout=60,
    env={
      **environment,
      'CODES': str(tmp_path / 'codes'),
      'PYTHON': str(tmp_path / 'bin' / 'training'),
      'RESTARTS': '2',
      'GRACE': '5',
      'CUDA_VISIBLE_DEVICES': '4,5,6,7',
    },
  )
  assert done.returncode == expected, done.stderr
  calls = (tmp_path / 'bin' / 'calls').read_text().splitlines()
  assert sorted(calls[:2]) == [
    f'{index} of 2 gpus={gpus} -m lrm_jax.train --config=x.py' for index, gpus in ((0, '4,5'), (1, '6,7'))
  ]
  assert len(calls) == 2 * rounds


GCLOUD = """
echo "$*" >> "$CALLS"
case "$4" in
  describe) state=$(head -1 "$STATES"); sed -i 1d "$STATES"; [ -n "$state" ] || exit 1; echo "$state" ;;
  ssh) case "$*" in *lrm_jax.train*) echo "ended with code $(head -1 "$CODES")"; sed -i 1d "$CODES" ;; esac ;;
esac
"""


def test_preempted_tpu_slice_is_created_again(tmp_path):
  """The slice does not exist and is created; it is preempted, deleted and created again; then the training finishes."""
  environment = stand_in(tmp_path / 'bin', 'gcloud', GCLOUD)
  (tmp_path / 'states').write_text('\nREADY\nPREEMPTED\n\nCREATING\nREADY\n')
  (tmp_path / 'codes').write_text('75\n0\n')
  done = subprocess.run(
    [LAUNCH / 'tpu_pod.sh'],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
    env={
      **environment,
      'STATES': str(tmp_path / 'states'),
      'CODES': str(tmp_path / 'codes'),
      'NAME': 'slice',
      'WAIT': '0',
      'WORKDIR': 'gs://bucket/run',
      'DATA': 'gs://bucket/data',
    },
  )
  assert done.returncode == 0, done.stderr
  calls = (tmp_path / 'bin' / 'calls').read_text().splitlines()
  assert all(call.startswith('compute tpus tpu-vm ') and '--zone=us-west4-a' in call for call in calls)
  verbs = [call.split()[3] for call in calls]
  round_of_work = ['scp', 'ssh', 'ssh']
  assert verbs == [
    'describe',
    'create',
    'describe',
    *round_of_work,
    'describe',
    'delete',
    'describe',
    'create',
    'describe',
    'describe',
    *round_of_work,
  ]
  command = calls[5]
  assert '--worker=all' in command and '--workdir=gs://bucket/run --config.data.path=gs://bucket/data' in command


def test_bad_input_stops_a_tpu_training(tmp_path):
  environment = stand_in(tmp_path / 'bin', 'gcloud', GCLOUD)
  (tmp_path / 'states').write_text('READY\n')
  (tmp_path / 'codes').write_text('2\n')

  def run(**more):
    return subprocess.run(
      [LAUNCH / 'tpu_pod.sh'],
      capture_output=True,
      text=True,
      check=False,
      timeout=60,
      env={**environment, 'STATES': str(tmp_path / 'states'), 'CODES': str(tmp_path / 'codes'), **more},
    )

  assert run(WORKDIR='gs://bucket/run', DATA='gs://bucket/data').returncode == 2
  assert run(DATA='gs://bucket/data').returncode != 0 and 'WORKDIR' in run().stderr


def jobset():
  return yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())


def test_numbers_of_the_jobset_agree():
  document = jobset()
  [job] = document['spec']['replicatedJobs']
  spec = job['template']['spec']
  [container] = spec['template']['spec']['containers']
  values = {entry['name']: entry.get('value') for entry in container['env']}
  assert (
    spec['parallelism'] == spec['completions'] == int(values['JAX_NUM_PROCESSES'])
    and spec['completionMode'] == 'Indexed'
  )
  name, port = document['metadata']['name'], container['ports'][0]['containerPort']
  assert (
    values['JAX_COORDINATOR_ADDRESS'] == f'{name}-{job["name"]}-0-0.{document["spec"]["network"]["subdomain"]}:{port}'
  )
  # Only exit code 2 fails the job and with it the JobSet; all other codes restart it.
  [rule] = spec['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob' and rule['onExitCodes'] == dict(containerName='train', operator='In', values=[2])
  assert document['spec']['failurePolicy']['rules'] == [
    dict(action='FailJobSet', onJobFailureReasons=['PodFailurePolicy'])
  ]
  assert spec['backoffLimit'] == 0 and spec['template']['spec']['restartPolicy'] == 'Never'
  assert 'kueue.x-k8s.io/queue-name' in document['metadata']['labels']


@pytest.mark.slow
def test_command_of_the_jobset_trains(tiny_config, tmp_path):
  """Runs the commands of two pods on this machine, with the variables that Kubernetes would set."""
  tiny_config.batch_size = 8
  file, workdir = training_processes.write_config(tiny_config, tmp_path / 'config.py'), tmp_path / 'run'
  [container] = jobset()['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']['containers']
  port, pods = training_processes.free_port(), []
  for index in range(2):
    given = {entry['name']: entry.get('value', str(index)) for entry in container['env']}
    assert set(re.findall(r'\$(\w+)', container['args'][0])) <= given.keys()
    with training_processes.log_path(workdir, index).open('w') as log:
      pods.append(
        subprocess.Popen(
          [*container['command'], *container['args']],
          cwd=ROOT,
          stdout=log,
          stderr=log,
          env={
            **os.environ,
            'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            'JAX_PLATFORMS': 'cpu',
            **given,
            'CONFIG': str(file),
            'WORKDIR': f'file://{workdir}',
            'DATA': f'file://{tiny_config.data.path}',
            'OPTIONS': '--config.mesh.data=-1 --config.mesh.fsdp=2',
            'JAX_NUM_PROCESSES': '2',
            'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
          },
        )
      )
  assert training_processes.finish(pods, workdir) == [0, 0], training_processes.log_text(workdir, 2)
  assert len(training_processes.losses(workdir)) == 6 and np.isfinite(training_processes.losses(workdir)).all()
