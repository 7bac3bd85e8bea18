"""Eq. 3-5: masks, their overlap, and the reward, as properties over maps with and without ties."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reflex_jax.rewards.visual_fidelity import (
    chance_corrected_iou,
    intersection_over_union,
    is_degenerate,
    quantile_mask,
    tied_fraction,
    visual_fidelity_reward,
)
from tests.judge_evidence import evidence_of
from tests.unchecked import types_unchecked

SIDE = 7
CELLS = SIDE * SIDE
RULES = ("strict", "rank", "paper")
QUANTILES = ("0.1", "0.5", "0.55", "0.75", "0.9")

# whole numbers, few of them: ties everywhere, and float32 represents every sum and product below exactly
tied_maps = hnp.arrays(np.float32, (SIDE, SIDE), elements=st.integers(-3, 3).map(float))
untied_maps = st.permutations(range(CELLS)).map(lambda order: np.array(order, np.float32).reshape(SIDE, SIDE))
masks = hnp.arrays(bool, (SIDE, SIDE))
quantiles = st.sampled_from(QUANTILES)


def coverage(quantile: str) -> int:
    """N - ceil(p (N - 1)) in exact arithmetic."""
    return CELLS - math.ceil(Fraction(quantile) * (CELLS - 1))


def is_constant(saliency: np.ndarray) -> bool:
    return saliency.min() == saliency.max()


@given(untied_maps, quantiles)
def test_rules_agree_without_ties(saliency, quantile):
    results = [np.asarray(quantile_mask(saliency, quantile=float(quantile), tie_rule=rule)) for rule in RULES]
    assert results[0].sum() == coverage(quantile)
    for result in results[1:]:
        np.testing.assert_array_equal(results[0], result)
    printed = saliency >= np.quantile(saliency.astype(np.float64), float(quantile))
    np.testing.assert_array_equal(results[0], printed)
    assert tied_fraction(saliency, quantile=float(quantile)) == 0


@given(tied_maps, quantiles)
def test_coverage_with_ties(saliency, quantile):
    p = float(quantile)
    strict, rank, paper = (np.asarray(quantile_mask(saliency, quantile=p, tie_rule=rule)) for rule in RULES)
    if is_constant(saliency):
        assert not strict.any() and not rank.any() and not paper.any()
        return
    assert strict.sum() <= coverage(quantile)
    assert rank.sum() == coverage(quantile)
    assert paper.sum() >= coverage(quantile)
    assert (strict <= rank).all() and (rank <= paper).all()
    # the printed rule, where the interpolated quantile has no rounding: compare in exact arithmetic
    ordered = sorted(Fraction(float(value)) for value in saliency.ravel())
    position = Fraction(quantile) * (CELLS - 1)
    below = int(position)
    above = min(below + 1, CELLS - 1)
    threshold = ordered[below] + (position - below) * (ordered[above] - ordered[below])
    printed = np.array([Fraction(float(value)) >= threshold for value in saliency.ravel()]).reshape(SIDE, SIDE)
    np.testing.assert_array_equal(paper, printed)


@given(tied_maps, quantiles)
def test_strict_keeps_or_drops_whole_ties(saliency, quantile):
    mask = np.asarray(quantile_mask(saliency, quantile=float(quantile)))
    kept, dropped = saliency[mask], saliency[~mask]
    assert kept.size == 0 or dropped.size == 0 or kept.min() > dropped.max()


@given(tied_maps, quantiles)
def test_tied_fraction_is_zero_exactly_where_the_rules_agree(saliency, quantile):
    p = float(quantile)
    strict, rank, paper = (np.asarray(quantile_mask(saliency, quantile=p, tie_rule=rule)) for rule in RULES)
    fraction = float(tied_fraction(saliency, quantile=p))
    assert 0 <= fraction <= 1
    if is_constant(saliency):
        assert fraction == 1
    else:
        assert (fraction == 0) == bool((strict == paper).all() and (strict == rank).all())
        assert fraction == 0 or fraction * CELLS == pytest.approx((paper & ~strict).sum())


@given(tied_maps, quantiles, st.sampled_from((0.25, 1.0, 8.0)), st.integers(-4, 4), st.sampled_from(RULES))
def test_masks_do_not_change_under_rising_affine_maps(saliency, quantile, scale, shift, rule):
    mask = quantile_mask(saliency, quantile=float(quantile), tie_rule=rule)
    changed = quantile_mask(scale * saliency + shift, quantile=float(quantile), tie_rule=rule)
    np.testing.assert_array_equal(mask, changed)


def test_shared_zeros_fill_no_strict_mask():
    """Two clamped maps with nothing in common: `paper` calls them equal, `strict` keeps them apart."""
    first, second = np.zeros((2, SIDE, SIDE), np.float32)
    first[0, :3] = (1, 2, 3)
    second[6, :3] = (1, 2, 3)
    ious = {
        rule: float(intersection_over_union(*(quantile_mask(m, quantile=0.5, tie_rule=rule) for m in (first, second))))
        for rule in RULES
    }
    assert ious["strict"] == 0 and ious["paper"] == 1 and ious["rank"] > 0.5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_maps_that_cannot_be_cut(rule, bad):
    broken = np.arange(CELLS, dtype=np.float32).reshape(SIDE, SIDE)
    broken[2, 3] = bad
    maps = np.stack([np.zeros_like(broken), np.full_like(broken, 2.3), broken])
    result = quantile_mask(maps, quantile=0.5, tie_rule=rule)
    np.testing.assert_array_equal(is_degenerate(result), [True, True, True])


def test_a_wide_tie_at_the_top_is_degenerate_under_strict_only():
    saliency = np.zeros((SIDE, SIDE), np.float32)
    saliency[:5] = 1.0  # 35 of 49 cells share the highest value
    assert bool(is_degenerate(quantile_mask(saliency, quantile=0.5)))
    assert not bool(is_degenerate(quantile_mask(saliency, quantile=0.5, tie_rule="rank")))
    assert not bool(is_degenerate(quantile_mask(saliency, quantile=0.5, tie_rule="paper")))


def test_negative_zero_ties_with_zero():
    saliency = np.zeros((SIDE, SIDE), np.float32)
    saliency[0, 0] = 1.0
    signed = saliency.copy()
    signed[3:] = -0.0
    for rule in RULES:
        np.testing.assert_array_equal(
            quantile_mask(saliency, quantile=0.5, tie_rule=rule), quantile_mask(signed, quantile=0.5, tie_rule=rule)
        )


@given(masks, masks)
def test_iou(first, second):
    iou = float(intersection_over_union(first, second))
    union = (first | second).sum()
    assert iou == pytest.approx((first & second).sum() / union if union else 0.0, abs=1e-6)
    assert iou == float(intersection_over_union(second, first))
    assert float(intersection_over_union(first, first)) == float(first.any())
    assert float(intersection_over_union(first, ~first)) == 0.0


def test_complement_at_the_median_has_no_overlap():
    """With an even number of cells, S and -S keep complementary halves at p = 0.5."""
    saliency = jax.random.normal(jax.random.key(0), (14, 14))
    mask, opposite = quantile_mask(saliency, quantile=0.5), quantile_mask(-saliency, quantile=0.5)
    np.testing.assert_array_equal(mask, ~np.asarray(opposite))
    assert float(intersection_over_union(mask, opposite)) == 0.0


@given(masks, masks)
def test_chance_corrected_iou(first, second):
    corrected = float(chance_corrected_iou(first, second))
    assert corrected == pytest.approx(float(chance_corrected_iou(second, first)), abs=1e-6)
    assert corrected <= 1
    if first.any() and not first.all():
        assert float(chance_corrected_iou(first, first)) == pytest.approx(1, abs=1e-6)
    c1, c2 = first.mean(), second.mean()
    if 0 < c1 + c2 < 2:
        chance = c1 * c2 / (c1 + c2 - c1 * c2)
        iou = (first & second).sum() / (first | second).sum()
        assert corrected == pytest.approx((iou - chance) / (1 - chance), abs=1e-5)
    else:
        assert corrected == 0


def test_independent_masks_are_at_chance():
    """Mean IoU of independent halves is 1/3 and never beats 0.5; corrected, it is 0."""
    saliency = jax.random.normal(jax.random.key(1), (2, 3000, 14, 14))
    first, second = quantile_mask(saliency, quantile=0.5)
    iou = np.asarray(intersection_over_union(first, second))
    assert abs(iou.mean() - 1 / 3) < 0.005 and iou.max() < 0.5
    assert abs(np.asarray(chance_corrected_iou(first, second)).mean()) < 0.005


def test_reward_is_strictly_above_the_threshold_and_nothing_for_degenerate_maps():
    iou = jnp.array([[0.0, 0.5, 0.5000001, 1.0, 1.0]])
    degenerate = jnp.array([[False, False, False, False, True]])
    evidence = evidence_of(iou=iou, is_degenerate=degenerate)
    np.testing.assert_array_equal(visual_fidelity_reward(evidence), [[0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(visual_fidelity_reward(evidence, iou_threshold=0.6), [[0, 0, 0, 1, 0]])


def _everything(maps, quantile):
    kept = [quantile_mask(maps, quantile=quantile, tie_rule=rule) for rule in RULES]
    return *kept, tied_fraction(maps, quantile=quantile), is_degenerate(kept[0])


_everything_compiled = jax.jit(_everything, static_argnames="quantile")


@settings(max_examples=6)
@given(
    hnp.arrays(np.float32, (2, 3, SIDE, SIDE), elements=st.integers(-3, 3).map(float)), st.sampled_from(("0.5", "0.9"))
)
def test_batched_equals_looped_and_jit_equals_eager(saliency, quantile):
    p = float(quantile)
    batched = _everything(saliency, p)
    mapped = jax.vmap(jax.vmap(lambda maps: _everything(maps, p)))(saliency)
    compiled = _everything_compiled(saliency, p)
    looped = [[_everything_compiled(saliency[i, j], p) for j in range(3)] for i in range(2)]
    for position, whole in enumerate(batched):
        np.testing.assert_array_equal(whole, mapped[position])
        np.testing.assert_array_equal(whole, compiled[position])
        np.testing.assert_array_equal(whole, [[cell[position] for cell in row] for row in looped])


def test_anchor_masks_broadcast_over_the_group():
    saliency = np.asarray(jax.random.normal(jax.random.key(2), (2, 4, SIDE, SIDE)))
    every_mask = np.asarray(quantile_mask(saliency, quantile=0.5))
    kept_anchors, kept = every_mask[:, 0], every_mask[:, 1:]
    for function in map(jax.jit, (intersection_over_union, chance_corrected_iou)):
        whole = function(kept, kept_anchors[:, None])
        assert whole.shape == (2, 3)
        looped = [[function(kept[p, g], kept_anchors[p]) for g in range(3)] for p in range(2)]
        np.testing.assert_allclose(whole, looped, atol=1e-6)


def test_wrong_arguments_are_named():
    saliency = jnp.ones((SIDE, SIDE))
    with types_unchecked(), pytest.raises(ValueError, match="tie_rule: expected strict, rank or paper; got 'loose'"):
        quantile_mask(saliency, quantile=0.5, tie_rule="loose")
    for quantile in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="quantile: expected a number in"):
            quantile_mask(saliency, quantile=quantile)
    with types_unchecked(), pytest.raises(ValueError, match=r"saliency: expected maps \[..., h, w\]"):
        quantile_mask(jnp.ones(3), quantile=0.5)
