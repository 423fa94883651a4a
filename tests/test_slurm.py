"""Tests launch/slurm.sbatch on a Slurm cluster of one node (Debian's slurm-wlm and munge) with ports of its own."""

import contextlib
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import training_processes

ROOT = Path(__file__).parents[1]
_STEPS = 120  # Long enough that the job is requeued before its end.
_CONFIG = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=60
SchedulerParameters=sched_interval=1,batch_sched_delay=1
MpiDefault=none
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def cluster(root: Path):
  """Starts a Slurm cluster of one node; yields the environment for its commands. Skips the test if Slurm cannot run."""
  missing = [
    name for name in ('munged', 'slurmctld', 'slurmd', 'sbatch') if not shutil.which(name, path='/usr/sbin:/usr/bin')
  ]
  if missing or os.getuid():
    reason = f'{", ".join(missing)} missing (apt-get install slurm-wlm munge)' if missing else 'not root'
    pytest.skip(f'Slurm cannot run here: {reason}')
  for name in ('state', 'spool'):
    (root / name).mkdir()
  key = root / 'munge.key'
  key.write_bytes(os.urandom(128))
  key.chmod(0o600)
  (root / 'slurm.conf').write_text(
    _CONFIG.format(root=root, controller=training_processes.free_port(), node=training_processes.free_port())
  )
  environment = {**os.environ, 'SLURM_CONF': str(root / 'slurm.conf'), 'PATH': f'/usr/sbin:{os.environ["PATH"]}'}

  def run(*words):
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

  munge = subprocess.Popen(
    [
      'munged',
      '--foreground',
      '--force',
      f'--key-file={key}',
      f'--socket={root}/munge.socket',
      f'--pid-file={root}/munge.pid',
      f'--log-file={root}/munge.log',
      f'--seed-file={root}/munge.seed',
    ],
    env=environment,
    stderr=subprocess.DEVNULL,
  )
  daemons = [munge]
  try:
    daemons += [
      subprocess.Popen([name, '-D'], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
      for name in ('slurmctld', 'slurmd')
    ]
    end = time.monotonic() + 60
    while 'idle' not in run('sinfo', '-h', '-o', '%T').stdout:
      if time.monotonic() > end:
        logs = '\n'.join(path.read_text()[-2000:] for path in root.glob('*.log'))
        pytest.skip(f'Slurm did not start within a minute: {run("sinfo").stdout} {logs}')
      time.sleep(0.5)
    yield environment
  finally:
    for daemon in reversed(daemons):
      daemon.terminate()
      daemon.wait(30)


@pytest.mark.slow
def test_requeued_job_ends_with_the_losses_of_one_process(tiny_config, tmp_path):
  """Two tasks train a tiny model and are requeued midway; the losses equal those of one process."""
  config = tiny_config
  config.update(dict(num_train_steps=_STEPS, checkpoint_every=1000, eval_every=1000))
  file, workdir = training_processes.write_config(config, tmp_path / 'config.py'), tmp_path / 'run'
  training_processes.train(file, tmp_path / 'whole')
  slurm = tmp_path / 'slurm'
  slurm.mkdir()
  with cluster(slurm) as environment:

    def run(*words, **more):
      done = subprocess.run(words, env={**environment, **more}, capture_output=True, text=True, check=False, cwd=ROOT)
      assert done.returncode == 0, done.stderr
      return done.stdout

    submitted = run(
      'sbatch',
      '--nodes=1',
      '--ntasks-per-node=2',
      '--cpus-per-task=1',
      '--gres=none',
      f'--output={tmp_path}/job.log',
      'launch/slurm.sbatch',
      CONFIG=str(file),
      WORKDIR=str(workdir),
      PYTHON=sys.executable,
      JAX_PLATFORMS='cpu',
      GPUS='2',  # One device for each of the two tasks.
      FSDP='1',
      OPTIONS='--peer_timeout=30',
    )
    job = re.search(r'\d+', submitted).group()

    def state():
      return re.search(r'JobState=(\w+)', run('scontrol', 'show', 'job', job)).group(1)

    def log():
      return (tmp_path / 'job.log').read_text() if (tmp_path / 'job.log').exists() else ''

    def wait_for(condition, seconds):
      end = time.monotonic() + 3 * seconds  # The machine may be busy with other tests.
      while not condition():
        assert time.monotonic() < end and state() not in ('FAILED', 'CANCELLED', 'TIMEOUT'), f'{state()}:\n{log()}'
        time.sleep(0.2)

    wait_for(lambda: len(training_processes.steps(workdir)) >= 3, 240)
    run('scontrol', 'requeue', job)
    wait_for(lambda: state() == 'PENDING', 120)
    saved = len(training_processes.steps(workdir))
    assert 3 <= saved < _STEPS and f'stopped by SIGTERM; step {saved} is saved' in log()
    run('scontrol', 'update', f'JobId={job}', 'StartTime=now')  # Slurm delays a requeued job by two minutes.
    wait_for(lambda: state() == 'COMPLETED', 240)
  assert f'resuming after step {saved}' in log() and '2 x cpu of 2 processes' in log()
  assert [line['step'] for line in training_processes.steps(workdir)] == list(range(1, _STEPS + 1))
  np.testing.assert_allclose(
    training_processes.losses(workdir), training_processes.losses(tmp_path / 'whole'), rtol=1e-3
  )


@pytest.mark.slow
@pytest.mark.parametrize('command, expected', [('scancel', 'CANCELLED'), ('kill', 'PENDING')])
def test_cancelled_job_stays_cancelled_and_failed_job_is_requeued(tmp_path, command, expected):
  """A stand-in for the training exits with 75 on SIGTERM."""
  training = tmp_path / 'training'
  training.write_text(
    '#!/bin/bash\ncase $* in *--check=*) exit ;; esac\n'
    f"trap 'exit 75' TERM\necho $$ > {tmp_path}/started\nwhile :; do sleep 0.2; done\n"
  )
  training.chmod(0o755)
  slurm = tmp_path / 'slurm'
  slurm.mkdir()
  with cluster(slurm) as environment:

    def run(*words):
      return subprocess.run(
        words, env=environment | {'PYTHON': str(training)}, capture_output=True, text=True, check=False, cwd=ROOT
      )

    submitted = run(
      'sbatch', '--nodes=1', '--cpus-per-task=1', '--gres=none', f'--output={tmp_path}/job.log', 'launch/slurm.sbatch'
    )
    job = re.search(r'\d+', submitted.stdout).group()

    def state():
      return re.search(r'JobState=(\w+)', run('scontrol', 'show', 'job', job).stdout).group(1)

    started = tmp_path / 'started'
    training_processes.wait_for(lambda: started.exists() and started.read_text().strip(), seconds=180)
    run('scancel', job) if command == 'scancel' else run('kill', '-9', started.read_text().strip())
    training_processes.wait_for(lambda: state() == expected, seconds=180)
    time.sleep(3)  # The rest of the script must not change the state.
    assert state() == expected, (tmp_path / 'job.log').read_text()
