"""A rollout becomes rewards and advantages: judge evidence -> components -> total -> group (paper Eq. 3-9)."""

from __future__ import annotations

from typing import Any, cast

import jax.numpy as jnp
from jaxtyping import Bool, Float

from reflex_jax.config import Config
from reflex_jax.grpo.advantages import AdvantageRule, group_advantages
from reflex_jax.judge.evidence import gather_evidence
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.records import HostScores, JudgeInputs, Rollout
from reflex_jax.rewards.combine import combine_rewards
from reflex_jax.trees import Array, Leaf, pytree_dataclass


@pytree_dataclass
class ScoredRollout:
    """Rewards of P x G completions and what they were made of."""

    components: dict[str, Float[Leaf, "P G"]]
    rewards: Float[Leaf, "P G"]
    advantages: Float[Leaf, "P G"]
    is_zero_variance: Bool[Leaf, "P"]
    iou: Float[Leaf, "P G"]
    chance_corrected_iou: Float[Leaf, "P G"]
    text_text_similarity: Float[Leaf, "P G"]
    image_text_similarity: Float[Leaf, "P G"]
    loop_tightness: Float[Leaf, "P G"]
    is_degenerate: Bool[Leaf, "P G"]
    tied_fraction: Float[Leaf, "P G"]


def score_rollout(
    judge_params: Any,
    judge_inputs: JudgeInputs | None,
    scores: HostScores,
    config: Config,
    judge_config: BiomedClipConfig | None,
) -> ScoredRollout:
    """Rewards (paper Eq. 3-9) and group advantages of a rollout.

    Args:
      judge_params: the frozen judge.
      judge_inputs: pixels and the distinct statements of each prompt.
      scores: the rewards computed from strings, and which rows count.
      config: sections `judge`, `rewards` and `grpo` are read.
      judge_config: shape of the judge.
    """
    if judge_inputs is None or judge_config is None:
        raise ValueError("score_rollout: expected what the judge reads, and its shape; got None.")
    judge = config.judge
    evidence = gather_evidence(
        judge_params,
        judge_inputs,
        judge_config,
        saliency=judge.saliency,
        saliency_block=judge.saliency_block,
        quantile=judge.quantile,
        tie_rule=judge.tie_rule,
        iou_threshold=judge.iou_threshold,
        text_threshold=judge.text_threshold,
        image_threshold=judge.image_threshold,
        centered=judge.centered,
    )
    components = {
        **scores.components,
        "visual_fidelity": evidence.visual_fidelity,
        "provenance": evidence.provenance,
    }
    weights = config.rewards.components
    rewards = combine_rewards({name: components[name] for name in weights}, weights)
    advantages, is_zero_variance = group_advantages(
        rewards, scores.is_valid, normalise=cast(AdvantageRule, config.grpo.advantage)
    )
    return ScoredRollout(
        components=components,
        rewards=rewards,
        advantages=advantages,
        is_zero_variance=is_zero_variance,
        iou=evidence.iou,
        chance_corrected_iou=evidence.chance_corrected_iou,
        text_text_similarity=evidence.text_text_similarity,
        image_text_similarity=evidence.image_text_similarity,
        loop_tightness=evidence.loop_tightness,
        is_degenerate=evidence.is_degenerate,
        tied_fraction=evidence.tied_fraction,
    )


def rollout_metrics(
    scored: ScoredRollout, scores: HostScores, rollout: Rollout, eos_ids: tuple[int, ...]
) -> dict[str, Array]:
    """Means over the valid completions, and each component apart for correct and for wrong answers.

    Where no completion is valid there is no mean: NaN, but for the counts. A group without a valid row is none of those
    that could have a spread.

    A right closed answer has the anchor's words, so its visual fidelity is 1 by construction: only the wrong rows tell
    whether the judge's rewards carry anything beyond correctness. `pass_rate` of provenance is the share of its two
    indicators that pass.
    """
    valid = scores.is_valid
    correct, wrong = valid & scores.is_correct, valid & ~scores.is_correct

    def mean(values: Array, rows: Array) -> Array:
        return jnp.where(
            valid.any(), jnp.where(rows, values, 0.0).sum() / jnp.maximum(rows.sum(), 1).astype(jnp.float32), jnp.nan
        )

    lengths = rollout.mask.sum(-1)
    finished = jnp.any(rollout.mask & jnp.isin(rollout.tokens, jnp.asarray(eos_ids)), -1)
    metrics = {
        "reward/total": mean(scored.rewards, valid),
        "reward/total_std": jnp.sqrt(mean((scored.rewards - mean(scored.rewards, valid)) ** 2, valid)),
        "accuracy": mean(scores.is_correct.astype(jnp.float32), valid),
        "frac_zero_std": mean(scored.is_zero_variance.astype(jnp.float32), valid.any(-1)),
        "failed_rows": (~valid).sum().astype(jnp.float32),
        "frac_invalid": 1.0 - valid.astype(jnp.float32).mean(),
        "completion_length": mean(lengths.astype(jnp.float32), valid),
        "tokens": lengths.sum().astype(jnp.float32),
        "truncation_rate": mean((~finished).astype(jnp.float32), valid),
        "judge/iou": mean(scored.iou, valid),
        "judge/iou_chance_corrected": mean(scored.chance_corrected_iou, valid),
        "judge/text_text_similarity": mean(scored.text_text_similarity, valid),
        "judge/image_text_similarity": mean(scored.image_text_similarity, valid),
        "judge/loop_tightness": mean(scored.loop_tightness, valid),
        "judge/degenerate_rate": mean(scored.is_degenerate.astype(jnp.float32), valid),
        "judge/tied_fraction": mean(scored.tied_fraction, valid),
    }
    for name, values in scored.components.items():
        metrics[f"reward/{name}"] = mean(values, valid)
        metrics[f"pass_rate/{name}/correct"] = mean(values, correct)
        metrics[f"pass_rate/{name}/wrong"] = mean(values, wrong)
    return metrics
