"""The worlds of the experiment are what they say, and its rewards are settings that a run takes."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from reflex_jax.config_reader import load_config


@pytest.fixture(scope="module")
def experiment(repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "benchmarks")
        import does_grounding_pay

        yield does_grounding_pay


@pytest.fixture(scope="module")
def rows(experiment):
    return experiment.phantom_rows("train", 400)


def test_three_in_ten_labels_are_wrong_and_none_of_them_right(experiment, rows):
    changed = experiment.world_rows("wrong_labels", rows)
    wrong = [new for new, old in zip(changed, rows, strict=True) if new["answer"] != old["answer"]]
    assert 0.24 < len(wrong) / len(rows) < 0.36
    assert all(row["answer"] in row["options"] for row in wrong if "options" in row)
    assert {row["answer"] for row in wrong if row["answer_type"] == "closed" and "options" not in row} <= {
        "yes", "no", "left", "right", "upper", "lower", "one", "two"
    }  # fmt: skip


def test_where_the_question_gives_the_answer_away_its_favourite_prevails(experiment, rows):
    def share(chosen):
        kinds = defaultdict(Counter)
        for row in chosen:
            kinds[experiment._kind(row)][row["answer"]] += 1
        return sum(max(counted.values()) for counted in kinds.values()) / len(chosen)

    assert share(experiment.world_rows("prior", rows)) > share(rows) + 0.15
    assert len(experiment.world_rows("few_labels", rows)) == experiment.FEW
    assert experiment.world_rows("clean", rows) == rows


@pytest.mark.parametrize("arm", ["full", "no_vfr", "no_bpr", "answer_format", "s_it_alone"])
def test_every_reward_is_one_that_a_run_takes(experiment, repository, arm):
    config = load_config(repository / "configs" / "phantom.yaml", [experiment.ARMS[arm]])
    assert {"answer", "format"} <= set(config.rewards.weights)
    assert ("visual_fidelity" in config.rewards.weights) == (arm in ("full", "no_bpr"))


def test_attention_beyond_area_is_one_by_chance(experiment):
    masks = [np.eye(4, dtype=bool), np.tri(4, dtype=bool)]
    assert experiment._beyond_area([np.ones((4, 4))] * 2, masks) == pytest.approx(1)
    assert experiment._beyond_area([mask.astype(float) for mask in masks], masks) == pytest.approx(1 / (7 / 16))


def test_rewards_are_held_against_answer_and_format_seed_by_seed(experiment):
    def rows(*right):
        return [dict.fromkeys(experiment.COLUMNS, 0.0) | {"right": value} for value in right]

    found = {
        "warm start": {"-": rows(0.5)},
        "clean": {"full": rows(0.6, 0.8), "answer_format": rows(0.5, 0.7)},
        "prior": {"full": rows(0.4, 0.6), "answer_format": rows(0.7, 0.7)},
        "few_labels": {"full": rows(0.1, 0.2)},
    }
    lines = [line.split(" | ")[:3] for line in experiment.paired_lines(found)[2:]]
    # clean: 0.1 and 0.1; prior: -0.3 and -0.1, mean -0.2, 12.706 * 0.1414 / sqrt(2); all four: deviation 0.1915, 3.182 / 2 of it
    assert lines == [
        ["| clean", "full less answer_format", "0.10 ± 0.00"],
        ["| prior", "full less answer_format", "-0.20 ± 1.27"],
        ["| all", "full less answer_format", "-0.05 ± 0.30"],
    ]
    assert experiment.paired_lines({"clean": {"full": rows(0.1)}}) == []


def test_a_right_answer_counts_once_whatever_its_kind(experiment, tmp_path):
    scores = [
        {"yes_no/accuracy": 1.0},
        {"choice/accuracy": 0.0},
        {"open/exact_match": 1.0, "open/f1": 0.9},
        {"yes_no/accuracy": 1.0},
    ]
    for name, answers in (("answers", "abcd"), ("answers.other_patient", "abxy")):
        lines = [json.dumps({"id": str(i), "answer": answer}) for i, answer in enumerate(answers)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    lines = [{"pass": "answers", "scores": score} for score in scores] + [
        {"pass": "floor", "scores": {"yes_no/accuracy": 0.0}}
    ]
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = experiment._accuracies(tmp_path)
    assert found == {"right": 0.75, "yes/no": 1.0, "choice": 0.0, "open": 1.0, "sensitivity": 0.5}


def test_the_readme_says_what_was_measured(experiment, repository):
    """Every number of its two tables, and of the table of all in RESULTS.md, is made of the numbers of the seeds."""
    found = json.loads((repository / "benchmarks" / "does_grounding_pay.json").read_text())
    readme, results = ((repository / name).read_text() for name in ("README.md", "benchmarks/RESULTS.md"))
    for arm in experiment.ARMS:
        cells = [experiment.with_interval([row["right"] for row in found[world][arm]]) for world in experiment.WORLDS]
        assert f" | {' | '.join(cells)} |" in readme
    lines = [experiment._line(world, arm, rows) for world, arms in found.items() for arm, rows in arms.items()]
    paired = experiment.paired_lines(found)
    assert all(line in results for line in lines + paired)
    for line in paired:
        if line.startswith("| all"):
            cells = dict(zip(experiment.COLUMNS, line.strip("| ").split(" | ")[2:], strict=True))
            shown = [cells[name] for name in ("right", "sensitivity", "pointing", "on lesion", "in judge's mask")]
            assert f" | {' | '.join(shown)} |" in readme
