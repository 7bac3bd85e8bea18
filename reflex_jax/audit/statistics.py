"""Numbers with their uncertainty: areas under curves and shares, each with an interval of resampled pictures.

Questions about one picture are no independent draws, so the bootstrap draws pictures and takes all their questions along.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from reflex_jax.evaluation.intervals import draw_pictures

LEVEL = 0.95  # of every interval
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap interval; all NaN where there is nothing to measure."""

    value: float
    low: float
    high: float

    @property
    def is_measured(self) -> bool:
        """Whether there was anything to measure."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        """As tables show it."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.is_measured else "-"


UNMEASURED = Estimate(math.nan, math.nan, math.nan)


def area_under_curve(scores: Float[np.ndarray, "*n"], truth: Bool[np.ndarray, "*n"]) -> float:
    """Probability that a true one scores above a false one, half of it where they tie; NaN without one of either."""
    scores, truth = scores.ravel(), truth.ravel()
    ranks = stats.rankdata(scores)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return math.nan
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def rank_correlation(first: Float[np.ndarray, "*n"], second: Float[np.ndarray, "*n"]) -> float:
    """Spearman's: the correlation of ranks, ties in the middle of theirs; 0 where one of both is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)


def resample(pictures: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES) -> Int[np.ndarray, "B n"]:
    """How often each row counts in each of B resamples: as often as its picture was drawn.

    Args:
      pictures: the picture of each row.
      seed: of the draws.
      resamples: B.
    """
    names = list(dict.fromkeys(pictures))
    place = {name: number for number, name in enumerate(names)}
    drawn = draw_pictures(len(names), resamples, np.random.default_rng(seed))
    return drawn[:, [place[name] for name in pictures]].astype(np.int64)


def auc_estimate(
    positive: Float[np.ndarray, "n"], negative: Float[np.ndarray, "n"], weights: Int[np.ndarray, "B n"]
) -> Estimate:
    """AUC of the scores of one group against those of another, over the same rows; NaN: a row has none in this group."""
    has_positive, has_negative = ~np.isnan(positive), ~np.isnan(negative)
    above, below = positive[has_positive], negative[has_negative]
    if not len(above) or not len(below):
        return UNMEASURED
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    of_above, of_below = weights[:, has_positive].astype(float), weights[:, has_negative].astype(float)
    total = of_above.sum(1) * of_below.sum(1)
    won = np.einsum("bp,bp->b", of_above @ wins, of_below)
    return _estimate(float(wins.mean()), won, total)


def mean_estimate(values: Float[np.ndarray, "n"], weights: Int[np.ndarray, "B n"]) -> Estimate:
    """Mean of what is there (NaN: not there); of zeros and ones a share."""
    there = ~np.isnan(values)
    if not there.any():
        return UNMEASURED
    counted = weights[:, there].astype(float)
    return _estimate(float(values[there].mean()), counted @ values[there], counted.sum(1))


def _estimate(value: float, sums: Float[np.ndarray, "B"], totals: Float[np.ndarray, "B"]) -> Estimate:
    kept = totals > 0  # a resample may have no row of a small group
    low, high = np.quantile(sums[kept] / totals[kept], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def describe(values: Float[np.ndarray, "n"]) -> dict[str, float | int]:
    """Count, mean and quantiles of what is there."""
    there = values[~np.isnan(values)]
    if not len(there):
        return {"count": 0}
    low, middle, high = np.quantile(there, [0.05, 0.5, 0.95])
    return {
        "count": len(there),
        "mean": float(there.mean()),
        "p05": float(low),
        "median": float(middle),
        "p95": float(high),
    }
