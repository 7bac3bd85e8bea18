#!/usr/bin/env bash
# Runs a command inside a SLURM cluster of its own: two nodes on this machine, gone when the command ends.
#   REFLEX_COMMAND=reflex JAX_NUM_CPU_DEVICES=4 bash tests/launch/slurm_two_nodes.sh \
#       sbatch --wait --nodes=2 launch/slurm.sbatch configs/phantom.yaml training.steps=2
# Needs Debian's slurm-wlm and munge, and root; no systemd, no cgroups, and no settings of the machine are touched.
set -euo pipefail

folder=$(mktemp -d "${TMPDIR:-/tmp}/slurm_two_nodes.XXXXXX")
host=$(hostname -s)
children=()
# shellcheck disable=SC2329  # called by the trap
end() {
    # what still runs must not outlive its nodes
    scancel --user="$(id -un)" 2>/dev/null || true
    for _ in {1..60}; do
        [ -n "$(squeue --noheader 2>/dev/null)" ] || break
        sleep 0.5
    done
    for signal in TERM KILL; do
        kill -"$signal" "${children[@]}" 2>/dev/null || break # all are gone
        sleep 3
    done
    rm -rf "$folder"
}
trap end EXIT
trap 'trap "" TERM INT HUP; exit 143' TERM INT HUP

start() { # start NAME COMMAND...: its log is shown if the cluster does not come up
    local name=$1
    shift
    "$@" >"$folder/$name.log" 2>&1 &
    children+=($!)
}

export SLURM_CONF=$folder/slurm.conf
chmod 711 "$folder" # munge refuses a socket that its clients cannot reach
mungekey --create --keyfile="$folder/munge.key" --bits=1024
start munged munged --foreground --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
    --pid-file="$folder/munged.pid" --seed-file="$folder/munge.seed"

port=$((30000 + RANDOM % 2700)) # and the next two; launch/slurm.sbatch takes its own from 20000 to 29999, by job number
mkdir "$folder/state" "$folder/spool-$host" "$folder/spool-$host-two"
# The first node bears the machine's name, so that the coordinator's name is found without a hosts file of ours.
cat >"$folder/slurm.conf" <<CONF
ClusterName=two
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=10
FirstJobId=$((1 + RANDOM))
MpiDefault=none
NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1
NodeName=$host-two NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

for _ in {1..50}; do [ -S "$folder/munge.socket" ] || sleep 0.1; done
start slurmctld slurmctld -D
start slurmd-1 slurmd -D -N "$host"
start slurmd-2 slurmd -D -N "$host-two"
is_up() { [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 2 ]; }
for _ in {1..60}; do is_up || sleep 0.5; done
if ! is_up; then
    echo "The cluster did not come up:" >&2
    sinfo >&2 || true
    tail -n 20 "$folder"/*.log >&2
    exit 1
fi

"$@" & # so that a signal ends the wait and not only the command
children+=($!)
wait "$!"
