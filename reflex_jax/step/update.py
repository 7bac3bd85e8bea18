"""A scored rollout becomes new parameters: log-probs -> clipped objective -> optimiser, `epochs` x `minibatches` times.

The reference policy comes in as an argument and gets no gradient.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float

from reflex_jax.config import Config, GrpoConfig
from reflex_jax.grpo.advantages import AdvantageRule, group_advantages, token_advantages
from reflex_jax.grpo.objective import (
    Aggregation,
    KlEstimator,
    LossKlEstimator,
    Objective,
    Ratio,
    RatioLevel,
    TokenMetrics,
    kl_values,
    loss_denominator,
    policy_loss_terms,
    reduce_metrics,
)
from reflex_jax.models.qwen_vl import HowToCompute
from reflex_jax.records import PromptInputs, Rollout, RowLayout, TrainBatch
from reflex_jax.sharding import constrain_batch
from reflex_jax.step.layerwise import update_layerwise
from reflex_jax.step.rounds import LossOf, RowReader, Sequences
from reflex_jax.step.score import Scored, most_failed_rows, rollout_metrics
from reflex_jax.step.shapes import Shapes, attention_of
from reflex_jax.step.state import FrozenParams, TrainState, cast_params, compute_params, reference_policy
from reflex_jax.trees import Array, Leaf, Params, pytree_dataclass, tree_of

State = TypeVar("State")  # what is carried from update to update


def make_objective(grpo: GrpoConfig) -> Objective:
    """The part of a configuration that the objective's mathematics reads."""
    is_in_loss = grpo.kl_in == "loss"  # else it is a part of the advantages, see `_penalised`
    return Objective(
        clip_low=grpo.clip_low,
        clip_high=grpo.clip_high,
        dual_clip=grpo.dual_clip,
        kl_coefficient=grpo.kl_coefficient if is_in_loss else 0.0,
        kl_estimator=cast(LossKlEstimator, grpo.kl_estimator) if is_in_loss else "k3",
        kl_clamp=grpo.kl_clamp,
        ratio=cast(Ratio, grpo.ratio),
        ratio_level=cast(RatioLevel, grpo.ratio_level),
        aggregation=cast(Aggregation, grpo.aggregation),
    )


@pytree_dataclass
class UpdateInputs:
    """What one optimiser update reads; every leaf counts prompts first."""

    prompts: PromptInputs
    rollout: Rollout
    mask: Bool[Leaf, "P G Lc"]
    rewards: Float[Leaf, "P G"]
    advantages: Float[Leaf, "P G"] | Float[Leaf, "P G Lc"]  # of completions, or of their tokens
    is_valid: Bool[Leaf, "P G"]


def policy_update(
    state: TrainState,
    frozen: FrozenParams,
    inputs: UpdateInputs,
    layout: RowLayout,
    *,
    config: Config,
    reader: RowReader,
    optimizer: optax.GradientTransformationExtraArgs,
) -> tuple[TrainState, dict[str, Array]]:
    """`epochs` passes over the batch in `minibatches` optimiser updates of whole groups (paper Eq. 10).

    Denominators are those of the whole optimiser minibatch, so the result depends neither on the rows and rounds nor on
    the mesh.
    """
    grpo, objective = config.grpo, make_objective(config.grpo)
    dtype = jnp.dtype(config.policy.dtype)

    def look(params: Params, part: UpdateInputs, rows: RowLayout) -> Array | None:
        return reader.features(params, Sequences(part.prompts, part.rollout.tokens, rows))

    def read(params: Params, part: UpdateInputs, rows: RowLayout, features: Array | None) -> Array:
        return reader.log_probs(params, Sequences(part.prompts, part.rollout.tokens, rows), features)

    def update(state: TrainState, given: tuple[Any, ...]) -> tuple[TrainState, dict[str, Array]]:
        part, rows, features, reference, old = given
        loss, token_metrics, gradients = reader.gradients(
            cast_params(state.params, dtype), frozen.fixed, Sequences(part.prompts, part.rollout.tokens, rows),
            _loss_of(part, reference, old, objective), features,
        )  # fmt: skip
        state, summary = apply_update(state, gradients, loss, optimizer, is_wanted=jnp.any(part.is_valid))
        return state, reduce_metrics(token_metrics) | summary

    parts = (by_minibatch(inputs, layout, reader.ways), layout)
    is_tower_fixed = "vision" not in state.params
    whole = compute_params(state.params, frozen.fixed, dtype, lora_scale=reader.lora_scale)
    features = _each(partial(look, whole), *parts) if is_tower_fixed else None
    reference = old = None
    initial = reference_policy(frozen)
    if initial is not None:
        seen = features if is_tower_fixed else _each(partial(look, initial), *parts)
        reference = _each(partial(read, initial), *parts, seen)
    is_one_update = grpo.minibatches == grpo.epochs == 1
    has_penalty = grpo.kl_in != "loss" and grpo.kl_coefficient > 0 and reference is not None
    if has_penalty or not is_one_update:
        seen = features if is_tower_fixed else _each(partial(look, whole), *parts)
        old = _each(partial(read, whole), *parts, seen)
    penalty: dict[str, Array] = {}
    if has_penalty:
        kl = kl_values(
            cast(Array, old), cast(Array, reference),
            estimator=cast(KlEstimator, grpo.kl_estimator), clamp=grpo.kl_clamp,
        )  # fmt: skip
        costs = grpo.kl_coefficient * jnp.where(parts[0].mask, kl, 0.0)
        parts, penalty = (_penalised(parts[0], costs, grpo), layout), {"kl_penalty": _mean_cost(parts[0], costs)}
    elif grpo.kl_in == "token_reward":  # without a penalty too its advantages are standardised over tokens
        parts = (_penalised(parts[0], jnp.zeros(parts[0].mask.shape, jnp.float32), grpo), layout)
    if is_one_update:  # the policy has not moved yet, so its ratios are exactly 1
        state, metrics = update(state, first_minibatch((*parts, features, reference, None)))
    else:
        state, metrics = _repeat_updates(update, state, (*parts, features, reference, old), grpo.epochs)
    return state, metrics | penalty


def _penalised(inputs: Any, costs: Float[Array, "M p G Lc"], grpo: GrpoConfig) -> Any:
    """`UpdateInputs` of all minibatches with the advantages of rewards less what tokens cost, beta times their KL estimates.

    By `kl_in=reward` a completion pays for all of its tokens (RLOO, arXiv:2402.14740, Eq. 2), by `token_reward` each token for
    what follows it (REINFORCE++). Before advantages are divided and ratios clipped both have the same expected gradient.
    """

    def batch(x: Array) -> Array:  # baselines and spreads are of the whole batch, whatever is learned from at one time
        return x.reshape(-1, *x.shape[2:])

    if grpo.kl_in == "token_reward":
        advantages = token_advantages(batch(inputs.rewards), batch(costs), batch(inputs.mask))
    else:
        rewards = batch(inputs.rewards - costs.sum(-1))
        rule = cast(AdvantageRule, grpo.advantage)
        advantages, _ = group_advantages(rewards, batch(inputs.is_valid), normalise=rule)
    advantages = jax.lax.stop_gradient(advantages.reshape(*inputs.rewards.shape, *advantages.shape[2:]))
    return tree_of(UpdateInputs, **{**vars(inputs), "advantages": advantages})


def _mean_cost(inputs: Any, costs: Float[Array, "M p G Lc"]) -> Float[Array, ""]:
    """Mean over the valid completions."""
    count = jnp.maximum(inputs.is_valid.sum(dtype=jnp.float32), 1.0)
    return jnp.where(inputs.is_valid, costs.sum(-1), 0.0).sum() / count


def _loss_of(part: UpdateInputs, reference: Array | None, old: Array | None, objective: Objective) -> LossOf:
    denominator = loss_denominator(part.mask, part.is_valid, aggregation=objective.aggregation)

    def loss_of(log_probs: Array, entropies: Array, is_here: Array) -> tuple[Array, TokenMetrics]:
        mask = part.mask & is_here
        loss, metrics = policy_loss_terms(
            log_probs, old, reference, part.advantages, mask,
            objective=objective, denominator=denominator,
        )  # fmt: skip
        gap = jnp.where(mask, jnp.abs(log_probs - part.rollout.log_probs), 0.0).max()
        entropy = jnp.where(mask, entropies, 0.0).sum()
        return loss, jax.lax.stop_gradient(
            dataclasses.replace(
                metrics, sums=metrics.sums | {"entropy": entropy}, maxima=metrics.maxima | {"logprob_gap_max": gap}
            )
        )

    return loss_of


def by_minibatch(inputs: Any, layout: RowLayout, ways: int) -> Any:
    """Arrays of prompts in the order of the layout, [P, ...] -> [M, p, ...]; each prompt on the device that reads it."""
    if len(layout.order) == ways == 1:  # everything is where it belongs
        return jax.tree.map(lambda x: x[None], inputs)
    parts = [jax.tree.map(lambda x, own=own: constrain_batch(x[own]), inputs) for own in layout.order]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *parts)


def first_minibatch(tree: Any) -> Any:
    """[M, ...] -> [...]."""
    return jax.tree.map(operator.itemgetter(0), tree)


def _each(function: Callable[..., Any], *trees: Any) -> Any:
    """A function of each minibatch, one after the other; arrays begin with the axis M, in and out."""
    count = len(jax.tree.leaves(trees)[0])
    if count == 1:
        return jax.tree.map(lambda leaf: leaf[None], function(*first_minibatch(trees)))
    return jax.lax.map(lambda parts: function(*parts), trees)


def _repeat_updates(
    update: Callable[[State, Any], tuple[State, dict[str, Array]]], state: State, minibatches: Any, epochs: int
) -> tuple[State, dict[str, Array]]:
    """Runs the minibatches in turn, `epochs` times; the metrics are means over all updates, or maxima where they are one."""
    passes = []
    for _ in range(epochs):
        state, summary = jax.lax.scan(update, state, minibatches)
        passes.append(summary)
    values = {name: jnp.concatenate([summary[name] for summary in passes]) for name in passes[0]}
    joined = {name: value.max() if name.endswith("_max") else value.mean() for name, value in values.items()}
    # before the first update the gap is the sampler's error; later ones measure learning
    return state, joined | {"logprob_gap_max": values["logprob_gap_max"][0]}


def apply_update(
    state: TrainState,
    gradients: Any,
    loss: Array,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    is_wanted: Bool[Array, ""],
) -> tuple[TrainState, dict[str, Array]]:
    """One optimiser update; the state's step is left to the caller.

    An update that is not a number, or that is not wanted, is skipped: parameters and moments stay as they were.

    Returns:
      The state, and loss, grad_norm and skipped (0 or 1).
    """
    grad_norm = optax.global_norm(gradients)
    is_applied = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & is_wanted
    state = update_layerwise(state, gradients, optimizer, grad_norm=grad_norm, is_applied=is_applied)
    return state, {"loss": loss, "grad_norm": grad_norm, "skipped": 1.0 - is_applied.astype(jnp.float32)}


def scored_update(
    state: TrainState,
    frozen: FrozenParams,
    batch: TrainBatch,
    scored: Scored,
    *,
    config: Config,
    reader: RowReader,
    optimizer: optax.GradientTransformationExtraArgs,
    eos_ids: tuple[int, ...],
) -> tuple[TrainState, dict[str, Array]]:
    """The second half of a training step: a scored rollout becomes new parameters.

    Args:
      state: before the step.
      frozen: what the step only reads.
      batch: prompts, rollout and what the host said of it.
      scored: of `score_rollout`; nothing is differentiated through it.
      config: sections `grpo`, `memory`, `policy` and `rewards` are read.
      reader: of `row_reader`.
      optimizer: of `make_optimizer`.
      eos_ids: tokens that end a completion.
    Returns:
      The state after the step, and the metrics of rollout and update.
    """
    # counted over the whole batch, so all processes decide alike
    failed, most_failed = (~scored.is_valid).sum(), most_failed_rows(config.rewards, scored.is_valid.size)
    is_learned_from = scored.is_valid & (failed <= most_failed)
    inputs = UpdateInputs(
        prompts=batch.prompts,
        rollout=batch.rollout,
        mask=batch.rollout.mask & is_learned_from[..., None],
        rewards=jax.lax.stop_gradient(scored.rewards),
        advantages=jax.lax.stop_gradient(scored.advantages),
        is_valid=is_learned_from,
    )
    if batch.rows is None:
        raise ValueError("batch.rows: expected the layout of `lay_out_rows`; got None.")
    state, update_metrics = policy_update(
        state, frozen, inputs, batch.rows, config=config, reader=reader, optimizer=optimizer
    )
    metrics = rollout_metrics(scored, batch.scores, batch.rollout, eos_ids) | update_metrics
    return dataclasses.replace(state, step=state.step + 1), metrics


def row_reader(config: Config, shapes: Shapes, temperature: float, *, every_round: bool) -> RowReader:
    """Reads packed rows with a policy of these shapes, computed as `memory` says."""
    memory, mesh = config.memory, shapes.mesh
    return RowReader(
        config=shapes.policy,
        allowed=shapes.vocabulary.allowed,
        temperature=temperature,
        how=HowToCompute(
            attention=attention_of(config, shapes),
            remat=memory.remat,
            log_prob_chunk=memory.log_prob_chunk,
            wide_sums=memory.gradient_sums == "float32",
        ),
        ways=mesh.shape["data"] * mesh.shape["fsdp"],
        every_round=every_round,
        lora_scale=config.policy.lora.scale,
    )
