"""LoRA (arXiv:2106.09685): a low-rank pair beside a kernel, whose layer computes y = x W + (x A) B.

The pair of a kernel [*L, in, out] are two leaves of its layer, `lora_a` [*L, in, r] and `lora_b` [*L, r, out]. What trains is
kept apart from the policy, as a tree of such leaves alone; B there is the one that PEFT stores, and `whole_policy` puts the pairs
beside the kernels with B times the scale. L counts layers of a stack, r is the rank.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from reflex_jax.sharding import path_name
from reflex_jax.trees import Array, Params, joined

KERNEL, LORA_A, LORA_B = "kernel", "lora_a", "lora_b"


def init_adapters(params: Params, layers: Iterable[str], *, rank: int, key: jax.Array) -> Params:
    """Draws the pairs as PEFT does: A uniform in +-1 / sqrt(in) (He's rule at a slope of sqrt(5)), B zero, both float32.

    Args:
      params: of the policy, or their shapes.
      layers: paths of the linear layers that get one, "layers/q".
      rank: r.
      key: each layer folds a hash of its path into it, so that it draws the same whatever other layers do.
    """
    tree: Params = {}
    for path in layers:
        *stack, width, out = _at(params, path)[KERNEL].shape
        bound = 1 / math.sqrt(width)
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        pair: Params = {
            LORA_A: jax.random.uniform(own, (*stack, width, rank), jnp.float32, -bound, bound),
            LORA_B: jnp.zeros((*stack, rank, out), jnp.float32),
        }
        for name in reversed(path.split("/")):
            pair = {name: pair}
        tree = joined(tree, pair)
    return tree


def whole_policy(trained: Params, fixed: Params, *, lora_scale: float) -> Params:
    """The parameters that layers read: what trains and what is fixed in one tree, each B times the scale.

    Differentiable in `trained`.
    """

    def scale(path: Any, leaf: Array) -> Array:
        if path_name(path[-1:]) != LORA_B or lora_scale == 1:
            return leaf
        return (leaf.astype(jnp.float32) * lora_scale).astype(leaf.dtype)

    return joined(jax.tree_util.tree_map_with_path(scale, trained), fixed)


def has_adapters(params: Params) -> bool:
    """Whether some layer has a pair."""
    paths = (path_name(path[-1:]) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    return any(name == LORA_A for name in paths)


def merge_adapters(params: Any, dtype: Any = None) -> Any:
    """The same policy without adapters: each kernel W + A B, summed in float32.

    Args:
      params: of `whole_policy`, or lists and parts of it.
      dtype: of the kernels that had a pair; None: as they are.
    """
    if isinstance(params, list):
        return [merge_adapters(part, dtype) for part in params]
    if not isinstance(params, dict):
        return params
    if LORA_A not in params:
        return {name: merge_adapters(part, dtype) for name, part in params.items()}
    kernel = params[KERNEL]
    a, b = (params[name].astype(jnp.float32) for name in (LORA_A, LORA_B))
    added = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    merged = (kernel.astype(jnp.float32) + added).astype(dtype or kernel.dtype)
    return {name: leaf for name, leaf in params.items() if name not in (LORA_A, LORA_B)} | {KERNEL: merged}


def _at(params: Params, path: str) -> Any:
    for name in path.split("/"):
        params = params[name]
    return params
