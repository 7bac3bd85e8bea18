"""Configuration: one frozen dataclass per section, each refusing values that cannot be run by name.

`config_reader.load_config("configs/phantom.yaml", ["grpo.group_size=4"])` merges, in this order, the defaults below, the
file and the overrides. Math never sees a config (it takes numbers); orchestration does. The sections stand in the files of
this package, read as tables; everything is imported from here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from reflex_jax.config.checks import ConfigError, check, nearest_name, patterns_of, user_path
from reflex_jax.config.data import (
    DATA_SETS,
    RESIZE_MODES,
    SALIENCY_METHODS,
    TIE_RULES,
    CompletionConfig,
    DataConfig,
    JudgeConfig,
    PhaseConfig,
    SourceConfig,
)
from reflex_jax.config.policy import MESH_PRESETS, LoraConfig, MemoryConfig, MeshConfig, PolicyConfig, RolloutConfig
from reflex_jax.config.rewards import WHEN, Component, EndpointConfig, RewardsConfig
from reflex_jax.config.training import (
    ALGORITHM_PRESETS,
    EvidenceConfig,
    GrpoConfig,
    LoggingConfig,
    OptimizerConfig,
    RunConfig,
    SftConfig,
    TrainingConfig,
)

__all__ = [
    "ALGORITHM_PRESETS",
    "CompletionConfig",
    "Component",
    "Config",
    "ConfigError",
    "DATA_SETS",
    "DataConfig",
    "EndpointConfig",
    "EvidenceConfig",
    "GrpoConfig",
    "JudgeConfig",
    "LoggingConfig",
    "LoraConfig",
    "MESH_PRESETS",
    "MOVED_KEYS",
    "MemoryConfig",
    "MeshConfig",
    "OptimizerConfig",
    "PhaseConfig",
    "PolicyConfig",
    "RESIZE_MODES",
    "RewardsConfig",
    "RolloutConfig",
    "RunConfig",
    "SALIENCY_METHODS",
    "SftConfig",
    "SourceConfig",
    "TIE_RULES",
    "TrainingConfig",
    "WHEN",
    "compares_groups",
    "config_to_dict",
    "nearest_name",
    "patterns_of",
    "user_path",
]


def compares_groups(normalise: str, advantage: str) -> bool:
    """Whether advantages by `rewards.normalise` and `grpo.advantage` compare the groups of a batch with one another."""
    return normalise == "component_batch" or advantage in ("batch", "batch_std")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything one run depends on."""

    run: RunConfig = field(default_factory=RunConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)

    def __post_init__(self) -> None:
        """Refuses sections that do not go together."""
        check(
            self.memory.attention != "fused" or self.policy.dtype == "bfloat16",
            "memory.attention=fused: its kernels compute in half precision; set policy.dtype=bfloat16 too, or "
            "memory.attention=auto.",
        )
        check(
            self.rewards.normalise == "sum" or self.grpo.kl_in == "loss",
            f"rewards.normalise={self.rewards.normalise}: expected grpo.kl_in=loss, a penalty is taken off the total, which is "
            "not standardised then; set one of them back.",
        )
        over_batch = compares_groups(self.rewards.normalise, self.grpo.advantage)
        check(
            not (self.evidence.every and self.evidence.groups and over_batch),
            f"evidence.groups={self.evidence.groups}: expected 0 (all of a step) with rewards.normalise={self.rewards.normalise} "
            f"and grpo.advantage={self.grpo.advantage}, which compare groups: of some of them no advantage can be recomputed.",
        )
        check(
            not (self.evidence.every and self.judge.sees_all_pictures),
            f"evidence.every={self.evidence.every}: expected 0 with judge.picture=mean, evidence holds one map of a statement "
            "and not one for each picture; set one of them back.",
        )


# Settings that moved; the old name is refused with the new one.
MOVED_KEYS = {
    "policy.remat": "memory.remat",
    "policy.log_prob_chunk": "memory.log_prob_chunk",
    "policy.attention": "memory.attention",
    "grpo.microbatch_prompts": "memory.microbatch_prompts",
    "rollout.weights": "memory.rollout_weights",
    "judge.iou_threshold": "rewards.components.visual_fidelity.iou_threshold",
    "judge.text_threshold": "rewards.components.provenance.text_threshold",
    "judge.image_threshold": "rewards.components.provenance.image_threshold",
    "rewards.open_answer_parts": "rewards.components.answer.parts",
}


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as plain dicts, lists and scalars, ready for YAML and as a file has them."""
    return _plain(config)


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        return {"weight": value.weight, "when": value.when, **_plain(value.options)}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
