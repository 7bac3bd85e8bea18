"""bfloat16 moments and masters: what the optimiser computes in float32 is stored in half the memory, rounded at random.

Rounded to the nearest, bfloat16 (8 bits) forgets what is less than half of its last place: a master of 1 does not move by a
learning rate of 1e-6, and a second moment with b2 = 0.999 keeps its first value for good, since it changes by a thousandth.
Rounded up or down at random, as likely as each neighbour is near, both move on average as float32 does; what is lost is
evenness (about 4 % of a second moment at b2 = 0.999), not direction. optax has a dtype for the first moment alone.

The random numbers come from a key in the optimiser's state, so they depend on the run's seed and on the updates so far:
a run that is continued makes the same ones, whatever the mesh.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import BFloat16, Float32, UInt32

from reflex_jax.trees import Array, Leaf, Params

_LOST_BITS = 16  # of a float32, beyond what a bfloat16 has
_PURPOSE = 0x70756F72  # tells these draws from those of sampling, which begin with the same seed


class NarrowState(NamedTuple):
    """State of an optimiser some of whose arrays are stored in bfloat16."""

    key: UInt32[Leaf, "2"]  # of the next update
    inner: Any  # of the optimiser that computes in float32


def narrow(
    optimizer: optax.GradientTransformationExtraArgs, *, moments: bool, masters: bool, seed: int
) -> optax.GradientTransformationExtraArgs:
    """Lets an optimiser keep its arrays, or the parameters it updates, in bfloat16.

    Each `part` of the parameters is rounded with random numbers of its own. The updates are float32, and for narrow
    parameters just what leads from one bfloat16 number to another: see `apply_updates`.

    Args:
      optimizer: computes in float32.
      moments: its own arrays are stored in bfloat16.
      masters: so are the parameters.
      seed: of the run.
    """

    def stored(key: Array, state: Any) -> Any:
        return _round_tree(key, state) if moments else state

    def init(params: Params) -> NarrowState:
        key = jax.random.fold_in(jax.random.key(seed), _PURPOSE)
        inner = optimizer.init(jax.tree.map(_widened, params))
        return NarrowState(jax.random.key_data(key), stored(key, inner))  # zeros: rounding leaves them

    def update(
        gradients: Params, state: NarrowState, params: Params | None = None, *, part: Any = 0, **extra: Any
    ) -> tuple[Params, NarrowState]:
        next_key, key = jax.random.split(jax.random.wrap_key_data(state.key))
        moments_key, masters_key = jax.random.split(jax.random.fold_in(key, part))
        wide = jax.tree.map(_widened, params)
        updates, inner = optimizer.update(gradients, jax.tree.map(_widened, state.inner), wide, **extra)
        if masters:
            rounded = _round_tree(masters_key, jax.tree.map(jnp.add, wide, updates))
            updates = jax.tree.map(lambda new, old: _widened(new) - old, rounded, wide)
        return updates, NarrowState(jax.random.key_data(next_key), stored(moments_key, inner))

    return optax.GradientTransformationExtraArgs(init, update)


def apply_updates(params: Params, updates: Params) -> Params:
    """Adds updates to parameters in float32, and stores the sum in the parameters' dtype.

    The difference of two bfloat16 numbers loses at most the last bit of a float32, so adding it gives the second again.
    """
    return jax.tree.map(lambda p, u: (_widened(p) + _widened(u)).astype(p.dtype), params, updates)


def round_stochastically(key: Array, x: Float32[Array, "*b"]) -> BFloat16[Array, "*b"]:
    """Rounds each number to one of its two neighbours in bfloat16, whose mean is the number itself.

    What is not finite, and what bfloat16 holds exactly, stays as it is.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # a carry out of the lost bits is a step away from zero, as likely as they are large
    bits = bits + jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    kept = jax.lax.bitcast_convert_type((bits >> _LOST_BITS).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), kept, x.astype(jnp.bfloat16))


def _round_tree(key: Array, tree: Any) -> Any:
    """Rounds the float32 arrays of a tree, each with numbers of its own; counts stay."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    rounded = [
        round_stochastically(k, leaf) if leaf.dtype == jnp.float32 else leaf
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, rounded)


def _widened(x: Any) -> Any:
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
