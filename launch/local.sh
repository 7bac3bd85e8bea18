#!/usr/bin/env bash
# Several processes on this machine: each holds a share of the devices, together they train as one.
#   bash launch/local.sh --processes N [--devices-per-process K] [train|sft|evaluate] CONFIG [key=value ...]
# GPUs: those of CUDA_VISIBLE_DEVICES (default: all) are split evenly, or K to each. Without GPUs, or with
# CUDA_VISIBLE_DEVICES= (empty), each process gets K devices made of CPU threads (default 1).
# `sft CONFIG` runs the supervised phase, `evaluate RUN` asks held-out questions.
# Process 0 writes as it would alone; lines of process i start with [i]. When one fails the others are ended too.
# SIGTERM and Ctrl-C reach every process, which saves and exits with 75; a second Ctrl-C ends them at once.
# Exit code: 0 if all ended well, else that of the first that did not.
set -euo pipefail
grace_s=10 # what the others get to end by themselves after one has failed; they may hang waiting for it

refuse() {
    echo "launch/local.sh: $1" >&2
    exit 2
}

processes='' devices=''
while [[ "${1:-}" == --* ]]; do
    case $1 in
        --processes) processes=${2:-} ;;
        --devices-per-process) devices=${2:-} ;;
        *) refuse "$1: expected --processes N or --devices-per-process K." ;;
    esac
    [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || refuse "$1: expected a whole number >= 1, got '${2:-}'."
    shift 2
done
[ -n "$processes" ] || refuse "expected --processes N, the number of processes, e.g. --processes 2."
phase=train
case "${1:-}" in train | sft | evaluate) phase=$1; shift ;; esac
[ $# -ge 1 ] || refuse "expected a configuration, e.g. configs/phantom.yaml."

gpus=()
if [ -n "${CUDA_VISIBLE_DEVICES-all}" ] && listed=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null); then
    IFS=$', \n' read -r -d '' -a gpus <<<"${CUDA_VISIBLE_DEVICES:-$listed}" || true
fi
if [ ${#gpus[@]} -gt 0 ]; then
    [ "$processes" -le ${#gpus[@]} ] && devices=${devices:-$((${#gpus[@]} / processes))}
    [ $((processes * ${devices:-1})) -le ${#gpus[@]} ] ||
        refuse "$processes processes of ${devices:-1} GPU(s) need more than the ${#gpus[@]} here; CUDA_VISIBLE_DEVICES= runs on the CPU."
fi

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "${gpus:+cuda}"

# below the range from which the system gives ports to outgoing connections; taken if nothing answers there
port=$((20000 + RANDOM % 10000))
while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 10000)); done
export REFLEX_COORDINATOR=127.0.0.1:$port REFLEX_PROCESSES=$processes

running=() # process ids
forward() { # forward SIGNAL
    [ ${#running[@]} -eq 0 ] || kill -"$1" "${running[@]}" 2>/dev/null || true
}
trap 'forward TERM' TERM HUP
trap 'forward TERM; trap "forward KILL" INT' INT

for ((i = 0; i < processes; i++)); do
    export REFLEX_PROCESS_ID=$i
    if [ ${#gpus[@]} -gt 0 ]; then
        share=("${gpus[@]:i * devices:devices}")
        CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${share[*]}")
        export CUDA_VISIBLE_DEVICES
    else
        export JAX_NUM_CPU_DEVICES=${devices:-1}
    fi
    if [ "$i" -eq 0 ]; then
        "${reflex[@]}" "$phase" "$@" &
    else
        # the printer outlives Ctrl-C: what is said while saving should be read
        "${reflex[@]}" "$phase" "$@" > >(trap '' INT TERM; exec sed -u "s/^/[$i] /") 2>&1 &
    fi
    running+=($!)
done

# Asked in turn, because `wait -n` does not say who ended (before bash 5.1) and misses who was killed (before 5.3).
code=0
while [ ${#running[@]} -gt 0 ]; do
    sleep 0.2 || true # Ctrl-C ends it early
    first=0
    for i in "${!running[@]}"; do
        kill -0 "${running[i]}" 2>/dev/null && continue
        ended=0
        wait "${running[i]}" || ended=$?
        unset "running[i]"
        # 3 says that another was lost; its own code says more
        case $first in 0 | 3) [ "$ended" -eq 0 ] || first=$ended ;; esac
    done
    if [ "$code" -eq 0 ] && [ "$first" -ne 0 ]; then
        code=$first
        forward TERM
        # 75 means saved on request, and the others are saving too: they get all the time they need
        [ "$code" -eq 75 ] || deadline=$((SECONDS + grace_s))
    fi
    if [ "$SECONDS" -ge "${deadline:-$((SECONDS + 1))}" ]; then
        [ -n "${told:-}" ] || echo "launch/local.sh: one process ended with code $code and ${#running[@]} of the others do not answer;" \
            "they are ended too. The same command continues from the newest checkpoint." >&2
        told=1
        forward KILL
    fi
done
sleep 0.2 # the printers empty their pipes
exit "$code"
