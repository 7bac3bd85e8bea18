"""HOST: how sure a mean over questions is, where questions about one picture are no independent observations.

Pictures are drawn with replacement, each with all of its questions (a cluster bootstrap); a score is the mean over the
questions drawn. Paired tests draw the same pictures for both evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

RESAMPLES = 2000
_AT_ONCE = 250  # resamples whose weights exist at one time


def bootstrap_means(
    values: Float[np.ndarray, "n m"], pictures: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "r m"]:
    """Means of m columns over resampled pictures; the same pictures for each column.

    Args:
      values: one row for each question; NaN where it has no such number.
      pictures: of each question, the name of its group of pictures.
      resamples: r.
      seed: of the draws.
    Returns:
      A mean for each resample; NaN where none of the questions drawn has the number.
    """
    names, places = np.unique(np.asarray(pictures), return_inverse=True)
    is_there = ~np.isnan(values)
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    np.add.at(sums, places, np.where(is_there, values, 0.0))
    np.add.at(counts, places, is_there.astype(np.float64))
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _AT_ONCE):
        drawn = draw_pictures(len(names), min(_AT_ONCE, resamples - start), generator).astype(np.float64)
        counted = drawn @ counts
        parts.append(np.where(counted > 0, drawn @ sums / np.maximum(counted, 1e-300), np.nan))
    return np.concatenate(parts)


def draw_pictures(pictures: int, resamples: int, generator: np.random.Generator) -> Int[np.ndarray, "r pictures"]:
    """How often each picture is drawn, of as many draws with replacement as there are pictures."""
    return generator.multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)


def intervals(
    values: Float[np.ndarray, "n m"], pictures: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> list[tuple[float, float] | None]:
    """The percentile interval of each column's mean; None where fewer than two pictures have the number."""
    means = bootstrap_means(values, pictures, seed=seed)
    tails = [100 * (1 - level) / 2, 100 * (1 + level) / 2]
    found: list[tuple[float, float] | None] = []
    names = np.asarray(pictures)
    for column in range(values.shape[1]):
        if len(np.unique(names[~np.isnan(values[:, column])])) < 2:
            found.append(None)
        else:
            low, high = np.nanpercentile(means[:, column], tails)
            found.append((float(low), float(high)))
    return found


def paired_p_value(differences: Float[np.ndarray, "n"], pictures: Sequence[str], *, seed: int = 0) -> float:
    """Two-sided p of a mean difference of 0, by resampled pictures: twice the smaller tail, never below 1 / (resamples + 1).

    Args:
      differences: of each question, one evaluation less the other.
      pictures: of each question.
      seed: of the draws.
    """
    means = bootstrap_means(differences[:, None], pictures, seed=seed)[:, 0]
    tail = min((means <= 0).sum(), (means >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(means) + 1)))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: whether of two evaluations one is right more often where one alone is right.

    It takes questions for independent, which those about one picture are not.
    """
    both = only_first + only_second
    return float(stats.binomtest(only_first, both, 0.5).pvalue) if both else 1.0
