"""Areas under curves, shares and their intervals, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from reflex_jax.audit.statistics import (
    area_under_curve,
    auc_estimate,
    describe,
    mean_estimate,
    rank_correlation,
    resample,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "truth", "area"),
    [
        ([0.1, 0.2, 0.8], [0, 0, 1], 1.0),
        ([0.9, 0.2, 0.1], [0, 0, 1], 0.0),
        ([0.1, 0.3, 0.2, 0.4], [0, 1, 1, 0], 0.5),
        ([0.5, 0.5, 0.5], [1, 0, 0], 0.5),  # ties are half a win
        ([1.0, 1.0, 0.0], [1, 0, 0], 0.75),  # one tie, one win: (0.5 + 1) / 2
        ([1.0, 2.0], [1, 1], NAN),
    ],
)
def test_area_under_curve_of_hand_made_scores(scores, truth, area):
    found = area_under_curve(np.array(scores), np.array(truth, bool))
    assert found == pytest.approx(area, nan_ok=True)


def test_an_estimate_is_the_area_of_what_is_there_and_its_interval_covers_it():
    random = np.random.default_rng(0)
    positive, negative = random.normal(1, 1, 60), random.normal(0, 1, 60)
    negative[::3] = NAN  # questions without a wrong answer
    weights = resample(range(60), seed=0)
    found = auc_estimate(positive, negative, weights)
    there = negative[~np.isnan(negative)]
    scores, truth = np.concatenate([positive, there]), np.arange(60 + len(there)) < 60
    assert found.value == pytest.approx(area_under_curve(scores, truth))
    assert 0.5 < found.low < found.value < found.high < 1


def test_questions_about_one_picture_are_drawn_together():
    """Ten questions about each of six pictures tell as much as six: the interval is that of one question each."""
    hits = np.array([1.0, 1, 1, 1, 0, 0])
    alone = mean_estimate(hits, resample(range(6), seed=3))
    repeated = mean_estimate(np.repeat(hits, 10), resample(np.repeat(range(6), 10).tolist(), seed=3))
    assert (repeated.value, repeated.low, repeated.high) == pytest.approx((alone.value, alone.low, alone.high))
    independent = mean_estimate(np.repeat(hits, 10), resample(range(60), seed=3))
    assert independent.high - independent.low < 0.5 * (alone.high - alone.low)


def test_every_draw_has_as_many_pictures_and_all_questions_of_each():
    weights = resample(["a", "b", "a", "c"], seed=0, resamples=50)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()


def test_nothing_to_measure_is_said_and_not_made_up():
    nothing, weights = np.full(4, NAN), resample(range(4), seed=0)
    assert not auc_estimate(nothing, np.ones(4), weights).is_measured
    assert not mean_estimate(nothing, weights).is_measured and str(mean_estimate(nothing, weights)) == "-"
    assert describe(nothing) == {"count": 0}
    assert describe(np.array([1.0, NAN, 3.0]))["median"] == 2.0


@pytest.mark.parametrize(
    ("first", "second", "correlation"),
    [
        ([1.0, 2, 3], [10.0, 20, 900], 1.0),  # the order alone counts
        ([1.0, 2, 3], [3.0, 2, 1], -1.0),
        # ranks 1.5, 1.5, 3 and 1, 2, 3: (0.5 + 0 + 1) / sqrt(1.5 * 2)
        ([1.0, 1, 2], [1.0, 2, 3], 1.5 / math.sqrt(3)),
        ([1.0, 1, 1], [1.0, 2, 3], 0.0),
    ],
)
def test_rank_correlation_of_hand_made_maps(first, second, correlation):
    assert rank_correlation(np.array(first), np.array(second)) == pytest.approx(correlation)
