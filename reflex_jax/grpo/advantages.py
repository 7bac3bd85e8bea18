"""Advantages inside a group: how much better than its siblings a completion is. Pure array math.

The spread of a group is decided by its highest minus its lowest reward and never by its standard deviation: six float32
rewards of 2.3 have a standard deviation that is not 0, and dividing by it makes a signal out of rounding.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax.numpy as jnp
from jaxtyping import Bool, Float

from reflex_jax.trees import Array

AdvantageRule = Literal["sample_std", "population_std", "none"]


def group_advantages(
    rewards: Float[Array, "P G"],
    is_valid: Bool[Array, "P G"],
    *,
    normalise: AdvantageRule = "sample_std",
    epsilon: float = 1e-6,
) -> tuple[Float[Array, "P G"], Bool[Array, "P"]]:
    """A = (R - mean of the group) / (std of the group + epsilon), over the valid rows of each group.

    Rows that are not valid get 0 and enter neither mean nor spread, whatever their reward holds. A group whose valid
    rewards are all equal gets exactly 0, and so does one with fewer than two valid rows.

    Args:
      rewards: total rewards.
      is_valid: False where a reward failed.
      normalise: `sample_std` divides by the standard deviation with n - 1, `population_std` by the one with n, `none`
        only subtracts the mean.
      epsilon: added to the standard deviation.

    Returns:
      The advantages, and per group whether it has no spread and hence no signal.

    Raises:
      ValueError: for an unknown `normalise`.
    """
    if normalise not in ("sample_std", "population_std", "none"):
        raise ValueError(f"normalise: expected sample_std, population_std or none; got {normalise!r}.")
    chex.assert_rank([rewards, is_valid], 2)
    chex.assert_equal_shape([rewards, is_valid])
    rewards = rewards.astype(jnp.float32)
    highest = jnp.max(jnp.where(is_valid, rewards, -jnp.inf), axis=1)
    lowest = jnp.min(jnp.where(is_valid, rewards, jnp.inf), axis=1)
    is_zero_variance = highest <= lowest  # also true for one valid row, and for none (-inf <= inf)

    weight = (is_valid & ~is_zero_variance[:, None]).astype(jnp.float32)
    count = jnp.sum(weight, axis=1, keepdims=True)
    # where, not a product: a failed row may hold NaN, and its gradient must stay out as well
    counted = jnp.where(weight > 0, rewards, 0.0)
    deviation = weight * (counted - jnp.sum(counted, axis=1, keepdims=True) / jnp.maximum(count, 1.0))
    if normalise == "none":
        return deviation, is_zero_variance
    freedom = count - 1 if normalise == "sample_std" else count
    variance = jnp.sum(deviation**2, axis=1, keepdims=True) / jnp.maximum(freedom, 1.0)
    # the square root has no gradient at 0
    spread = jnp.sqrt(jnp.where(is_zero_variance[:, None], 1.0, variance))
    return deviation / (spread + epsilon), is_zero_variance
