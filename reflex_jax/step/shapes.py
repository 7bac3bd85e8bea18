"""What a run is, without weights and without data: mesh, sizes of the two models, vocabulary, sizes of prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, DataConfig, MemoryConfig
from reflex_jax.data.images import count_windows, smart_resize
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.models.attention_choice import AttentionChoice
from reflex_jax.models.biomedclip import BiomedClipConfig, read_judge_config
from reflex_jax.models.partitioning import policy_table
from reflex_jax.models.published import published_judge, published_policy
from reflex_jax.models.qwen_vision import QwenVisionConfig
from reflex_jax.models.qwen_vl import QwenVLConfig, read_qwen_config
from reflex_jax.sharding import (
    ROLLOUT_RULES,
    UPDATE_RULES,
    AnyMesh,
    BatchRows,
    Rules,
    batch_rows,
    check_attention,
    parameter_shardings,
    platform_of,
)
from reflex_jax.step.sampling import Vocabulary
from reflex_jax.trees import Params, Shardings

_ASPECT_RATIOS = (1.0, 1.1, 1.25, 1.33, 1.5, 1.78, 2.0)  # of medical pictures


@dataclass(frozen=True, eq=False)
class Shapes:
    """Everything that decides what is compiled, beside the settings."""

    mesh: AnyMesh
    policy: QwenVLConfig
    judge: BiomedClipConfig | None  # None: nothing in the run asks the judge
    vocabulary: Vocabulary

    def policy_shardings(self, tree: Any, rules: Rules = UPDATE_RULES) -> Shardings:
        """Where parameters of the policy, a part of them or a training state of them lie."""
        return parameter_shardings(tree, policy_table(self.policy, self.mesh), self.mesh, rules)

    def sampling_shardings(self, params: Params, rules: Rules) -> Shardings:
        """Where the weights to sample with lie: for `layers_apart` of these stacked parameters."""
        places = self.policy_shardings(params, rules)
        of_layer = jax.tree.map(
            lambda place: NamedSharding(place.mesh, PartitionSpec(*place.spec[1:])), places["layers"]
        )
        return {**places, "layers": [of_layer] * self.policy.text.layers}

    def rows(self, count: int) -> BatchRows:
        """Which of `count` prompts this process works on."""
        return batch_rows(self.mesh, count)


def named_shapes(config: Config, mesh: AnyMesh, *, with_judge: bool = True) -> Shapes:
    """The shapes of a run whose weights need not be here; every token of the vocabulary counts as allowed.

    Args:
      config: of the run.
      mesh: of the run; an abstract one will do where nothing is compiled.
      with_judge: whether the run asks the judge.
    Raises:
      ConfigError: the mesh does not fit the model, or the size of a model is neither on disk nor published.
    """
    check_attention(mesh, config.memory.attention)
    policy = policy_sizes(config)
    vocabulary = Vocabulary(
        allowed=np.ones(policy.text.vocabulary, bool),
        eos_ids=config.rollout.eos_ids or policy.eos_token_ids,
        pad_id=policy.pad_token_id,
    )
    return Shapes(mesh, policy, judge_sizes(config) if with_judge else None, vocabulary)


def policy_sizes(config: Config) -> QwenVLConfig:
    """Sizes of the policy: of its directory where there is one, else of the published model of that name."""
    published = None if Path(config.policy.path).is_dir() else published_policy(config.policy.path)
    return published or read_qwen_config(resolve_checkpoint(config.policy.path, "policy"))


def judge_sizes(config: Config) -> BiomedClipConfig:
    """Sizes of the judge: of its directory where there is one, else of the published model of that name."""
    published = None if Path(config.judge.path).is_dir() else published_judge(config.judge.path)
    return published or read_judge_config(resolve_checkpoint(config.judge.path, "judge"))


def attention_of(config: Config, shapes: Shapes) -> AttentionChoice:
    """What computes the attention of a run on the devices of its mesh."""
    return AttentionChoice(config.memory.attention, platform_of(shapes.mesh))


def rollout_rules(memory: MemoryConfig) -> Rules:
    """How the weights are cut while sampling."""
    return ROLLOUT_RULES if memory.rollout_weights == "gathered" else UPDATE_RULES


def largest_prompt(data: DataConfig, vision: QwenVisionConfig) -> PromptSizes:
    """Room for the longest prompt and for the largest picture, whatever its shape up to 2:1."""
    if vision.tile_size:
        tiles = max(1, data.max_pixels // vision.tile_size**2)
        return PromptSizes(data.max_prompt_tokens, tiles + (tiles > 1))  # the whole picture beside several
    windows = 0
    for ratio in _ASPECT_RATIOS:
        side = math.sqrt(data.max_pixels / ratio)
        height, width = smart_resize(
            round(side * ratio), round(side), factor=vision.patch_size * vision.merge_size,
            min_pixels=data.min_pixels, max_pixels=data.max_pixels,
        )  # fmt: skip
        windows = max(windows, count_windows((1, height // vision.patch_size, width // vision.patch_size), vision))
    return PromptSizes(data.max_prompt_tokens, windows)


def smallest_prompt(data: DataConfig, vision: QwenVisionConfig) -> PromptSizes:
    """What every question of a run needs at least: its picture, as small as `data` allows, and the tokens of that."""
    if vision.tile_size:
        return PromptSizes(1 + vision.window_features, 1)
    # a side that is cut down to whole features loses less than half
    pixels = min(data.min_pixels, data.max_pixels // 4)
    return PromptSizes(
        1 + pixels // (vision.patch_size * vision.merge_size) ** 2,
        -(-pixels // (vision.patches_per_window * vision.patch_size**2)),
    )


def sampled_at_once(prompts: int, memory: MemoryConfig) -> int:
    """How many of so many prompts have their groups sampled at one time; all, where `memory.rollout_prompts` is no divisor."""
    few = memory.rollout_prompts
    return few if 0 < few < prompts and prompts % few == 0 else prompts


def read_at_once(prompts: int, memory: MemoryConfig) -> int:
    """How many of the prompts that are sampled together are read at one time."""
    few = memory.microbatch_prompts
    return few if 0 < few < prompts and prompts % few == 0 else prompts
