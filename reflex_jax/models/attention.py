"""Attention as pure functions, heads first, scores and softmax in float32.

Scores are scaled after the product, not the queries before it: in bfloat16 a factor that is no power of two (128**-0.5)
would round every query once more, and the output would be ten times as wrong (`tests/parity/test_attention_bfloat16.py`).
Queries may come in float32, as their rotation leaves them; they are rounded to the dtype of the keys, once.

Axis letters: P prompts, G completions of a prompt, T query tokens, S prompt tokens, K key heads, R query heads per key
head, H head width, W windows, U patches of a window, B packed rows. A query head n reads key head n // R.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from reflex_jax.models.attention_choice import XLA, AttentionChoice
from reflex_jax.models.blocked_attention import MASKED as MASKED
from reflex_jax.models.layers import product_precision
from reflex_jax.trees import Array


def score_bias(is_allowed: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What to add to scores so that forbidden keys weigh nothing.

    An addition joins the matrix product on a CPU and needs nothing in the backward pass; a selection does neither.
    """
    return jnp.where(is_allowed, 0.0, MASKED)


def masked_softmax_product(
    scores: Float[Array, "*batch T S"], is_allowed: Bool[Array, "*#batch #T S"], values: Float[Array, "*batch S H"]
) -> Float[Array, "*batch T H"]:
    """softmax(scores) @ values over the allowed keys; one division per output instead of one per score."""
    scores = scores + score_bias(is_allowed)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    return (_product(weights.astype(values.dtype), values) / weights.sum(-1, keepdims=True)).astype(values.dtype)


def prompt_attention(
    queries: Float[Array, "P S N H"],
    keys: Float[Array, "P S K H"],
    values: Float[Array, "P S K H"],
    is_valid: Bool[Array, "P S"],
    *,
    implementation: AttentionChoice = XLA,
) -> Float[Array, "P S N H"]:
    """Causal self-attention of the prompts; padding on either side is never read.

    Args:
      queries: rotated, not yet scaled; in float32 or the dtype of the keys.
      keys: rotated.
      values: of the same tokens.
      is_valid: False for padding; what padding reads has no meaning.
      implementation: what computes it.
    """
    if kernel := implementation.kernel_for("prompts", keys):
        return kernel(queries, keys, values, jnp.where(is_valid, 0, -1), None, is_causal=True)
    return _attention(queries, keys, values, is_valid[:, None, :] & jnp.tri(queries.shape[1], dtype=bool))


def weights_of_tokens(
    queries: Float[Array, "P S N H"],
    keys: Float[Array, "P S K H"],
    is_valid: Bool[Array, "P S"],
    is_asking: Bool[Array, "P S"],
) -> Float[Array, "P S"]:
    """How much some tokens of a prompt read from each of its tokens: the softmax weights, not the values they fetch.

    Args:
      queries: rotated, not yet scaled.
      keys: rotated.
      is_valid: False for padding.
      is_asking: the tokens whose weights are wanted; over them and over the heads the mean is taken.

    Returns:
      Weights that sum to 1 over a row's valid tokens, all 0 for a row where none asks. Holds all scores in memory: for
      looking at single answers, not for training.
    """
    batch, length, heads, width = queries.shape
    key_heads = keys.shape[2]
    rows = _heads_first(queries.astype(keys.dtype), key_heads).reshape(batch, key_heads, -1, width)
    scores = _scores(rows, keys.transpose(0, 2, 3, 1)).reshape(batch, heads, length, length)
    is_read = is_valid[:, None, :] & jnp.tri(length, dtype=bool)
    weights = jax.nn.softmax(scores + score_bias(is_read)[:, None], axis=-1)
    asking = is_asking.astype(jnp.float32)
    share = asking / jnp.maximum(asking.sum(-1, keepdims=True), 1.0)
    return jnp.einsum("pnts,pt->ps", weights, share) / heads


def row_attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    segments: Int[Array, "B T"],
    roots: Int[Array, "B T"],
    *,
    implementation: AttentionChoice = XLA,
) -> Float[Array, "B T N H"]:
    """Causal self-attention of rows in which prompts and their completions lie end to end.

    A token reads the tokens before it, and itself, of its own segment and of its prompt: `segments[k] == segments[q]` or
    `segments[k] == roots[q]`. So a prompt reads itself, a completion its prompt and itself, and nothing reads another
    completion or another prompt of the row. The tokens of a segment lie together, a prompt before its completions.

    Args:
      queries: rotated, not yet scaled; in float32 or the dtype of the keys.
      keys: rotated.
      values: of the same tokens.
      segments: one number per prompt and per completion of a row; -1 for padding, which reads nothing but padding.
      roots: the segment of the token's prompt; a prompt's tokens are their own root; -1 for padding.
      implementation: what computes it.
    """
    if kernel := implementation.kernel_for("rows", keys):
        return kernel(queries, keys, values, segments, roots, is_causal=True)
    return _attention(queries, keys, values, reads_in_row(segments, roots))


def reads_in_row(segments: Int[Array, "B T"], roots: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Whether query t may read key s: the rule of `row_attention`."""
    is_own, is_prompt = (of[:, :, None] == segments[:, None, :] for of in (segments, roots))
    return (is_own | is_prompt) & jnp.tri(segments.shape[1], dtype=bool)


def group_attention(
    queries: Float[Array, "P G T N H"],
    prompt_keys: Float[Array, "P K H S"],
    prompt_values: Float[Array, "P K S H"],
    own: Sequence[tuple[Array, Array, Array]],
    is_valid: Bool[Array, "P S"],
) -> Float[Array, "P G T N H"]:
    """Attention of completions to their prompt and to themselves, the prompt's keys shared by the group.

    Group, head repeats and time are rows of one matrix product against the prompt's keys, so that nothing is tiled;
    all parts are normalised by one common sum, so that nothing is concatenated.

    Args:
      queries: rotated, not yet scaled; in float32 or the dtype of the keys.
      prompt_keys: heads first, tokens last: as the matrix product wants them, or decoding would transpose the whole
        cache at every token.
      prompt_values: heads first.
      own: of the completions, in parts of C slots: keys, tokens last [P, K, G, H, C], values [P, K, G, C, H], and
        whether query t may read slot c [T, C].
      is_valid: False for padding of the prompt.
    """
    prompts, group, length, heads, width = queries.shape
    queries = queries.astype(prompt_keys.dtype)
    key_heads, repeats = prompt_keys.shape[1], heads // prompt_keys.shape[1]
    rows = queries.reshape(prompts, group, length, key_heads, repeats, width)
    rows = rows.transpose(0, 3, 1, 4, 2, 5)  # [P, K, G, R, T, H]
    all_rows = rows.reshape(prompts, key_heads, group * repeats * length, width)
    own_rows = rows.reshape(prompts, key_heads, group, repeats * length, width)
    to_prompt = _scores(all_rows, prompt_keys) + score_bias(is_valid)[:, None, None, :]
    to_prompt = to_prompt.reshape(*own_rows.shape[:-1], -1)  # [P, K, G, R*T, S]
    scores = [to_prompt]
    for keys, _, is_written in own:  # [P, K, G, R*T, C]
        scores.append(_scores(own_rows, keys) + jnp.tile(score_bias(is_written), (repeats, 1)))
    peak = functools.reduce(jnp.maximum, (part.max(-1, keepdims=True) for part in scores))
    weights = [jnp.exp(part - jax.lax.stop_gradient(peak)) for part in scores]
    sums = functools.reduce(jnp.add, (part.sum(-1, keepdims=True) for part in weights))
    from_prompt = weights[0].astype(prompt_values.dtype).reshape(*all_rows.shape[:-1], -1)
    outputs = _product(from_prompt, prompt_values).reshape(own_rows.shape)
    for part, (_, values, _) in zip(weights[1:], own, strict=True):
        outputs = outputs + _product(part.astype(values.dtype), values)
    outputs = outputs / sums
    outputs = outputs.astype(queries.dtype).reshape(prompts, key_heads, group, repeats, length, width)
    return outputs.transpose(0, 2, 4, 1, 3, 5).reshape(queries.shape)


def window_attention(
    queries: Float[Array, "P W U N H"],
    keys: Float[Array, "P W U N H"],
    values: Float[Array, "P W U N H"],
    image_ids: Int[Array, "P W U"],
) -> Float[Array, "P W U N H"]:
    """Each patch reads the filled slots of its own window."""
    is_filled = (image_ids > 0)[:, :, None, None, :]
    queries, keys, values = (part.swapaxes(2, 3) for part in (queries.astype(keys.dtype), keys, values))
    scores = _scores(queries, keys.swapaxes(-1, -2))  # [P, W, N, U, U]
    return masked_softmax_product(scores, is_filled, values).swapaxes(2, 3)


def image_attention(
    queries: Float[Array, "P W U N H"],
    keys: Float[Array, "P W U N H"],
    values: Float[Array, "P W U N H"],
    image_ids: Int[Array, "P W U"],
    *,
    implementation: AttentionChoice = XLA,
) -> Float[Array, "P W U N H"]:
    """Each patch reads all patches of its own image, and no other image of the row; empty slots (0) are never read."""
    shape = queries.shape
    prompts, patches, heads, width = shape[0], shape[1] * shape[2], shape[3], shape[4]
    ids = image_ids.reshape(prompts, patches)
    queries, keys, values = (part.reshape(prompts, patches, heads, width) for part in (queries, keys, values))
    if kernel := implementation.kernel_for("pictures", keys):
        return kernel(queries, keys, values, ids - 1, None, is_causal=False).reshape(shape)
    is_same = (ids[:, None, :] == ids[:, :, None]) & (ids[:, None, :] > 0)
    queries, keys, values = (part.swapaxes(1, 2) for part in (queries.astype(keys.dtype), keys, values))
    scores = _scores(queries, keys.swapaxes(-1, -2))  # [P, N, W*U, W*U]
    return masked_softmax_product(scores, is_same[:, None], values).swapaxes(1, 2).reshape(shape)


def tile_attention(
    queries: Float[Array, "P W U N H"],
    keys: Float[Array, "P W U N H"],
    values: Float[Array, "P W U N H"],
    image_ids: Int[Array, "P W U"],
    *,
    implementation: AttentionChoice = XLA,
) -> Float[Array, "P W U N H"]:
    """`image_attention` where each window is an image of its own: windows are rows, so no pair of two is ever scored."""

    def apart(x: Array) -> Array:
        return x.reshape(-1, 1, *x.shape[2:])

    ids = apart(image_ids)
    mixed = image_attention(apart(queries), apart(keys), apart(values), ids, implementation=implementation)
    return mixed.reshape(queries.shape)


def _attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B S K H"],
    values: Float[Array, "B S K H"],
    is_allowed: Bool[Array, "B T S"],
) -> Float[Array, "B T N H"]:
    """Grouped-query attention with all scores in memory; the repeats of a key head are rows of one product."""
    batch, length, _, width = queries.shape
    queries, key_heads = queries.astype(keys.dtype), keys.shape[2]
    rows = _heads_first(queries, key_heads)  # [B, K, R, T, H]
    repeats = rows.shape[2]
    rows = rows.reshape(batch, key_heads, repeats * length, width)
    scores = _scores(rows, keys.transpose(0, 2, 3, 1)).reshape(batch, key_heads, repeats, length, -1)
    scores = scores + score_bias(is_allowed)[:, None, None]
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    sums = weights.sum(-1, keepdims=True)
    weights = weights.astype(values.dtype).reshape(batch, key_heads, repeats * length, -1)
    outputs = _product(weights, values.transpose(0, 2, 1, 3)).reshape(*sums.shape[:-1], width) / sums
    return outputs.astype(queries.dtype).transpose(0, 3, 1, 2, 4).reshape(queries.shape)


def _heads_first(queries: Float[Array, "P T N H"], key_heads: int) -> Float[Array, "P K R T H"]:
    prompts, length, heads, width = queries.shape
    grouped = queries.reshape(prompts, length, key_heads, heads // key_heads, width)
    return grouped.transpose(0, 2, 3, 1, 4)


def _scores(queries: Float[Array, "*batch T H"], keys: Float[Array, "*batch H S"]) -> Float[Array, "*batch T S"]:
    """q k / sqrt(H), in float32."""
    return _product(queries, keys) * queries.shape[-1] ** -0.5


def _product(left: Array, right: Array) -> Array:
    """Matrix product accumulated and returned in float32."""
    precision = product_precision(left.dtype)
    return jnp.matmul(left, right, precision=precision, preferred_element_type=jnp.float32)
