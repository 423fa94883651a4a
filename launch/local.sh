#!/usr/bin/env bash
# Trains with N processes on this machine:  launch/local.sh N --config=configs/quickstart.py [--workdir=DIR ...]
#
# Assumes: this checkout with its environment. The N processes share the GPUs of this machine evenly. Without GPUs they are
# CPU processes that communicate over the loopback interface, which is useful for tests; a single process is faster.
# When a process fails, the others are stopped and all restart from the last checkpoint, at most RESTARTS times. SIGTERM to
# this script, or to any process, saves the current step; the script exits with 75, and the same command resumes.

# Settings; environment variables override them.
PYTHON=${PYTHON:-.venv/bin/python}
RESTARTS=${RESTARTS:-3}      # restarts after failures
GRACE=${GRACE:-90}           # seconds until the other processes are killed after one has failed
PORT=${PORT:-}               # port of process 0; empty: any free port
# JAX reserves this share of a GPU's memory for its arrays (its default is 0.75). The rest is for NCCL, cuDNN and CUDA.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
# XLA gathers the parameters of the next layer while the current one is computed. Only GPU programs use it.
export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true ${XLA_FLAGS:-}"
# Inputs and the mesh are options of the command. Each process checks them itself, since nothing else is paid for here; the
# default mesh of the configurations shares the parameters among all devices of a machine.

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "error: launch/local.sh N OPTIONS: N, the number of processes, must be a whole number above 0, not '${1:-}'" >&2
  exit 2
fi
count=$1
shift
pids=()
stopping=0
stop() { stopping=1; for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done; }
trap stop TERM INT

devices_of() {  # prints the GPUs of a process, separated by commas; nothing if there are fewer GPUs than processes
  local all names=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, -)}
  IFS=, read -ra all <<< "$names"
  local each=$(( ${#all[@]} / count ))
  [ "$each" -gt 0 ] && (IFS=,; echo "${all[*]:$(( $1 * each )):$each}")
}

once() {  # trains once; returns the exit code of the first process that failed, or 0
  local port=${PORT:-$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
  local index devices pid code cause first=0 deadline=0 alive left
  pids=()
  for (( index = 0; index < count; index++ )); do
    devices=$(devices_of "$index")
    env ${devices:+CUDA_VISIBLE_DEVICES=$devices} \
      JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$count" JAX_PROCESS_ID="$index" \
      "$PYTHON" -m lrm_jax.train "$@" &
    pids+=($!)
  done
  alive=("${pids[@]}")
  while [ ${#alive[@]} -gt 0 ]; do
    sleep 0.2
    left=()
    cause=0
    for pid in "${alive[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); continue; fi
      wait "$pid"; code=$?
      # Of processes that ended since the last look, one that a signal killed is the cause: the others lost it.
      if [ "$code" -ne 0 ] && { [ "$cause" -eq 0 ] || [ "$code" -gt 128 ]; }; then cause=$code; fi
    done
    if [ "$cause" -ne 0 ] && [ "$first" -eq 0 ]; then
      first=$cause
      deadline=$(( SECONDS + GRACE ))
      [ "$first" -ne 75 ] && echo "a process exited with code $first: stopping the others" >&2
    fi
    alive=("${left[@]}")
    [ "$first" -ne 0 ] && [ "$SECONDS" -gt "$deadline" ] && kill -KILL "${alive[@]}" 2>/dev/null
  done
  return "$first"
}

failures=0
while true; do
  [ "$stopping" -eq 1 ] && exit 75                              # stopped between two runs: nothing to save
  once "$@"
  code=$?
  case $code in
    0|2) exit "$code" ;;                                       # finished; or bad input, which a retry does not fix
    75) [ "$stopping" -eq 1 ] && exit 75 ;;                    # stopped: everything is saved
    *) failures=$((failures + 1))
       if [ "$stopping" -eq 1 ] || [ "$failures" -gt "$RESTARTS" ]; then
         echo "error: exit code $code after $((failures - 1)) restarts; the same command resumes from the last checkpoint" >&2
         exit "$code"
       fi ;;
  esac
  echo "restarting from the last checkpoint (exit code $code, $failures of $RESTARTS failures)" >&2
done
