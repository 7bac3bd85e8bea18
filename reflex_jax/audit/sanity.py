"""Are the judge's maps about its weights, the text and the picture: sanity checks of saliency.

- Cascading randomisation (Adebayo et al. 2018): the weights of the last block are shuffled, then those of the last two, and so on
  to the first. A map that stays as it was shows edges of the picture and nothing that the judge has learned.
- Text randomisation: the weights of the text tower are shuffled. A map that stays does not read the statement.
- Deletion and insertion (Petsiuk et al. 2018): the cells of a picture are greyed from the most salient on, or put back into a
  grey picture in that order, and s_it of the statement is read each time. Cells that matter make it fall, and rise, sooner than
  cells in random order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from reflex_jax.audit.judge_scores import JudgeOfAudit
from reflex_jax.audit.statistics import Estimate, mean_estimate, rank_correlation, resample
from reflex_jax.audit.variants import Variants
from reflex_jax.judge.saliency import unit
from reflex_jax.models.biomedclip import BiomedClipConfig, encode_image, normalise_pixels
from reflex_jax.records import Evidence
from reflex_jax.rewards.visual_fidelity import intersection_over_union
from reflex_jax.trees import Array, Params

_STAYS = 0.5  # mean rank correlation of maps that are still the same
_SHARES = np.linspace(0, 1, 11)  # of the cells that are greyed or put back


@dataclass(frozen=True)
class Randomised:
    """Maps of a judge whose weights are partly shuffled, beside its own."""

    what: str
    correlation: Estimate  # Spearman's, of the cells of a map
    iou: Estimate  # of the masks


@dataclass(frozen=True)
class Sanity:
    """What the checks found."""

    questions: int
    cascade: list[Randomised]  # the last block first, all blocks last
    text: Randomised
    chance_iou: float  # of independent masks of this coverage
    deletion: Estimate  # area under the curve of s_it: random order less the map's; above 0: the map's cells matter
    insertion: Estimate  # the map's less random order

    @property
    def warnings(self) -> list[str]:
        """What fails, in sentences."""
        found = []
        if self.cascade[-1].correlation.high > _STAYS:
            found.append(f"maps stay when all blocks are shuffled (rank correlation {self.cascade[-1].correlation})")
        if self.text.correlation.high > _STAYS:
            found.append(f"maps stay when the text tower is shuffled (rank correlation {self.text.correlation})")
        if not self.deletion.low > 0:
            found.append(f"greying salient cells lowers s_it no sooner than random ones (by {self.deletion})")
        if not self.insertion.low > 0:
            found.append(f"putting salient cells back raises s_it no sooner than random ones (by {self.insertion})")
        return found


def check_sanity(judge: JudgeOfAudit, variants: Sequence[Variants], *, seed: int) -> Sanity:
    """Runs all checks on the true statements of some questions.

    Args:
      judge: with the settings of the run.
      variants: the questions.
      seed: of shuffles and random orders.
    """
    pixels = [judge.pixels(v.example) for v in variants]
    anchors, questions = [v.anchor for v in variants], [v.example.question for v in variants]
    weights = resample([v.example.image_id for v in variants], seed=seed)

    def look(params: Params) -> Evidence:
        return judge.with_params(params).evidence(pixels, [[anchor] for anchor in anchors], anchors, questions)

    own = look(judge.judge.params)
    compare = partial(_compare, own, weights=weights)
    coverage = float(own.anchor_masks.mean())
    order = own.anchor_saliency.reshape(len(pixels), -1).argsort(axis=1)[:, ::-1]
    deletion, insertion = _curves(judge, pixels, own.anchor_embeddings, order, np.random.default_rng((seed, 11)))
    return Sanity(
        questions=len(variants),
        cascade=[compare(what, look(params)) for what, params in shuffled_blocks(judge.judge.params, seed=seed)],
        text=compare("text tower", look(_with_text(judge.judge.params, seed=seed))),
        chance_iou=coverage / (2 - coverage),
        deletion=mean_estimate(deletion, weights),
        insertion=mean_estimate(insertion, weights),
    )


def shuffled_blocks(params: Params, *, seed: int) -> Iterator[tuple[str, Params]]:
    """(what is shuffled, parameters): the last block of the image tower, the last two, ..., all of them."""
    random, vision = np.random.default_rng((seed, 10)), params["vision"]
    blocks = list(vision["blocks"])
    last = len(blocks) - 1
    for number in range(last, -1, -1):
        blocks[number] = _shuffle(blocks[number], random)
        name = f"block {last}" if number == last else f"blocks {number} to {last}"
        yield name, params | {"vision": vision | {"blocks": list(blocks)}}


def _with_text(params: Params, *, seed: int) -> Params:
    return params | {"text": _shuffle(params["text"], np.random.default_rng((seed, 12)))}


def _shuffle(tree: Any, random: np.random.Generator) -> Any:
    """The numbers of each array in another order: the spread stays, what was learned does not."""
    return jax.tree.map(lambda leaf: random.permutation(np.ravel(leaf)).reshape(leaf.shape), tree)


def _compare(own: Evidence, what: str, other: Evidence, *, weights: Int[np.ndarray, "B n"]) -> Randomised:
    correlations = [rank_correlation(*pair) for pair in zip(own.anchor_saliency, other.anchor_saliency, strict=True)]
    overlaps = np.asarray(intersection_over_union(own.anchor_masks, other.anchor_masks))
    return Randomised(
        what, mean_estimate(np.array(correlations), weights), mean_estimate(overlaps.astype(float), weights)
    )


def _curves(
    judge: JudgeOfAudit,
    pixels: Sequence[UInt8[np.ndarray, "H W 3"]],
    directions: Float[np.ndarray, "n D"],
    order: Int[np.ndarray, "n cells"],
    random: np.random.Generator,
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """By how much the area under the curve of s_it is better in the order of the map than in a random one."""
    embed = partial(_embed, judge.judge.params, config=judge.judge.config)
    blank, deletion, insertion = judge.blank(), [], []
    for picture, direction, cells in zip(pixels, directions, order, strict=True):
        shown = []
        for ordered in (cells, random.permutation(cells)):
            shown += [with_cells(picture, blank, ordered, share) for share in _SHARES]
            shown += [with_cells(blank, picture, ordered, share) for share in _SHARES]
        similarity = np.asarray(embed(np.stack(shown))) @ direction
        areas = similarity.reshape(2, 2, len(_SHARES)).mean(-1)  # [order, deletion or insertion]
        deletion.append(areas[1, 0] - areas[0, 0])
        insertion.append(areas[0, 1] - areas[1, 1])
    return np.array(deletion, float), np.array(insertion, float)


@partial(jax.jit, static_argnames="config")
def _embed(params: Params, pixels: UInt8[Array, "n H W 3"], config: BiomedClipConfig) -> Float[Array, "n D"]:
    return unit(encode_image(params, normalise_pixels(pixels, config), config))


def with_cells(
    picture: UInt8[np.ndarray, "H W 3"],
    other: UInt8[np.ndarray, "H W 3"],
    order: Int[np.ndarray, "cells"],
    share: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture in which the first cells of an order, a share of all, are those of the other."""
    side = round(len(order) ** 0.5)
    taken = np.zeros(len(order), bool)
    taken[order[: round(share * len(order))]] = True
    patch = len(picture) // side
    where = np.kron(taken.reshape(side, side), np.ones((patch, patch), bool))
    return np.where(where[..., None], other, picture)
