"""DEVICE: provenance reward (paper Eq. 6-8): does the statement say what the anchor says, and does the image agree?

Pure array math on cosines; imports jax.numpy only. The thresholds are strict, as printed. `loop_tightness` is reported
and never part of the reward, as in the paper.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from reflex_jax.trees import Array


def provenance_reward(
    text_text: Float[Array, "*b"],
    image_text: Float[Array, "*b"],
    *,
    text_threshold: float,
    image_threshold: float,
) -> Float[Array, "*b"]:
    """R_BPR = 1/2 1[s_tt > text_threshold] + 1/2 1[s_it > image_threshold] (Eq. 7).

    Args:
      text_text: cosine of the statement with the anchor (s_tt of Eq. 6), in [-1, 1].
      image_text: cosine of the image with the statement (s_it of Eq. 6), in [-1, 1].
      text_threshold: 0.8 in the paper.
      image_threshold: 0.5 in the paper.

    Returns:
      0.0, 0.5 or 1.0.
    """
    agrees_with_anchor = (text_text > text_threshold).astype(jnp.float32)
    agrees_with_image = (image_text > image_threshold).astype(jnp.float32)
    return 0.5 * agrees_with_anchor + 0.5 * agrees_with_image


def loop_tightness(
    text_text: Float[Array, "*b"],
    image_text: Float[Array, "*b"],
    *,
    text_threshold: float,
    image_threshold: float,
) -> Float[Array, "*b"]:
    """LoopTight = max(min(s_tt - text_threshold, s_it - image_threshold), 0) (Eq. 8).

    The smaller of the two margins by which both checks of `provenance_reward` pass; 0 where one fails.
    """
    return jnp.maximum(jnp.minimum(text_text - text_threshold, image_text - image_threshold), 0.0)
