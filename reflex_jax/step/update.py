"""A scored rollout becomes new parameters: log-probs -> clipped objective -> optimiser, `epochs` x `minibatches` times.

The reference policy comes in as an argument and gets no gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float

from reflex_jax.config import Config, GrpoConfig
from reflex_jax.grpo.objective import (
    Aggregation,
    LossKlEstimator,
    Objective,
    Ratio,
    TokenMetrics,
    loss_denominator,
    policy_loss_terms,
    reduce_metrics,
)
from reflex_jax.models.qwen_vl import completion_log_probs
from reflex_jax.records import PromptInputs, Rollout, TrainBatch
from reflex_jax.sharding import map_prompts, split_prompts
from reflex_jax.step.layerwise import update_layerwise
from reflex_jax.step.score import Scored, most_failed_rows, rollout_metrics
from reflex_jax.step.shapes import Shapes
from reflex_jax.step.state import FrozenParams, TrainState, compute_params, reference_policy, trained_weights
from reflex_jax.trees import Array, Leaf, Params, pytree_dataclass

State = TypeVar("State")  # what is carried from update to update


def make_objective(grpo: GrpoConfig) -> Objective:
    """The part of a configuration that the objective's mathematics reads."""
    return Objective(
        clip_low=grpo.clip_low,
        clip_high=grpo.clip_high,
        dual_clip=grpo.dual_clip,
        kl_coefficient=grpo.kl_coefficient,
        kl_estimator=cast(LossKlEstimator, grpo.kl_estimator),
        kl_clamp=grpo.kl_clamp,
        ratio=cast(Ratio, grpo.ratio),
        aggregation=cast(Aggregation, grpo.aggregation),
    )


LogProbsOf = Callable[
    [Any, PromptInputs, Array], tuple[Array, Array]
]  # (params, prompts, [P, G, Lc]) -> both [P, G, Lc]


@pytree_dataclass
class UpdateInputs:
    """What one microbatch of the update reads; every leaf counts prompts first."""

    prompts: PromptInputs
    rollout: Rollout
    mask: Bool[Leaf, "P G Lc"]
    advantages: Float[Leaf, "P G"]
    old_log_probs: Float[Leaf, "P G Lc"] | None


def policy_update(
    state: TrainState,
    frozen: FrozenParams,
    inputs: UpdateInputs,
    is_valid: Bool[Array, "P G"],
    *,
    config: Config,
    log_probs_of: LogProbsOf,
    optimizer: optax.GradientTransformationExtraArgs,
) -> tuple[TrainState, dict[str, Array]]:
    """`epochs` passes over the batch in `minibatches` optimiser updates of whole groups (paper Eq. 10).

    Denominators are those of the whole optimiser minibatch, so the result does not depend on the microbatch size or on
    the mesh.
    """
    grpo, memory = config.grpo, config.memory
    dtype, objective = jnp.dtype(config.policy.dtype), make_objective(grpo)

    def microbatch_loss(params: Params, part: UpdateInputs, denominator: Array) -> tuple[Array, TokenMetrics]:
        log_probs, entropy = log_probs_of(
            compute_params(params, frozen.fixed, dtype), part.prompts, part.rollout.tokens
        )
        reference, initial = None, reference_policy(frozen)
        if initial is not None:
            reference = jax.lax.stop_gradient(log_probs_of(initial, part.prompts, part.rollout.tokens)[0])
        loss, metrics = policy_loss_terms(
            log_probs,
            part.old_log_probs,
            reference,
            part.advantages,
            part.mask,
            objective=objective,
            denominator=denominator,
        )
        gap = jnp.where(part.mask, jnp.abs(log_probs - part.rollout.log_probs), 0.0).max()
        entropy_sum = jnp.where(part.mask, entropy, 0.0).sum()
        return loss, jax.lax.stop_gradient(
            dataclasses.replace(
                metrics, sums=metrics.sums | {"entropy": entropy_sum}, maxima=metrics.maxima | {"logprob_gap_max": gap}
            )
        )

    def update(state: TrainState, part_and_valid: tuple[UpdateInputs, Array]) -> tuple[TrainState, dict[str, Array]]:
        part, valid = part_and_valid
        denominator = loss_denominator(part.mask, valid, aggregation=objective.aggregation)
        loss, token_metrics, gradients = accumulate(
            jax.value_and_grad(microbatch_loss, has_aux=True),
            trained_weights(state.params, dtype), part, denominator,
            valid.shape[0] // (memory.microbatch_prompts or valid.shape[0]),
        )  # fmt: skip
        state, summary = apply_update(state, gradients, loss, optimizer, is_wanted=jnp.any(valid))
        return state, reduce_metrics(token_metrics) | summary

    if grpo.minibatches == grpo.epochs == 1:
        return update(state, (inputs, is_valid))
    whole = compute_params(state.params, frozen.fixed, dtype)
    old = map_prompts(lambda p: log_probs_of(whole, p.prompts, p.rollout.tokens)[0], inputs, memory.microbatch_prompts)
    old = jax.lax.stop_gradient(old)
    minibatches = split_prompts((dataclasses.replace(inputs, old_log_probs=old), is_valid), grpo.minibatches)
    return _repeat_updates(update, state, minibatches, grpo.epochs)


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


def accumulate(
    gradient_of: Callable[[Any, Any, Array], Any], params: Any, inputs: Any, denominator: Array, parts: int
) -> tuple[Array, Any, Any]:
    """Adds loss and gradients over microbatches; the metrics of all of them come back stacked."""
    if parts == 1:
        (loss, metrics), gradients = gradient_of(params, inputs, denominator)
        return loss, metrics, gradients

    def add(total: Any, piece: Any) -> tuple[Any, Any]:
        (loss, metrics), gradients = gradient_of(params, piece, denominator)
        return jax.tree.map(lambda sum_, x: sum_ + x.astype(jnp.float32), total, (loss, gradients)), metrics

    zeros = (jnp.zeros((), jnp.float32), jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), params))
    (loss, gradients), metrics = jax.lax.scan(add, zeros, split_prompts(inputs, parts))
    return loss, metrics, gradients


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
    grad_norm = optax.global_norm(jax.tree.map(lambda x: x.astype(jnp.float32), gradients))
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
    log_probs_of: LogProbsOf,
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
      log_probs_of: of `log_probs_function`.
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
        advantages=jax.lax.stop_gradient(scored.advantages),
        old_log_probs=None,
    )
    state, update_metrics = policy_update(
        state, frozen, inputs, is_learned_from, config=config, log_probs_of=log_probs_of, optimizer=optimizer
    )
    metrics = rollout_metrics(scored, batch.scores, batch.rollout, eos_ids) | update_metrics
    return dataclasses.replace(state, step=state.step + 1), metrics


def log_probs_function(config: Config, shapes: Shapes, *, temperature: float) -> LogProbsOf:
    """Log-probs and entropies of whole groups under a policy of these shapes, computed as `memory` says."""
    memory = config.memory

    def log_probs_of(params: Params, prompts: PromptInputs, tokens: Array) -> tuple[Array, Array]:
        return completion_log_probs(
            params, prompts, tokens, shapes.policy, allowed=jnp.asarray(shapes.vocabulary.allowed), temperature=temperature,
            chunk=memory.log_prob_chunk, remat=memory.remat, attention=memory.attention,
        )  # fmt: skip

    return log_probs_of
