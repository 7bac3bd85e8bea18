"""Two processes of four devices train like one process of eight, and none outlives the other."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.evidence.reader import check_evidence, read_evidence
from reflex_jax.processes import start_processes
from tests.chat_process import judge

STEPS = 4
SMALL = [  # in one process the programs of a run in training/test_faults.py, which compile once
    f"training.steps={STEPS}", "training.evaluate_every=0", "grpo.prompts_per_step=8",
    "grpo.group_size=4", "sft.batch_size=8", "rollout.max_new_tokens=24", "data.size=64",
    "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "logging.progress=false", "memory.row_lengths=3", "memory.prompt_rungs=2",
    "memory.microbatch_prompts=4", "evidence.every=1", "evidence.groups=3",
]  # fmt: skip


REFLEX = [sys.executable, "-m", "reflex_jax.cli"]


@pytest.fixture(scope="module")
def launch(repository, tmp_path_factory):
    """Starts `launch/local.sh` with the phantom recipe; all starts share one cache of compiled programs."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "CUDA_VISIBLE_DEVICES": ""}
    environment["REFLEX_COMMAND"] = " ".join(REFLEX)  # the environment the tests run in, nothing is installed

    def start(directory, processes: int, *overrides: str, phase: str = "train") -> subprocess.Popen:
        command = [
            "bash",
            "launch/local.sh",
            "--processes",
            str(processes),
            "--devices-per-process",
            str(8 // processes),
        ]
        return subprocess.Popen(
            [*command, phase, "configs/phantom.yaml", *SMALL, f"run.dir={directory}", *overrides], cwd=repository,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


def rows(directory, name: str) -> list[dict]:
    with open(directory / f"{name}.jsonl") as lines:
        return [json.loads(line) for line in lines]


def run_both(launch, directory, *overrides: str, steps: int = STEPS) -> None:
    """The same run in one process, in `directory/1`, and in two, in `directory/2`."""
    settings = [f"training.steps={steps}", *overrides]
    process = launch(directory / "2", 2, *settings)
    try:  # the one process is this one, which has eight devices as well
        assert main(["train", "configs/phantom.yaml", *SMALL, f"run.dir={directory / '1'}", *settings]) == 0
        output, _ = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert output.count(f"Done: {steps} steps") == 1  # one process speaks for both


def assert_alike(directory, *, steps: int = STEPS, own: tuple[str, ...] = ()) -> list[dict]:
    """Sums over devices are added in another order, so after an update a draw on the border of two tokens may go either way.

    Metrics agree as long as the tokens do.

    Args:
      directory: of `run_both`.
      steps: of the runs.
      own: beginnings of the names of metrics that each run has for itself.
    Returns:
      The metrics of the steps that agreed, of two processes.
    """
    fields = ("step", "id", "completion", "statement", "anchor_statement", "tokens")
    one, two = ([[row[f] for f in fields] for row in rows(directory / n, "samples")] for n in ("1", "2"))
    assert [row[:2] for row in two] == [row[:2] for row in one]  # the same questions at every step
    unlike = [got[0] for got, expected in zip(two, one, strict=True) if got != expected]
    agreed = min(unlike, default=steps + 1) - 1
    assert agreed >= 1 and len(unlike) <= 0.1 * len(one)
    one, two = rows(directory / "1", "metrics"), rows(directory / "2", "metrics")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for got, expected in list(zip(two, one, strict=True))[:agreed]:
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, float) and not name.startswith(("time/", "tokens_per", *own)):
                np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    return two[:agreed]


# of two steps one is of the closed phase, and the other, of the open one, draws from what both have learned
@pytest.mark.parametrize("steps", [2, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_two_processes_give_the_first_tokens_of_one_and_the_rest_up_to_rounding(launch, tmp_path, steps):
    run_both(launch, tmp_path, steps=steps)
    assert_alike(tmp_path, steps=steps)
    # the groups of both, in the order of their questions, in one chain
    evidence = [[*read_evidence(tmp_path / n)] for n in ("1", "2")]
    names = [[(r.batch.step, r.group.number, r.group.id, r.group.anchor) for r in records] for records in evidence]
    assert names[0] == names[1] and len(names[0]) == 3 * steps and check_evidence(tmp_path / "2", {}) == []
    first = [
        [(r.batch.shape, r.batch.statement_counts, r.batch.statement_lengths) for r in records[:1]]
        for records in evidence
    ]
    assert first[0] == first[1] and evidence[1][0].batch.device["processes"] == 2
    assert {json.loads(p.read_text())["step"] for p in (tmp_path / "2" / "heartbeats").iterdir()} == {steps}


@pytest.mark.slow  # two runs of shapes that no other test compiles
def test_two_processes_draw_and_keep_the_groups_of_one(launch, tmp_path):
    """Which groups have a spread is known everywhere; the samples are those of the groups that were learned from."""
    settings = ("grpo.dynamic_sampling=3", "rewards.components={answer: 1}", "rollout.max_new_tokens=44")
    run_both(launch, tmp_path, *settings, steps=2)
    metrics = assert_alike(tmp_path, steps=2)
    assert metrics[0]["draws/count"] > 1 and 0 < metrics[0]["draws/frac_zero_std"] < 1  # else nothing was chosen
    advantages = [[row["advantage"] for row in rows(tmp_path / n, "samples") if row["step"] == 1] for n in ("1", "2")]
    assert len(advantages[0]) == 32
    np.testing.assert_allclose(*advantages, rtol=1e-5, atol=1e-6)


@pytest.mark.slow  # two runs of shapes that no other test compiles
def test_two_processes_ask_a_language_model_for_their_own_completions_and_pay_like_one(launch, tmp_path):
    """REINFORCE++ besides, whose advantages of tokens are standardised over the processes' batch."""
    with judge() as port:
        run_both(
            launch, tmp_path, f"endpoint.url=http://127.0.0.1:{port}/v1", "endpoint.model=judge", "rollout.max_new_tokens=44",
            "rewards.components={llm_judge: {weight: 1, accept_identical: false, show_question: true}, format: 1}",
            "grpo.preset=reinforce_pp", "evidence.groups=0", steps=2,
        )  # fmt: skip
    metrics = assert_alike(tmp_path, steps=2, own=("endpoint/",))
    asked = [row["endpoint/asked"] for row in rows(tmp_path / "1", "metrics")[: len(metrics)]]
    assert asked == [row["endpoint/asked"] for row in metrics] and min(asked) > 0
    assert all(row["endpoint/failed"] == row["failed_rows"] == 0 for row in metrics)
    assert 0 < metrics[0]["reward/llm_judge"] < 1
    paid = [[row["reward/llm_judge"] for row in rows(tmp_path / n, "samples") if row["step"] == 1] for n in ("1", "2")]
    assert paid[0] == paid[1]


@pytest.mark.slow
def test_two_processes_imitate_like_one(launch, tmp_path):
    """The supervised phase; one process speaks and writes for both."""
    for processes in (1, 2):
        process = launch(tmp_path / str(processes), processes, "rollout.max_new_tokens=44", phase="sft")
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output
    assert output.count(f"Done: {STEPS} steps") == 1
    one, two = rows(tmp_path / "1", "metrics"), rows(tmp_path / "2", "metrics")
    assert [row["step"] for row in one] == [row["step"] for row in two] == [*range(1, STEPS + 1)]
    for got, expected in zip(two, one, strict=True):
        assert got.keys() == expected.keys()
        for name in ("loss", "log_prob_per_token", "grad_norm", "tokens"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, err_msg=name)
    assert (tmp_path / "2" / "policy" / "config.json").exists()


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_ends_with_a_line_within_a_minute(launch, tmp_path):
    process = launch(tmp_path / "run", 2, "training.steps=1000", "training.evaluate_every=0")
    metrics, beat = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "heartbeats" / "process-1.json"
    deadline = time.monotonic() + 400
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(json.loads(beat.read_text())["pid"], signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=90)
    assert time.monotonic() - killed < 60 and process.returncode == 128 + signal.SIGKILL
    assert "stopped" in output or "another task died" in output or "do not answer" in output


@pytest.mark.slow  # two commands that import everything; what they gather is compared by tests/training/test_preflight.py
def test_processes_that_disagree_are_refused_by_name(repository, tmp_path):
    """The second process has another configuration."""
    port = 20000 + os.getpid() % 10000
    started = []
    for number in (0, 1):
        environment = {
            **os.environ, "REFLEX_COORDINATOR": f"127.0.0.1:{port}", "REFLEX_PROCESSES": "2",
            "REFLEX_PROCESS_ID": str(number), "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        command = [*REFLEX, "train", "configs/phantom.yaml", f"run.dir={tmp_path}/run", f"grpo.clip_low=0.{number + 1}"]
        started.append(
            subprocess.Popen(
                command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2
        assert "not alike" in output and "process 1 on" in output and "the configuration is" in output
    assert not (tmp_path / "run").exists()


def test_a_coordinator_port_in_use_is_refused_before_anybody_waits(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("REFLEX_PROCESSES", "2")
        monkeypatch.setenv("REFLEX_PROCESS_ID", "0")
        monkeypatch.setenv("REFLEX_COORDINATOR", f"localhost:{port}")
        with pytest.raises(ConfigError, match=f"port {port} on localhost cannot be used .* Choose another port"):
            start_processes()
