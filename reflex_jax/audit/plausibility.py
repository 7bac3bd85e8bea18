"""Does the judge look at what a statement names: its maps against masks and boxes that the reward never sees.

- pointing game: the highest cell of the map lies on the named thing; chance is the thing's share of the picture;
- energy inside: the share of the map's positive part that lies on it; the same chance;
- AUC of the map's cells against it; chance is 0.5.

A cell belongs to a thing that covers more than 15 % of it (`data.phantom_world.mask_cells`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from reflex_jax.audit.judge_scores import SLOTS, JudgeOfAudit
from reflex_jax.audit.statistics import Estimate, area_under_curve, mean_estimate, resample
from reflex_jax.config import Config, user_path
from reflex_jax.data.examples import Example
from reflex_jax.data.phantom import phantom_of
from reflex_jax.data.phantom_text import with_article
from reflex_jax.data.phantom_world import mask_cells
from reflex_jax.data.slake_regions import Region, SlakeRegions
from reflex_jax.judge.batch import judge_pixels
from reflex_jax.statements.operator import decl


@dataclass(frozen=True)
class Named:
    """A statement and where its thing is on the judge's grid."""

    example: Example
    statement: str
    cells: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Plausibility:
    """Over all named things of the sampled pictures."""

    count: int
    pictures: int
    pointing: Estimate
    area: Estimate  # share of the picture's cells: chance of pointing and energy
    excess: Estimate  # pointing - area
    energy: Estimate
    auc: Estimate


def find_named(examples: Sequence[Example], config: Config, judge: JudgeOfAudit) -> list[Named]:
    """What is named in the pictures of a sample, each picture once; empty where their data set has neither masks nor boxes.

    Args:
      examples: sampled questions.
      config: of the run, whose sources say where SLAKE's files are.
      judge: whose grid the masks are brought to as pictures are.
    Raises:
      ConfigError: damaged files.
    """
    sources = {source.label: source for source in config.data.mixture}
    slake = {
        label: SlakeRegions(user_path(source.root))
        for label, source in sources.items()
        if source.name == "slake" and source.root is not None
    }
    found = []
    for example in {e.image_id: e for e in examples if len(e.images) == 1}.values():
        regions: list[tuple[str, Region]] = []
        if sources[example.source].name == "phantom":
            phantom = phantom_of(example)
            regions = [
                (f"Is there {with_article(finding.kind)}?", Region(finding.kind, mask))
                for finding, mask in zip(phantom.facts.findings, phantom.masks, strict=True)
            ]
        elif example.source in slake:
            parts = slake[example.source].of_picture(example.image_id, example.images[0].measure())
            regions = [(f"Does the picture contain {part.name.lower()}?", part) for part in parts]
        for question, region in regions:
            cells = region_cells(region.mask, judge)
            if cells.any() and not cells.all():  # else every map points into it, or none can
                found.append(Named(example, decl(question, "yes"), cells))
    return found


def region_cells(mask: Bool[np.ndarray, "H W"], judge: JudgeOfAudit) -> Bool[np.ndarray, "h w"]:
    """A mask on the judge's grid, resized and cut as its picture is."""
    # beside a picture that does not fill the square there is nothing of the thing
    config = dataclasses.replace(judge.judge.config, fill_color=(0, 0, 0))
    seen = judge_pixels(Image.fromarray(mask.astype(np.uint8) * 255), config, judge.settings.resize)
    return mask_cells(seen[..., 0] > 127, cells=config.vision.grid_size)


def saliency_of(named: Sequence[Named], judge: JudgeOfAudit) -> Float[np.ndarray, "n h w"]:
    """The judge's map for each named thing, statements of one picture together."""
    by_picture: dict[str, list[int]] = {}
    for number, thing in enumerate(named):
        by_picture.setdefault(thing.example.image_id, []).append(number)
    rows = [group[start : start + SLOTS] for group in by_picture.values() for start in range(0, len(group), SLOTS)]
    firsts = [named[row[0]] for row in rows]
    evidence = judge.evidence(
        [judge.pixels(first.example) for first in firsts],
        [[named[number].statement for number in row] for row in rows],
        [first.statement for first in firsts],
        [first.example.question for first in firsts],
    )
    maps = np.zeros((len(named), *evidence.saliency.shape[2:]), np.float32)
    for place, row in enumerate(rows):
        maps[row] = evidence.saliency[place, : len(row)]
    return maps


def measure_plausibility(named: Sequence[Named], maps: Float[np.ndarray, "n h w"], *, seed: int) -> Plausibility | None:
    """The three numbers with their chance; None where nothing is named."""
    if not named:
        return None
    cells = np.stack([thing.cells for thing in named])
    pictures = [thing.example.image_id for thing in named]
    weights = resample(pictures, seed=seed)
    hits, area = points_into(maps, cells).astype(float), cells.mean((1, 2))
    positive = np.maximum(maps, 0).astype(float)
    inside = (positive * cells).sum((1, 2)) / np.maximum(positive.sum((1, 2)), 1e-30)
    areas = np.array([area_under_curve(one, mask) for one, mask in zip(maps, cells, strict=True)])
    return Plausibility(
        count=len(named),
        pictures=len(set(pictures)),
        pointing=mean_estimate(hits, weights),
        area=mean_estimate(area, weights),
        excess=mean_estimate(hits - area, weights),
        energy=mean_estimate(inside, weights),
        auc=mean_estimate(areas, weights),
    )


def points_into(maps: Float[np.ndarray, "n h w"], cells: Bool[np.ndarray, "n h w"]) -> Bool[np.ndarray, "n"]:
    """Whether the highest cell of each map lies in its mask; a constant map points nowhere."""
    flat = maps.reshape(len(maps), -1)
    best = flat.argmax(-1)
    is_in = np.take_along_axis(cells.reshape(len(maps), -1), best[:, None], axis=-1)[:, 0]
    return is_in & (flat.max(-1) > flat.min(-1))
