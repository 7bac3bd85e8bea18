"""Groups of several draws become one batch, those whose rewards have a spread before the others (DAPO's dynamic sampling).

A group is kept by the spread of its totals, highest minus lowest (where each component is standardised by itself, by that of
any component), and not by their mean: with several components all
completions of a group may get the same partial reward, which teaches nothing (arXiv:2503.14476 filters groups that are all
right or all wrong, which is the same thing where a reward is 0 or 1).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from reflex_jax.config import Config
from reflex_jax.records import TrainBatch
from reflex_jax.sharding import constrain_batch
from reflex_jax.step.score import Scored, advantages_of, without_maps
from reflex_jax.trees import Leaf, pytree_dataclass


@pytree_dataclass
class DrawnGroups:
    """P prompts with their groups, as an update reads them; the judge has looked already."""

    batch: TrainBatch  # with neither the judge's inputs nor rows
    scored: Scored  # without maps


@pytree_dataclass
class GroupFacts:
    """What decides which groups are kept, whole on every device."""

    has_spread: Bool[Leaf, "P"]
    advantages: Float[Leaf, "P G"]
    failed_rows: Int[Leaf, ""]
    reward: Float[Leaf, ""]  # mean total of the valid rows; NaN: there are none


def drawn_groups(batch: TrainBatch, scored: Scored) -> DrawnGroups:
    """What of a scored draw is kept."""
    return DrawnGroups(batch=dataclasses.replace(batch, judge=None, rows=None), scored=without_maps(scored))


def group_facts(scored: Scored) -> GroupFacts:
    """The facts of P groups."""
    valid = scored.is_valid
    total = jnp.where(valid, scored.rewards, 0.0).sum()
    return GroupFacts(
        has_spread=~scored.is_zero_variance,
        advantages=scored.advantages,
        failed_rows=(~valid).sum(dtype=jnp.int32),
        reward=total / valid.sum(dtype=jnp.float32),
    )


def choose_groups(kept: Bool[np.ndarray, "P"], fresh: Bool[np.ndarray, "P"]) -> Int[np.ndarray, "P"]:
    """Which P of the 2 P groups stay, in the order they were drawn: those with a spread, then others to fill up with.

    Args:
      kept: whether the groups of the draws before have a spread.
      fresh: the same of the newest draw, whose groups are numbered on from P.
    """
    return np.argsort(~np.concatenate([kept, fresh]), kind="stable")[: len(kept)].astype(np.int32)


def keep_groups(kept: DrawnGroups, fresh: DrawnGroups, chosen: Int[jax.Array, "P"], *, config: Config) -> DrawnGroups:
    """The chosen groups of both as one batch, with the advantages they have in it.

    Args:
      kept: of the draws before.
      fresh: the newest draw.
      chosen: of `choose_groups`.
      config: of the run; some rules of advantages compare groups with one another.
    """
    both: DrawnGroups = jax.tree.map(
        lambda one, other: constrain_batch(jnp.concatenate([one, other])[chosen]), kept, fresh
    )
    scored = both.scored
    advantages, is_zero_variance = advantages_of(scored.components, scored.rewards, scored.is_valid, config)
    scored = dataclasses.replace(scored, advantages=advantages, is_zero_variance=is_zero_variance)
    return dataclasses.replace(both, scored=scored)
