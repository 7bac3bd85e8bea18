"""HOST: pictures that a policy is shown in place of a question's own, to see what its answers owe to them.

blank: grey, of the same size. shuffled: its own tiles in another order, so that colours stay and shapes go. other_patient:
the pictures of another question of the same set, of the same modality where one has it, and never of one that shares a
picture with it. Questions without a picture stay as they are. Everything follows from ids alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.holdout import picture_groups

Probe = Callable[[Example], tuple[Picture, ...]]  # the pictures that the policy sees
GREY = (127, 127, 127)
TILES = 8  # a side, of a shuffled picture


def _real(_: Sequence[Example]) -> Probe:
    return lambda example: example.images


def _blank(_: Sequence[Example]) -> Probe:
    def blank(picture: Picture) -> Picture:
        return _instead(picture, lambda: Image.new("RGB", picture.measure(), GREY))

    return lambda example: tuple(map(blank, example.images))


def _shuffled(_: Sequence[Example]) -> Probe:
    def shuffled(picture: Picture) -> Picture:
        return _instead(picture, lambda: shuffle_tiles(picture.load(), seed=_number(picture.id)))

    return lambda example: tuple(map(shuffled, example.images))


def _other_patient(examples: Sequence[Example]) -> Probe:
    groups = dict(zip((e.id for e in examples), picture_groups(examples), strict=True))
    # the first question of each group of pictures speaks for it, under what it has in common with others
    donors: dict[tuple[str, ...], dict[str, Example]] = defaultdict(dict)
    for example in examples:
        if example.images:
            for key in _kinds(example):
                donors[key].setdefault(groups[example.id], example)

    def of_another(example: Example) -> tuple[Picture, ...]:
        if not example.images:
            return ()
        for key in _kinds(example):
            others = [donor for group, donor in donors[key].items() if group != groups[example.id]]
            if others:
                chosen = others[_number(example.id) % len(others)].images
                return tuple(chosen[i % len(chosen)] for i in range(len(example.images)))
        raise ValueError("other_patient: all questions are about one picture; expected at least two.")

    return of_another


PROBES: dict[str, Callable[[Sequence[Example]], Probe]] = {
    "real": _real,
    "blank": _blank,
    "shuffled": _shuffled,
    "other_patient": _other_patient,
}


def shuffle_tiles(image: Image.Image, *, seed: int, tiles: int = TILES) -> Image.Image:
    """The picture cut into tiles x tiles pieces of one size, in a random order; what is left at its right and bottom stays.

    Args:
      image: RGB; one smaller than a tile a pixel stays as it is.
      seed: of the order.
    """
    pixels = np.asarray(image)
    height, width = (side // tiles for side in pixels.shape[:2])
    if not (height and width):
        return image
    inner = pixels[: height * tiles, : width * tiles]
    pieces = inner.reshape(tiles, height, tiles, width, -1).swapaxes(1, 2).reshape(tiles**2, height, width, -1)
    pieces = pieces[np.random.default_rng(seed).permutation(tiles**2)]
    moved = pixels.copy()
    moved[: height * tiles, : width * tiles] = (
        pieces.reshape(tiles, tiles, height, width, -1).swapaxes(1, 2).reshape(inner.shape)
    )
    return Image.fromarray(moved)


def show_instead(example: Example, probe: Probe) -> Example:
    """The question with the pictures that the policy sees."""
    return dataclasses.replace(example, images=probe(example))


def _instead(picture: Picture, draw: Callable[[], Image.Image]) -> Picture:
    return Picture(id=picture.id, data=draw, size=picture.size)


def _kinds(example: Example) -> list[tuple[str, ...]]:
    """What pictures may have in common, the most first."""
    kinds: list[tuple[str, ...]] = [(example.source,), ()]
    return [(example.source, example.modality), *kinds] if example.modality else kinds


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
