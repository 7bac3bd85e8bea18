"""Choosing the next token: which ids may be sampled at all, and one draw per row from their distribution.

Log-probs are those of log_softmax(logits / temperature) over the allowed vocabulary, before top-k and top-p cut it, so
that they mean the same as the trainer's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from reflex_jax.config import ConfigError
from reflex_jax.models.attention import MASKED
from reflex_jax.trees import Array


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens completions are made of; the sampler and every log-prob share it."""

    allowed: Bool[np.ndarray, "V"]  # ids that may be sampled
    eos_ids: tuple[int, ...]  # any of them ends a completion, and belongs to it
    pad_id: int  # stands behind the end


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn."""

    group_size: int  # G
    max_new_tokens: int  # Lc
    temperature: float  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    in_stages: bool = True  # whether caches grow and open completions are gathered, where that is worth it
    cache_step: int = 128  # the caches of the completions grow by a multiple of so many tokens, see `cache_stages`


BLOCK = 128  # tokens of one block of the two-level search


def allowed_tokens(
    vocabulary: int, *, tokenizer_length: int, banned_ids: Iterable[int], eos_ids: Iterable[int]
) -> Bool[np.ndarray, "V"]:
    """The vocabulary a completion is made of: text and the EOS ids.

    Args:
      vocabulary: rows of the embedding.
      tokenizer_length: rows from here on have no token (Qwen2.5-VL: 151665 of 152064).
      banned_ids: special and vision ids; an EOS id among them stays allowed.
      eos_ids: ids that end a completion.

    Raises:
      ConfigError: an EOS id without a row.
    """
    allowed = np.arange(vocabulary) < tokenizer_length
    eos_ids = list(eos_ids)
    strangers = [i for i in eos_ids if not 0 <= i < vocabulary]
    if strangers or not eos_ids:
        raise ConfigError(f"rollout.eos_ids: expected at least one id below {vocabulary}; got {eos_ids}.")
    allowed[[i for i in banned_ids if i < vocabulary]] = False
    allowed[eos_ids] = True
    return allowed


def sample_tokens(
    logits: Float[Array, "P G V"],
    uniforms: Float[Array, "P G"],
    *,
    allowed: Bool[Array, "V"],
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Int[Array, "P G"], Float[Array, "P G"]]:
    """Draws one token per row.

    Args:
      logits: raw, float32.
      uniforms: in [0, 1), one per row; all the randomness there is.
      allowed: see `allowed_tokens`.
      temperature: divides the logits; 0 takes the most likely token (ties: the smallest id).
      top_k: keep the k most likely tokens; 0 keeps all.
      top_p: keep the fewest most likely tokens that hold this share of the probability; 1 keeps all.

    Returns:
      Tokens and their log-probs over the whole allowed vocabulary (temperature 0 counts as 1 there).
    """
    scaled = jnp.where(allowed, logits if temperature in (0, 1) else logits / temperature, MASKED)
    peak = scaled.max(-1, keepdims=True)
    weights = jnp.exp(scaled - peak)
    if temperature == 0:
        ids = jnp.arange(scaled.shape[-1])
        tokens = jnp.where(scaled == peak, ids, scaled.shape[-1]).min(-1)  # quicker than argmax on a CPU
    else:
        tokens = _inverse_cdf(_truncate(weights, top_k, top_p), uniforms)
    chosen = jnp.take_along_axis(scaled - peak, tokens[..., None], axis=-1)[..., 0]
    return tokens, chosen - jnp.log(weights.sum(-1))


def _truncate(weights: Float[Array, "P G V"], top_k: int, top_p: float) -> Float[Array, "P G V"]:
    """Sets the weights outside top-k, then outside top-p, to 0; tokens that tie with the last one kept stay."""
    if 0 < top_k < weights.shape[-1]:
        smallest = jax.lax.top_k(weights, top_k)[0][..., -1:]
        weights = jnp.where(weights >= smallest, weights, 0.0)
    if top_p < 1:
        descending = -jnp.sort(-weights, axis=-1)
        before = jnp.cumsum(descending, axis=-1) - descending
        is_kept = before < top_p * descending.sum(-1, keepdims=True)  # the first one is always kept
        smallest = jnp.where(is_kept, descending, jnp.inf).min(-1, keepdims=True)
        weights = jnp.where(weights >= smallest, weights, 0.0)
    return weights


def _inverse_cdf(weights: Float[Array, "P G V"], uniforms: Float[Array, "P G"]) -> Int[Array, "P G"]:
    """Two-level search: first the block of 128 tokens the draw falls into, then the token in it."""
    padding = -weights.shape[-1] % BLOCK
    blocks = jnp.pad(weights, ((0, 0), (0, 0), (0, padding))).reshape(*weights.shape[:-1], -1, BLOCK)
    block_weights = blocks.sum(-1)
    ends = jnp.cumsum(block_weights, axis=-1)
    draw = uniforms[..., None] * ends[..., -1:]
    block = _first_beyond(ends, draw, block_weights)[..., None]
    row = jnp.take_along_axis(blocks, block[..., None], axis=-2)[..., 0, :]
    before = jnp.take_along_axis(ends - block_weights, block, axis=-1)
    return block[..., 0] * BLOCK + _first_beyond(before + jnp.cumsum(row, axis=-1), draw, row)


def _first_beyond(ends: Array, draw: Array, weights: Array) -> Int[Array, "P G"]:
    """First place whose end lies beyond the draw and whose weight is not 0.

    Sums of floats may round past the draw; then it is the last place with a weight. A token without a weight (banned,
    cut off) is never taken.
    """
    ids = jnp.arange(weights.shape[-1])
    last = jnp.where(weights > 0, ids, 0).max(-1)
    first = jnp.where((weights > 0) & (ends > draw), ids, weights.shape[-1]).min(-1)
    return jnp.minimum(first, last)
