"""Sampling a group of completions for every prompt: one prefill per prompt, then a while_loop on the device."""

from __future__ import annotations

from typing import Any

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
      params: of the policy.
      prompts: P prompts.
      draws: the key of this step and the numbers of the prompts.
      config: of the model.
      vocabulary: what may be sampled, what ends a completion and what stands behind its end.
      sampling: G, Lc and the distribution.
      attention: what computes that of prompts and pictures.
      prefill_prompts: how many prompts are read at one time, which bounds the memory that takes; 0: all.
    """
    group_size, max_new_tokens = sampling.group_size, sampling.max_new_tokens
    pad_id = vocabulary.pad_id
    uniforms = _uniforms(draws, group_size, max_new_tokens)
    prefilled = map_prompts(
        lambda part: qwen_vl.prefill(params, part, config, attention=attention),
        prompts, prefill_prompts, qwen_vl.PROMPT_AXES_OF_PREFILL,
    )  # fmt: skip
    layers = qwen_vl.decode_layers(params, prefilled)
    is_eos = jnp.zeros(config.text.vocabulary, bool).at[jnp.asarray(vocabulary.eos_ids)].set(True)

    def sample(logits: Array, step: Array, state: dict[str, Array]) -> dict[str, Array]:
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
        return {
            "tokens": state["tokens"].at[:, :, step].set(jnp.where(is_open, tokens, pad_id)),
            "log_probs": state["log_probs"].at[:, :, step].set(jnp.where(is_open, log_probs, 0.0)),
            "mask": state["mask"].at[:, :, step].set(is_open),
            "is_done": state["is_done"] | is_eos[tokens],
        }

    def proceeds(carry: tuple[Any, ...]) -> Array:
        step, state, _ = carry
        return (step < max_new_tokens) & ~state["is_done"].all()

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, state, caches = carry
        previous = jax.lax.dynamic_index_in_dim(state["tokens"], step - 1, axis=2, keepdims=False)
        logits, caches = qwen_vl.decode_step(params, layers, previous, step - 1, caches, prefilled, config)
        return step + 1, sample(logits, step, state), caches

    shape = (draws.prompt_ids.shape[0], group_size, max_new_tokens)
    empty = {
        "tokens": jnp.full(shape, pad_id, jnp.int32),
        "log_probs": jnp.zeros(shape, jnp.float32),
        "mask": jnp.zeros(shape, bool),
        "is_done": jnp.zeros(shape[:2], bool),
    }
    logits = qwen_vl.head_logits(params, prefilled.last_hidden, config.text)
    state = sample(jnp.broadcast_to(logits[:, None], (*shape[:2], logits.shape[-1])), jnp.int32(0), empty)
    caches = qwen_vl.empty_caches(prefilled, group_size=group_size, steps=max_new_tokens)
    _, state, _ = jax.lax.while_loop(proceeds, advance, (jnp.int32(1), state, caches))
    return Rollout(tokens=state["tokens"], log_probs=state["log_probs"], mask=state["mask"])


def _uniforms(draws: Draws, group_size: int, steps: int) -> Float[Array, "P G Lc"]:
    """One number in [0, 1) for each token, drawn from (key, prompt, place in the group)."""

    def of_row(prompt_id: Array, place: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(draws.key, prompt_id), place), (steps,))

    return jax.vmap(lambda prompt_id: jax.vmap(lambda g: of_row(prompt_id, g))(jnp.arange(group_size)))(
        draws.prompt_ids
    )
