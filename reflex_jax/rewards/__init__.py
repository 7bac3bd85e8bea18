"""One file per reward. DEVICE modules take arrays, HOST modules take strings; neither sees configs or models."""

from reflex_jax.rewards.answer import answer_reward, bleu1, closed_answer_reward, open_answer_reward, rouge1
from reflex_jax.rewards.combine import combine_rewards
from reflex_jax.rewards.format import format_reward
from reflex_jax.rewards.provenance import loop_tightness, provenance_reward
from reflex_jax.rewards.visual_fidelity import (
    chance_corrected_iou,
    intersection_over_union,
    is_degenerate,
    quantile_mask,
    tied_fraction,
    visual_fidelity_reward,
)

__all__ = [
    "answer_reward",
    "bleu1",
    "chance_corrected_iou",
    "closed_answer_reward",
    "combine_rewards",
    "format_reward",
    "intersection_over_union",
    "is_degenerate",
    "loop_tightness",
    "open_answer_reward",
    "provenance_reward",
    "quantile_mask",
    "rouge1",
    "tied_fraction",
    "visual_fidelity_reward",
]
