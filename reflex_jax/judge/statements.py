"""DEVICE: the statements of a step end to end through the judge's text tower, so that padding is not computed.

Every device lays its own statements out: one behind another, as long as they fit, into chunks of at most 512 tokens. Chunk after
chunk is encoded at the smallest of a few lengths that holds it. Where everything lies is a function of the lengths alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from reflex_jax.judge.saliency import unit
from reflex_jax.models.bert import PackedTexts
from reflex_jax.models.biomedclip import BiomedClipConfig, encode_packed_text
from reflex_jax.records import JudgeInputs
from reflex_jax.sharding import map_rows
from reflex_jax.trees import Array, Params

_STEP = 64  # tokens; the lengths of chunks are multiples of it
_CHUNK = 512  # tokens of a chunk, or those of one statement where that may have more
_TOKENS_OF_STATEMENT = 8  # a chunk has room for as many statements as if each had so many

_Three = tuple[Array, Array, Array]


@dataclass(frozen=True)
class ChunkSizes:
    """The static side of the chunks of one device."""

    tokens: int  # of the longest chunk
    statements: int  # of a chunk, at most
    most: int  # chunks that may be needed
    lengths: tuple[int, ...]  # at which a chunk is encoded, ascending
    longest: int  # tokens of a statement, filled up to a multiple of 64


def chunk_sizes(statements: int, tokens: int) -> ChunkSizes:
    """The chunks of so many statements of at most so many tokens each."""
    longest = -(-tokens // _STEP) * _STEP
    whole = min(max(_CHUNK, longest), -(-statements * tokens // _STEP) * _STEP)
    room = max(1, whole // _TOKENS_OF_STATEMENT)
    # one that does not fit leaves less than its own length empty
    each = min(room, max(1, whole // tokens))
    return ChunkSizes(
        tokens=whole,
        statements=min(room, statements),
        most=-(-statements // each),
        lengths=tuple(range(_STEP, whole + 1, _STEP)),
        longest=longest,
    )


def encode_statements(params: Params, inputs: JudgeInputs, config: BiomedClipConfig) -> Float[Array, "P S E"]:
    """Unit embeddings of the distinct statements; 0 in the rows behind the last one of a prompt.

    The arrays are static, the work is not: the number of chunks and their lengths are those of the tokens that exist.
    """
    encode = partial(_encode_on_device, config=config)
    own = (jnp.asarray(inputs.statements), jnp.asarray(inputs.statement_count))
    return unit(map_rows(encode, params, own))


def _encode_on_device(
    params: Params, ids: Int[Array, "p S T"], counts: Int[Array, "p"], *, config: BiomedClipConfig
) -> Float[Array, "p S E"]:
    prompts, columns, tokens = ids.shape
    ids = ids.reshape(-1, tokens)
    sizes = chunk_sizes(len(ids), tokens)
    is_used = (jnp.arange(columns) < counts[:, None]).reshape(-1)
    ends = jnp.where(ids != config.text.pad_token_id, jnp.arange(1, tokens + 1), 0).max(-1)
    lengths = jnp.where(is_used, ends, 0)
    chunk, first, number = _lay_out(lengths, sizes)

    # what nobody is to read goes behind the end, which drops it
    is_token = jnp.arange(tokens) < lengths[:, None]
    slot = jnp.where(is_token, (chunk * sizes.tokens + first)[:, None] + jnp.arange(tokens), sizes.most * sizes.tokens)
    sources = _inverse(slot.reshape(-1), sizes.most, sizes.tokens)  # of each slot a token, -1: none
    place = jnp.where(is_used, chunk * sizes.statements + number, sizes.most * sizes.statements)
    members = _inverse(place, sizes.most, sizes.statements)  # of each place of a chunk a statement
    filled = (sources >= 0).sum(-1)
    rungs = jnp.asarray(sizes.lengths)

    def encode_at(length: int) -> Callable[[Array, Array], Array]:
        def encode(source: Array, member: Array) -> Array:
            source = source[:length]
            own = jnp.where(source >= 0, ids.reshape(-1)[source], config.text.pad_token_id)
            packed = PackedTexts(ids=own, texts=source // tokens, places=source % tokens, cls=first[member])
            return encode_packed_text(params, packed, config, longest=sizes.longest)

        return encode

    def proceeds(carry: tuple[Array, Array]) -> Array:
        # the first comparison always holds where the second does; it is there to be read: how long the loop can be
        return (carry[0] < sizes.most) & (carry[0] <= chunk.max())

    def encode_chunk(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        k, embeddings = carry
        rung = jnp.searchsorted(rungs, filled[k])
        found = jax.lax.switch(rung, [encode_at(length) for length in sizes.lengths], sources[k], members[k])
        where = jnp.where(members[k] >= 0, members[k], len(ids))
        return k + 1, embeddings.at[where].set(found, mode="drop")

    empty = jnp.zeros((len(ids), config.embed_dim), jnp.float32)
    _, embeddings = jax.lax.while_loop(proceeds, encode_chunk, (jnp.int32(0), empty))
    return embeddings.reshape(prompts, columns, -1)


def _lay_out(lengths: Int[Array, "n"], sizes: ChunkSizes) -> tuple[Int[Array, "n"], Int[Array, "n"], Int[Array, "n"]]:
    """Of each statement its chunk, its first slot there and its number there; those of length 0 take no room."""

    def add(carry: _Three, length: Array) -> tuple[_Three, _Three]:
        chunk, used, number = carry
        takes = (length > 0).astype(jnp.int32)
        is_next = ((used + length > sizes.tokens) | (number == sizes.statements)) & (length > 0)
        chunk = chunk + is_next.astype(jnp.int32)
        used, number = jnp.where(is_next, 0, used), jnp.where(is_next, 0, number)
        return (chunk, used + length, number + takes), (chunk, used, number)

    zero = jnp.int32(0)
    return jax.lax.scan(add, (zero, zero, zero), lengths)[1]


def _inverse(places: Int[Array, "n"], rows: int, columns: int) -> Int[Array, "rows columns"]:
    """Which of n items lies at each place, -1: none."""
    empty = jnp.full(rows * columns, -1, jnp.int32)
    return empty.at[places].set(jnp.arange(len(places), dtype=jnp.int32), mode="drop").reshape(rows, columns)
