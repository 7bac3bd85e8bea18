"""Components become a reward: what is paid, what does not apply, what failed, and when the judge is asked at all."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.config import ConfigError, RewardsConfig
from reflex_jax.config_reader import load_config
from reflex_jax.records import HostScores, JudgeInputs, Rollout
from reflex_jax.rewards.components import REWARDS, Reward
from reflex_jax.step import score as score_module
from reflex_jax.step.score import most_failed_rows, needs_judge, rollout_metrics, score_rollout
from reflex_jax.trees import tree_of
from tests.judge_evidence import evidence_of
from tests.step.conftest import JUDGE

CORRECT = np.array([[True, False, True, False], [False, False, True, True]])


def host_scores(**components) -> HostScores:
    ones = np.ones(CORRECT.shape, bool)
    return HostScores(
        components={name: np.float32(values) for name, values in components.items()},
        applies={name: ones for name in components}, is_correct=CORRECT, is_valid=ones,
    )  # fmt: skip


def metrics_of(scored, scores):
    mask = np.ones((*CORRECT.shape, 1), bool)
    rollout = Rollout(tokens=np.zeros(mask.shape, np.int32), log_probs=np.zeros(mask.shape, np.float32), mask=mask)
    return {name: float(value) for name, value in rollout_metrics(scored, scores, rollout, (0,)).items()}


@pytest.fixture
def judged(monkeypatch):
    """Scores with the reward named `provenance`, which returns what it is given."""

    def score(values, *overrides):
        def provenance(evidence, *, text_threshold: float = 0.8, image_threshold: float = 0.5):
            return jnp.float32(values)

        monkeypatch.setattr(score_module, "gather_evidence", lambda *_: evidence_of(iou=jnp.zeros(CORRECT.shape)))
        monkeypatch.setitem(REWARDS, "provenance", Reward("device", provenance))
        config = load_config(None, ["rewards.components={answer: 1}", "rewards.components.provenance=2", *overrides])
        scores = host_scores(answer=CORRECT)
        nothing = {field.name: np.zeros(len(CORRECT)) for field in dataclasses.fields(JudgeInputs)}
        return score_rollout({}, tree_of(JudgeInputs, **nothing), scores, config, JUDGE), scores

    return score


def test_a_judge_is_asked_where_a_component_reads_its_evidence_at_whatever_weight():
    def needs(components):
        return needs_judge(load_config(None, [f"rewards.components={components}"]))

    assert needs("{answer: 1, visual_fidelity: 0}") and needs("{provenance: {when: wrong}}")
    assert not needs("{answer: 1, format: 1}")


def test_without_a_judge_strings_alone_are_rewarded_and_nothing_of_a_judge_is_reported():
    config = load_config(None, ["rewards.components={answer: 1, format: 0.5}"])
    scores = host_scores(answer=CORRECT, format=np.ones(CORRECT.shape))
    scored = score_rollout(None, None, scores, config, None)
    np.testing.assert_array_equal(scored.rewards, CORRECT + np.float32(0.5))
    assert scored.evidence is None and scored.loop_tightness is None
    metrics = metrics_of(scored, scores)
    assert metrics["reward/total"] == 1.0 and not any(name.startswith("judge/") for name in metrics)


def test_components_are_standardised_as_a_sum_or_each():
    answer = [[1, 0, 0, 0], [1, 1, 1, 1]]
    form = [[0, 0, 1, 1], [0, 1, 1, 1]]
    scores = host_scores(answer=answer, format=form)

    def scored(how):
        settings = ["rewards.components={answer: 1, format: 0.5}", "grpo.advantage=population_std"]
        return score_rollout(None, None, scores, load_config(None, [*settings, f"rewards.normalise={how}"]), None)

    # answer: mean 1/4, std sqrt(3)/4, and flat; format: mean 1/2, std 1/2, and mean 3/4, std sqrt(3)/4
    root = 3**0.5
    of_answer = np.array([[root, -1 / root, -1 / root, -1 / root], [0, 0, 0, 0]])
    of_format = np.array([[-1, -1, 1, 1], [-root, 1 / root, 1 / root, 1 / root]])
    each = of_answer + 0.5 * of_format
    np.testing.assert_allclose(scored("component").advantages, each, rtol=1e-5)
    np.testing.assert_allclose(scored("component_batch").advantages, each / (each**2).mean() ** 0.5, rtol=1e-5)
    totals = np.array([[1, 0, 0.5, 0.5], [1, 1.5, 1.5, 1.5]])
    np.testing.assert_array_equal(scored("sum").rewards, totals)
    np.testing.assert_array_equal(scored("component").rewards, totals)  # what is reported
    as_sum = (totals - totals.mean(1, keepdims=True)) / totals.std(1, keepdims=True)
    np.testing.assert_allclose(scored("sum").advantages, as_sum, rtol=1e-5)


def test_a_penalty_off_the_total_and_components_apart_are_refused_together():
    with pytest.raises(ConfigError, match="rewards.normalise=component: expected grpo.kl_in=loss"):
        load_config(None, ["rewards.normalise=component", "grpo.kl_in=reward"])
    with pytest.raises(ConfigError, match="rewards.normalise: expected one of sum, component, component_batch"):
        load_config(None, ["rewards.normalise=group"])


def test_a_device_component_that_is_no_number_is_a_failure_and_no_zero(judged):
    values = np.ones(CORRECT.shape)
    values[0, 1] = np.nan
    scored, scores = judged(values)
    np.testing.assert_array_equal(scored.is_valid, np.isfinite(values))
    assert not scored.advantages[0, 1] and np.isfinite(scored.advantages).all()
    whole, _ = judged(np.ones(CORRECT.shape))
    np.testing.assert_array_equal(scored.advantages[1], whole.advantages[1])  # another group
    metrics = metrics_of(scored, scores)
    assert metrics["failed_rows"] == 1 and metrics["reward/provenance"] == 1.0


@pytest.mark.parametrize("when", ["right", "wrong"])
def test_a_device_component_may_look_at_right_or_at_wrong_answers_alone(judged, when):
    rows = CORRECT if when == "right" else ~CORRECT
    # what it would say of the others does not matter, not even that it fails there
    scored, scores = judged(np.where(rows, 0.5, np.nan), f"rewards.components.provenance.when={when}")
    assert scored.is_valid.all()
    np.testing.assert_array_equal(scored.rewards, CORRECT + 2 * np.where(rows, 0.5, 0))
    metrics = metrics_of(scored, scores)
    assert metrics["reward/provenance"] == 0.5  # over the rows it applies to
    assert metrics[f"pass_rate/provenance/{'correct' if when == 'right' else 'wrong'}"] == 0.5


def test_a_component_that_applied_nowhere_has_no_mean():
    config = load_config(None, ["rewards.components={answer: 1, format: 1}"])
    scores = host_scores(answer=CORRECT, format=np.zeros(CORRECT.shape))
    scores = dataclasses.replace(scores, applies=scores.applies | {"format": np.zeros(CORRECT.shape, bool)})
    metrics = metrics_of(score_rollout(None, None, scores, config, None), scores)
    assert math.isnan(metrics["reward/format"]) and metrics["reward/total"] == 0.5


@given(st.integers(0, 100), st.integers(1, 5000))
def test_as_many_rows_may_fail_as_the_share_says(percent, rows):
    most = most_failed_rows(RewardsConfig(max_failure_rate=percent / 100), rows)
    assert most == percent * rows // 100
