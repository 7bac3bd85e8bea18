"""A training step, compiled for a mesh: every command of the package runs these functions and no others.

`build_program` makes them from settings and shapes alone, so what `reflex plan` compiles ahead for a machine that is not
here is what `train`, `sft` and `evaluate` run there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import Config
from reflex_jax.freed_memory import RoomToCompile
from reflex_jax.models.layers import turn_kernels
from reflex_jax.models.lora import has_adapters, merge_adapters
from reflex_jax.models.qwen_vl import layers_apart
from reflex_jax.records import Draws, HostScores, JudgeInputs, PromptInputs, Rollout, TokenCounts, TrainBatch
from reflex_jax.sharding import UPDATE_RULES, batch_sharding, map_prompts, platform_of, replicated
from reflex_jax.step.generate import generate
from reflex_jax.step.imitate import SftBatch, imitation_update
from reflex_jax.step.keep_groups import DrawnGroups, GroupFacts, group_facts, keep_groups
from reflex_jax.step.offload import state_shardings
from reflex_jax.step.rows import count_tokens
from reflex_jax.step.sampling import Sampling
from reflex_jax.step.score import Scored, score_rollout
from reflex_jax.step.shapes import Shapes, attention_of, read_at_once, rollout_rules, sampled_at_once
from reflex_jax.step.state import (
    FrozenParams,
    TrainState,
    init_state,
    make_optimizer,
    params_to_merge,
)
from reflex_jax.step.trained import abstract_trained, draw_adapters, split_trainable
from reflex_jax.step.update import row_reader, scored_update
from reflex_jax.trees import Array, Params, Shardings

Metrics = dict[str, Array]
# By platform. The TPU compiler splits products whose weights are cut over many devices into one narrow product for each,
# and writes the result anew each time: 5.4 of 7.1 TB that the 7B update moves on 64 chips of v5p. So it gathers them whole.
_UPDATE_OPTIONS: dict[str, dict[str, Any]] = {"tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}}


@dataclass(frozen=True, eq=False)
class Program:
    """The jitted functions of a run. P prompts, G completions each, Lc tokens."""

    shapes: Shapes
    optimizer: optax.GradientTransformationExtraArgs
    start: Callable[..., tuple[TrainState, FrozenParams]]  # see `_start`; the state takes the parameters over
    gather: Gather  # (params, fixed) -> weights to sample with, in part the same arrays
    sample: Callable[[Any, PromptInputs, Draws], Rollout]  # (weights, prompts, draws) -> [P, G, Lc]
    greedy: Callable[[Any, PromptInputs, Draws], Rollout]  # the same with temperature 0 -> [P, 1, Lc]
    score: Callable[[Any, JudgeInputs | None, HostScores], Scored]  # (judge_params | None, inputs, host scores)
    group_facts: Callable[[Scored], GroupFacts]  # on every device
    keep_groups: Callable[[DrawnGroups, DrawnGroups, Any], DrawnGroups]  # (kept, fresh, which of both stay)
    count: Callable[[PromptInputs, Any], TokenCounts]  # (prompts, which completion tokens exist), on every device
    update: Callable[[TrainState, FrozenParams, TrainBatch, Scored], tuple[TrainState, Metrics]]  # gives state away
    train_step: Callable[[TrainState, FrozenParams, TrainBatch], tuple[TrainState, Scored, Metrics]]  # as one
    imitate: Callable[[TrainState, FrozenParams, SftBatch], tuple[TrainState, Metrics]]  # supervised; gives state away


def build_program(config: Config, shapes: Shapes, *, updates: int = 1, every_round: bool = False) -> Program:
    """Builds the functions; each compiles when it is first called, or ahead of that by its `lower`.

    Args:
      config: of the run; only numbers and choices of it enter the computation.
      shapes: of the run.
      updates: optimiser updates of the whole run, where decaying schedules reach 0.
      every_round: computes all rounds that a layout has room for, used or not: loops of a known length, for plans.
    Raises:
      ConfigError: the mesh does not fit the model.
    """
    master_dtype = config.policy.master_dtype
    optimizer = make_optimizer(config.optimizer, updates, master_dtype=master_dtype, seed=config.run.seed)
    everywhere, batched = replicated(shapes.mesh), batch_sharding(shapes.mesh)
    of_state = state_shardings(_abstract_state(config, shapes, optimizer), shapes, config.memory)
    reader_at = partial(row_reader, config, shapes, every_round=every_round)
    score = partial(score_rollout, config=config, judge_config=shapes.judge)
    update = partial(
        scored_update, config=config, optimizer=optimizer, eos_ids=shapes.vocabulary.eos_ids,
        reader=reader_at(config.rollout.temperature),
    )  # fmt: skip
    imitate = partial(
        imitation_update,
        config=config,
        optimizer=optimizer,
        reader=reader_at(1.0),
    )

    def train_step(state: TrainState, frozen: FrozenParams, batch: TrainBatch) -> tuple[TrainState, Scored, Metrics]:
        scored = score(frozen.judge, batch.judge, batch.scores)
        state, metrics = update(state, frozen, batch, scored)
        return state, scored, metrics

    rollout = config.rollout
    platform = platform_of(shapes.mesh)
    options = _UPDATE_OPTIONS.get(platform)

    def jit_update(function: Callable[..., Any], places: Any) -> RoomToCompile:
        jitted = jax.jit(function, donate_argnums=0, out_shardings=places, compiler_options=options)
        return RoomToCompile(jitted, keeps_place=platform == "cpu" and shapes.mesh.size == 1)

    return Program(
        shapes=shapes,
        optimizer=optimizer,
        start=partial(_start, config, optimizer, of_state),
        gather=Gather(config, shapes),
        sample=_sampler(config, shapes, group_size=config.grpo.group_size, temperature=rollout.temperature),
        greedy=_sampler(config, shapes, group_size=1, temperature=0.0),
        score=RoomToCompile(jax.jit(score, out_shardings=batched)),
        group_facts=jax.jit(group_facts, out_shardings=everywhere),
        keep_groups=jax.jit(partial(keep_groups, config=config), out_shardings=batched),
        count=jax.jit(count_tokens, out_shardings=everywhere),
        update=jit_update(update, (of_state, everywhere)),
        train_step=jit_update(train_step, (of_state, batched, everywhere)),
        imitate=jit_update(imitate, (of_state, everywhere)),
    )


def _abstract_state(config: Config, shapes: Shapes, optimizer: optax.GradientTransformationExtraArgs) -> TrainState:
    trained = abstract_trained(abstract_policy_params(shapes.policy), config.policy)
    return jax.eval_shape(lambda params: init_state(params, optimizer, config.policy.master_dtype), trained)


def _start(
    config: Config,
    optimizer: optax.GradientTransformationExtraArgs,
    places: Shardings,
    params: Params,
    judge_params: Params | None = None,
    *,
    with_reference: bool,
    adapters: Params | None = None,
) -> tuple[TrainState, FrozenParams]:
    """Builds the training state and the frozen parameters on the mesh.

    Args:
      config: of the run.
      optimizer: of the program.
      places: where the state lies.
      params: of `load_params`; the state takes them over, and its first step gives their memory away.
      judge_params: None: nothing asks the judge.
      with_reference: whether the initial policy stays beside the one that learns.
      adapters: of `load_adapters`, taken over as well; None: drawn, where the run has any.
    """
    policy, seed = config.policy, config.run.seed
    own, fixed = split_trainable(params, policy)
    # copies, also where the dtype is the masters': these arrays outlive the ones the first step gives away
    cast = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.copy(x.astype(policy.dtype)), tree))
    reference = cast(own) if with_reference else None
    # nobody gives these away, so what is in its dtype is there once
    fixed = jax.tree.map(lambda x: x if x.dtype == policy.dtype else cast(x), fixed)
    frozen = FrozenParams(fixed=fixed, reference=reference, judge=judge_params)
    masters = jnp.dtype(policy.master_dtype)
    trained = own if adapters is None else adapters
    is_taken_over = config.memory.offload != "optimizer+masters" and all(
        leaf.dtype == masters for leaf in jax.tree.leaves(trained)
    )
    shapes = jax.eval_shape(lambda: params)
    # where the compiled step will put them: else the second step would compile again
    init = jax.jit(
        lambda tree: init_state(tree or draw_adapters(shapes, policy, seed), optimizer, masters),
        out_shardings=places,
        donate_argnums=[0] if is_taken_over else [],
    )
    return init(trained), frozen


class Gather:
    """The one reshard between update and rollout.

    The weights are in the compute dtype, adapters added to their kernels, the decoder's layers apart (`layers_apart`) and, with
    `memory.rollout_weights=gathered`, no longer cut over `fsdp`, because sampling reads all of them for every token. On a CPU
    the large kernels of those layers are turned (`turn_kernels`). Parts outside of the layers that are so already are handed on:
    they exist once, and are gone when an update takes the state over.

    Attributes:
      weights: what sampling reads, as shapes, dtypes and places.
    """

    def __init__(self, config: Config, shapes: Shapes) -> None:
        self._dtype, lora_scale = jnp.dtype(config.policy.dtype), config.policy.lora.scale
        is_on_cpu = platform_of(shapes.mesh) == "cpu"
        params = abstract_policy_params(shapes.policy)
        cut, whole = (
            shapes.sampling_shardings(params, rules) for rules in (UPDATE_RULES, rollout_rules(config.memory))
        )
        plain = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, self._dtype, sharding=place),
            jax.eval_shape(layers_apart, params),
            whole,
        )
        self.weights = {**plain, "layers": turn_kernels(plain["layers"], _transposed)} if is_on_cpu else plain
        self._whole = jax.tree.map(lambda leaf: leaf.sharding, self.weights)

        def gather(params: Params, fixed: Params) -> Params:
            apart = layers_apart(params_to_merge(params, fixed, self._dtype, lora_scale=lora_scale))
            weights = merge_adapters(apart)
            # cast where they lie, then gather: half the bytes of gathering the float32 masters
            for places in (cut, whole):
                weights = jax.lax.with_sharding_constraint(weights, {name: places[name] for name in weights})
            if not is_on_cpu:
                return weights
            layers = jax.lax.with_sharding_constraint(turn_kernels(weights["layers"]), self._whole["layers"])
            return {**weights, "layers": layers}

        self._gather = jax.jit(gather)

    def __call__(self, params: Params, fixed: Params) -> Params:
        """What sampling reads of a policy, parts of which are fixed."""
        as_they_are, rest = self._apart(params, fixed)
        return self._gather(*rest) | as_they_are

    def lower(self, params: Params, fixed: Params) -> Any:
        """What would compile for these."""
        return self._gather.lower(*self._apart(params, fixed)[1])

    def _apart(self, *trees: Params) -> tuple[Params, list[Params]]:
        """The parts that need no change, and each tree without them."""
        as_they_are = {}
        for name, places in self._whole.items():
            parts = [tree[name] for tree in trees if name in tree]
            if name != "layers" and len(parts) == 1 and not has_adapters(parts[0]) and self._is_ready(parts[0], places):
                as_they_are[name] = parts[0]
        return as_they_are, [{name: part for name, part in tree.items() if name not in as_they_are} for tree in trees]

    def _is_ready(self, part: Params, places: Params) -> bool:
        """Whether a part has the dtype and the place that sampling wants."""
        ready = jax.tree.map(
            lambda leaf, place: (
                leaf.dtype == self._dtype
                and getattr(leaf, "sharding", None) is not None
                and leaf.sharding.is_equivalent_to(place, leaf.ndim)
            ),
            part,
            places,
        )
        return all(jax.tree.leaves(ready))


def _transposed(kernel: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    rows, columns = (*kernel.sharding.spec, None, None)[:2]
    place = NamedSharding(kernel.sharding.mesh, PartitionSpec(columns, rows))
    return jax.ShapeDtypeStruct(kernel.shape[::-1], kernel.dtype, sharding=place)


def _sampler(
    config: Config, shapes: Shapes, *, group_size: int, temperature: float
) -> Callable[[Any, PromptInputs, Draws], Rollout]:
    rollout, memory = config.rollout, config.memory
    sampling = Sampling(
        group_size=group_size, max_new_tokens=rollout.max_new_tokens, temperature=temperature,
        top_k=rollout.top_k, top_p=rollout.top_p, in_stages=memory.rollout_stages,
    )  # fmt: skip

    def sample(weights: Params, prompts: PromptInputs, draws: Draws) -> Rollout:
        count = draws.prompt_ids.shape[0]
        at_once = sampled_at_once(count, memory)

        def sample_some(some: tuple[PromptInputs, Array]) -> Rollout:
            prompts, ids = some
            return generate(
                weights, prompts, Draws(draws.key, ids), shapes.policy, shapes.vocabulary, sampling,
                attention=attention_of(config, shapes), prefill_prompts=read_at_once(at_once, memory),
            )  # fmt: skip

        return map_prompts(sample_some, (prompts, draws.prompt_ids), at_once)

    return jax.jit(sample, out_shardings=batch_sharding(shapes.mesh))
