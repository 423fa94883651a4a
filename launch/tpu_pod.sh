#!/usr/bin/env bash
# Trains on a TPU slice of Google Cloud, from this machine:  launch/tpu_pod.sh
#
#   WORKDIR=gs://BUCKET/runs/base DATA=gs://BUCKET/objaverse_views/1.1.0 LPIPS=gs://BUCKET/lpips.npz launch/tpu_pod.sh
#
# Assumes: gcloud, logged in, with a project and TPU quota; all inputs readable by the workers (gs://...); this checkout with an
# environment on this machine (pip install '.[train,gs]'), which checks the inputs before the slice is created. The slice is
# created if it does not exist; the committed state of this checkout is copied to every worker and installed. JAX finds the
# coordinator in the TPU metadata. If the slice is preempted or a worker fails, the slice is created again and the training
# resumes from its last checkpoint, at most RESTARTS times after failures; bad input ends it. Ctrl-C here leaves the slice
# running; `gcloud compute tpus tpu-vm delete NAME` ends its costs.

# Settings; environment variables override them.
NAME=${NAME:-lrm}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-256}            # 16 x 16 of v5e
DEVICES=${DEVICES:-256}                # chips of the slice (v4 and v5p: half of the number in TYPE)
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
CREATE=${CREATE:---spot}               # more options for creating the slice
CONFIG=${CONFIG:-base}                 # a configuration, or a Python file of this checkout
WORKDIR=${WORKDIR:?the run directory: gs://BUCKET/PATH}
DATA=${DATA:?the directory of the dataset: gs://BUCKET/PATH}
LPIPS=${LPIPS:-}                       # weights of VGG16 and LPIPS (docs/weights.md); empty: config.loss.lpips_network
ENCODER=${ENCODER:-}                   # weights of DINO; empty: config.encoder_weights
FSDP=${FSDP:-4}                        # devices that share the parameters: the chips of one host
REMAT=${REMAT:-full}                   # config.model.remat: a v5e has 16 GB; 'dots' is faster where it fits
OPTIONS=${OPTIONS:-}                   # further options of the training; they come last
HERE=${HERE:-.venv/bin/python}         # on this machine
PYTHON=${PYTHON:-python3.12}           # on the workers
RESTARTS=${RESTARTS:-20}
WAIT=${WAIT:-60}                       # seconds between attempts to create the slice

set -u
cd "$(dirname "$0")/.." || exit 1
tpu() { local verb=$1; shift; gcloud compute tpus tpu-vm "$verb" "$@" --zone="$ZONE"; }
on_all() { tpu ssh "$NAME" --worker=all --command="$1"; }

options="--config=$CONFIG --workdir=$WORKDIR --config.data.path=$DATA --config.mesh.data=-1 --config.mesh.fsdp=$FSDP"
options+=" --config.model.remat=$REMAT ${LPIPS:+--config.loss.lpips_network=$LPIPS} ${ENCODER:+--config.encoder_weights=$ENCODER}"
options+=" $OPTIONS"
for file in "$WORKDIR" "$DATA" ${LPIPS//,/ } ${ENCODER:+"$ENCODER"}; do
  case $file in
    gs://*) ;;
    *) echo "error: $file is on this machine: copy it to gs://, which the workers can read" >&2; exit 2 ;;
  esac
done
# shellcheck disable=SC2086
"$HERE" -m lrm_jax.train $options --check="$DEVICES" || exit

ensure_slice() {  # waits until the slice is ready, and creates it if it does not exist
  local state
  while state=$(tpu describe "$NAME" --format='value(state)' 2>/dev/null); [ "$state" != READY ]; do
    case $state in
      '') tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" $CREATE || sleep "$WAIT" ;;
      PREEMPTED|TERMINATED|STOPPED) tpu delete "$NAME" --quiet ;;
      *) sleep "$WAIT" ;;
    esac
  done
}

install() {  # copies the committed state to all workers and installs it
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz --output="$archive" HEAD
  tpu scp "$archive" "$NAME:lrm_jax.tar.gz" --worker=all && on_all \
    "mkdir -p lrm_jax && tar -xzf lrm_jax.tar.gz -C lrm_jax && cd lrm_jax && $PYTHON -m venv .venv && .venv/bin/pip install -q -e '.[train,tpu,gs]'"
  local code=$?
  rm -f "$archive"
  return "$code"
}

failures=0
while true; do
  ensure_slice
  output=$(mktemp)
  if install; then
    on_all "cd lrm_jax && .venv/bin/python -m lrm_jax.train $options; echo \"ended with code \$?\"" 2>&1 | tee "$output"
  fi
  # gcloud returns one code for all workers, so each worker prints its own.
  codes=$(grep -o 'ended with code [0-9]*' "$output" | grep -o '[0-9]*$' | sort -u)
  rm -f "$output"
  case $codes in
    0) exit 0 ;;
    *) if grep -qx 2 <<< "$codes"; then exit 2; fi ;;
  esac
  if [ "$codes" != 75 ]; then
    failures=$((failures + 1))
    if [ "$failures" -gt "$RESTARTS" ]; then
      echo "error: failed after $RESTARTS restarts; the same command resumes from the last checkpoint" >&2
      exit 1
    fi
  fi
  echo "restarting from the last checkpoint (exit codes: ${codes:-none}; $failures of $RESTARTS failures)" >&2
done
