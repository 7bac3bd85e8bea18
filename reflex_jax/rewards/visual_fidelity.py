"""DEVICE: visual fidelity reward (paper Eq. 3-5): do two statements look at the same cells of the image?

Pure array math on saliency maps [..., h, w] and on what the judge made of them. Departures from the paper as printed:

- Eq. 3 keeps every cell tied at the cut. A map that is zero on more than `quantile` of its cells would then be kept
  everywhere and give IoU 1 for free, so the default tie rule is `strict`; `paper` is the printed rule.
- A map that cannot be cut (constant, not finite, or nothing left above the cut) has an empty mask under every rule, is
  reported by `is_degenerate`, and earns 0.
"""

from __future__ import annotations

import math
from typing import Literal

import chex
import jax.numpy as jnp
from jaxtyping import Bool, Float

from reflex_jax.records import Evidence
from reflex_jax.trees import Array

TieRule = Literal["strict", "rank", "paper"]


def quantile_mask(
    saliency: Float[Array, "*b h w"], *, quantile: float, tie_rule: TieRule = "strict"
) -> Bool[Array, "*b h w"]:
    """Keeps the cells at or above the map's own `quantile` (Eq. 3).

    A map of N cells without ties keeps N - ceil(quantile * (N - 1)) of them, whatever the rule. Where cells tie at the
    cut, `strict` drops the tied cells if keeping them would exceed that coverage, `rank` keeps exactly that coverage
    (of the tied cells those that come first in reading order), and `paper` keeps all of them.

    The result depends on the order of the cells only: it does not change under a * saliency + b with a > 0.

    Args:
      saliency: signed, any scale.
      quantile: in (0, 1), linear interpolation; 0.5 keeps half of the cells of a map without ties.
      tie_rule: `strict`, `rank` or `paper`.

    Returns:
      True where the statement "looks"; all False for a map that cannot be cut (see `is_degenerate`).

    Raises:
      ValueError: for a quantile out of range or an unknown tie rule.
    """
    values = _flat_cells(saliency)
    coverage = kept_cells(values.shape[-1], quantile)
    if tie_rule == "rank":
        order = jnp.argsort(values, axis=-1, stable=True, descending=True)
        is_kept = jnp.argsort(order, axis=-1) < coverage
    elif tie_rule in ("strict", "paper"):
        cut = _cut_value(values, coverage)
        is_kept = values >= cut
        if tie_rule == "strict":
            exceeds_coverage = is_kept.sum(axis=-1, keepdims=True) > coverage
            is_kept = jnp.where(exceeds_coverage, values > cut, is_kept)
    else:
        raise ValueError(f"tie_rule: expected strict, rank or paper; got {tie_rule!r}.")
    has_order = jnp.all(jnp.isfinite(values), axis=-1) & (values.max(axis=-1) > values.min(axis=-1))
    return (is_kept & has_order[..., None]).reshape(saliency.shape)


def is_degenerate(masks: Bool[Array, "*b h w"]) -> Bool[Array, "*b"]:
    """True for maps that cannot be cut: `quantile_mask` left nothing of them, so the mask says nothing.

    That is a constant map, one with a cell that is not finite, and under `strict` one whose highest value is shared by
    more cells than the coverage. Such a mask earns no visual fidelity.
    """
    chex.assert_type(masks, bool)
    return ~jnp.any(masks, axis=(-2, -1))


def tied_fraction(saliency: Float[Array, "*b h w"], *, quantile: float) -> Float[Array, "*b"]:
    """Share of a map's cells in the tie that the cut falls into.

    0 exactly where no tie crosses the cut, which is where the three tie rules agree; 1 for a constant map.
    """
    values = _flat_cells(saliency)
    coverage = kept_cells(values.shape[-1], quantile)
    cut = _cut_value(values, coverage)
    exceeds_coverage = jnp.sum(values >= cut, axis=-1) > coverage
    return jnp.where(exceeds_coverage, jnp.mean(values == cut, axis=-1, dtype=jnp.float32), 0.0)


def intersection_over_union(masks: Bool[Array, "*#b h w"], other_masks: Bool[Array, "*#b h w"]) -> Float[Array, "*b"]:
    """IoU of two masks (Eq. 4); 0 where both are empty. Leading axes broadcast: [P, G, h, w] with [P, 1, h, w]."""
    chex.assert_type([masks, other_masks], bool)
    chex.assert_equal_shape_suffix([masks, other_masks], 2)
    intersection = jnp.sum(masks & other_masks, axis=(-2, -1), dtype=jnp.float32)
    union = jnp.sum(masks | other_masks, axis=(-2, -1), dtype=jnp.float32)
    return intersection / jnp.maximum(union, 1.0)


def chance_corrected_iou(masks: Bool[Array, "*#b h w"], other_masks: Bool[Array, "*#b h w"]) -> Float[Array, "*b"]:
    """(IoU - e) / (1 - e), where e is the IoU of independent masks with the same coverages.

    With coverages c1 and c2, e = c1 c2 / (c1 + c2 - c1 c2): 1/3 for two halves. 1 is full agreement, 0 is chance,
    below 0 is avoidance. 0 where both masks are empty or both are full: there agreement shows nothing. A report only,
    not a reward.
    """
    iou = intersection_over_union(masks, other_masks)
    coverage = jnp.mean(masks, axis=(-2, -1), dtype=jnp.float32)
    other_coverage = jnp.mean(other_masks, axis=(-2, -1), dtype=jnp.float32)
    expected_union = coverage + other_coverage - coverage * other_coverage
    chance = coverage * other_coverage / jnp.where(expected_union > 0, expected_union, 1.0)
    says_something = chance < 1
    return jnp.where(says_something, (iou - chance) / jnp.where(says_something, 1 - chance, 1.0), 0.0)


def visual_fidelity_reward(evidence: Evidence, *, iou_threshold: float = 0.5) -> Float[Array, "P G"]:
    """R_VFR = 1[IoU > threshold] (Eq. 5), strictly above as printed.

    Args:
      evidence: its `iou` is the agreement of the statement's mask with the anchor's; where one of them `is_degenerate`,
        nothing is earned.
      iou_threshold: 0.5 in the paper.

    Returns:
      0.0 or 1.0.
    """
    return ((evidence.iou > iou_threshold) & ~evidence.is_degenerate).astype(jnp.float32)


def visual_fidelity_margins(evidence: Evidence, *, iou_threshold: float) -> dict[str, Float[Array, "P G"]]:
    """By how much each completion is above the threshold of `visual_fidelity_reward`, by name; it passes above 0."""
    return {"iou": evidence.iou - iou_threshold}


def check_iou_threshold(*, iou_threshold: float) -> None:
    """Refuses a threshold that every overlap would pass or none.

    Raises:
      ValueError: it is outside [-1, 1].
    """
    if not -1 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: expected a number in [-1, 1]; got {iou_threshold}.")


def _flat_cells(saliency: Float[Array, "*b h w"]) -> Float[Array, "*b n"]:
    if saliency.ndim < 2:
        raise ValueError(f"saliency: expected maps [..., h, w]; got shape {saliency.shape}.")
    return saliency.astype(jnp.float32).reshape(*saliency.shape[:-2], -1)


def kept_cells(cells: int, quantile: float) -> int:
    """How many cells of a map without ties lie at or above the linearly interpolated quantile."""
    if not 0 < quantile < 1:
        raise ValueError(f"quantile: expected a number in (0, 1); got {quantile}.")
    # 0.55 * 100 is 55.00000000000001 in floating point, and its ceiling would lose a cell.
    return cells - math.ceil(round(quantile * (cells - 1), 9))


def _cut_value(values: Float[Array, "*b n"], coverage: int) -> Float[Array, "*b 1"]:
    """The lowest value among the `coverage` highest cells.

    `values >= this` is the set that `values >= jnp.quantile(values, quantile)` means. An interpolated quantile rounds,
    even between equal neighbours, and can miss the very cells it lies on.
    """
    index = values.shape[-1] - coverage
    return jnp.sort(values, axis=-1)[..., index : index + 1]
