"""Killed at random moments and started again, a run ends with the parameters of an undisturbed one (slow set)."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow
SETTINGS = [
    "training.steps=12", "training.save_every=1", "training.evaluate_every=0", "grpo.prompts_per_step=8",
    "grpo.group_size=4", "sft.batch_size=8", "data.size=64", "logging.progress=false",
]  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "kills", "overrides"),
    [
        ("train", 8, ["rollout.max_new_tokens=24"]),
        ("train", 6, ["rollout.max_new_tokens=24", "grpo.preset=dapo"]),  # in the middle of a step's draws
        ("train", 4, ["rollout.max_new_tokens=24", "policy.lora.rank=2", "optimizer.learning_rate=1e-3"]),
        ("sft", 4, ["rollout.max_new_tokens=44"]),
    ],
)
def test_kills_at_random_moments_change_nothing(repository, tmp_path, phase, kills, overrides):
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_PLATFORMS": "cpu",
    }

    def start(directory) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "reflex_jax.cli",
            phase,
            "configs/phantom.yaml",
            *SETTINGS,
            *overrides,
            f"run.dir={directory}",
        ]
        return subprocess.Popen(
            command, cwd=repository, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    undisturbed = tmp_path / "undisturbed"
    assert start(undisturbed).wait(timeout=900) == 0
    chance, seconds = random.Random(0), step_seconds(undisturbed)
    killed = tmp_path / "killed"
    moments = []
    while len(moments) < kills:
        process, before = start(killed), steps(killed)
        # at least one more step, else the run would never get anywhere; then anywhere in the next two steps
        while len(steps(killed)) <= len(before) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5 * seconds))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            break  # it was through
        moments.append(len(steps(killed)))
    assert len(moments) >= min(kills, 5), "the run ended before it could be killed often enough"
    process = start(killed)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors.decode()
    print("killed after steps", moments)
    assert steps(killed) == list(range(1, 13))
    assert exported(repository, killed, tmp_path / "a", environment) == exported(
        repository, undisturbed, tmp_path / "b", environment
    )


def steps(directory) -> list[int]:
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line)["step"] for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def step_seconds(directory) -> float:
    with open(directory / "metrics.jsonl") as lines:
        return float(np.median([json.loads(line)["time/step"] for line in lines]))


def exported(repository, run, target, environment) -> dict[str, bytes]:
    command = [sys.executable, "-m", "reflex_jax.cli", "export", str(run), "--to", str(target), "--dtype", "float32"]
    subprocess.run(command, cwd=repository, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {name: t.tobytes() for file in target.glob("*.safetensors") for name, t in load_file(file).items()}
