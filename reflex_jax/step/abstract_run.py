"""A run without weights and without data: the functions of the run, and the shapes and places of what they read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.policy import Policy
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import Config
from reflex_jax.data.images import count_windows, smart_resize
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.judge.evidence import Judge
from reflex_jax.models.biomedclip import BiomedClipConfig, init_judge_params, read_judge_config
from reflex_jax.models.published import published_judge, published_policy
from reflex_jax.models.qwen_vision import QwenVisionConfig
from reflex_jax.models.qwen_vl import QwenVLConfig, read_qwen_config
from reflex_jax.records import HostScores, JudgeInputs, PromptInputs, Rollout, TrainBatch, VisionInputs
from reflex_jax.sharding import ROLLOUT_RULES, UPDATE_RULES, AnyMesh, batch_sharding, check_attention, replicated
from reflex_jax.step.program import Models, make_generator, make_weight_gatherer
from reflex_jax.step.score import score_rollout
from reflex_jax.step.state import FrozenParams, TrainState, init_state, make_optimizer, split_trainable
from reflex_jax.step.update import UpdateInputs, make_policy_update

_ASPECT_RATIOS = (1.0, 1.1, 1.25, 1.33, 1.5, 1.78, 2.0)  # of medical pictures


@dataclass(frozen=True)
class AbstractRun:
    """What one step of a run works on."""

    config: Config
    models: Models
    sizes: PromptSizes
    state: TrainState
    frozen: FrozenParams
    weights: Any  # the policy as sampling reads it
    batch: TrainBatch
    optimizer: Any

    @property
    def resident(self) -> tuple[TrainState, FrozenParams]:
        """What stays on the devices from the first step to the last."""
        return self.state, self.frozen

    def functions(self) -> dict[str, tuple[jax.stages.Wrapped, tuple[Any, ...]]]:
        """Name of each part of a step -> (jitted function, abstract arguments), as `Trainer` builds them.

        `train_step` runs the last two as one: its memory is that of the larger one.
        """
        config, models = self.config, self.models
        mesh = models.mesh
        key = jax.eval_shape(lambda: jax.random.key(0))
        key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))
        prompt_ids = _batched(mesh, config.grpo.prompts_per_step)((), jnp.int32)
        generate = make_generator(
            config, models, group_size=config.grpo.group_size, temperature=config.rollout.temperature
        )
        places = (models.policy_shardings(self.state), replicated(mesh))
        update = make_policy_update(config, models.policy.config, self.optimizer, models.allowed)
        rollout, scores = self.batch.rollout, self.batch.scores
        inputs = UpdateInputs(
            prompts=self.batch.prompts, rollout=rollout, mask=rollout.mask,
            advantages=scores.components["answer"], old_log_probs=None,
        )  # fmt: skip
        score = jax.jit(lambda judge, inputs, scores: score_rollout(judge, inputs, scores, config, models.judge.config))
        return {
            "gather_weights": (make_weight_gatherer(config, models), (self.state.params, self.frozen.fixed)),
            "generate": (generate, (self.weights, self.batch.prompts, key, prompt_ids)),
            "score_rollout": (score, (self.frozen.judge, self.batch.judge, self.batch.scores)),
            "update": (
                jax.jit(update, donate_argnums=0, out_shardings=places),
                (self.state, self.frozen, inputs, scores.is_valid),
            ),
        }


def abstract_run(config: Config, mesh: AnyMesh, sizes: PromptSizes | None = None) -> AbstractRun:
    """Derives every shape of a run; statements are as long as `judge` allows.

    Args:
      config: of the run.
      mesh: of the run; an abstract one will do where nothing is compiled.
      sizes: of the prompts; None: as long and their pictures as large as `data` allows.
    Raises:
      ConfigError: the mesh does not fit the model, or the size of a model is neither on disk nor published.
    """
    check_attention(mesh, config.policy.attention)
    policy, judge = policy_sizes(config), judge_sizes(config)
    models = Models(
        mesh=mesh,
        policy=Policy(config=policy, params=None, processor=None, directory=Path(config.policy.path)),
        judge=Judge(config=judge, params=None, tokenizer=None),
        allowed=np.ones(policy.text.vocabulary, bool),
        eos_ids=config.rollout.eos_ids or policy.eos_token_ids,
        pad_id=policy.pad_token_id,
    )
    params = abstract_policy_params(policy)
    trainable, fixed = split_trainable(params, config.policy.trainable)
    optimizer = make_optimizer(config.optimizer, 1000)
    compute = jnp.dtype(config.policy.dtype)

    def placed(tree: Any, dtype: Any = None, rules: Any = UPDATE_RULES) -> Any:
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding),
            tree,
            models.policy_shardings(tree, rules),
        )

    judge_params = _judge_shapes(judge)
    needs_reference = config.grpo.kl_coefficient > 0 or config.grpo.ratio == "ref"
    frozen = FrozenParams(
        fixed=placed(fixed, compute),
        reference=placed(params, compute) if needs_reference else None,
        judge=jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(config.judge.dtype), sharding=replicated(mesh)),
            judge_params,
        ),
    )
    sizes = sizes or largest_prompt(config, policy.vision)
    return AbstractRun(
        config=config,
        models=models,
        sizes=sizes,
        state=placed(jax.eval_shape(lambda p: init_state(p, optimizer), trainable)),
        frozen=frozen,
        weights=placed(params, compute, ROLLOUT_RULES if config.rollout.weights == "gathered" else UPDATE_RULES),
        batch=_abstract_batch(config, mesh, sizes, policy.vision, judge),
        optimizer=optimizer,
    )


@lru_cache(maxsize=4)
def _judge_shapes(judge: BiomedClipConfig) -> Any:
    return jax.eval_shape(lambda: init_judge_params(judge, jax.random.key(0)))


def policy_sizes(config: Config) -> QwenVLConfig:
    """Sizes of the policy: of its directory where there is one, else of the published model of that name."""
    published = None if Path(config.policy.path).is_dir() else published_policy(config.policy.path)
    return published or read_qwen_config(resolve_checkpoint(config.policy.path, "policy"))


def judge_sizes(config: Config) -> BiomedClipConfig:
    """Sizes of the judge: of its directory where there is one, else of the published model of that name."""
    published = None if Path(config.judge.path).is_dir() else published_judge(config.judge.path)
    return published or read_judge_config(resolve_checkpoint(config.judge.path, "judge"))


def largest_prompt(config: Config, vision: QwenVisionConfig) -> PromptSizes:
    """Room for the longest prompt and for the largest picture, whatever its shape up to 2:1."""
    windows = 0
    for ratio in _ASPECT_RATIOS:
        side = math.sqrt(config.data.max_pixels / ratio)
        height, width = smart_resize(
            round(side * ratio), round(side), factor=vision.patch_size * vision.merge_size,
            min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels,
        )  # fmt: skip
        windows = max(windows, count_windows((1, height // vision.patch_size, width // vision.patch_size), vision))
    return PromptSizes(config.data.max_prompt_tokens, windows)


def smallest_prompt(config: Config, vision: QwenVisionConfig) -> PromptSizes:
    """What every question of a run needs at least: its picture, as small as `data` allows, and the tokens of that."""
    # a side that is cut down to whole features loses less than half
    pixels = min(config.data.min_pixels, config.data.max_pixels // 4)
    return PromptSizes(1 + pixels // (vision.patch_size * vision.merge_size) ** 2, -(-pixels // vision.window_size**2))


def bytes_on_device(tree: Any) -> int:
    """Memory one device needs for its part of placed abstract arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )  # fmt: skip


def _batched(mesh: AnyMesh, prompts: int) -> Callable[[tuple[int, ...], Any], jax.ShapeDtypeStruct]:
    """Makes abstract arrays whose first axis counts prompts."""
    sharding = batch_sharding(mesh)
    return lambda shape, dtype: jax.ShapeDtypeStruct((prompts, *shape), dtype, sharding=sharding)


def _abstract_batch(
    config: Config, mesh: AnyMesh, sizes: PromptSizes, vision: QwenVisionConfig, judge: BiomedClipConfig
) -> TrainBatch:
    batched = _batched(mesh, config.grpo.prompts_per_step)
    group, steps, length = config.grpo.group_size, config.rollout.max_new_tokens, sizes.prompt_tokens
    slots = (sizes.windows, vision.patches_per_window)
    side = judge.vision.image_size
    statements = group + 1 + config.judge.centered  # all different, the anchor, the question-only one
    return TrainBatch(
        prompts=PromptInputs(
            tokens=batched((length,), jnp.int32),
            is_valid=batched((length,), jnp.bool_),
            positions=batched((3, length), jnp.int32),
            feature_index=batched((length,), jnp.int32),
            vision=VisionInputs(
                patches=batched((*slots, vision.patch_width), jnp.float32),
                coordinates=batched((*slots, 2), jnp.int32),
                image_ids=batched(slots, jnp.int32),
            ),
        ),
        rollout=Rollout(
            tokens=batched((group, steps), jnp.int32),
            log_probs=batched((group, steps), jnp.float32),
            mask=batched((group, steps), jnp.bool_),
        ),
        judge=JudgeInputs(
            pixels=batched((side, side, 3), jnp.uint8),
            statements=batched((statements, config.judge.max_statement_tokens), jnp.int32),
            statement_count=batched((), jnp.int32),
            statement_index=batched((group,), jnp.int32),
            has_statement=batched((group,), jnp.bool_),
        ),
        scores=HostScores(
            components={name: batched((group,), jnp.float32) for name in ("answer", "format")},
            is_correct=batched((group,), jnp.bool_),
            is_valid=batched((group,), jnp.bool_),
        ),
    )
