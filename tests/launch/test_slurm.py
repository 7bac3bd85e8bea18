"""launch/slurm.sbatch really run: a SLURM cluster of two nodes, brought up on this machine for each test."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MISSING = [program for program in ("slurmctld", "slurmd", "munged", "mungekey") if not shutil.which(program)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not found: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the nodes' daemons start jobs as another user only as root"),
]

CLUSTER = Path(__file__).parent / "slurm_two_nodes.sh"
QUICK = ["training.steps=2", "training.evaluate_every=0", "grpo.prompts_per_step=8", "grpo.group_size=2",
         "rollout.max_new_tokens=6", "data.size=64", "logging.progress=false"]  # fmt: skip

MEETING = """
import os, jax
assert os.environ["REFLEX_PROCESSES"] == "auto"
jax.distributed.initialize(os.environ["REFLEX_COORDINATOR"])
print(f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} of {jax.device_count()}")
"""

# Waits for SIGTERM, saves (process 1 takes longer) and exits with 75; started again, it is done at once.
PREEMPTED = """
import os, pathlib, signal, sys, time
number = os.environ["SLURM_PROCID"]
print("process", number, "start", os.environ.get("SLURM_RESTART_COUNT", "0"), flush=True)
if "SLURM_RESTART_COUNT" in os.environ:
    sys.exit(0)
def save(*_):
    time.sleep(3 * int(number))
    print("process", number, "saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path(os.environ["NOTES"], number).touch()
time.sleep(120)
"""

# The batch script alone gets SIGTERM, as it does before the time limit (--signal=B:TERM).
PREEMPT = """
job=$(sbatch --parsable "$@")
until [ -f "$NOTES/0" ] && [ -f "$NOTES/1" ]; do sleep 0.2; done
scancel --batch --signal=TERM "$job"
for _ in {1..60}; do
    scontrol show job "$job" | grep -q 'JobState=COMPLETED' && break
    sleep 1
done
"""

CANCEL = """
job=$(sbatch --parsable "$@")
until [ -f "$NOTES/0" ] && [ -f "$NOTES/1" ]; do sleep 0.2; done
scancel "$job"
sleep 15  # a job queued again would have started by now
scontrol show job "$job"
"""


def on_two_nodes(command: list[str], reflex: str, *, log: Path, **environment: str) -> str:
    """Runs a command inside the cluster; returns what it printed."""
    variables = (
        os.environ | {"REFLEX_COMMAND": reflex, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"} | environment
    )
    result = subprocess.run(
        ["timeout", "900", "bash", CLUSTER, *command],  # a signal, after which the cluster takes itself down
        cwd=CLUSTER.parents[2], env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(result.stdout, result.stderr, log.read_text() if log.exists() else f"no {log}")
    assert result.returncode == 0
    return result.stdout


def submission(log: Path, *overrides: str) -> list[str]:
    return ["--nodes=2", f"--output={log}", "launch/slurm.sbatch", "configs/phantom.yaml", *overrides]


def test_the_processes_of_a_job_find_each_other(tmp_path):
    log, program = tmp_path / "job.log", tmp_path / "meeting.py"
    program.write_text(MEETING)
    on_two_nodes(["sbatch", "--wait", *submission(log)], f"{sys.executable} {program}", log=log)
    assert {f"process {i} of 2: 4 of 8" for i in (0, 1)} <= set(log.read_text().splitlines())


def test_a_job_that_is_preempted_saves_and_is_queued_again(tmp_path):
    log, program = tmp_path / "job.log", tmp_path / "preempted.py"
    program.write_text(PREEMPTED)
    command = ["bash", "-c", PREEMPT, "preempt", *submission(log)]
    on_two_nodes(command, f"{sys.executable} {program}", log=log, NOTES=str(tmp_path))
    said = [line for line in log.read_text().splitlines() if line.startswith(("process", "Saved"))]
    assert sorted(said[:2]) == ["process 0 start 0", "process 1 start 0"]
    assert said[2:4] == ["process 0 saved", "process 1 saved"]  # the second was given the time to
    assert said[4].startswith("Saved; queueing job")
    assert sorted(said[5:]) == ["process 0 start 1", "process 1 start 1"]


def test_a_job_that_is_cancelled_saves_and_stays_cancelled(tmp_path):
    log, program = tmp_path / "job.log", tmp_path / "preempted.py"
    program.write_text(PREEMPTED)
    command = ["bash", "-c", CANCEL, "cancel", *submission(log)]
    description = on_two_nodes(command, f"{sys.executable} {program}", log=log, NOTES=str(tmp_path))
    assert {"process 0 saved", "process 1 saved"} <= set(log.read_text().splitlines())
    assert "JobState=CANCELLED" in description and "Restarts=0" in description


def test_two_nodes_train_together(tmp_path):
    log, run = tmp_path / "job.log", tmp_path / "run"
    arguments = submission(log, f"run.dir={run}", *QUICK)
    on_two_nodes(["sbatch", "--wait", *arguments], f"{sys.executable} -m reflex_jax.cli", log=log)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]  # written once, by process 0
