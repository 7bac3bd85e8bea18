"""DEVICE: provenance reward (paper Eq. 6-8): does the statement say what the anchor says, and does the image agree?

Pure array math on the judge's cosines. The thresholds are strict, as printed. `loop_tightness` is reported and never part
of the reward, as in the paper.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from reflex_jax.records import Evidence
from reflex_jax.trees import Array


def provenance_reward(
    evidence: Evidence, *, text_threshold: float = 0.8, image_threshold: float = 0.5
) -> Float[Array, "P G"]:
    """R_BPR = 1/2 1[s_tt > text_threshold] + 1/2 1[s_it > image_threshold] (Eq. 7), 0 without a statement.

    Args:
      evidence: its `text_text_similarity` is s_tt of Eq. 6, statement with anchor; `image_text_similarity` is s_it, image
        with statement.
      text_threshold: tau_tt.
      image_threshold: tau_it.

    Returns:
      0.0, 0.5 or 1.0; NaN where a similarity is none.
    """
    text_text, image_text = evidence.text_text_similarity, evidence.image_text_similarity
    agrees_with_anchor = (text_text > text_threshold).astype(jnp.float32)
    agrees_with_image = (image_text > image_threshold).astype(jnp.float32)
    reward = 0.5 * agrees_with_anchor + 0.5 * agrees_with_image
    # no cosine passes or misses a threshold by not being a number: that is a failure, and stays one
    reward = jnp.where(jnp.isnan(text_text) | jnp.isnan(image_text), jnp.nan, reward)
    # thresholds below 0 are allowed, and the zeros of a missing statement would pass them
    return jnp.where(evidence.has_statement, reward, 0.0)


def loop_tightness(
    evidence: Evidence, *, text_threshold: float = 0.8, image_threshold: float = 0.5
) -> Float[Array, "P G"]:
    """LoopTight = max(min(s_tt - text_threshold, s_it - image_threshold), 0) (Eq. 8), 0 without a statement.

    The smaller of the two margins by which both checks of `provenance_reward` pass; 0 where one fails.
    """
    margins = provenance_margins(evidence, text_threshold=text_threshold, image_threshold=image_threshold)
    return jnp.where(evidence.has_statement, jnp.maximum(jnp.minimum(*margins.values()), 0.0), 0.0)


def provenance_margins(
    evidence: Evidence, *, text_threshold: float, image_threshold: float
) -> dict[str, Float[Array, "P G"]]:
    """By how much each completion is above the thresholds of `provenance_reward`, by name; a check passes above 0."""
    return {
        "text_text": evidence.text_text_similarity - text_threshold,
        "image_text": evidence.image_text_similarity - image_threshold,
    }


def check_thresholds(**thresholds: float) -> None:
    """Refuses thresholds that no cosine could be held against.

    Raises:
      ValueError: one is outside [-1, 1].
    """
    for name, value in thresholds.items():
        if not -1 <= value <= 1:
            raise ValueError(f"{name}: expected a number in [-1, 1]; got {value}.")
