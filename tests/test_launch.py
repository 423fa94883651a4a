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


@pytest.mark.parametrize('script', sorted((*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch'))), ids=lambda path: path.name)
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
[ "$code" != KILL ] || kill -KILL $$
exit "$code"
"""


@pytest.mark.parametrize(
  'codes, expected, rounds',
  [
    ([0], 0, 1),
    ([2], 2, 1),
    ([134, 75, 0], 0, 3),
    ([130, 'KILL', 0], 0, 3),
    ([1, 134, 137], 137, 3),
    ([75, 75, 75, 75, 0], 0, 5),  # Preempted: nothing was lost, so it is not counted as a failure.
  ],
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


# Replaces the Python that checks the inputs; exits with $CHECKED.
CHECK = """
echo "check: $*" >> "$CALLS"
exit "${CHECKED:-0}"
"""


def test_preempted_tpu_slice_is_created_again(tmp_path):
  """The slice does not exist and is created; it is preempted, deleted and created again; then the training finishes."""
  environment = stand_in(tmp_path / 'bin', 'gcloud', GCLOUD)
  stand_in(tmp_path / 'bin', 'check', CHECK)
  (tmp_path / 'states').write_text('\nREADY\nPREEMPTED\n\nCREATING\nREADY\n')
  (tmp_path / 'codes').write_text('75\n0\n')
  done = subprocess.run(
    [LAUNCH / 'tpu_pod.sh'],
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
    env={
      **environment,
      'STATES': str(tmp_path / 'states'),
      'CODES': str(tmp_path / 'codes'),
      'NAME': 'slice',
      'WAIT': '0',
      'WORKDIR': 'gs://bucket/run',
      'DATA': 'gs://bucket/data',
      'LPIPS': 'gs://bucket/lpips.npz',
      'OPTIONS': '--config.seed=1',
      'HERE': str(tmp_path / 'bin' / 'check'),
    },
  )
  assert done.returncode == 0, done.stderr
  check, *calls = (tmp_path / 'bin' / 'calls').read_text().splitlines()
  options = (
    '--config=base --workdir=gs://bucket/run --config.data.path=gs://bucket/data --config.mesh.data=-1 '
    '--config.mesh.fsdp=4 --config.model.remat=full --config.loss.lpips_network=gs://bucket/lpips.npz  --config.seed=1'
  )
  assert check.split() == ['check:', '-m', 'lrm_jax.train', *options.split(), '--check=256']
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
  assert '--worker=all' in command and f'lrm_jax.train {options}; ' in command


def test_bad_input_stops_a_tpu_training(tmp_path):
  environment = stand_in(tmp_path / 'bin', 'gcloud', GCLOUD)
  stand_in(tmp_path / 'bin', 'check', CHECK)
  (tmp_path / 'states').write_text('READY\n')
  (tmp_path / 'codes').write_text('2\n')

  def run(**more):
    return subprocess.run(
      [LAUNCH / 'tpu_pod.sh'],
      capture_output=True,
      text=True,
      check=False,
      timeout=300,
      env={
        **environment,
        'STATES': str(tmp_path / 'states'),
        'CODES': str(tmp_path / 'codes'),
        'HERE': str(tmp_path / 'bin' / 'check'),
        **more,
      },
    )

  cloud = dict(WORKDIR='gs://bucket/run', DATA='gs://bucket/data')
  assert run(**cloud).returncode == 2
  assert run(DATA='gs://bucket/data').returncode != 0 and 'WORKDIR' in run().stderr
  # Nothing is created if the inputs are incomplete, or on this machine only.
  (tmp_path / 'bin' / 'calls').unlink()
  assert run(**cloud, CHECKED='2').returncode == 2
  local = run(**cloud, LPIPS='lpips.npz')
  assert local.returncode == 2 and local.stderr.startswith('error: lpips.npz is on this machine')
  assert all(line.startswith('check: ') for line in (tmp_path / 'bin' / 'calls').read_text().splitlines())


def test_tpu_training_is_retried_after_failures_at_most_as_often_as_asked(tmp_path):
  """A worker that failed, and one that a signal killed."""
  environment = stand_in(tmp_path / 'bin', 'gcloud', GCLOUD)
  stand_in(tmp_path / 'bin', 'check', CHECK)
  (tmp_path / 'states').write_text('READY\nREADY\nREADY\n')
  (tmp_path / 'codes').write_text('1\n137\n0\n')
  settings = dict(WORKDIR='gs://bucket/run', DATA='gs://bucket/data', LPIPS='gs://bucket/lpips.npz', RESTARTS='1')
  files = dict(STATES=str(tmp_path / 'states'), CODES=str(tmp_path / 'codes'), HERE=str(tmp_path / 'bin' / 'check'))
  done = subprocess.run(
    [LAUNCH / 'tpu_pod.sh'],
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
    env={**environment, **settings, **files},
  )
  assert done.returncode == 1 and 'error: failed after 1 restarts' in done.stderr
  assert (tmp_path / 'codes').read_text() == '0\n'


# Replaces the training: `--check` exits with $CHECKED; its tasks exit with $CODE.
TASK = """
case "$*" in *--check=*) kind=check; code=${CHECKED:-0} ;; *) kind=task; code=${CODE:-0} ;; esac
echo "$kind fraction=$XLA_PYTHON_CLIENT_MEM_FRACTION flags=$XLA_FLAGS $*" >> "$CALLS"
exit "$code"
"""
SRUN = """
echo "srun $*" >> "$CALLS"
while [ "${1#--}" != "$1" ]; do shift; done
"$@"
"""


@pytest.fixture
def slurm(tmp_path):
  """A function: runs launch/slurm.sbatch with stand-ins for Slurm's commands; returns (result, calls)."""
  for name, script in (
    ('training', TASK),
    ('srun', SRUN),
    ('sbatch', 'echo "sbatch $*" >> "$CALLS"'),
    ('squeue', 'echo RUNNING'),
    ('scontrol', 'echo "scontrol $*" >> "$CALLS"'),
  ):
    environment = stand_in(tmp_path / 'bin', name, script)
  calls = tmp_path / 'bin' / 'calls'

  def run(*arguments, **more):
    calls.write_text('')
    done = subprocess.run(
      ['bash', LAUNCH / 'slurm.sbatch', *arguments],
      capture_output=True,
      text=True,
      check=False,
      timeout=60,
      cwd=ROOT,
      env={**environment, 'PYTHON': str(tmp_path / 'bin' / 'training'), **more},
    )
    return done, calls.read_text().splitlines()

  return run


INPUTS = {'DATA': '/data/views', 'LPIPS': '/data/lpips.npz', 'ENCODER': '/data/dino.pth'}
JOB = {**INPUTS, 'SLURM_JOB_ID': '7', 'SLURM_JOB_NUM_NODES': '4', 'SLURM_GPUS_ON_NODE': '2', 'SLURM_CPUS_PER_TASK': '9'}


def test_login_node_checks_the_inputs_and_then_submits(slurm):
  done, [check, submitted] = slurm('--partition=gpu', **INPUTS, NODES='4')
  assert done.returncode == 0, done.stderr
  assert check.endswith(
    '-m lrm_jax.train --config=base --workdir=runs/base --config.mesh.data=-1 --config.mesh.fsdp=8 '
    '--config.data.path=/data/views --config.loss.lpips_network=/data/lpips.npz '
    '--config.encoder_weights=/data/dino.pth --check=32'
  )
  assert submitted == f'sbatch --nodes=4 --gres=gpu:8 --partition=gpu {LAUNCH / "slurm.sbatch"}'
  for code in (1, 2):
    done, calls = slurm(CHECKED=str(code))
    assert done.returncode == code and len(calls) == 1, 'nothing is submitted'


def test_job_gives_its_tasks_the_cores_and_keeps_the_mesh_when_options_are_added(slurm):
  done, [check, started, task] = slurm(**JOB, OPTIONS='--config.seed=1 --config.model.remat=full')
  assert done.returncode == 0 and check.endswith('--config.seed=1 --config.model.remat=full --check=8')
  assert '--cpus-per-task=9' in started
  assert '--config.mesh.data=-1 --config.mesh.fsdp=2 ' in task and task.endswith(
    '--config.seed=1 --config.model.remat=full'
  )
  assert 'fraction=0.92 flags=--xla_gpu_enable_latency_hiding_scheduler=true' in task


@pytest.mark.parametrize(
  'code, restarts, expected, requeued',
  [
    (0, 0, 0, False),
    (2, 0, 2, False),
    (75, 99, 75, True),
    (1, 0, 1, True),
    (137, 19, 137, True),
    (137, 20, 137, False),
  ],
)
def test_job_is_requeued_after_failures_but_not_after_bad_input(slurm, code, restarts, expected, requeued):
  done, calls = slurm(**JOB, CODE=str(code), SLURM_RESTART_COUNT=str(restarts))
  assert done.returncode == expected and ('scontrol requeue 7' in calls) == requeued


@pytest.mark.parametrize('checked, expected, started', [(2, 2, False), (1, 0, True)])
def test_job_starts_no_task_after_bad_input_but_does_after_a_failed_check(slurm, checked, expected, started):
  """A file system that fails for a moment must not end a run of days."""
  done, calls = slurm(**JOB, CHECKED=str(checked))
  assert done.returncode == expected and (len(calls) > 1) == started


def jobset():
  return yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())


def test_numbers_of_the_jobset_agree():
  document = jobset()
  check, job = document['spec']['replicatedJobs']
  assert job['dependsOn'] == [{'name': check['name'], 'status': 'Complete'}]
  assert check['template']['spec']['podFailurePolicy'] == job['template']['spec']['podFailurePolicy']
  spec = job['template']['spec']
  [container] = spec['template']['spec']['containers']
  values = {entry['name']: entry.get('value') for entry in container['env']}
  assert (
    spec['parallelism'] == spec['completions'] == int(values['JAX_NUM_PROCESSES'])
    and spec['completionMode'] == 'Indexed'
  )
  gpus = container['resources']['limits']['nvidia.com/gpu']
  assert int(values['DEVICES']) == spec['parallelism'] * gpus and int(values['FSDP']) == gpus
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
  [[check], [container]] = (
    job['template']['spec']['template']['spec']['containers'] for job in jobset()['spec']['replicatedJobs']
  )
  assert check['command'] == container['command'] and check['args'] == ['--check=$(DEVICES)']
  port, pods = training_processes.free_port(), []
  for index in range(2):
    given = {entry['name']: entry.get('value', str(index)) for entry in container['env']}
    assert set(re.findall(r'\$(\w+)', container['command'][2])) <= given.keys()
    with training_processes.log_path(workdir, index).open('w') as log:
      pods.append(
        subprocess.Popen(
          container['command'],
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
            'LPIPS': '',
            'FSDP': '2',
            'JAX_NUM_PROCESSES': '2',
            'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
          },
        )
      )
  assert training_processes.finish(pods, workdir) == [0, 0], training_processes.log_text(workdir, 2)
  assert len(training_processes.losses(workdir)) == 6 and np.isfinite(training_processes.losses(workdir)).all()
