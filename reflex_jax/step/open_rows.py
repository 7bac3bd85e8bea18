"""Completions that are still open, gathered into a smaller batch so that those that have ended are not computed.

An open completion becomes a prompt with a group of one: it takes its prompt's keys and values along. That is why it waits
until no more completions are open than there are prompts. Each device gathers its own, all of them the same number, so that
nothing is sent; the places of those it has too few of are filled up by some that have ended.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from reflex_jax.sharding import constrain_batch
from reflex_jax.trees import Array

Places: TypeAlias = tuple[
    Array, Array
]  # prompt and place in its group of each row, as its device counts them: [ways, n]

SCOPE = "few_open"  # in the names of loops over gathered rows, which take turns over from the loop over all of them
_SHARE = 8  # gathered when an eighth is open: each time compiles the decoder again
_MOST_TIMES = 2


def gathered_sizes(prompts: int, group_size: int, ways: int) -> tuple[int, ...]:
    """Rows of a device that are computed once so few of them are open, descending; none where it has few from the start."""
    sizes: list[int] = []
    rows = prompts // ways * group_size
    while len(sizes) < _MOST_TIMES and rows >= _SHARE:
        rows = min(rows // _SHARE, prompts // ways)
        sizes.append(rows)
    return tuple(sizes)


def most_open(is_done: Bool[Array, "P G"], ways: int) -> Int[Array, ""]:
    """Open rows of the device that has most of them."""
    return (~is_done).reshape(ways, -1).sum(-1, dtype=jnp.int32).max()


def find_open(is_done: Bool[Array, "P G"], size: int, ways: int) -> Places:
    """Where `size` rows of each device are, the open ones first."""
    order = jnp.argsort(is_done.reshape(ways, -1), axis=-1, stable=True)[:, :size]
    return order // is_done.shape[1], order % is_done.shape[1]


def take_prompts(tree: Any, places: Places) -> Any:
    """Of arrays [P, ...] those of the rows' prompts, [n, ...]."""
    return jax.tree.map(
        lambda x: _joined(jax.vmap(lambda own, prompt: own[prompt])(_apart(x, places), places[0])), tree
    )


def take_rows(tree: Any, places: Places, *, axis: int = 1) -> Any:
    """Of arrays [P, ..., G, ...] with the group on this axis those of the rows, [n, ..., 1, ...]."""

    def take(x: Array) -> Array:
        of_device = jax.vmap(lambda own, prompt, place: jnp.moveaxis(own, axis, 1)[prompt, place])
        return jnp.expand_dims(_joined(of_device(_apart(x, places), *places)), axis)

    return jax.tree.map(take, tree)


def put_rows(whole: Any, part: Any, places: Places) -> Any:
    """Puts rows [n, 1, ...] back into arrays [P, G, ...]: the inverse of `take_rows`."""

    def put(x: Array, rows: Array) -> Array:
        of_device = jax.vmap(lambda own, prompt, place, rows: own.at[prompt, place].set(rows))
        return _joined(of_device(_apart(x, places), *places, _apart(rows, places)[:, :, 0]))

    return jax.tree.map(put, whole, part)


def _apart(x: Array, places: Places) -> Array:
    """[P, ...] -> [ways, P / ways, ...]: the prompts of each device."""
    return x.reshape(len(places[0]), -1, *x.shape[1:])


def _joined(x: Array) -> Array:
    return constrain_batch(x.reshape(math.prod(x.shape[:2]), *x.shape[2:]))
