"""The processes of a distributed training: how they find each other, and how they agree to stop.

  JAX_COORDINATOR_ADDRESS=host:port JAX_NUM_PROCESSES=8 JAX_PROCESS_ID=3   plain variables: launch/local.sh, Kubernetes
  srun, mpirun                                                             variables that Slurm and Open MPI set
  a TPU VM, a TPU slice on GKE                                             TPU metadata, read by JAX

JAX_COORDINATOR_ADDRESS overrides the launcher's choice of coordinator. A single process on a host uses all its devices;
several processes on a host share them evenly.
"""

from collections.abc import Mapping
import dataclasses
import glob
import importlib.util
import os
import re
import signal
import socket
import sys
import threading
import time

import jax
from jax.experimental import multihost_utils

from lrm_jax.errors import TEMPORARY_FAILURE, FailureError, InputError

# The coordinator's port is derived from the job number, so that two jobs on one host use different ports.
_PORTS = range(61440, 65536)


@dataclasses.dataclass(frozen=True)
class Membership:
  """This process is number `index` of `count`; the coordinator, process 0, listens at `coordinator` (host:port)."""

  coordinator: str
  count: int
  index: int
  local_devices: tuple[int, ...] | None = None  # indices of this process's GPUs on the host; None: all of them


def membership(environment: Mapping[str, str]) -> Membership | None:
  """Returns the membership that the environment describes, or None if this is the only process.

  Raises InputError if the variables are incomplete or contradictory.
  """
  plain = [name for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID') if environment.get(name)]
  if plain:
    names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    if missing := [name for name in names if not environment.get(name)]:
      raise InputError(
        f'{", ".join(plain)} is set but {", ".join(missing)} is not: several processes need all three variables'
      )
    found = Membership(environment[names[0]], _number(environment, names[1]), _number(environment, names[2]))
  elif all(environment.get(name) for name in ('SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')):
    found = Membership(
      f'{_first_host(environment["SLURM_STEP_NODELIST"])}:{_port(_number(environment, "SLURM_JOB_ID"))}',
      _number(environment, 'SLURM_NTASKS'),
      _number(environment, 'SLURM_PROCID'),
      _share(_on_this_host(environment), _number(environment, 'SLURM_LOCALID'), environment),
    )
  elif environment.get('OMPI_COMM_WORLD_SIZE'):
    found = Membership(
      _open_mpi_coordinator(environment),
      _number(environment, 'OMPI_COMM_WORLD_SIZE'),
      _number(environment, 'OMPI_COMM_WORLD_RANK'),
      _share(
        _number(environment, 'OMPI_COMM_WORLD_LOCAL_SIZE', 1),
        _number(environment, 'OMPI_COMM_WORLD_LOCAL_RANK', 0),
        environment,
      ),
    )
  else:
    return None
  if found.count == 1:
    return None
  coordinator = environment.get('JAX_COORDINATOR_ADDRESS') or found.coordinator
  if not 0 <= found.index < found.count:
    raise InputError(f'process {found.index} of {found.count}: process numbers must be 0 to {found.count - 1}')
  if not re.fullmatch(r'.+:\d+', coordinator):
    raise InputError(f'JAX_COORDINATOR_ADDRESS = {coordinator!r} must be host:port of process 0')
  return dataclasses.replace(found, coordinator=coordinator)


def join(*, peer_timeout: int = 60) -> None:
  """Joins the other processes, if there are any. Call it before any other use of JAX.

  If a process is silent for `peer_timeout` seconds it is considered dead, and the others exit. Raises FailureError if
  the coordinator cannot be reached: its host may only be late.
  """
  found = membership(os.environ)
  connect = _number(os.environ, 'LRM_JAX_CONNECT_SECONDS', 300)
  if found is None:
    if _on_tpu_vm():
      jax.distributed.initialize(heartbeat_timeout_seconds=peer_timeout, initialization_timeout=connect)
    return
  if found.index:
    _await_coordinator(found, connect)
  jax.distributed.initialize(
    found.coordinator,
    found.count,
    found.index,
    found.local_devices,
    cluster_detection_method='deactivate',
    heartbeat_timeout_seconds=peer_timeout,
    initialization_timeout=connect,
  )


def _await_coordinator(found: Membership, seconds: int) -> None:
  """Waits until process 0 listens. JAX itself would abort the process, without a clear message."""
  host, _, port = found.coordinator.rpartition(':')
  end = time.monotonic() + seconds
  while True:
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
      return
    except OSError as error:
      if time.monotonic() > end:
        raise FailureError(
          f'process {found.index} of {found.count} could not connect to process 0 at {found.coordinator} within '
          f'{seconds} s ({error}): check that it is running and that its port is reachable from this host'
        ) from error
    time.sleep(0.2)


def several() -> bool:
  """Returns whether this training has more than one process."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def leave(code: int) -> None:
  """Exits. After an error with peers, exits at once: a normal shutdown would wait for the peers, and they for us."""
  if code in (0, TEMPORARY_FAILURE) or not several():
    sys.exit(code)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


class StopRequest:
  """Handles SIGTERM. If any process of a training gets it, all processes stop after the same step.

  Within the context SIGTERM does not end the process, even if it arrives repeatedly: schedulers and launchers both send
  it.
  """

  def __init__(self):
    self._requested = False

  def __enter__(self):
    # With several processes JAX listens for the signal and notifies the peers (jax_enable_preemption_service). Only the
    # main thread can install a handler.
    alone = not several() and threading.current_thread() is threading.main_thread()
    self._previous = signal.signal(signal.SIGTERM, self._request) if alone else None
    return self

  def __exit__(self, *_):
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _request(self, number, frame):
    del number, frame
    self._requested = True

  def at(self, step: int) -> bool:
    """Returns whether all processes should stop after this step. All processes must call it at every step."""
    return multihost_utils.reached_preemption_sync_point(step) if several() else self._requested


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
  text = environment.get(name, '' if default is None else str(default))
  if not text.isdigit():
    raise InputError(f'{name} = {text!r} must be a whole number')
  return int(text)


def _port(job: int) -> int:
  return _PORTS[job % len(_PORTS)]


def _first_host(nodes: str) -> str:
  """'node[007-009,12],other' -> 'node007'."""
  found = re.match(r'([^,\[]+)(?:\[([^,\-\]]+))?', nodes)
  return found[1] + (found[2] or '') if found else nodes


def _on_this_host(environment: Mapping[str, str]) -> int:
  """Returns the number of Slurm tasks on this host; SLURM_STEP_TASKS_PER_NODE is, for example, '4(x2),1'."""
  counts = []
  for part in environment.get('SLURM_STEP_TASKS_PER_NODE', '1').split(','):
    if (found := re.fullmatch(r'(\d+)(?:\(x(\d+)\))?', part)) is None:
      raise InputError(f'SLURM_STEP_TASKS_PER_NODE = {environment["SLURM_STEP_TASKS_PER_NODE"]!r} is malformed')
    counts += [int(found[1])] * int(found[2] or 1)
  node = int(environment.get('SLURM_NODEID', 0))
  return counts[node] if node < len(counts) else counts[-1]


def _share(processes: int, index: int, environment: Mapping[str, str]) -> tuple[int, ...] | None:
  """Returns the GPU indices of one of several processes on a host, or None if it should use every GPU it can see."""
  visible = environment.get('CUDA_VISIBLE_DEVICES')
  if processes == 1:
    return None
  count = processes if visible is None else len([name for name in visible.split(',') if name.strip()])
  if count < processes:
    return None
  each = count // processes
  return tuple(range(index * each, (index + 1) * each))


def _open_mpi_coordinator(environment: Mapping[str, str]) -> str:
  """Returns host:port of process 0, which runs beside mpirun. Open MPI 2 to 4 provide it; later ones do not."""
  found = re.match(r'(\d+)\..*?tcp6?://\[?([^,\]]+?)[,:\]]', environment.get('OMPI_MCA_orte_hnp_uri', ''))
  if found:
    return f'{found.group(2)}:{_port(int(found.group(1)) // 4096)}'
  if not environment.get('JAX_COORDINATOR_ADDRESS') and environment['OMPI_COMM_WORLD_SIZE'] != '1':
    raise InputError(
      'Open MPI does not provide the address of process 0: set JAX_COORDINATOR_ADDRESS=host:port '
      '(mpirun -x JAX_COORDINATOR_ADDRESS=...)'
    )
  return environment.get('JAX_COORDINATOR_ADDRESS', '')


def _on_tpu_vm() -> bool:
  """Returns whether this is a TPU VM, for which JAX finds the other processes through the TPU metadata."""
  if 'tpu' not in (os.environ.get('JAX_PLATFORMS') or 'tpu').split(',') or importlib.util.find_spec('libtpu') is None:
    return False
  return bool(
    glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*') or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')
  )
