"""Held-out scores: failed rows are counted and stay out of every mean."""

import numpy as np

from reflex_jax.evaluation.asking import question_columns
from reflex_jax.evaluation.validation import summarise
from reflex_jax.records import HostScores
from reflex_jax.step.score import Scored
from reflex_jax.trees import tree_of


def summary(is_valid, answers, is_closed, applies=None):
    """Of one generator, `sampled`, with the answer reward as the only component; it is what is reported of the answers, too."""
    answers = np.where(is_valid, np.float32(answers), np.float32(np.nan))
    is_valid = np.asarray(is_valid)
    applies = is_valid if applies is None else np.asarray(applies)
    scored = tree_of(
        Scored,
        components={"answer": answers},
        applies={"answer": applies},
        rewards=answers,
        is_valid=is_valid,
        evidence=None,
    )
    is_closed = np.asarray(is_closed)[:, None]
    metrics = {
        "accuracy": np.where(is_closed, answers, np.float32(np.nan)),
        "open/exact_match": np.where(is_closed, np.float32(np.nan), answers),
    }
    scores = HostScores(components={}, applies={}, is_correct=answers >= 0.5, is_valid=is_valid, metrics=metrics)
    columns = {f"sampled/{key}": np.asarray(values) for key, values in question_columns(scored, scores).items()}
    return summarise(columns)


def test_failed_rows_stay_out_of_the_means_and_questions_without_a_valid_row_too():
    is_valid = [[True, True], [True, False], [False, False]]
    found = summary(is_valid, [[1, 0], [1, 0], [0, 0]], [True, False, False])
    assert found["eval/sampled/failed_rows"] == 3
    assert found["eval/sampled/reward/answer"] == found["eval/sampled/reward/total"] == 0.75
    assert (found["eval/sampled/accuracy"], found["eval/sampled/open/exact_match"]) == (0.5, 1.0)


def test_a_mean_over_nothing_is_left_out():
    found = summary([[False], [True]], [[1], [1]], [True, False])
    assert "eval/sampled/accuracy" not in found and found["eval/sampled/open/exact_match"] == 1.0
    assert summary([[False]], [[1]], [True]) == {"eval/sampled/failed_rows": 1.0}


def test_a_component_is_averaged_over_the_rows_and_questions_it_applies_to():
    is_valid, applies = [[True, True], [True, True]], [[True, False], [False, False]]
    found = summary(is_valid, [[1, 0], [0, 0]], [True, True], applies)
    assert (found["eval/sampled/reward/answer"], found["eval/sampled/reward/total"]) == (1.0, 0.25)
