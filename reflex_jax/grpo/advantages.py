"""Advantages: how much better a completion, or what follows a token, is than others of its group or batch. Pure array math.

The spread of rewards is decided by their highest minus their lowest and never by their standard deviation: six float32
rewards of 2.3 have a standard deviation that is not 0, and dividing by it makes a signal out of rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from reflex_jax.trees import Array

AdvantageRule = Literal["sample_std", "population_std", "none", "leave_one_out", "batch_std", "batch"]


def group_advantages(
    rewards: Float[Array, "P G"],
    is_valid: Bool[Array, "P G"],
    *,
    normalise: AdvantageRule = "sample_std",
    epsilon: float = 1e-6,
) -> tuple[Float[Array, "P G"], Bool[Array, "P"]]:
    """A = (R - baseline) / (spread + epsilon), over the valid rows alone.

    | rule | baseline | divided by | of |
    |---|---|---|---|
    | `sample_std` | mean of the group | its standard deviation, n - 1 | GRPO |
    | `population_std` | mean of the group | its standard deviation, n | |
    | `none` | mean of the group | 1 | Dr. GRPO |
    | `leave_one_out` | mean of the others of the group | 1 | RLOO, arXiv:2402.14740 |
    | `batch_std` | mean of the group | standard deviation (n) of these differences in the batch | REINFORCE++-baseline |
    | `batch` | mean of the batch | standard deviation (n) of the batch | REINFORCE++, arXiv:2501.03262 |

    Rows that are not valid get 0 and enter neither mean nor spread, whatever their reward holds. A group whose valid
    rewards are all equal gets exactly 0, and so does one with fewer than two valid rows; by the rule `batch`, which
    compares groups, that is said of the batch.

    Args:
      rewards: total rewards.
      is_valid: False where a reward failed.
      normalise: the rule.
      epsilon: added to the standard deviation.

    Returns:
      The advantages, and per group whether it has no spread; but for the rule `batch` it has no signal then.

    Raises:
      ValueError: for an unknown `normalise`.
    """
    if normalise not in get_args(AdvantageRule):
        raise ValueError(f"normalise: expected one of {', '.join(get_args(AdvantageRule))}; got {normalise!r}.")
    chex.assert_rank([rewards, is_valid], 2)
    chex.assert_equal_shape([rewards, is_valid])
    rewards = rewards.astype(jnp.float32)
    is_zero_variance = _is_flat(rewards, is_valid)[:, 0]
    if normalise == "batch":
        flat, valid = rewards.reshape(1, -1), is_valid.reshape(1, -1)
        advantages, _ = group_advantages(flat, valid, normalise="population_std", epsilon=epsilon)
        return advantages.reshape(rewards.shape), is_zero_variance

    weight = (is_valid & ~is_zero_variance[:, None]).astype(jnp.float32)
    count = jnp.sum(weight, axis=1, keepdims=True)
    # where, not a product: a failed row may hold NaN, and its gradient must stay out as well
    counted = jnp.where(weight > 0, rewards, 0.0)
    deviation = weight * (counted - jnp.sum(counted, axis=1, keepdims=True) / jnp.maximum(count, 1.0))
    if normalise == "none":
        return deviation, is_zero_variance
    if normalise == "leave_one_out":
        return deviation * count / jnp.maximum(count - 1, 1.0), is_zero_variance
    squares, freedom, has_none = jnp.sum(deviation**2, axis=1, keepdims=True), count, is_zero_variance[:, None]
    if normalise == "sample_std":
        freedom = count - 1
    elif normalise == "batch_std":
        squares, freedom, has_none = jnp.sum(squares), jnp.sum(is_valid, dtype=jnp.float32), jnp.all(has_none)
    # the square root has no gradient at 0
    spread = jnp.sqrt(jnp.where(has_none, 1.0, squares / jnp.maximum(freedom, 1.0)))
    return deviation / (spread + epsilon), is_zero_variance


def component_advantages(
    components: Mapping[str, Float[Array, "P G"]],
    weights: Mapping[str, float],
    is_valid: Bool[Array, "P G"],
    *,
    normalise: AdvantageRule = "sample_std",
    over_batch: bool = False,
    epsilon: float = 1e-6,
) -> tuple[Float[Array, "P G"], Bool[Array, "P"]]:
    """The weighted sum of each component's own `group_advantages` (GDPO, arXiv:2601.05242).

    Standardised as a sum, different mixtures of rewards can give one advantage, and what varies most drowns the rest; here each
    component has spread 1 in its group before it is weighted. A component without spread in a group adds exactly 0 there. Failed
    rows get 0 and are in no mean or spread. Where a component does not apply to a row, its 0 is the row's reward.

    Args:
      components: rewards by name.
      weights: of the same names; a component of weight 0 is left out. Names are summed in alphabetical order.
      is_valid: False where a reward failed.
      normalise: the rule for each component.
      over_batch: divides by the standard deviation (n) of the batch's valid sums, as GDPO does so that the size of an update does
        not grow with the number of rewards. Their mean, 0 but for rounding, is not taken off: a group without spread keeps 0.
      epsilon: added to the standard deviations.

    Returns:
      The advantages, and per group whether no component has spread.
    """
    names = [name for name in sorted(components) if weights[name] != 0]
    found = {name: group_advantages(components[name], is_valid, normalise=normalise, epsilon=epsilon) for name in names}
    total = jnp.zeros(is_valid.shape, jnp.float32)
    is_flat = jnp.ones(is_valid.shape[0], bool)
    for name, (advantages, is_flat_here) in found.items():
        total = total + weights[name] * advantages
        is_flat = is_flat & is_flat_here
    if over_batch:
        # components that cancel each other leave rounding, which a division would make a signal of
        largest = sum(abs(weights[name]) * jnp.max(jnp.abs(found[name][0])) for name in names)
        has_spread = jnp.max(jnp.abs(total)) > 1e-5 * largest
        mean_square = jnp.sum(total**2) / jnp.maximum(jnp.sum(is_valid, dtype=jnp.float32), 1.0)
        spread = jnp.sqrt(jnp.where(has_spread, mean_square, 1.0))  # the square root has no gradient at 0
        total = jnp.where(has_spread, total / (spread + epsilon), 0.0)
    return total, is_flat


def token_advantages(
    rewards: Float[Array, "P G"],
    penalties: Float[Array, "P G Lc"],
    mask: Bool[Array, "P G Lc"],
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "P G Lc"]:
    """REINFORCE++ (arXiv:2501.03262): what follows a token, standardised over all tokens of the batch.

    A token is paid its penalty at once, and the last one the completion's reward beside it, so with a discount of 1 the return
    of token t is R - (penalties of t, t + 1, ..., the last). Returns have the mean taken off and are divided by the standard
    deviation (n) of all tokens: a long completion counts as often as it has tokens. Where all returns are equal, all are 0.

    Args:
      rewards: total rewards; those without a token in the mask may hold anything.
      penalties: what each token costs, beta times its KL estimate; anything where the mask is False.
      mask: True for the tokens of valid completions.
      epsilon: added to the standard deviation.
    """
    chex.assert_equal_shape([penalties, mask])
    chex.assert_equal_shape_prefix([rewards, mask], 2)
    costs = jnp.where(mask, penalties.astype(jnp.float32), 0.0)
    returns = rewards.astype(jnp.float32)[..., None] - jax.lax.cumsum(costs, axis=2, reverse=True)
    advantages, _ = group_advantages(
        returns.reshape(1, -1), mask.reshape(1, -1), normalise="population_std", epsilon=epsilon
    )
    return advantages.reshape(mask.shape)


def _is_flat(rewards: Float[Array, "P G"], is_valid: Bool[Array, "P G"]) -> Bool[Array, "P 1"]:
    """Whether the valid rewards of a group are all equal; also for one of them, and for none (-inf <= inf)."""
    highest = jnp.max(jnp.where(is_valid, rewards, -jnp.inf), axis=1, keepdims=True)
    lowest = jnp.min(jnp.where(is_valid, rewards, jnp.inf), axis=1, keepdims=True)
    return highest <= lowest
