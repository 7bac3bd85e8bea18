"""The GRPO objective (paper Eq. 10), written as a loss that adds up over microbatches. Pure array math.

Departures from the paper as printed:

- Eq. 10 is called a loss but is an objective to maximise; what is returned here is its negative.
- Its ratio is policy to reference. The default here is policy to the policy that sampled (`ratio="old"`): against a
  fixed reference, tokens leave the clip range as the policy moves and stop learning. `ratio="ref"` is the printed one.
- Its ratio is of whole sequences; here it is of tokens (`ratio_level="token"`), or the geometric mean of those of a
  completion (`"sequence"`: GSPO, arXiv:2507.18071, Eq. 7). With one advantage for each completion that has the gradient
  of GSPO-token too (its Eq. 14), so there is no third choice.
- Tokens are averaged over each completion and then over completions (`aggregation="sequence"`), over all tokens
  (`"token"`: DAPO, arXiv:2503.14476), or summed and divided by the longest length that a completion may have
  (`"constant"`: Dr. GRPO, arXiv:2503.20783, whose loss does not favour short right and long wrong answers).
- KL(policy || reference) in the loss is estimated by k3, whose expected gradient is that of KL(reference || policy).
  `k2` and `k3+` have the gradient of KL(policy || reference).
- Eq. 10 has no bound on its exponentials. Here k3 grows like its exponential up to a log-ratio of `kl_clamp` and along
  its tangent beyond (at a log-ratio of 10 and beta 0.01 one token would have 220 times the gradient of a surrogate with
  advantage 1, at 15 it would have 33,000 times), so a token that strayed is still pulled back. The log-ratio of the
  surrogate is cut at +-`LOG_RATIO_BOUND`, with no gradient beyond: whatever the policy does, the loss stays a number.
  `dual_clip` (arXiv:1912.09729; off in REFLEX-Med) bounds what a token with a negative advantage can cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from reflex_jax.trees import Array, pytree_dataclass

KlEstimator = Literal["k1", "k2", "k3", "k3+"]
LossKlEstimator = Literal["k2", "k3", "k3+"]
Ratio = Literal["old", "ref"]
RatioLevel = Literal["token", "sequence"]
Aggregation = Literal["sequence", "token", "constant"]

LOG_RATIO_BOUND = 20.0  # exp(20) is 5e8: far beyond any ratio that means something, far below what float32 can hold


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The numbers and choices of Eq. 10.

    Raises:
      ValueError: for unknown choices and bounds that bound nothing.
    """

    clip_low: float  # the ratio is cut below 1 - clip_low
    clip_high: float  # and above 1 + clip_high
    dual_clip: float = 0.0  # with a negative advantage a ratio counts at most this much, > 1; 0: without bound
    kl_coefficient: float  # beta; 0 leaves the KL term out of the loss (its metrics stay where there is a reference)
    kl_estimator: LossKlEstimator
    kl_clamp: float = 0.0  # log-ratio up to which k3 is exponential, linear beyond; 0: exponential everywhere
    ratio: Ratio  # what the policy is divided by: the policy that sampled, or the reference as Eq. 10 prints
    ratio_level: RatioLevel = "token"  # each token has its own ratio, or its completion's: their geometric mean
    aggregation: Aggregation  # of tokens: mean of each completion, then of all of these; mean of all; sum / longest

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        estimator: str = self.kl_estimator
        if estimator == "k1":
            raise ValueError("kl_estimator: k1 has no gradient on average, so it cannot be a loss; use k2, k3 or k3+.")
        if estimator not in ("k2", "k3", "k3+"):
            raise ValueError(f"kl_estimator: expected k2, k3 or k3+; got {estimator!r}.")
        if self.ratio not in ("old", "ref"):
            raise ValueError(f"ratio: expected old or ref; got {self.ratio!r}.")
        if self.ratio_level not in ("token", "sequence"):
            raise ValueError(f"ratio_level: expected token or sequence; got {self.ratio_level!r}.")
        _check_aggregation(self.aggregation)
        if self.dual_clip != 0 and not self.dual_clip > 1:
            raise ValueError(f"dual_clip: expected more than 1, or 0 for none; got {self.dual_clip}.")
        if not self.kl_clamp >= 0:
            raise ValueError(f"kl_clamp: expected more than 0, or 0 for none; got {self.kl_clamp}.")


@pytree_dataclass
class TokenMetrics:
    """What is worth knowing about the tokens of one microbatch; `reduce_metrics` joins many of them."""

    sums: dict[str, Float[Array, "*n"]]  # over tokens
    maxima: dict[str, Float[Array, "*n"]]
    count: Float[Array, "*n"]  # tokens


def loss_denominator(
    mask: Bool[Array, "P G Lc"], is_valid: Bool[Array, "P G"], *, aggregation: Aggregation
) -> Float[Array, ""]:
    """What the loss of a whole optimiser minibatch is divided by.

    The number of valid completions (`sequence`), of their tokens (`token`), or of the tokens they could have had, Lc each
    (`constant`), over all devices and before the split into microbatches; at least 1. Groups without variance count,
    failed rows do not.
    """
    _check_aggregation(aggregation)
    chex.assert_equal_shape_prefix([mask, is_valid], 2)
    counted = mask & is_valid[..., None] if aggregation == "token" else is_valid
    each = mask.shape[-1] if aggregation == "constant" else 1
    return jnp.maximum(each * jnp.sum(counted, dtype=jnp.float32), 1.0)


def kl_values(
    log_probs: Float[Array, "*b"],
    reference_log_probs: Float[Array, "*b"],
    *,
    estimator: KlEstimator,
    clamp: float = 0.0,
) -> Float[Array, "*b"]:
    """Estimates KL(policy || reference) from tokens that the policy sampled, one value per token.

    With d = log reference - log policy: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d. k1 and k3 are unbiased as values;
    k2 and k3 are never negative. As losses their expected gradients are 0 (k1), that of KL(policy || reference) (k2),
    and that of KL(reference || policy) (k3). `k3+` has the value of k3 and the gradient of k2.

    With a clamp c, k3 is exp(d) - 1 - d up to d = c and its tangent there beyond: still convex, 0 only at d = 0, and no
    token's gradient exceeds exp(c) - 1. Towards negative d it needs none, its gradient ends at -1.

    Args:
      log_probs: of the policy.
      reference_log_probs: of the reference, for the same tokens.
      estimator: k1, k2, k3 or k3+.
      clamp: c, > 0; 0: none.
    Raises:
      ValueError: for an unknown estimator.
    """
    difference = reference_log_probs.astype(jnp.float32) - log_probs.astype(jnp.float32)
    if estimator == "k1":
        return -difference
    k2 = 0.5 * difference**2
    if estimator == "k2":
        return k2
    k3 = jnp.expm1(difference) - difference
    if clamp:
        # exp(c) (1 + excess) - 1 - d; the exponential never sees more than c, so it cannot overflow either
        excess = jnp.maximum(difference - clamp, 0.0)
        k3 = jnp.expm1(difference - excess) + jnp.exp(difference - excess) * excess - difference
    if estimator == "k3":
        return k3
    if estimator == "k3+":
        return jax.lax.stop_gradient(k3) + (k2 - jax.lax.stop_gradient(k2))
    raise ValueError(f"estimator: expected k1, k2, k3 or k3+; got {estimator!r}.")


def clipped_surrogate(
    ratios: Float[Array, "*#b"],
    advantages: Float[Array, "*#b"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 0.0,
) -> Float[Array, "*b"]:
    """min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), the first term of Eq. 10; to be maximised.

    With a dual clip c > 1 (0: none), tokens with a negative advantage are worth c A at least (arXiv:1912.09729, Eq. 5).
    """
    surrogate = jnp.minimum(ratios * advantages, jnp.clip(ratios, 1.0 - clip_low, 1.0 + clip_high) * advantages)
    if not dual_clip:
        return surrogate
    return jnp.where(advantages < 0, jnp.maximum(surrogate, dual_clip * advantages), surrogate)


def policy_loss_terms(
    log_probs: Float[Array, "P G Lc"],
    old_log_probs: Float[Array, "P G Lc"] | None,
    reference_log_probs: Float[Array, "P G Lc"] | None,
    advantages: Float[Array, "P G"] | Float[Array, "P G Lc"],
    mask: Bool[Array, "P G Lc"],
    *,
    objective: Objective,
    denominator: Float[Array, ""],
) -> tuple[Float[Array, ""], TokenMetrics]:
    """The negative of Eq. 10 over some groups, divided by the denominator of their whole minibatch.

    The losses (and gradients) of microbatches that share one `denominator` add up to those of the minibatch. What the
    arrays hold where the mask is False does not matter.

    Args:
      log_probs: of the policy that learns; the only argument with a gradient.
      old_log_probs: of the policy at the start of the step. None: the policy has not moved since, so they are the
        current ones without their gradient.
      reference_log_probs: of the frozen reference; None where neither the KL term nor the ratio needs it.
      advantages: one number per completion, or one per token (with `ratio_level="token"` alone).
      mask: True for the tokens of valid completions; those of failed rows must be False already.
      objective: its numbers and choices.
      denominator: `loss_denominator` of the whole minibatch.

    Returns:
      The loss, and metrics of the tokens: clip_fraction, ratio, ratio_max, and with a reference kl (k3), kl_max and
      kl_k1. Ratios and k3 are those of the loss, within their bounds.

    Raises:
      ValueError: where a reference is needed but absent, and for advantages of tokens beside ratios of completions.
    """
    if reference_log_probs is None and (objective.kl_coefficient != 0 or objective.ratio == "ref"):
        raise ValueError(
            f"reference_log_probs: expected an array, because kl_coefficient={objective.kl_coefficient} and "
            f"ratio={objective.ratio!r} read it; got None."
        )
    chex.assert_rank([log_probs, mask], 3)
    chex.assert_equal_shape([a for a in (log_probs, old_log_probs, reference_log_probs, mask) if a is not None])
    chex.assert_shape(advantages, log_probs.shape[: advantages.ndim])
    if advantages.ndim == 3 and objective.ratio_level == "sequence":
        raise ValueError('ratio_level: expected "token" where each token has an advantage of its own; got "sequence".')
    # zeroed before any exponential: an overflow under the mask would come back as NaN in the gradient
    log_probs = jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    behaviour = old_log_probs if objective.ratio == "old" else reference_log_probs
    behaviour = log_probs if behaviour is None else jnp.where(mask, behaviour.astype(jnp.float32), 0.0)
    log_ratios = log_probs - jax.lax.stop_gradient(behaviour)  # 0 where the mask is False
    if objective.ratio_level == "sequence":
        log_ratios = jnp.broadcast_to((log_ratios.sum(-1) / _lengths(mask))[..., None], mask.shape)
    ratios = jnp.exp(jnp.clip(log_ratios, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))
    token_advantages = jax.lax.stop_gradient(advantages.astype(jnp.float32))
    if advantages.ndim == 2:  # all tokens of a completion share one
        token_advantages = token_advantages[..., None]
    clips = {"clip_low": objective.clip_low, "clip_high": objective.clip_high, "dual_clip": objective.dual_clip}
    values = clipped_surrogate(ratios, token_advantages, **clips)
    sums = {"ratio": ratios, "clip_fraction": _is_clipped(ratios, token_advantages, **clips).astype(jnp.float32)}
    maxima = {"ratio_max": ratios}
    if reference_log_probs is not None:
        reference = jax.lax.stop_gradient(jnp.where(mask, reference_log_probs.astype(jnp.float32), 0.0))
        sums["kl"] = maxima["kl_max"] = kl_values(log_probs, reference, estimator="k3", clamp=objective.kl_clamp)
        sums["kl_k1"] = kl_values(log_probs, reference, estimator="k1")
        if objective.kl_coefficient != 0:
            values -= objective.kl_coefficient * kl_values(
                log_probs, reference, estimator=objective.kl_estimator, clamp=objective.kl_clamp
            )
    loss = -_sum_completions(values, mask, objective.aggregation) / denominator
    return loss, jax.lax.stop_gradient(_token_metrics(sums, maxima, mask))


def reduce_metrics(metrics: TokenMetrics) -> dict[str, Float[Array, ""]]:
    """Means over the tokens of all microbatches, whose metrics are stacked along any number of leading axes."""
    count = jnp.maximum(jnp.sum(metrics.count), 1.0)
    means = {name: jnp.sum(total) / count for name, total in metrics.sums.items()}
    return means | {name: jnp.max(largest) for name, largest in metrics.maxima.items()}


def _token_metrics(
    values: dict[str, Float[Array, "P G Lc"]], peaks: dict[str, Float[Array, "P G Lc"]], mask: Bool[Array, "P G Lc"]
) -> TokenMetrics:
    return TokenMetrics(
        sums={name: jnp.sum(jnp.where(mask, value, 0.0), dtype=jnp.float32) for name, value in values.items()},
        maxima={name: jnp.max(jnp.where(mask, value, 0.0)) for name, value in peaks.items()},
        count=jnp.sum(mask, dtype=jnp.float32),
    )


def _is_clipped(
    ratios: Float[Array, "P G Lc"],
    advantages: Float[Array, "P G #Lc"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> Bool[Array, "P G Lc"]:
    """Where the clip stops the gradient: the ratio has already moved as far as the advantage asks, or too far against it."""
    with_advantage = (ratios > 1.0 + clip_high) & (advantages > 0) | (ratios < 1.0 - clip_low) & (advantages < 0)
    return with_advantage | ((ratios > dual_clip) & (advantages < 0)) if dual_clip else with_advantage


def _sum_completions(
    values: Float[Array, "P G Lc"], mask: Bool[Array, "P G Lc"], aggregation: Aggregation
) -> Float[Array, ""]:
    token_sums = jnp.sum(jnp.where(mask, values, 0.0), axis=-1)
    return jnp.sum(token_sums / _lengths(mask) if aggregation == "sequence" else token_sums)


def _lengths(mask: Bool[Array, "P G Lc"]) -> Float[Array, "P G"]:
    """Tokens of each completion, at least 1."""
    return jnp.maximum(jnp.sum(mask, axis=-1, dtype=jnp.float32), 1.0)


def _check_aggregation(aggregation: str) -> None:
    if aggregation not in ("sequence", "token", "constant"):
        raise ValueError(f"aggregation: expected sequence, token or constant; got {aggregation!r}.")
