"""DEVICE: the total reward (paper Eq. 9), a weighted sum of components; the paper's weights are all 1."""

from __future__ import annotations

from collections.abc import Mapping

import chex
import jax.numpy as jnp
from jaxtyping import Float

from reflex_jax.trees import Array


def combine_rewards(components: Mapping[str, Float[Array, "P G"]], weights: Mapping[str, float]) -> Float[Array, "P G"]:
    """R = sum of weight * component (Eq. 9).

    Names are summed in alphabetical order, so equal components give bitwise equal totals whatever the order of the
    mappings: a group of equal answers has exactly no variance. A component with weight 0 is left out altogether.

    Args:
      components: one array per component.
      weights: one number per component, the same names.

    Raises:
      ValueError: where the names differ; lists every name that only one side has.
    """
    unweighted, unknown = sorted(set(components) - set(weights)), sorted(set(weights) - set(components))
    if unweighted or unknown or not components:
        raise ValueError(
            f"rewards: expected one weight per component; got components {sorted(components)} and weights for "
            f"{sorted(weights)} (without a weight: {unweighted}; without a component: {unknown}). "
            "Give a component weight 0 to leave it out."
        )
    chex.assert_equal_shape(list(components.values()))
    total = jnp.zeros_like(next(iter(components.values())), dtype=jnp.float32)
    for name in sorted(components):
        if weights[name] != 0:
            total = total + weights[name] * components[name].astype(jnp.float32)
    return total
