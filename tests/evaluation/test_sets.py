"""From official files to a table: several sets at once, by set and by type of question, each with its own floors."""

import json
import os
import subprocess
import sys

import pytest

from reflex_jax.cli import main

FOLDERS = {"vqa_rad": "vqa-rad-hf", "slake": "slake-hf", "path_vqa": "path-vqa-hf"}


@pytest.fixture(scope="module")
def mixture(data_root, tmp_path_factory):
    """Settings of a mixture of toy copies, a folder for each label."""
    if not (data_root / "formats").is_dir():
        pytest.skip(f"toy copies of official layouts not found at {data_root / 'formats'}")
    root = tmp_path_factory.mktemp("mixture")
    for label, folder in FOLDERS.items():
        (root / label).symlink_to(data_root / "formats" / folder)
    return [f"data.root={root}", f"data.cache={root}/cache", "mesh.data=2", "logging.progress=false", "data.refused=leave_out",
            "training.evaluation_questions=0"]  # fmt: skip


def evaluate(folder, mixture, *arguments: str, overrides: tuple[str, ...] = ()) -> int:
    settings = [*mixture, *overrides, "--config", "configs/mixture_tiny.yaml", "--no-rewards", "--to", str(folder)]
    return main(["evaluate", "phantom", *settings, *arguments])


def table(folder) -> list[dict]:
    return json.loads((folder / "table.json").read_text())["rows"]


@pytest.mark.usefixtures("stand_in")
def test_a_policy_without_a_run_is_evaluated_on_several_sets(mixture, tmp_path, capsys):
    """One set, then all: what is there is kept, and the table has each set apart and no number of two kinds."""
    out = tmp_path / "out"
    assert evaluate(out, mixture, "--sets", "slake") == 0, capsys.readouterr().err
    first = (out / "answers.jsonl").read_bytes()
    assert {row["name"] for row in table(out) if row["group"] == "task"} == {"slake"}
    assert evaluate(out, mixture) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert (out / "answers.jsonl").read_bytes().startswith(first)
    rows = table(out)
    assert {row["name"] for row in rows if row["group"] == "task"} == FOLDERS.keys() and "## Set" in (
        out / "table.md"
    ).read_text()
    assert "| kind" in printed and {row["kind"] for row in rows} == {"yes_no", "choice", "open"}
    for kind, metric in (("yes_no", "accuracy"), ("open", "exact_match")):
        (whole,) = [r for r in rows if (r["group"], r["kind"], r["metric"]) == ("all", kind, metric)]
        parts = [r for r in rows if (r["group"], r["kind"], r["metric"]) == ("task", kind, metric)]
        assert whole["questions"] == sum(part["questions"] for part in parts)
        assert whole["value"] == pytest.approx(sum(p["value"] * p["questions"] for p in parts) / whole["questions"])
        assert {"constant", "question_only"} <= whole["floors"].keys()
    categories = {row["name"] for row in rows if row["group"] == "category"}
    assert categories, "SLAKE names the type of each question"


@pytest.mark.usefixtures("stand_in")
def test_a_probe_of_several_sets_stays_within_each(mixture, tmp_path, capsys):
    assert evaluate(tmp_path, mixture, "--probe", "real,other_patient,blank") == 0, capsys.readouterr().err
    rows = [row for row in table(tmp_path) if row["group"] == "all"]
    metrics = {row["metric"] for row in rows}
    assert {
        f"{what} ({probe})" for what in ("reliance", "sensitivity") for probe in ("other_patient", "blank")
    } <= metrics
    # this policy does not look: nothing changes with the picture
    assert all(row["value"] == 0.0 for row in rows if "(" in row["metric"])
    for row in rows:
        if row["metric"] in ("accuracy", "exact_match"):
            assert row["floors"]["blank"] == row["value"]


@pytest.mark.slow  # trains and samples
@pytest.mark.parametrize("world", ["phantom", "mixture"])
def test_two_checkpoints_become_a_table(mixture, tmp_path, capsys, world):
    """train -> evaluate two steps -> compare and the table of sets, on phantoms and on official layouts."""
    settings = (
        ["data.size=64", "data.max_prompt_tokens=512"]
        if world == "phantom"
        else mixture[:2] + ["data.refused=leave_out"]
    )
    settings += ["training.steps=2", "training.save_every=1", "training.evaluate_every=0", "grpo.prompts_per_step=8",
                 "grpo.group_size=2", "rollout.max_new_tokens=30", "logging.progress=false",
                 f"run.dir={tmp_path}/run"]  # fmt: skip
    config = "configs/phantom.yaml" if world == "phantom" else "configs/mixture_tiny.yaml"
    assert main(["train", config, *settings, "optimizer.schedule=constant"]) == 0, capsys.readouterr().err
    for step in ("1", "2"):
        asked = ["evaluate", f"{tmp_path}/run", "training.evaluation_questions=0", "--no-rewards", "--step", step]
        assert main([*asked, "--probe", "real,blank"]) == 0, capsys.readouterr().err
    names = [f"{step}={tmp_path}/run/evaluation/test-step-{step}" for step in ("1", "2")]
    capsys.readouterr()
    assert main(["table", "sets", *names, "--to", str(tmp_path)]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "Avg" in printed and "floor: constant" in printed and "floor: question_only" in printed and "| 2" in printed
    assert main(["compare", *names]) == 0
    assert "McNemar" in capsys.readouterr().out
    weights = [
        json.loads((tmp_path / f"run/evaluation/test-step-{step}/manifest.json").read_text())["policy"]["weights"]
        for step in "12"
    ]
    assert weights[0] != weights[1]
    assert main(["evaluate", f"{tmp_path}/run", "--no-rewards", "--step", "1", "--to", names[1][2:]]) == 2
    assert "another policy (weights)" in capsys.readouterr().err


@pytest.mark.slow  # starts two processes, and one
def test_two_processes_write_the_file_that_one_writes(repository, tmp_path):
    """A batch is cut over the same eight devices, whoever owns them."""
    environment = {**os.environ, "REFLEX_COMMAND": f"{sys.executable} -m reflex_jax.cli", "CUDA_VISIBLE_DEVICES": "",
                   "XDG_CACHE_HOME": str(tmp_path / "cache")}  # fmt: skip
    settings = ["--no-rewards", "--samples", "2", "--config", "configs/phantom.yaml", "data.size=64", "logging.progress=false",
                "training.evaluation_questions=20", "training.evaluation_batch=8", "rollout.max_new_tokens=24"]  # fmt: skip
    for processes in (1, 2):
        command = ["bash", "launch/local.sh", "--processes", str(processes), "--devices-per-process", str(8 // processes),
                   "evaluate", "phantom", *settings, "--to", str(tmp_path / str(processes))]  # fmt: skip
        ended = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    for name in ("answers.jsonl", "samples.jsonl", "table.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
