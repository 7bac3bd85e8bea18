"""A run whose judge is killed: it comes back and nothing is lost, or it stays away and nothing is learned from guesses."""

import json
import os
import threading
import time

import pytest

from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config, save_config
from reflex_jax.run.directory import load_run_config
from reflex_jax.stops import NOT_FINITE
from tests.chat_process import end, judge, start_judge

TINY = [
    "training.steps=3", "training.evaluate_every=0", "training.save_every=99", "grpo.prompts_per_step=8", "grpo.group_size=4",
    "rollout.max_new_tokens=44", "data.size=64", "logging.progress=false", "logging.tensorboard=false",
    "rewards.components={llm_judge: {weight: 1, accept_identical: false, show_question: true}}",
    "endpoint.model=judge", "endpoint.concurrency=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(tmp_path_factory.mktemp("cache")))


def train(repository, directory, port: int, *overrides: str) -> int:
    url = f"endpoint.url=http://127.0.0.1:{port}/v1"
    return main(["train", str(repository / "configs" / "phantom.yaml"), *TINY, f"run.dir={directory}", url, *overrides])


def lines(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def verdict(row: dict) -> float:
    """What the stand-in judge says, by its rule; a completion without an answer is not shown to it."""
    answer = (row["parsed_answer"] or "").strip()
    return float(bool(answer) and answer.lower() == row["true_answer"].lower())


@pytest.mark.slow  # two runs of a shape that no other test compiles
def test_a_judge_that_is_killed_and_comes_back_changes_no_reward(repository, tmp_path, capfd):
    """Rewards and completions are those of a run whose judge lived."""
    with judge() as port:
        assert train(repository, tmp_path / "calm", port) == 0
    asked = [int(row["endpoint/asked"]) for row in lines(tmp_path / "calm" / "metrics.jsonl")]
    assert min(asked) > 4
    capfd.readouterr()
    process, port = start_judge(0, "--exit-after", str(asked[0] + asked[1] // 2))  # in the middle of the second step
    restarted = []

    def restart():
        process.wait()
        time.sleep(0.7)
        restarted.append(start_judge(port)[0])

    watcher = threading.Thread(target=restart)
    watcher.start()
    try:
        code = train(repository, tmp_path / "run", port, "endpoint.attempts=8")
    finally:
        process.kill()
        watcher.join()
        end(process)
        end(restarted[0])
    told = capfd.readouterr()
    assert code == 0, told.err
    rows = lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["failed_rows"] for row in rows] == [0, 0, 0]
    assert rows[0]["endpoint/retries"] == 0 < rows[1]["endpoint/retries"] and rows[2]["endpoint/failed"] == 0
    assert "serves judge" in told.out
    (line,) = [line for line in told.err.splitlines() if "questions have no reply" in line]
    assert "0 of " in line and "tries were repeated" in line
    samples = lines(tmp_path / "run" / "samples.jsonl")
    assert [row["reward/llm_judge"] for row in samples] == [verdict(row) for row in samples]
    calm = lines(tmp_path / "calm" / "samples.jsonl")
    assert [row["completion"] for row in samples] == [row["completion"] for row in calm]


@pytest.mark.slow  # as well
def test_a_judge_that_stays_away_ends_the_run_and_its_completions_earned_no_zero(repository, tmp_path, capfd):
    overrides = ["endpoint.attempts=2", "endpoint.backoff_seconds=0.01", "endpoint.breaker_failures=4"]
    with judge(0, "--exit-after", "3") as port:
        assert train(repository, tmp_path / "run", port, *overrides) == NOT_FINITE
    told = capfd.readouterr().err
    assert "llm_judge: Unreachable" in told and "CircuitOpen" in told and "rewards.max_failure_rate" in told
    (kept,) = (tmp_path / "run" / "skipped").glob("*.jsonl")
    rows = lines(kept)
    failed = [row for row in rows if row["failure"]]
    assert len(failed) >= len(rows) / 4 and all(row["reward/llm_judge"] is None for row in failed)
    assert all(row["reward/llm_judge"] == verdict(row) for row in rows if not row["failure"])


def test_a_run_begins_only_where_its_judge_answers(repository, tmp_path, capfd):
    with judge() as port:
        pass
    assert train(repository, tmp_path / "run", port, "endpoint.attempts=1") == 2
    told = capfd.readouterr().err
    assert told.startswith("reflex train: endpoint.url:") and told.count("\n") == 1 and not (tmp_path / "run").exists()
    assert train(repository, tmp_path / "run", port, "endpoint.model=null") == 2
    assert "endpoint.model: expected" in capfd.readouterr().err


def test_a_run_directory_alone_sends_nothing_anywhere(tmp_path):
    """One from elsewhere could name any address, and any variable of this environment as the key."""
    settings = ["rewards.components={llm_judge: 1}", "endpoint.url=http://elsewhere/v1", "endpoint.model=m"]
    save_config(load_config(None, [*settings, "endpoint.key_variable=PATH"]), tmp_path / "config.yaml")
    with pytest.raises(
        ConfigError, match=r"an address that answers and a key would be sent to.*endpoint\.url=http://else"
    ):
        load_run_config(tmp_path, ["endpoint.model=other"])
    assert load_run_config(tmp_path, ["endpoint.url=http://here/v1"]).endpoint.url == "http://here/v1"
    assert load_run_config(tmp_path, [], runs_rewards=False).endpoint.model == "m"
