"""Attention on TPUs by JAX's splash kernel, told at run time which of its blocks have anything to read.

The kernel masks by two things: equal numbers of query and key (`SegmentIds`), and a function of a number per query and of
the place of the key. All rows lie behind one another in one sequence, so one call does them all; blocks of another row,
or of segments that do not meet, are never visited.

A token of a packed row reads two segments, its own and its prompt's, and one number cannot equal two. So the keys are
there twice, as prompts and as tokens of their own: the numbers say of which prompt, the function of two places (where
the query's segment begins, and the query) which of the tokens. The two halves share one softmax, the kernel's own
backward pass is right for both, and the keys' second copy is all it costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, SegmentIds
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import SplashAttentionKernel
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jaxtyping import Bool, Float, Int

from reflex_jax.models.blocked_attention import MASKED, blocks_that_meet
from reflex_jax.models.layers import SAVED_ATTENTION
from reflex_jax.trees import Array

BLOCKS = (512, 256, 128)  # tokens; the first that fills a row up by at most an eighth is taken
LONGEST_ROW = 1 << 16  # tokens: two places share the 32 bits of a number


def splash_attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    segments: Int[Array, "B T"],
    roots: Int[Array, "B T"] | None,
    *,
    is_causal: bool,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """`blocked_attention` by the kernel. With `roots` a segment's tokens lie together, behind its prompt's.

    Args:
      queries: not yet scaled; better in float32, or they are rounded twice.
      keys: of the same tokens.
      values: of the same tokens.
      segments: below 0: filler.
      roots: the second segment a token reads; None: it reads its own alone.
      is_causal: whether a token reads only the tokens before it, and itself.
      interpret: run on any device, slowly.
    """
    rows, length = segments.shape
    block = block_for(length)
    filled = length + -length % block
    at_once = (
        rows if roots is None else next(n for n in range(rows, 0, -1) if rows % n == 0 and n * filled <= LONGEST_ROW)
    )

    def attend(part: tuple[Array, ...]) -> Array:
        return _attend(block, is_causal, interpret, *part)

    arrays = tuple(_fill(x, filled) for x in (queries, keys, values, segments, *(() if roots is None else (roots,))))
    if at_once == rows:
        return attend(arrays)[:, :length]
    parts = tuple(x.reshape(-1, at_once, *x.shape[1:]) for x in arrays)
    return jax.lax.map(attend, parts).reshape(rows, filled, *queries.shape[2:])[:, :length]


def block_for(length: int) -> int:
    """The largest block that fills a row of this length up by at most an eighth; the smallest where none does."""
    return next((block for block in BLOCKS if -length % block * 8 <= length), BLOCKS[-1])


@dataclass(frozen=True)
class _ReadsOwnOrPrompt:
    """The mask of a query that carries two places, over keys of which the first `length` stand there as prompts."""

    length: int

    def __call__(self, query: Array, key: Array) -> Array:
        place, start = query & (LONGEST_ROW - 1), jax.lax.shift_right_logical(query, 16)
        own = key - self.length
        # the prompt lies before the segment; a prompt's own tokens begin with it, and read no key as a prompt's
        return ((key < self.length) & (key < start)) | ((own >= start) & (own <= place))


def _is_before(query: Array, key: Array) -> Array:
    return query >= key


def _attend(block: int, is_causal: bool, interpret: bool, *arrays: Array) -> Array:
    queries, keys, values, segments = arrays[:4]
    rows, length = segments.shape
    sequence = rows * length
    places = jnp.arange(sequence, dtype=jnp.int32)
    is_met = blocks_that_meet(segments, segments, block, is_causal=is_causal)
    is_met |= jnp.eye(is_met.shape[1], dtype=bool)  # filler reads itself, so that no sum is 0
    of_queries = of_keys = segments.reshape(sequence)
    function = _is_before if is_causal else None
    if len(arrays) == 5:
        roots = arrays[4]
        as_prompts = jnp.where(segments == roots, roots, -2)
        completions = jnp.where(segments == roots, -2, roots)
        met_as_prompts = blocks_that_meet(completions, as_prompts, block, is_causal=True)
        is_met = jnp.concatenate([met_as_prompts, is_met], axis=2)
        of_queries = roots.reshape(sequence)
        of_keys = jnp.concatenate([as_prompts.reshape(sequence), of_queries])
        keys, values = (jnp.concatenate([x, x]) for x in (keys, values))
        begins = jnp.diff(segments.reshape(sequence), prepend=-2) != 0
        places += (
            jax.lax.cummax(jnp.where(begins.reshape(rows, length).at[:, 0].set(True).reshape(sequence), places, 0))
            << 16
        )
        function = _ReadsOwnOrPrompt(sequence)
    kernel = SplashAttentionKernel(
        *_block_maps(is_met, places if is_causal else None),
        block_sizes=BlockSizes(
            block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
            block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
        ),
        is_mqa=False, save_residuals=False, mask_value=MASKED, attn_logits_soft_cap=None,
        residual_checkpoint_name=SAVED_ATTENTION, mask_function=function, interpret=interpret,
    )  # fmt: skip
    # the kernel does not scale; queries in float32, as their rotation leaves them, are rounded once all the same
    scaled = (queries.astype(jnp.float32) * queries.shape[-1] ** -0.5).astype(keys.dtype)
    parts = (_in_sequence(x) for x in (scaled, keys, values))
    outputs = cast(Array, kernel(*parts, SegmentIds(of_queries, of_keys)))
    return outputs.reshape(-1, rows, length, queries.shape[-1]).transpose(1, 2, 0, 3)


def _block_maps(is_met: Bool[Array, "B J M"], places: Array | None) -> tuple[MaskInfo, MaskInfo, MaskInfo]:
    """What the kernel's three passes visit: outputs and gradients of queries by queries, gradients of keys by keys.

    A pass walks the M blocks of its own row (with the keys twice: of both copies). A block it need not read is given the
    number of one it has read already, which costs no transfer.
    """
    rows, blocks, across = is_met.shape
    copies = across // blocks
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    # block m of a row's keys lies in copy m // J, at row * J + m % J
    at_keys = (jnp.arange(across) // blocks * rows * blocks + jnp.arange(across) % blocks).astype(jnp.int32)
    at_keys = row * blocks + at_keys  # [B, M]
    by_queries = _visits(is_met, at_keys[:, None, :], axis=2).reshape(rows * blocks, across)
    to_queries = is_met.reshape(rows * blocks, across)
    # [B, J, M] -> [J, copies * B * blocks]: the columns are the blocks of all keys, in their order
    at_queries = (row * blocks + jnp.arange(blocks, dtype=jnp.int32))[:, :, None]
    by_keys, to_keys = (
        x.reshape(rows, blocks, copies, blocks).transpose(1, 2, 0, 3).reshape(blocks, -1)
        for x in (_visits(is_met, at_queries, axis=1), is_met)
    )
    maps = [
        MaskInfo(
            data_next=visits[None], mask_next=None, block_mask=is_read.astype(jnp.int32)[None],
            partial_mask_blocks=None, q_sequence=cast(Any, places),
        )
        for visits, is_read in ((by_queries, to_queries), (by_queries, to_queries), (by_keys, to_keys))
    ]  # fmt: skip
    return maps[0], maps[1], maps[2]


def _visits(is_met: Bool[Array, "B J M"], numbers: Array, axis: int) -> Int[Array, "B J M"]:
    """The number of each block that is read, in the place of the others that of the block read before, or of the first."""
    numbers = jnp.broadcast_to(numbers, is_met.shape)
    first = jnp.where(is_met, numbers, jnp.iinfo(jnp.int32).max).min(axis, keepdims=True)
    first = jnp.where(is_met.any(axis, keepdims=True), first, numbers.min(axis, keepdims=True))
    return jax.lax.cummax(jnp.where(is_met, numbers, first), axis=axis)


def _in_sequence(x: Float[Array, "B T N H"]) -> Float[Array, "N S H"]:
    return x.transpose(2, 0, 1, 3).reshape(x.shape[2], -1, x.shape[3])


def _fill(x: Array, length: int) -> Array:
    """Filler up to a length: zeros of real numbers, -1 of whole ones."""
    empty: Any = 0.0 if jnp.issubdtype(x.dtype, jnp.floating) else -1
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0) for _ in x.shape[2:])), constant_values=empty)
