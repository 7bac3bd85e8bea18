"""A run without weights and without data: what the functions of its program are called with, as shapes and places."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import Config
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.models.biomedclip import BiomedClipConfig, init_judge_params
from reflex_jax.records import Draws, HostScores, JudgeInputs, PromptInputs, Rollout, TrainBatch, VisionInputs
from reflex_jax.rewards.answer_metrics import ANSWER_METRICS
from reflex_jax.rewards.components import is_of_device
from reflex_jax.sharding import AnyMesh, batch_sharding, replicated
from reflex_jax.step.bridge import JUDGE_METRICS
from reflex_jax.step.encoders import abstract_encoders
from reflex_jax.step.imitate import SftBatch
from reflex_jax.step.offload import is_on_host, state_shardings
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.rows import abstract_rows, plan_rows
from reflex_jax.step.shapes import Shapes, largest_prompt
from reflex_jax.step.state import FrozenParams, TrainState, init_state
from reflex_jax.step.trained import abstract_trained, split_trainable
from reflex_jax.trees import Params, Shardings


@dataclass(frozen=True, eq=False)
class AbstractRun:
    """What one step of a run works on."""

    config: Config
    shapes: Shapes
    sizes: PromptSizes
    program: Program
    state: TrainState
    frozen: FrozenParams
    weights: Params  # the policy as sampling reads it
    batch: TrainBatch | SftBatch  # of GRPO or of the supervised phase
    draws: Draws
    encoders: dict[str, Params]  # of texts, for rewards; on the first device of each process

    @property
    def is_supervised(self) -> bool:
        """Whether it imitates."""
        return isinstance(self.batch, SftBatch)

    @property
    def completions(self) -> tuple[int, int, int]:
        """(P, G, Lc) of one step; G is 1 in the supervised phase."""
        batch = self.batch
        return (batch.tokens if isinstance(batch, SftBatch) else batch.rollout.tokens).shape

    @property
    def resident(self) -> tuple[TrainState, FrozenParams]:
        """What stays on the devices from the first step to the last."""
        return self.state, self.frozen

    @property
    def inputs_of_judge(self) -> JudgeInputs | None:
        """What the judge reads; None: nothing asks it."""
        return None if isinstance(self.batch, SftBatch) else self.batch.judge

    def functions(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """Name of each part of a step -> (jitted function of the program, abstract arguments).

        `train_step` runs the last two as one: its memory is that of the larger one.
        """
        program, batch = self.program, self.batch
        if isinstance(batch, SftBatch):
            return {"update": (program.imitate, (self.state, self.frozen, batch))}
        scoring = (self.frozen.judge, batch.judge, batch.scores)
        scored = jax.eval_shape(program.score, *scoring)
        scored = jax.tree.map(_batched_like(self.shapes.mesh), scored)
        return {
            "gather_weights": (program.gather, (self.state.params, self.frozen.fixed)),
            "generate": (program.sample, (self.weights, batch.prompts, self.draws)),
            "score_rollout": (program.score, scoring),
            "update": (program.update, (self.state, self.frozen, batch, scored)),
        }


def abstract_run(
    config: Config, shapes: Shapes, sizes: PromptSizes | None = None, *, supervised: bool = False
) -> AbstractRun:
    """Derives every array of a run; statements are as long as `judge` allows.

    Args:
      config: of the run.
      shapes: of the run, on an abstract mesh where nothing is compiled.
      sizes: of the prompts; None: as long and their pictures as large as `data` allows.
      supervised: the run imitates, with neither judge nor reference; else it is one of GRPO.
    Raises:
      ConfigError: the mesh does not fit the model.
    """
    program = build_program(config, shapes, every_round=True)
    params = abstract_policy_params(shapes.policy)
    own, fixed = split_trainable(params, config.policy)
    compute = jnp.dtype(config.policy.dtype)

    def placed(tree: Any, dtype: Any) -> Any:
        return _placed(tree, shapes.policy_shardings(tree), dtype)

    frozen = FrozenParams(
        fixed=placed(fixed, compute),
        reference=placed(own, compute) if config.grpo.needs_reference and not supervised else None,
        judge=None if supervised else _judge_params(config, shapes),
    )
    trained = abstract_trained(params, config.policy)
    state = jax.eval_shape(lambda p: init_state(p, program.optimizer, config.policy.master_dtype), trained)
    sizes = sizes or largest_prompt(config.data, shapes.policy.vision)
    batched = _batched(shapes.mesh, config.grpo.prompts_per_step)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return AbstractRun(
        config=config,
        shapes=shapes,
        sizes=sizes,
        program=program,
        state=_placed(state, state_shardings(state, shapes, config.memory)),
        frozen=frozen,
        weights=program.gather.weights,
        batch=(_abstract_targets if supervised else _abstract_batch)(config, shapes, sizes),
        draws=Draws(
            key=jax.ShapeDtypeStruct(key.shape, key.dtype),  # wherever the host made it
            prompt_ids=batched((), jnp.int32),
        ),
        encoders={} if supervised else abstract_encoders(config, with_judge=shapes.judge is not None),
    )


def _placed(tree: Any, places: Shardings, dtype: Any = None) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=place), tree, places
    )


def _judge_params(config: Config, shapes: Shapes) -> Any:
    if shapes.judge is None:
        return None
    place, dtype = replicated(shapes.mesh), jnp.dtype(config.judge.dtype)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place), _judge_shapes(shapes.judge)
    )


@lru_cache(maxsize=4)
def _judge_shapes(judge: BiomedClipConfig) -> Any:
    return jax.eval_shape(lambda: init_judge_params(judge, jax.random.key(0)))


def bytes_on_device(tree: Any) -> int:
    """Memory one device needs for its part of placed abstract arrays; those that wait on the host need none."""
    return sum(_bytes_of_part(leaf) for leaf in jax.tree.leaves(tree) if not is_on_host(leaf))


def bytes_on_host(tree: Any) -> int:
    """Memory of its host that one device's part of placed abstract arrays needs."""
    return sum(_bytes_of_part(leaf) for leaf in jax.tree.leaves(tree) if is_on_host(leaf))


def numbers_of_device(tree: Any) -> int:
    """How many numbers of abstract arrays are one device's part, wherever they lie; all of an array without a place."""
    return sum(math.prod(_shape_of_part(leaf)) for leaf in jax.tree.leaves(tree))


def _shape_of_part(leaf: Any) -> tuple[int, ...]:
    return leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)


def _bytes_of_part(leaf: Any) -> int:
    return numbers_of_device(leaf) * leaf.dtype.itemsize


def _batched(mesh: AnyMesh, prompts: int) -> Callable[[tuple[int, ...], Any], jax.ShapeDtypeStruct]:
    """Makes abstract arrays whose first axis counts prompts."""
    sharding = batch_sharding(mesh)
    return lambda shape, dtype: jax.ShapeDtypeStruct((prompts, *shape), dtype, sharding=sharding)


def _batched_like(mesh: AnyMesh) -> Callable[[jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    sharding = batch_sharding(mesh)
    return lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _abstract_prompts(shapes: Shapes, sizes: PromptSizes, prompts: int) -> PromptInputs:
    """The prompts of a batch."""
    batched, vision, length = _batched(shapes.mesh, prompts), shapes.policy.vision, sizes.prompt_tokens
    slots = (sizes.windows, vision.patches_per_window)
    return PromptInputs(
        tokens=batched((length,), jnp.int32),
        is_valid=batched((length,), jnp.bool_),
        positions=batched((3, length), jnp.int32),
        feature_index=batched((length,), jnp.int32),
        vision=VisionInputs(
            patches=batched((*slots, vision.still_width), jnp.uint8),
            coordinates=batched((*slots, 2), jnp.int32),
            image_ids=batched(slots, jnp.int32),
            normalisation=batched((2, 3), jnp.float32),
            places=batched((*slots, 2), jnp.float32) if vision.has_places else None,
        ),
    )


def _abstract_targets(config: Config, shapes: Shapes, sizes: PromptSizes) -> SftBatch:
    """A batch of the supervised phase."""
    prompts, length = config.sft.batch_size, config.rollout.max_new_tokens
    batched = _batched(shapes.mesh, prompts)
    return SftBatch(
        prompts=_abstract_prompts(shapes, sizes, prompts),
        tokens=batched((1, length), jnp.int32),
        weights=batched((1, length), jnp.float32),
        rows=abstract_rows(plan_rows(config, shapes.mesh, sizes, supervised=True), shapes.mesh),
    )


def _abstract_batch(config: Config, shapes: Shapes, sizes: PromptSizes) -> TrainBatch:
    prompts, group, steps = config.grpo.prompts_per_step, config.grpo.group_size, config.rollout.max_new_tokens
    batched = _batched(shapes.mesh, prompts)
    of_host = [name for name in config.rewards.components if not is_of_device(name)]
    return TrainBatch(
        prompts=_abstract_prompts(shapes, sizes, prompts),
        rollout=Rollout(
            tokens=batched((group, steps), jnp.int32),
            log_probs=batched((group, steps), jnp.float32),
            mask=batched((group, steps), jnp.bool_),
        ),
        judge=None if shapes.judge is None else _abstract_statements(config, shapes.judge, sizes, batched),
        scores=HostScores(
            components={name: batched((group,), jnp.float32) for name in of_host},
            applies={name: batched((group,), jnp.bool_) for name in of_host},
            is_correct=batched((group,), jnp.bool_),
            is_valid=batched((group,), jnp.bool_),
            metrics={
                name: batched((group,), jnp.float32)
                for name in (*ANSWER_METRICS, *(() if shapes.judge is None else JUDGE_METRICS))
            },
        ),
        rows=abstract_rows(plan_rows(config, shapes.mesh, sizes), shapes.mesh),
    )


def _abstract_statements(
    config: Config, judge: BiomedClipConfig, sizes: PromptSizes, batched: Callable[..., Any]
) -> JudgeInputs:
    group, side = config.grpo.group_size, judge.vision.image_size
    statements = group + 1 + config.judge.centered  # all different, the anchor, the question-only one
    sees_all = config.judge.sees_all_pictures
    return JudgeInputs(
        pixels=batched((*((sizes.judged,) if sees_all else ()), side, side, 3), jnp.uint8),
        statements=batched((statements, config.judge.max_statement_tokens), jnp.int32),
        statement_count=batched((), jnp.int32),
        statement_index=batched((group,), jnp.int32),
        has_statement=batched((group,), jnp.bool_),
        picture_count=batched((), jnp.int32) if sees_all else None,
    )
