"""Sampling a group of completions for every prompt: one prefill per prompt, then while_loops on the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from reflex_jax.models import qwen_vl
from reflex_jax.models.attention_choice import XLA, AttentionChoice
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.records import Draws, PromptInputs, Rollout
from reflex_jax.sharding import data_ways, map_prompts
from reflex_jax.step.open_rows import (
    SCOPE,
    find_open,
    gathered_sizes,
    most_open,
    put_rows,
    take_prompts,
    take_rows,
)
from reflex_jax.step.sampling import Sampling, Vocabulary, sample_tokens
from reflex_jax.trees import Array, Params, pytree_dataclass

State: TypeAlias = dict[str, Array]  # of the completions: tokens, log_probs, mask [P, G, Lc] and is_done [P, G]
_MOST_STAGES = 3  # each is a loop of its own, which compiles the decoder again
_LEAST_SHARE = 0.08  # of the bytes of the weights; with less a rollout is bound by those, and both would save 2 %


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
    group_size, longest = sampling.group_size, sampling.max_new_tokens
    params = qwen_vl.layers_apart(params)
    uniforms = _uniforms(draws, group_size, longest)
    prefilled = map_prompts(
        lambda part: qwen_vl.prefill(params, part, config, attention=attention),
        prompts, prefill_prompts,
    )  # fmt: skip
    sample = partial(_sample, vocabulary=vocabulary, sampling=sampling)
    logits = qwen_vl.head_logits(params, prefilled.last_hidden, config.text)
    shape = (draws.prompt_ids.shape[0], group_size)
    logits = jnp.broadcast_to(logits[:, None], (*shape, logits.shape[-1]))
    state = sample(logits, jnp.int32(0), _nothing(shape, longest, vocabulary.pad_id), uniforms)

    def advance(rows: _Rows, step: Array) -> _Rows:
        previous = jax.lax.dynamic_index_in_dim(rows.state["tokens"], step - 1, axis=2, keepdims=False)
        logits, caches = qwen_vl.decode_step(params, previous, step - 1, rows.caches, rows.prefilled, config)
        return replace(rows, caches=caches, state=sample(logits, step, rows.state, rows.uniforms))

    ways = data_ways(prefilled.last_hidden) if shape[0] % data_ways(prefilled.last_hidden) == 0 else 1
    stages: tuple[int, ...] = (longest,)
    sizes: tuple[int, ...] = ()
    rows_of_device, key_numbers = shape[0] // ways * group_size, math.prod(prefilled.keys[0].shape[1:3])
    if samples_in_stages(sampling, rows=rows_of_device, key_numbers=key_numbers, layer=params["layers"][0]):
        stages, sizes = cache_stages(sampling), gathered_sizes(*shape, ways)
    rows, step = _Rows(prefilled, uniforms, state, []), jnp.int32(1)
    for before, slots in itertools.pairwise((0, *stages)):
        caches = qwen_vl.grow_caches(rows.caches, prefilled, group_size=group_size, slots=slots - before)
        rows = replace(rows, caches=caches)
        # token number `slots` is drawn from what stands in the last slot
        start, stop = before + 1, min(slots + 1, longest)
        rows, step = _sample_while(_more_open(ways, *sizes[:1]), advance, rows, step, stop=stop, turns=stop - start)
    state = _sample_few(advance, rows, step, sizes, ways, longest)
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


def samples_in_stages(sampling: Sampling, *, rows: int, key_numbers: int, layer: Params) -> bool:
    """Whether a token reads enough of the completions' caches, beside the weights, to compile the decoder several times.

    Args:
      sampling: of the rollout.
      rows: completions of a device.
      key_numbers: numbers in the keys of one token in one layer.
      layer: the parameters of one decoder layer, or their shapes.
    """
    cache = rows * sampling.max_new_tokens * 2 * key_numbers
    weights = sum(leaf.size for leaf in jax.tree.leaves(layer))
    return sampling.in_stages and sampling.max_new_tokens >= sampling.cache_step and cache >= _LEAST_SHARE * weights


@pytree_dataclass
class _Rows:
    """Completions and what the next token of them is computed from."""

    prefilled: qwen_vl.Prefill
    uniforms: Float[Array, "P G Lc"]
    state: State
    caches: qwen_vl.Caches


def _more_open(ways: int, size: int = 0) -> Callable[[State], Array]:
    """Says whether a device has more open completions than so many."""
    return lambda state: most_open(state["is_done"], ways) > size


def _sample_while(
    goes_on: Callable[[State], Array], advance: Callable[[_Rows, Array], _Rows], rows: _Rows, step: Array, *,
    stop: int, turns: int,
) -> tuple[_Rows, Array]:  # fmt: skip
    """Draws tokens from number `step` on to `stop` - 1, as long as the state of the completions says so.

    `turns` of them at most, counted from 0 whatever `step` is: so the compiled program says how often a loop may run.
    """

    def proceeds(carry: tuple[Array, Array, State, qwen_vl.Caches]) -> Array:
        turn, step, state, _ = carry
        return (turn < turns) & (step < stop) & goes_on(state)

    def next_turn(carry: tuple[Array, Array, State, qwen_vl.Caches]) -> tuple[Array, Array, State, qwen_vl.Caches]:
        turn, step, state, caches = carry
        after = advance(replace(rows, state=state, caches=caches), step)
        return turn + 1, step + 1, after.state, after.caches

    carry = (jnp.int32(0), step, rows.state, rows.caches)
    _, step, state, caches = jax.lax.while_loop(proceeds, next_turn, carry)
    return replace(rows, state=state, caches=caches), step


def _sample_few(
    advance: Callable[[_Rows, Array], _Rows], rows: _Rows, step: Array, sizes: Sequence[int], ways: int, longest: int
) -> State:
    """The rest of the tokens, once no more than `sizes[0]` rows of a device are open: those alone are computed.

    Once no more than `sizes[1]` are open they are gathered again. At the limit of tokens more may be; then no loop runs.
    """
    if not sizes:
        return rows.state
    places = find_open(rows.state["is_done"], sizes[0], ways)
    few = _Rows(
        prefilled=take_prompts(rows.prefilled, places),
        uniforms=take_rows(rows.uniforms, places),
        state=take_rows(rows.state, places),
        caches=qwen_vl.join_caches(take_rows(rows.caches, places, axis=2), slots=longest),
    )
    with jax.named_scope(SCOPE):
        few, step = _sample_while(_more_open(ways, *sizes[1:2]), advance, few, step, stop=longest, turns=longest)
    return put_rows(rows.state, _sample_few(advance, few, step, sizes[1:], ways, longest), places)


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
    logits: Float[Array, "P G V"], step: Array, state: State, uniforms: Float[Array, "P G Lc"], *,
    vocabulary: Vocabulary, sampling: Sampling,
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


def _uniforms(draws: Draws, group_size: int, steps: int) -> Float[Array, "P G Lc"]:
    """One number in [0, 1) for each token, drawn from (key, prompt, place in the group)."""

    def of_row(prompt_id: Array, place: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(draws.key, prompt_id), place), (steps,))

    return jax.vmap(lambda prompt_id: jax.vmap(lambda g: of_row(prompt_id, g))(jnp.arange(group_size)))(
        draws.prompt_ids
    )
