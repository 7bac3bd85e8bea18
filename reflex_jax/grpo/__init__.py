"""Group relative policy optimisation: advantages and the clipped objective."""

from reflex_jax.grpo.advantages import component_advantages, group_advantages, token_advantages
from reflex_jax.grpo.objective import (
    Objective,
    clipped_surrogate,
    kl_values,
    loss_denominator,
    policy_loss_terms,
    reduce_metrics,
)

__all__ = [
    "Objective",
    "clipped_surrogate",
    "component_advantages",
    "group_advantages",
    "kl_values",
    "loss_denominator",
    "policy_loss_terms",
    "reduce_metrics",
    "token_advantages",
]
