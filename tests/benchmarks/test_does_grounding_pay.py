"""The worlds of the experiment are what they say, and its rewards are settings that a run takes."""

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
