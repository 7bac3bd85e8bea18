"""From evaluations on disk to the papers' tables: unweighted means, floors, paired differences, other questions refused."""

import json

import numpy as np
import pytest

from reflex_jax.cli import main
from reflex_jax.evaluation.compare import compare
from reflex_jax.evaluation.evaluations import open_evaluations
from reflex_jax.evaluation.paper_tables import TABLES, differences_of, make_blocks

SETS = {"slake": "MRI", "vqa_rad": "X-ray"}  # each of one modality
QUESTIONS = {"slake": 12, "vqa_rad": 4}


def write_evaluation(folder, right, *, data="1", questions=QUESTIONS, config=None, wrong="no"):
    """An evaluation whose policy is right where `right(set, number)` says so; two questions a picture; half of each set open."""
    folder.mkdir(parents=True)
    rows = []
    for label, modality in SETS.items():
        for number in range(questions[label]):
            truth = "yes" if number % 2 else "left lung"
            answer = truth if right(label, number) else wrong
            rows.append({
                "id": f"{label}-{number}", "question": "Is it?" if number % 2 else "Where is it?", "truth": truth, "accepted": [],
                "options": None, "answer_type": "closed" if number % 2 else "open", "task": label, "modality": modality,
                "category": None, "language": "en", "pictures": f"{label}-{number // 2}", "has_picture": True,
                "prediction": f"<answer>{answer}</answer>", "answer": answer, "tokens": 3, "failure": None, "eval": {},
            })  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {
        "policy": {"weights": folder.name}, "reading": {}, "rewards": {}, "data": dict.fromkeys(SETS, data),
        "passes": {"answers": {}},
        "about": {"run": None, "step": None, "policy": folder.name, "split": "test", "config": config or {}},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Folders: `all` is always right, `half` on slake alone, `none` never."""
    root = tmp_path_factory.mktemp("evaluations")
    config = {
        "rewards": {"components": {"visual_fidelity": {"weight": 1.0}}},
        "run": {"name": "a"},
        "memory": {"remat": True},
    }
    ablated = {"rewards": {}, "run": {"name": "b"}, "memory": {"remat": False}}
    write_evaluation(root / "all", lambda label, number: True, config=config)
    write_evaluation(root / "half", lambda label, number: label == "slake", config=ablated)
    write_evaluation(root / "none", lambda label, number: False, config=config)
    return root


def test_an_average_is_the_unweighted_mean_of_the_columns(evaluations):
    """12 questions of slake right and 4 of vqa_rad wrong are 1/2, not 3/4; each kind has a block."""
    opened = open_evaluations([str(evaluations / name) for name in ("all", "half")])
    blocks = make_blocks(TABLES["sets"], opened)
    assert [(block.kind, block.metric) for block in blocks] == [("yes_no", "accuracy"), ("open", "exact_match")]
    for block in blocks:
        assert block.columns == ["slake", "vqa_rad", "Avg"]
        first, second = (row["cells"] for row in block.rows)
        assert [first[c]["value"] for c in block.columns] == [1, 1, 1] and [
            second[c]["value"] for c in block.columns
        ] == [1, 0, 0.5]
        assert (first["slake"]["questions"], first["vqa_rad"]["questions"], first["Avg"]["questions"]) == (6, 2, 8)
        assert (second["Avg"]["low"], second["Avg"]["high"]) == (0.5, 0.5)


def test_the_interval_of_an_average_is_narrower_than_those_of_its_columns(tmp_path):
    folder = write_evaluation(tmp_path / "e", lambda label, n: n % 4 < 2, questions={"slake": 80, "vqa_rad": 80})
    (block, _) = make_blocks(TABLES["sets"], open_evaluations([str(folder)]))
    widths = {column: cell["high"] - cell["low"] for column, cell in block.rows[0]["cells"].items()}
    assert widths["Avg"] / widths["slake"] == pytest.approx(1 / np.sqrt(2), rel=0.15)


def test_columns_of_modalities_and_a_metric_of_choice(evaluations):
    opened = open_evaluations([f"{name}={evaluations / name}" for name in ("none", "half")])
    (block,) = make_blocks(TABLES["modalities"], opened, metric="recall")
    assert (
        block.kind == "open"
        and block.columns == ["MRI", "X-ray"]
        and [row["label"] for row in block.rows] == ["none", "half"]
    )
    assert [row["cells"]["MRI"]["value"] for row in block.rows] == [0.0, 1.0]


def test_a_comparison_is_paired_and_by_pictures(evaluations):
    first, second = open_evaluations([str(evaluations / name) for name in ("half", "all")])
    (closed,) = [row for row in compare(first, second) if row["kind"] == "yes_no"]
    # 6 + 2 closed questions on as many pictures; the second alone is right on the 2 of vqa_rad
    assert (closed["first"], closed["second"], closed["difference"]) == (0.75, 1.0, 0.25)
    assert (closed["questions"], closed["pictures"], closed["only_first"], closed["only_second"]) == (8, 8, 0, 2)
    assert closed["mcnemar_p"] == pytest.approx(2 / 4) and 0 < closed["p"] < 0.5 and closed["low"] >= 0
    by_metric = {row["metric"]: row for row in compare(first, second) if row["kind"] == "open"}
    assert by_metric["recall"]["difference"] == 0.25 and by_metric["exact_match"]["mcnemar_p"] == 0.5


def test_ablations_name_what_was_changed(evaluations):
    opened = open_evaluations([str(evaluations / name) for name in ("all", "half", "none")])
    told = differences_of(opened)
    assert told["all"] == told["none"] == ""  # neither names nor what is free of numbers
    assert told["half"] == "rewards.components.visual_fidelity.weight=none"


def test_the_commands_print_and_draw(evaluations, tmp_path, capsys):
    """With floors, which the table of an evaluation knows."""
    of_set = {
        "group": "task",
        "kind": "yes_no",
        "metric": "accuracy",
        "floors": {"constant": 1.0, "question_only": 0.5},
    }
    floors = [{"name": label, **of_set} for label in SETS]
    (evaluations / "all" / "table.json").write_text(json.dumps({"rows": floors}))
    names = [f"{name}={evaluations / name}" for name in ("all", "half")]
    assert main(["table", "1", *names, "--to", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    (evaluations / "all" / "table.json").unlink()
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert lines[0].split("|")[1:-1] and [word.strip() for word in lines[0].split("|")[1:-1]] == [
        "policy",
        "slake",
        "vqa_rad",
        "Avg",
    ]
    assert any("floor: question_only" in line and line.count("0.500") == 3 for line in lines)
    assert any("half" in line and "0.500 [0.500, 0.500]" in line for line in lines)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sets.md", "sets.json", "sets.png"}
    assert (tmp_path / "out" / "sets.md").read_text().strip() in printed
    assert json.loads((tmp_path / "out" / "sets.json").read_text())[0]["rows"][2]["label"] == "constant"
    assert main(["table", "ablations", *names]) == 0
    printed = capsys.readouterr().out
    assert "-0.250 [" in printed and "visual_fidelity" in printed
    assert main(["compare", *names, "--to", str(tmp_path / "difference.json")]) == 0
    assert (
        "8 questions" not in capsys.readouterr().out
        and json.loads((tmp_path / "difference.json").read_text())["second"] == "half"
    )


def test_other_questions_other_names_and_no_evaluation_are_refused_in_a_line(evaluations, tmp_path, capsys):
    other = write_evaluation(tmp_path / "other", lambda label, number: True, data="2")
    fewer = write_evaluation(tmp_path / "fewer", lambda label, number: True, questions={"slake": 12, "vqa_rad": 2})
    mine = str(evaluations / "all")
    cases = {
        ("compare", mine, str(other)): "all and other: slake, vqa_rad with other questions, pictures or truths",
        ("table", "1", mine, str(fewer)): "all and fewer: 2 questions that one of them alone was asked",
        ("compare", mine, mine): "all: expected different names; write NAME=FOLDER for each",
        ("compare", mine, str(tmp_path)): "expected a folder of `reflex evaluate` or a run with one in it",
        ("table", "3", mine): "table: expected one of sets, ablations, modalities (or 1, 2, 4); got '3'",
        ("table", "1", mine, "--metric", "recal"): "--metric: expected one that all evaluations have",
        ("compare", mine): "required",
        ("compare", mine, f"={mine}"): "expected NAME=FOLDER or a folder; the name is empty",
    }  # fmt: skip
    for arguments, words in cases.items():
        assert main([*arguments]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1, message
    assert main(["compare", mine, f"fewer={fewer}"]) == 0  # on what both were asked
    assert "14 questions that both were asked (of 16 and 14)" in capsys.readouterr().out


def test_a_run_with_one_evaluation_is_found_and_with_several_they_are_named(tmp_path, capsys):
    run = tmp_path / "run"
    write_evaluation(run / "evaluation" / "test-step-3", lambda label, number: True)
    assert open_evaluations([str(run)])[0].folder == run / "evaluation" / "test-step-3"
    write_evaluation(run / "evaluation" / "test-step-5", lambda label, number: True)
    assert main(["table", "1", str(run)]) == 2
    assert "test-step-3" in (message := capsys.readouterr().err) and "test-step-5. Name one of them" in message
