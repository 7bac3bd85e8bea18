"""Intervals of means by resampled pictures, beside scipy's bootstrap; paired tests by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from reflex_jax.evaluation.intervals import bootstrap_means, intervals, mcnemar_exact, paired_p_value


def test_with_one_question_a_picture_the_interval_is_scipys():
    values = np.random.default_rng(0).random(60)
    names = [str(i) for i in range(60)]
    ((low, high),) = intervals(values[:, None], names)
    peer = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    error = values.std() / math.sqrt(60)
    assert low == pytest.approx(peer.low, abs=0.15 * error) and high == pytest.approx(peer.high, abs=0.15 * error)


def test_pictures_are_drawn_with_all_of_their_questions():
    """Ten questions a picture that go alike are one observation: as wide as with one question each, and three times what
    drawing questions would give."""
    of_picture = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    names = [str(i) for i in range(40)]
    many = intervals(np.repeat(of_picture, 10)[:, None], [name for name in names for _ in range(10)])
    assert many == intervals(of_picture[:, None], names)
    ((low, high),) = many
    ((near, far),) = intervals(np.repeat(of_picture, 10)[:, None], [str(i) for i in range(400)])
    assert (high - low) / (far - near) == pytest.approx(math.sqrt(10), rel=0.15)


def test_a_mean_is_over_the_questions_that_are_drawn():
    """Pictures of 1 and 3 questions: resamples are (a, a), (b, b) and (a, b) in halves: 0, 1 and 3/4."""
    means = bootstrap_means(np.array([[0.0], [1.0], [1.0], [1.0]]), ["a", "b", "b", "b"], seed=3)[:, 0]
    assert set(np.round(means, 12)) == {0.0, 0.75, 1.0} and (means == 0.75).mean() == pytest.approx(0.5, abs=0.05)


def test_columns_share_their_draws_and_what_is_absent_is_not_counted():
    values = np.array([[1.0, np.nan, np.nan], [0.0, 1.0, np.nan], [1.0, 0.0, 1.0]])
    first, second, third = intervals(values, ["a", "b", "c"])
    assert first == (0.0, 1.0) and second == (0.0, 1.0) and third is None  # one picture says nothing of another
    draws = bootstrap_means(values, ["a", "b", "c"])
    assert np.isnan(draws[:, 1]).mean() == pytest.approx(1 / 27, abs=0.02)  # neither b nor c is drawn
    np.testing.assert_array_equal(draws, bootstrap_means(values, ["a", "b", "c"], seed=0))
    assert (draws[:, 0] != bootstrap_means(values, ["a", "b", "c"], seed=1)[:, 0]).any()


@pytest.mark.parametrize(("first", "second", "p"), [
    (0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 4, 2 * (1 + 5) / 32), (8, 0, 2 / 256),
])  # fmt: skip
def test_mcnemars_p_is_two_tails_of_a_fair_coin(first, second, p):
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first) == pytest.approx(p)


def test_a_paired_difference_is_as_sure_as_its_pictures():
    names = [str(i) for i in range(50)]
    generator = np.random.default_rng(0)
    assert paired_p_value(np.full(50, 0.1), names) == pytest.approx(2 / 2001)
    assert paired_p_value(np.zeros(50), names) == 1.0
    noise = generator.normal(size=50)
    p = paired_p_value(noise + 0.2, names)
    assert p == pytest.approx(stats.ttest_1samp(noise + 0.2, 0).pvalue, abs=0.05)
