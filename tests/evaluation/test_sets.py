"""From official files to a table: several sets at once, by set and by type of question, each with its own floors."""

import json

import pytest

from reflex_jax.cli import main

pytestmark = pytest.mark.usefixtures("stand_in")
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
