"""A rollout becomes rewards and advantages: judge evidence -> components -> total -> group (paper Eq. 3-9)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import cast

import jax.numpy as jnp
from jaxtyping import Bool, Float

from reflex_jax.config import Config, JudgeConfig, RewardsConfig
from reflex_jax.grpo.advantages import AdvantageRule, component_advantages, group_advantages
from reflex_jax.judge.evidence import EvidenceSettings, gather_evidence
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.records import Evidence, HostScores, JudgeInputs, Rollout
from reflex_jax.rewards.combine import combine_rewards
from reflex_jax.rewards.components import REWARDS, asks_endpoint, is_of_device
from reflex_jax.rewards.provenance import loop_tightness
from reflex_jax.sharding import map_prompts
from reflex_jax.trees import Array, Leaf, Params, pytree_dataclass, tree_of


@pytree_dataclass
class Scored:
    """Rewards of P x G completions and what they were made of."""

    components: dict[str, Float[Leaf, "P G"]]  # 0 where one does not apply, NaN where the row failed
    applies: dict[str, Bool[Leaf, "P G"]]
    rewards: Float[Leaf, "P G"]
    advantages: Float[Leaf, "P G"]
    is_zero_variance: Bool[Leaf, "P"]
    is_valid: Bool[Leaf, "P G"]  # False: a component failed, on the host or here
    evidence: Evidence | None  # None: no component asks the judge
    loop_tightness: Float[Leaf, "P G"] | None  # reported where provenance is among the components


def without_maps(scored: Scored) -> Scored:
    """What there is one number of for each completion: the judge's maps and embeddings are left where they are."""
    if scored.evidence is None:
        return scored
    leaves = {f.name: getattr(scored.evidence, f.name) for f in dataclasses.fields(scored.evidence)}
    shape = scored.rewards.shape  # maps may have been left already
    numbers = {name: leaf if leaf is not None and leaf.shape == shape else None for name, leaf in leaves.items()}
    return dataclasses.replace(scored, evidence=tree_of(Evidence, **numbers))


def needs_judge(config: Config) -> bool:
    """Whether a component of the reward asks the judge, at whatever weight; else it is neither loaded nor run."""
    return any(is_of_device(name) for name in config.rewards.components)


def needs_endpoint(config: Config) -> bool:
    """Whether a component of the reward is the verdict of a language model behind the section `endpoint`."""
    return any(asks_endpoint(name) for name in config.rewards.components)


def most_failed_rows(rewards: RewardsConfig, rows: int) -> int:
    """How many of so many rows may fail in a step that is still learned from."""
    return math.floor(rewards.max_failure_rate * rows + 1e-6)  # 0.29 * 100 is 28.999999999999996


def make_evidence_settings(judge: JudgeConfig) -> EvidenceSettings:
    """The part of a configuration that the judge's mathematics reads."""
    return EvidenceSettings(
        saliency=judge.saliency,
        saliency_block=judge.saliency_block,
        quantile=judge.quantile,
        tie_rule=judge.tie_rule,
        centered=judge.centered,
    )


def score_rollout(
    judge_params: Params | None,
    judge_inputs: JudgeInputs | None,
    scores: HostScores,
    config: Config,
    judge_config: BiomedClipConfig | None,
) -> Scored:
    """Rewards (paper Eq. 3-9) and group advantages of a rollout.

    Args:
      judge_params: the frozen judge; None, as are its inputs and its shape, where no component asks it.
      judge_inputs: pixels and the distinct statements of each prompt.
      scores: the rewards computed from strings, and which rows count.
      config: sections `judge`, `rewards` and `grpo` are read, and how many prompts the judge reads at one time.
      judge_config: shape of the judge.
    """
    components, applies = dict(scores.components), dict(scores.applies)
    is_valid, evidence, tightness = scores.is_valid, None, None
    if judge_params is not None and judge_inputs is not None and judge_config is not None:
        settings = make_evidence_settings(config.judge)
        evidence = map_prompts(
            lambda inputs: gather_evidence(judge_params, inputs, judge_config, settings),
            judge_inputs, config.memory.microbatch_prompts,
        )  # fmt: skip
    for name, component in config.rewards.components.items():
        if not is_of_device(name):
            continue
        if evidence is None:
            raise ValueError(
                f"score_rollout: {name} reads the judge's evidence; expected a judge and its inputs, got None."
            )
        values = REWARDS[name].function(evidence, **component.options)
        applies[name] = _rows_of(component.when, scores.is_correct)
        # what is no number is a failure, not a row that the component has nothing to say of
        is_valid = is_valid & (jnp.isfinite(values) | ~applies[name])
        components[name] = values if component.when == "always" else jnp.where(applies[name], values, 0.0)
        if name == "provenance":
            tightness = loop_tightness(evidence, **component.options)
    rewards = combine_rewards(components, config.rewards.weights)
    advantages, is_zero_variance = advantages_of(components, rewards, is_valid, config)
    return Scored(
        components=components,
        applies=applies,
        rewards=rewards,
        advantages=advantages,
        is_zero_variance=is_zero_variance,
        is_valid=is_valid,
        evidence=evidence,
        loop_tightness=tightness,
    )


def advantages_of(
    components: Mapping[str, Float[Array, "P G"]],
    rewards: Float[Array, "P G"],
    is_valid: Bool[Array, "P G"],
    config: Config,
) -> tuple[Float[Array, "P G"], Bool[Array, "P"]]:
    """Advantages of P groups, and which groups have no spread, as `rewards.normalise` and `grpo.advantage` say.

    Args:
      components: rewards by name.
      rewards: their weighted total.
      is_valid: False where a reward failed.
      config: of the run.
    """
    how, rule = config.rewards.normalise, cast(AdvantageRule, config.grpo.advantage)
    if how == "sum":
        return group_advantages(rewards, is_valid, normalise=rule)
    return component_advantages(
        components, config.rewards.weights, is_valid, normalise=rule, over_batch=how == "component_batch"
    )


def _count(rows: Bool[Array, "*b"]) -> Float[Array, ""]:
    """How many, at least 1."""
    return jnp.maximum(rows.sum(), 1).astype(jnp.float32)


def _rows_of(when: str, is_correct: Bool[Array, "P G"]) -> Bool[Array, "P G"]:
    return {"always": jnp.ones_like(is_correct), "right": is_correct, "wrong": ~is_correct}[when]


def rollout_metrics(scored: Scored, scores: HostScores, rollout: Rollout, eos_ids: tuple[int, ...]) -> dict[str, Array]:
    """Means over the valid completions, and each component apart for correct and for wrong answers.

    Where no completion is valid there is no mean: NaN, but for the counts. A group without a valid row is none of those
    that could have a spread. A component is averaged over the completions it applies to, a metric of answers over those to
    questions of its kind.

    A right closed answer has the anchor's words, so its visual fidelity is 1 by construction: only the wrong rows tell
    whether the judge's rewards carry anything beyond correctness. `pass_rate` of provenance is the share of its two
    indicators that pass.
    """
    valid = scored.is_valid
    correct, wrong = valid & scores.is_correct, valid & ~scores.is_correct

    def mean(values: Array, rows: Array, among: Array = valid) -> Array:
        return jnp.where(among.any(), jnp.where(rows, values, 0.0).sum() / _count(rows), jnp.nan)

    lengths = rollout.mask.sum(-1)
    finished = jnp.any(rollout.mask & jnp.isin(rollout.tokens, jnp.asarray(eos_ids)), -1)
    metrics = {
        "reward/total": mean(scored.rewards, valid),
        "reward/total_std": jnp.sqrt(mean((scored.rewards - mean(scored.rewards, valid)) ** 2, valid)),
        "frac_zero_std": mean(scored.is_zero_variance.astype(jnp.float32), valid.any(-1)),
        "failed_rows": (~valid).sum().astype(jnp.float32),
        "frac_invalid": 1.0 - valid.astype(jnp.float32).mean(),
        "completion_length": mean(lengths.astype(jnp.float32), valid),
        "tokens": lengths.sum().astype(jnp.float32),
        "truncation_rate": mean((~finished).astype(jnp.float32), valid),
    }
    if scored.evidence is not None:
        evidence = scored.evidence
        measured = {
            "iou": evidence.iou,
            "iou_chance_corrected": evidence.chance_corrected_iou,
            "text_text_similarity": evidence.text_text_similarity,
            "image_text_similarity": evidence.image_text_similarity,
            "degenerate_rate": evidence.is_degenerate.astype(jnp.float32),
            "tied_fraction": evidence.tied_fraction,
        }
        metrics |= {f"judge/{name}": mean(values, valid) for name, values in measured.items()}
    if scored.loop_tightness is not None:
        metrics["judge/loop_tightness"] = mean(scored.loop_tightness, valid)
    for name, values in scores.measured.items():
        counted = valid & ~jnp.isnan(values)
        metrics[name] = mean(values, counted, counted)
    for name, values in scored.components.items():
        rows = scored.applies[name]
        metrics[f"reward/{name}"] = mean(values, valid & rows, valid & rows)
        metrics[f"pass_rate/{name}/correct"] = mean(values, correct & rows, valid & rows)
        metrics[f"pass_rate/{name}/wrong"] = mean(values, wrong & rows, valid & rows)
    return metrics
