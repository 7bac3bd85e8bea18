"""Sampling a group of completions for every prompt: one prefill per prompt, then while_loops on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from reflex_jax.models import qwen_vl
from reflex_jax.models.attention_choice import XLA, AttentionChoice
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.records import Draws, PromptInputs, Rollout
from reflex_jax.sharding import map_prompts
from reflex_jax.step.sampling import Sampling, Vocabulary, sample_tokens
from reflex_jax.trees import Array, Params

State: TypeAlias = dict[str, Array]  # of the completions: tokens, log_probs, mask [P, G, Lc] and is_done [P, G]
Caches: TypeAlias = list[tuple[Array, Array]]
_MOST_STAGES = 3  # each is a loop of its own, which compiles the decoder again


def generate(
    params: Params,
    prompts: PromptInputs,
    draws: Draws,
    config: QwenVLConfig,
    vocabulary: Vocabulary,
    sampling: Sampling,
    *,
    attention: AttentionChoice = XLA,
    prefill_prompts: int = 0,
) -> Rollout:
    """Samples a group of completions of every prompt; stops early when all have ended.

    A completion depends on the key, on its prompt's global number and on its place in the group only, not on the batch
    it was sampled in. Pure and jittable: all but the first three arguments are static.

    Args:
      params: of the policy; with `layers_apart` they exist once while it samples.
      prompts: P prompts.
      draws: the key of this step and the numbers of the prompts.
      config: of the model.
      vocabulary: what may be sampled, what ends a completion and what stands behind its end.
      sampling: G, Lc and the distribution.
      attention: what computes that of prompts and pictures.
      prefill_prompts: how many prompts are read at one time, which bounds the memory that takes; 0: all.
    """
    group_size, max_new_tokens = sampling.group_size, sampling.max_new_tokens
    params = qwen_vl.layers_apart(params)
    uniforms = _uniforms(draws, group_size, max_new_tokens)
    prefilled = map_prompts(
        lambda part: qwen_vl.prefill(params, part, config, attention=attention),
        prompts, prefill_prompts,
    )  # fmt: skip
    sample = partial(_sample, uniforms=uniforms, vocabulary=vocabulary, sampling=sampling)
    logits = qwen_vl.head_logits(params, prefilled.last_hidden, config.text)
    shape = (draws.prompt_ids.shape[0], group_size)
    state = _nothing(shape, max_new_tokens, vocabulary.pad_id)
    state = sample(jnp.broadcast_to(logits[:, None], (*shape, logits.shape[-1])), jnp.int32(0), state)

    def advance(step: Array, state: State, caches: Caches) -> tuple[State, Caches]:
        previous = jax.lax.dynamic_index_in_dim(state["tokens"], step - 1, axis=2, keepdims=False)
        logits, caches = qwen_vl.decode_step(params, previous, step - 1, caches, prefilled, config)
        return sample(logits, step, state), caches

    stages = cache_stages(sampling)
    caches, start = qwen_vl.empty_caches(prefilled, group_size=group_size, slots=stages[0]), 1
    for slots in stages:
        caches = qwen_vl.grow_caches(caches, slots=slots)
        stop = min(slots + 1, max_new_tokens)  # token number `slots` is drawn from what stands in the last slot
        state, caches = _sample_while_open(advance, state, caches, start=start, stop=stop)
        start = stop
    return Rollout(tokens=state["tokens"], log_probs=state["log_probs"], mask=state["mask"])


def cache_stages(sampling: Sampling) -> tuple[int, ...]:
    """Slots of the completions' caches as they grow, in even steps: at most `_MOST_STAGES` sizes.

    Every token reads the whole cache, so one for the longest completion would be read by the first token already. Even
    steps, because the longest of hundreds of completions comes near to the limit, whatever their mean.
    """
    longest, unit = sampling.max_new_tokens, sampling.cache_step
    step = -(-longest // (_MOST_STAGES * unit)) * unit
    # the last stage is no shorter than half a step: it would compile the decoder for a few tokens
    return (*range(step, longest - step // 2 + 1, step), longest)


def _nothing(rows: tuple[int, int], steps: int, pad_id: int) -> State:
    """The state before the first token; what nobody samples stays padding."""
    shape = (*rows, steps)
    return {
        "tokens": jnp.full(shape, pad_id, jnp.int32),
        "log_probs": jnp.zeros(shape, jnp.float32),
        "mask": jnp.zeros(shape, bool),
        "is_done": jnp.zeros(rows, bool),
    }


def _sample(
    logits: Float[Array, "P G V"], step: Array, state: State, *, uniforms: Array, vocabulary: Vocabulary,
    sampling: Sampling,
) -> State:  # fmt: skip
    """Draws token number `step` of every open completion."""
    draw = jax.lax.dynamic_index_in_dim(uniforms, step, axis=2, keepdims=False)
    tokens, log_probs = sample_tokens(
        logits,
        draw,
        allowed=jnp.asarray(vocabulary.allowed),
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    is_open = ~state["is_done"]
    is_eos = jnp.zeros(logits.shape[-1], bool).at[jnp.asarray(vocabulary.eos_ids)].set(True)
    return {
        "tokens": state["tokens"].at[:, :, step].set(jnp.where(is_open, tokens, vocabulary.pad_id)),
        "log_probs": state["log_probs"].at[:, :, step].set(jnp.where(is_open, log_probs, 0.0)),
        "mask": state["mask"].at[:, :, step].set(is_open),
        "is_done": state["is_done"] | is_eos[tokens],
    }


def _sample_while_open(
    advance: Callable[[Array, State, Caches], tuple[State, Caches]],
    state: State,
    caches: Caches,
    *,
    start: int,
    stop: int,
) -> tuple[State, Caches]:
    """Draws tokens number `start` to `stop` - 1, as long as a completion is open."""

    def proceeds(carry: tuple[Array, State, Caches]) -> Array:
        turn, state, _ = carry
        return (turn < stop - start) & ~state["is_done"].all()

    def turn(carry: tuple[Array, State, Caches]) -> tuple[Array, State, Caches]:
        turn, state, caches = carry
        return turn + 1, *advance(turn + start, state, caches)

    # from 0, though an earlier loop counted before: the compiled program says how often each loop runs at most
    _, state, caches = jax.lax.while_loop(proceeds, turn, (jnp.int32(0), state, caches))
    return state, caches


def _uniforms(draws: Draws, group_size: int, steps: int) -> Float[Array, "P G Lc"]:
    """One number in [0, 1) for each token, drawn from (key, prompt, place in the group)."""

    def of_row(prompt_id: Array, place: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(draws.key, prompt_id), place), (steps,))

    return jax.vmap(lambda prompt_id: jax.vmap(lambda g: of_row(prompt_id, g))(jnp.arange(group_size)))(
        draws.prompt_ids
    )
