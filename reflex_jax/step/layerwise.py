"""The optimiser's update, in place and one layer after the other: what it needs beside the state is one layer of it.

Every layer's update is that of the whole: it hangs together by the norm of all gradients alone, which is known before.
Parts of the state that lie in the host's memory (`memory.offload`) come to the device a layer at a time, and go back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float

from reflex_jax.step.narrow import apply_updates
from reflex_jax.step.state import TrainState, on_device
from reflex_jax.trees import Array, Params

Path = tuple[str, ...]  # of a part of the parameters
Part = Any  # (one part of the parameters, of each of the optimiser's arrays the same part)


def update_layerwise(
    state: TrainState,
    gradients: Params,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    grad_norm: Float[Array, ""],
    is_applied: Bool[Array, ""],
) -> TrainState:
    """One update of parameters and optimiser; the state's step is left to the caller.

    Args:
      state: before.
      gradients: like the parameters, float32, on the device.
      optimizer: of `make_optimizer`; treats every array by itself, but for the norm.
      grad_norm: of all gradients.
      is_applied: False: everything stays as it was.
    """
    # optax's own states are tuples: a dict among them has the form of the parameters
    leaves, form = jax.tree.flatten(state.optimizer_state, is_leaf=is_dict)
    arrays = {place: leaf for place, leaf in enumerate(leaves) if is_dict(leaf)}
    counts = {place: leaf for place, leaf in enumerate(leaves) if not is_dict(leaf)}

    def updated(number: Any, before: Part, gradients: Any) -> tuple[Part, Any]:
        """A part on the device after the update, and the counts, which all parts count alike."""
        params, held = before
        inner = jax.tree.unflatten(form, [(held | counts)[place] for place in range(len(leaves))])
        changes, after = optimizer.update(gradients, inner, params, grad_norm=grad_norm, part=number)
        after = dict(enumerate(jax.tree.leaves(after, is_leaf=is_dict)))
        new = (apply_updates(params, changes), {place: after[place] for place in held})
        kept = jax.tree.map(lambda new, old: jnp.where(is_applied, new, old), new, before)
        return kept, {place: jnp.where(is_applied, after[place], counts[place]) for place in counts}

    def update_layers(first: int, part: Part, gradients: Any) -> tuple[Part, Any]:
        def update_layer(layer: Array, carry: tuple[Part, Any]) -> tuple[Part, Any]:
            part, _ = carry
            kept, counted = updated(first + layer, _layer(part, layer), _layer(gradients, layer))
            return jax.tree.map(lambda whole, new: _with_layer(whole, new, layer), part, kept), counted

        return jax.lax.fori_loop(0, count_layers(part), update_layer, (part, counts))

    number, params, after_counts = 0, state.params, counts
    for path, has_layers in parts_of(state.params):
        part = (part_at(params, path), {place: part_at(tree, path) for place, tree in arrays.items()})
        if has_layers:
            part, after_counts = update_layers(number, part, part_at(gradients, path))
            number += count_layers(part)
        else:
            kept, after_counts = updated(number, jax.tree.map(on_device, part), part_at(gradients, path))
            part = jax.tree.map(_where_it_was, part, kept)
            number += 1
        params = _replaced(params, path, part[0])
        arrays = {place: _replaced(tree, path, part[1][place]) for place, tree in arrays.items()}
    optimizer_state = jax.tree.unflatten(form, [(arrays | after_counts)[place] for place in range(len(leaves))])
    return dataclasses.replace(state, params=params, optimizer_state=optimizer_state)


def is_dict(node: Any) -> bool:
    """Whether a node of an optimiser's state has the form of the parameters."""
    return isinstance(node, dict)


def parts_of(params: Params, path: Path = ()) -> Iterator[tuple[Path, bool]]:
    """The path of every part that is updated at one time, and whether its arrays count layers first."""
    has_layers = path[-1:] == ("layers",)
    if has_layers or not any(map(is_dict, params.values())):
        yield path, has_layers
    else:
        for name, part in params.items():
            yield from parts_of(part, (*path, name))


def part_at(tree: Params, path: Path) -> Any:
    """The part at a path."""
    return reduce(lambda node, name: node[name], path, tree)


def _replaced(tree: Params, path: Path, part: Any) -> Any:
    """The tree with another part at a path."""
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], part)} if path else part


def count_layers(part: Any) -> int:
    """How many layers the arrays of a part count first."""
    return jax.tree.leaves(part)[0].shape[0]


def _layer(tree: Any, layer: Array) -> Any:
    """One layer of every array, on the device; its axis stays, so that the paths say how it is cut."""
    return jax.tree.map(lambda x: on_device(jax.lax.dynamic_index_in_dim(x, layer, keepdims=True)), tree)


def _with_layer(whole: Array, new: Array, layer: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(whole, _where_it_was(whole, new), layer, axis=0)


def _where_it_was(old: Any, new: Array) -> Array:
    """A new array in the memory of the old one."""
    place = jax.typeof(old).memory_space
    return new if place == jax.typeof(new).memory_space else jax.device_put(new, place)
