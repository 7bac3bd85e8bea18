"""What a judge is worth on phantoms it has not seen: does it tell true from false, and does it look at the lesion?

Pointing game: the most salient cell of the 14x14 grid for "there is a nodule" is a hit where the nodule covers more
than 15 % of that cell. With two lesions in the picture a judge that finds blobs but does not read hits only half the
time, so the share of hits on the other lesion stands beside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from reflex_jax.audit.plausibility import points_into
from reflex_jax.audit.statistics import area_under_curve
from reflex_jax.data.phantom_text import Claim, all_claims, truth_matrix, with_article
from reflex_jax.data.phantom_world import KINDS, LEVELS, SIDES, Finding, Phantom, make_phantom, mask_cells
from reflex_jax.judge.saliency import image_evidence, unit
from reflex_jax.models.biomedclip import BiomedClipConfig, encode_image, encode_text, normalise_pixels
from reflex_jax.rewards.visual_fidelity import intersection_over_union, quantile_mask
from reflex_jax.trees import Array, Params

# The judge of three blocks gathers dark lesions into [CLS] one block before the last; the last block alone misses them.
SALIENCY_BLOCK = -2
_BATCH = 50
Encoder = Callable[[list[str]], Int[np.ndarray, "N T"]]


def judge_fitness(
    params: Params,
    config: BiomedClipConfig,
    encode: Encoder,
    *,
    world: int,
    count: int = 300,
    saliency: str = "attention_gradient",
    saliency_block: int = SALIENCY_BLOCK,
    quantile: float = 0.9,
) -> dict[str, float]:
    """Measures a judge on `count` pictures with one lesion, as many with two, and as many as they come.

    Args:
      params: of the judge.
      config: of the judge; its grid must be 14x14.
      encode: tokenises statements to one fixed length.
      world: pictures that the judge was not trained on.
      count: pictures of each sort, a multiple of 50.
      saliency: method of the maps.
      saliency_block: block from which the maps are rolled out.
      quantile: p of the masks whose IoU is reported.
    """
    explain = functools.partial(_explain, config=config, saliency=saliency, block=saliency_block)
    numbers: dict[str, float] = {}
    for lesions, name in ((1, "one"), (2, "two")):
        phantoms = [make_phantom(world, lesions * count + i, lesion_count=lesions) for i in range(count)]
        numbers |= {f"{key}_{name}": value for key, value in _pointing(phantoms, params, explain, encode).items()}
        numbers |= {
            f"{key}_{name}": value for key, value in _overlaps(phantoms, params, explain, encode, quantile).items()
        }
    phantoms = [make_phantom(world, i) for i in range(count)]
    return numbers | _separation(phantoms, params, config, encode)


@functools.partial(jax.jit, static_argnames=("config", "saliency", "block"))
def _explain(
    params: Params,
    pixels: UInt8[Array, "P 112 112"],
    ids: Int[Array, "P S T"],
    *,
    config: BiomedClipConfig,
    saliency: str,
    block: int,
) -> Float[Array, "P S 14 14"]:
    rgb = normalise_pixels(jnp.broadcast_to(pixels[..., None], (*pixels.shape, 3)), config)
    directions = unit(encode_text(params, ids.reshape(-1, ids.shape[-1]), config))
    directions = directions.reshape(*ids.shape[:2], -1)
    return image_evidence(params, rgb, directions, config, method=saliency, block=block)[1]


def _maps(
    phantoms: list[Phantom], statements: list[list[str]], params: Params, explain: Any, encode: Encoder
) -> Float[np.ndarray, "P S 14 14"]:
    """Saliency of the statements about each picture, all pictures with equally many."""
    maps = []
    for rows in _batches(len(phantoms)):
        ids = np.stack([encode(statements[row]) for row in rows])
        maps.append(explain(params, np.stack([phantoms[row].image for row in rows]), ids))
    return np.concatenate(maps)


def _batches(count: int) -> Iterator[range]:
    return (range(start, start + _BATCH) for start in range(0, count, _BATCH))


def _pointing(phantoms: list[Phantom], params: Params, explain: Any, encode: Encoder) -> dict[str, float]:
    """Shares of most salient cells on the lesion named, on another lesion, and the area it covers (chance)."""
    numbers: dict[str, Any] = {}
    for wording in ("presence", "region"):
        statements = [[_say(finding, wording) for finding in phantom.facts.findings] for phantom in phantoms]
        maps = _maps(phantoms, statements, params, explain, encode)
        own: list[Any] = []
        other: list[Any] = []
        area: list[Any] = []
        for phantom, shown in zip(phantoms, maps, strict=True):
            masks = np.stack([mask_cells(mask) for mask in phantom.masks])
            hits = np.stack([points_into(shown, np.broadcast_to(mask, shown.shape)) for mask in masks])  # [mask, map]
            own += np.diagonal(hits).tolist()
            area += masks.mean((1, 2)).tolist()
            other += np.any(hits & ~np.eye(len(masks), dtype=bool), axis=0).tolist()
        numbers |= {
            f"pointing_{wording}": np.mean(own),
            f"pointing_other_{wording}": np.mean(other),
            "chance": np.mean(area),
        }
    return {key: float(value) for key, value in numbers.items()}


def _say(finding: Finding, wording: str) -> str:
    lesion = with_article(finding.kind)
    return f"there is {lesion}" if wording == "presence" else f"there is {lesion} in the {finding.region} region"


def _overlaps(
    phantoms: list[Phantom], params: Params, explain: Any, encode: Encoder, quantile: float
) -> dict[str, float]:
    """Share of pairs with IoU > 0.5 (what R_VFR pays) between a true statement and variants of it."""
    variants = [_variants(phantom) for phantom in phantoms]
    names = list(variants[0])
    maps = _maps(phantoms, [list(texts.values()) for texts in variants], params, explain, encode)
    masks = quantile_mask(jnp.asarray(maps), quantile=quantile, tie_rule="strict")
    iou = np.asarray(intersection_over_union(masks[:, :1], masks))
    return {f"vfr_{name}": float((iou[:, n] > 0.5).mean()) for n, name in enumerate(names) if n > 0}


def _variants(phantom: Phantom) -> dict[str, str]:
    """A true statement about the first lesion, first, and others about the same picture."""
    facts = phantom.facts
    finding, present = facts.findings[0], [f.kind for f in facts.findings]
    wrong_kind = next(kind for kind in KINDS if kind not in present)
    wrong_side = Finding(finding.kind, SIDES[1 - SIDES.index(finding.side)], finding.level)
    wrong_level = Finding(finding.kind, finding.side, LEVELS[1 - LEVELS.index(finding.level)])
    texts = {
        "true": _say(finding, "region"),
        "paraphrase": f"the {finding.kind} is in the {finding.region} region",
        "wrong_kind": _say(Finding(wrong_kind, finding.side, finding.level), "region"),
        "wrong_side": _say(wrong_side, "region"),
        "wrong_level": _say(wrong_level, "region"),
    }
    return texts | ({"other_lesion": _say(facts.findings[1], "region")} if len(facts.findings) == 2 else {})


def _separation(phantoms: list[Phantom], params: Params, config: BiomedClipConfig, encode: Encoder) -> dict[str, float]:
    """AUC of s_it between true and false statements, and both thresholds at work."""
    claims = all_claims()
    truth = truth_matrix(claims, [phantom.facts for phantom in phantoms])
    first, second = (
        unit(encode_text(params, jnp.asarray(encode([claim.wordings[n] for claim in claims])), config)) for n in (0, 1)
    )
    images = []
    for rows in _batches(len(phantoms)):
        pixels = np.stack([phantoms[row].image for row in rows])
        rgb = normalise_pixels(jnp.broadcast_to(pixels[..., None], (*pixels.shape, 3)), config)
        images.append(unit(encode_image(params, rgb, config)))
    similarity = np.asarray(jnp.concatenate(images) @ first.T)
    between = np.asarray(first @ second.T)
    is_same = np.eye(len(claims), dtype=bool)
    numbers = {
        "auc": area_under_curve(similarity, truth),
        "true_kept": (similarity[truth] > 0.5).mean(),
        "false_rejected": (similarity[~truth] <= 0.5).mean(),
        "paraphrase_kept": (between[is_same] > 0.8).mean(),
        "different_rejected": (between[~is_same] <= 0.8).mean(),
    }
    for name, columns in _families(claims).items():
        numbers[f"auc_{name}"] = np.mean([area_under_curve(similarity[:, c], truth[:, c]) for c in columns])
    return {key: float(value) for key, value in numbers.items()}


def _families(claims: list[Claim]) -> dict[str, list[int]]:
    """Columns of the claims about kind, place, modality and organ."""
    words = {"region": " region", "side": " side", "level": " part", "scan": "this is", "organ": "organ"}
    families: dict[str, list[int]] = {}
    for column, claim in enumerate(claims):
        name = next((name for name, word in words.items() if word in claim.wordings[0]), "kind")
        families.setdefault(name, []).append(column)
    return families
