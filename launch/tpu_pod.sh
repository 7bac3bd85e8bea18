#!/usr/bin/env bash
# Every worker of a Cloud TPU VM slice, through gcloud. Creating the slice (or queued resource) is yours.
#   bash launch/tpu_pod.sh --name TPU [--zone Z] [--project P] --setup                     copy this folder, install
#   bash launch/tpu_pod.sh --name TPU [--zone Z] [--project P] [train|sft|evaluate] CONFIG [key=value ...]
#   bash launch/tpu_pod.sh --name TPU [--zone Z] [--project P] --stop                      save and end (exit code 75)
# --dry-run prints what would be run, to be pasted, and runs nothing. PYTHON=python3.11 names the workers' interpreter.
# run.dir should be a folder that all workers share (Filestore, a mounted bucket); gs:// paths were not tried.
# Training lasts as long as this command: start it where the connection stays (tmux on a small VM in the zone).
set -euo pipefail

refuse() {
    echo "launch/tpu_pod.sh: $1" >&2
    exit 2
}
quote() { # prints the words so that a shell reads them back, plain where they can be
    local word words=()
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=@%+,~-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
        words+=("$word")
    done
    echo "${words[*]}"
}

name='' action=train is_dry=false where=(--worker=all)
while [[ "${1:-}" == --* ]]; do
    case $1 in
        --name | --zone | --project)
            [[ -n "${2:-}" && "$2" != --* ]] || refuse "$1: expected a value."
            if [ "$1" = --name ]; then name=$2; else where+=("$1=$2"); fi
            shift
            ;;
        --setup | --stop) action=${1#--} ;;
        --dry-run) is_dry=true ;;
        *) refuse "$1: expected --name, --zone, --project, --setup, --stop or --dry-run." ;;
    esac
    shift
done
[ -n "$name" ] || refuse "expected --name TPU, the name of a TPU VM (gcloud compute tpus tpu-vm list)."
phase=train
case "${1:-}" in train | sft | evaluate) phase=$1; shift ;; esac
[ "$action" != train ] || [ $# -ge 1 ] || refuse "expected a configuration, e.g. configs/phantom.yaml (or --setup)."
$is_dry || command -v gcloud >/dev/null || refuse "expected gcloud; install the Google Cloud CLI."

run() {
    if $is_dry; then quote "$@"; else "$@"; fi
}
on_workers() { # on_workers COMMAND, one string for the workers' shell
    run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--command=$1"
}

case $action in
    setup)
        archive=${TMPDIR:-/tmp}/reflex_jax.tar.gz
        run tar -czf "$archive" --exclude=./.venv --exclude=./runs --exclude=./.git \
            -C "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" .
        run gcloud compute tpus tpu-vm scp "$archive" "$name:reflex_jax.tar.gz" "${where[@]}"
        on_workers "mkdir -p reflex_jax && tar -xzf reflex_jax.tar.gz -C reflex_jax && PYTHON=$(quote "${PYTHON:-python3}") && source reflex_jax/launch/environment.sh tpu"
        ;;
    train) on_workers "cd reflex_jax && REFLEX_PROCESSES=auto exec .venv/bin/reflex $phase $(quote "$@")" ;;
    stop) on_workers "pkill -TERM -f '[r]eflex (train|sft|evaluate)'" ;; # the brackets keep pkill from finding its own shell
esac
