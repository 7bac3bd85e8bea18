"""What makes a component informative, saturated, dead or unmeasured: each condition by a case that fails it alone."""

import math

import numpy as np
import pytest

from reflex_jax.audit.judge_scores import Scores
from reflex_jax.audit.statistics import UNMEASURED, Estimate, resample
from reflex_jax.audit.variants import GROUPS
from reflex_jax.audit.verdict import COMPONENTS, judge_component, overall
from reflex_jax.config_reader import load_config

N = 40
CONFIG = load_config(None, [])
RANDOM = np.random.default_rng(0)
POINTS = Estimate(0.4, 0.2, 0.6)


def verdict(component="VFR", plausibility=POINTS, pictures=N, config=CONFIG, **groups):
    """Of scores around the centres given, with a spread of 0.2."""
    values = {group: np.full(N, math.nan) for group in GROUPS}
    values |= {group: centre + 0.2 * (RANDOM.random(N) - 0.5) for group, centre in groups.items()}
    return judge_component(
        component, Scores(values, values, values), resample(range(N), seed=0), config,
        kinds=["yes/no"] * N, plausibility=plausibility, pictures=pictures,
    )  # fmt: skip


def test_true_answers_apart_from_wrong_ones_and_a_threshold_between_them_are_informative():
    for component, true, wrong in (("VFR", 0.9, 0.2), ("s_tt", 0.95, 0.3), ("s_it", 0.8, 0.3)):
        found = verdict(component, paraphrase=true, wrong=wrong)
        assert (found.label, found.reasons) == ("informative", ())
        assert found.pass_rate == 0.5 and found.auc.value == 1.0


@pytest.mark.parametrize(
    ("scores", "label", "reason"),
    [
        ({"paraphrase": 0.5, "wrong": 0.5}, "dead", "lower bound is not above 0.5"),
        ({"paraphrase": 0.3, "wrong": 0.1}, "dead", "pass rate 0%"),
        ({"paraphrase": 0.79, "wrong": 0.65}, "saturated", "pass rate 100%"),
    ],
)
def test_each_condition_alone_takes_the_label_away(scores, label, reason):
    found = verdict(**scores)
    assert found.label == label and reason in " ".join(found.reasons)


def test_visual_fidelity_also_needs_masks_that_differ_and_maps_that_point():
    high = load_config(None, ["rewards.components.visual_fidelity.iou_threshold=0.94"])
    found = verdict(config=high, paraphrase=0.95, wrong=0.85)
    assert found.label == "saturated" and len(found.reasons) == 1 and "median IoU" in found.reasons[0]
    assert verdict("s_tt", config=high, paraphrase=0.85, wrong=0.75).label == "informative"  # a cosine may be high
    blind = Estimate(0.01, -0.02, 0.04)
    found = verdict(plausibility=blind, paraphrase=0.9, wrong=0.2)
    assert found.label == "dead" and "than its area" in found.reasons[0]
    assert verdict(plausibility=UNMEASURED, paraphrase=0.9, wrong=0.2).label == "informative"


def test_few_pictures_are_no_evidence():
    assert verdict(pictures=9, paraphrase=0.9, wrong=0.2).label == "unmeasured"
    assert verdict(paraphrase=0.9).label == "unmeasured"  # no wrong answers at all


def test_a_suggested_threshold_lets_five_percent_of_the_wrong_answers_pass():
    found = verdict(paraphrase=0.9, wrong=0.2)
    assert found.suggested["wrong"] <= 0.05 and found.suggested["paraphrase"] == 1.0
    assert 0.2 < found.suggested["threshold"] < 0.31


def test_what_a_component_cannot_see_is_said_in_a_sentence():
    found = {b.difference: b for b in verdict(paraphrase=0.9, wrong=0.2, side=0.9, level=0.6, negation=0.1).blindness}
    assert found["side"].is_blind and "VFR does not tell left from right: 100% of 40" in found["side"].sentence
    assert found["level"].is_blind and "in its score but not in its threshold" in found["level"].sentence
    assert not found["negation"].is_blind and "VFR tells a statement from its denial" in found["negation"].sentence
    assert "not measured" in found["count"].sentence


def test_the_judge_is_fit_where_all_that_is_paid_is_informative():
    good = [verdict(component, paraphrase=0.95, wrong=0.2) for component in COMPONENTS]
    bad = verdict("s_it", paraphrase=0.2, wrong=0.1)
    assert overall(good)[0] == "fit"
    assert overall([*good[:2], bad]) == ("partly fit", "partly fit: VFR, s_tt pay signal, s_it (dead) do not.")
    assert overall([bad])[0] == "not fit"
    few = verdict(pictures=3, paraphrase=0.9, wrong=0.2)
    assert overall([few]) == (
        "not fit",
        "not fit: VFR could not be measured: 3 pictures, of at least 10 with right and wrong answers.",
    )
    unpaid = load_config(None, ["rewards.components.provenance=0"])
    idle = [verdict(component, config=unpaid, paraphrase=0.1, wrong=0.1) for component in ("s_tt", "s_it")]
    assert overall([good[0], *idle])[0] == "fit"  # what is measured and not paid does not decide
