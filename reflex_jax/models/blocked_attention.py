"""Attention in plain JAX that never holds a matrix of scores: online softmax over blocks of queries and keys.

One rule serves every self-attention of the policy: a token reads its own segment and the segment of its prompt. The
backward pass computes the scores of each pair of blocks again from the log-sum-exp, so that what is kept between the
passes is linear in the length. Pairs above the diagonal of a causal attention are left out when the function is traced,
pairs of which no query may read any key when it runs.

Axis letters as in `reflex_jax.models.attention`; J blocks, E tokens of a block, F = R * E query rows of a block.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Bool, Float, Int

from reflex_jax.models.layers import SAVED_ATTENTION, product_precision
from reflex_jax.trees import Array

MASKED = -1e30  # finite, so that a row without any allowed key stays finite too
# Tokens of a block on a CPU, at most. A causal attention leaves out the pairs of blocks that nobody reads, more of them where
# blocks are small; 128 was slower, as rows that lie 512 bytes apart compete for the same lines of the cache. A picture is read
# whole: blocks of 352 took half as long as of 128; those of 512 took as long and twice the memory.
_CAUSAL_BLOCK, _BLOCK = 160, 384
_MULTIPLE = 32  # of which blocks have a multiple of tokens


def blocked_attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    segments: Int[Array, "B T"],
    roots: Int[Array, "B T"] | None,
    *,
    is_causal: bool,
    block: int | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(q k / sqrt(H)) v over the keys whose segment is the query's segment or its root.

    Args:
      queries: not yet scaled; in float32 or the dtype of the keys.
      keys: of the same tokens.
      values: of the same tokens.
      segments: below 0: filler, which no other token reads and whose result has no meaning (it is finite).
      roots: the second segment a token reads; None: it reads its own alone.
      is_causal: whether a token reads only the tokens before it, and itself.
      block: queries, and keys, whose scores exist at one time; a length it does not divide is filled up. None: as a CPU has
        them fastest.
    """
    roots = segments if roots is None else roots
    block = block or even_block(queries.shape[1], is_causal=is_causal)
    return _attention(is_causal, block, queries.astype(keys.dtype), keys, values, segments, roots)


def even_block(length: int, *, is_causal: bool) -> int:
    """Tokens of a block on a CPU, where so many are cut into as few blocks as there may be, and evenly."""
    blocks = -(-length // (_CAUSAL_BLOCK if is_causal else _BLOCK))
    return -(-length // (blocks * _MULTIPLE)) * _MULTIPLE


def blocks_that_meet(
    queries: Int[Array, "B T"], keys: Int[Array, "B T"], block: int, *, is_causal: bool
) -> Bool[Array, "B J J"]:
    """Whether a query of block i may read a key of block j with its number, by the ranges of numbers in the blocks.

    Never False where there is such a pair; numbers below 0 are of nobody.
    """
    least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max

    def ranges(numbers: Array) -> tuple[Array, Array]:
        numbers = numbers.reshape(numbers.shape[0], -1, block)
        return jnp.where(numbers < 0, most, numbers).min(-1), jnp.where(numbers < 0, least, numbers).max(-1)

    (first, last), (first_key, last_key) = ranges(queries), ranges(keys)
    is_met = (first[:, :, None] <= last_key[:, None]) & (first_key[:, None] <= last[:, :, None])
    return is_met & jnp.tri(is_met.shape[1], dtype=bool) if is_causal else is_met


class _Blocks(NamedTuple):
    """The arguments in blocks, one behind another on the first axis."""

    queries: Float[Array, "J B K F H"]
    keys: Float[Array, "J B K E H"]
    values: Float[Array, "J B K E H"]
    segments: Int[Array, "J B E"]
    roots: Int[Array, "J B E"]
    is_causal: bool

    def scores(self, i: Array, j: Array) -> Float[Array, "B K F E"]:
        """Of the queries of block i and the keys of block j, masked; scaled after the product, as everywhere."""
        is_allowed = self.segments[i][:, :, None] == self.segments[j][:, None]
        is_allowed |= self.roots[i][:, :, None] == self.segments[j][:, None]  # [B, E, E]
        size = is_allowed.shape[-1]
        if self.is_causal:
            is_allowed &= jnp.arange(size)[:, None] + (i - j) * size >= jnp.arange(size)
        scores = _product(self.queries[i], self.keys[j].swapaxes(-1, -2)) * self.queries.shape[-1] ** -0.5
        of_heads = scores.reshape(*scores.shape[:2], -1, size, size) + jnp.where(is_allowed, 0.0, MASKED)[:, None, None]
        return of_heads.reshape(scores.shape)

    def pairs(self) -> tuple[tuple[np.ndarray, np.ndarray], Bool[Array, "pairs"]]:
        """Numbers of the blocks of queries and of keys, pair by pair, and whether the pair has anything to read."""
        count, batch, size = self.segments.shape
        first, second = np.tril_indices(count) if self.is_causal else np.indices((count, count)).reshape(2, -1)
        segments, roots = (x.swapaxes(0, 1).reshape(batch, -1) for x in (self.segments, self.roots))
        is_needed = blocks_that_meet(segments, segments, size, is_causal=self.is_causal)
        is_needed |= blocks_that_meet(roots, segments, size, is_causal=self.is_causal)
        is_needed |= jnp.eye(count, dtype=bool)  # filler reads itself, so that no sum is 0
        return (first.astype(np.int32), second.astype(np.int32)), is_needed.any(0)[first, second]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(is_causal: bool, block: int, *arrays: Array) -> Array:
    return _forward(is_causal, block, *arrays)[0]


def _forward(is_causal: bool, block: int, *arrays: Array) -> tuple[Array, Array]:
    """The outputs, and the log-sum-exp [J, B, K, F] of the scores of every query."""
    blocks = _cut(arrays, block, is_causal=is_causal)

    def add(pair: tuple[Array, Array], sofar: Any) -> Any:
        i, j = pair
        peaks, sums, mixed = sofar
        scores = blocks.scores(i, j)
        peak = jnp.maximum(peaks[i], scores.max(-1))
        weights, decay = jnp.exp(scores - peak[..., None]), jnp.exp(peaks[i] - peak)
        from_values = _product(weights.astype(blocks.values.dtype), blocks.values[j])
        return (
            peaks.at[i].set(peak),
            sums.at[i].set(decay * sums[i] + weights.sum(-1)),
            mixed.at[i].set(decay[..., None] * mixed[i] + from_values),
        )

    shape = blocks.queries.shape
    start = (jnp.full(shape[:-1], MASKED), jnp.zeros(shape[:-1]), jnp.zeros(shape))
    peaks, sums, mixed = _over_pairs(add, start, blocks)
    return _join(mixed / sums[..., None], arrays[0]), peaks + jnp.log(sums)


def _forward_and_saved(is_causal: bool, block: int, *arrays: Array) -> tuple[Array, Any]:
    outputs, log_sums = (checkpoint_name(x, SAVED_ATTENTION) for x in _forward(is_causal, block, *arrays))
    return outputs, (arrays, outputs, log_sums)


def _backward(is_causal: bool, block: int, saved: Any, gradients: Array) -> tuple[Array | None, ...]:
    arrays, outputs, log_sums = saved
    blocks = _cut(arrays, block, is_causal=is_causal)
    queries, keys, values = blocks.queries, blocks.keys, blocks.values
    gradients = _cut_rows(gradients, block, keys.shape[2])
    outputs = _cut_rows(outputs, block, keys.shape[2])
    shifts = (gradients.astype(jnp.float32) * outputs.astype(jnp.float32)).sum(-1)
    scale = queries.shape[-1] ** -0.5

    def add(pair: tuple[Array, Array], sofar: Any) -> Any:
        i, j = pair
        of_queries, of_keys, of_values = sofar
        weights = jnp.exp(blocks.scores(i, j) - log_sums[i][..., None])
        of_weights = _product(gradients[i], values[j].swapaxes(-1, -2))
        of_scores = (weights * (of_weights - shifts[i][..., None]) * scale).astype(queries.dtype)
        weights = weights.astype(gradients.dtype)
        return (
            of_queries.at[i].add(_product(of_scores, keys[j])),
            of_keys.at[j].add(_product(of_scores.swapaxes(-1, -2), queries[i])),
            of_values.at[j].add(_product(weights.swapaxes(-1, -2), gradients[i])),
        )

    start = tuple(jnp.zeros(part.shape) for part in (queries, keys, values))
    sums = _over_pairs(add, start, blocks)
    return *(_join(total, like) for total, like in zip(sums, arrays, strict=False)), None, None


_attention.defvjp(_forward_and_saved, _backward)


def _over_pairs(add: Any, start: Any, blocks: _Blocks) -> Any:
    """Adds what every pair of blocks contributes, one pair at a time."""
    pairs, is_needed = blocks.pairs()

    def step(sofar: Any, pair: Any) -> tuple[Any, None]:
        places, is_wanted = pair
        return jax.lax.cond(is_wanted, partial(add, places), lambda sofar: sofar, sofar), None

    return jax.lax.scan(step, start, (pairs, is_needed))[0]


def _cut(arrays: tuple[Array, ...], block: int, *, is_causal: bool) -> _Blocks:
    queries, keys, values, segments, roots = arrays

    def cut(numbers: Array) -> Array:
        filled = jnp.pad(numbers, ((0, 0), (0, -numbers.shape[1] % block)), constant_values=-1)
        return filled.reshape(filled.shape[0], -1, block).swapaxes(0, 1)

    key_heads = keys.shape[2]
    return _Blocks(
        queries=_cut_rows(queries, block, key_heads),
        keys=_cut_rows(keys, block, key_heads),
        values=_cut_rows(values, block, key_heads),
        segments=cut(segments),
        roots=cut(roots),
        is_causal=is_causal,
    )


def _cut_rows(x: Float[Array, "B T N H"], block: int, key_heads: int) -> Float[Array, "J B K F H"]:
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))
    x = x.reshape(x.shape[0], -1, block, key_heads, x.shape[2] // key_heads, x.shape[3])
    x = x.transpose(1, 0, 3, 4, 2, 5)  # [J, B, K, R, E, H]
    return x.reshape(*x.shape[:3], -1, x.shape[-1])


def _join(x: Float[Array, "J B K F H"], like: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
    """The inverse of `_cut_rows`, in the shape and the dtype of `like`."""
    batch, length, heads, width = like.shape
    x = x.reshape(*x.shape[:3], heads // x.shape[2], -1, width).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(batch, -1, heads, width)[:, :length].astype(like.dtype)


def _product(left: Array, right: Array) -> Array:
    precision = product_precision(left.dtype)
    return jnp.matmul(left, right, precision=precision, preferred_element_type=jnp.float32)
