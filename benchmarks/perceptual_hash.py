"""How far apart are the perceptual hashes of one picture that was changed, and of different pictures?

    python benchmarks/perceptual_hash.py FOLDER [FOLDER ...]

Reads every picture below the folders, and prints for each change, and for the nearest other picture, how many of 256 bits
differ. `dataset_card.pictures.ALIKE` lies between the two.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Picture
from reflex_jax.dataset_card.pictures import ALIKE, hash_pictures


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    pictures = {}
    for path in sorted(p for folder in parser.parse_args().folders for p in folder.rglob("*") if p.is_file()):
        try:
            pictures[str(path)] = Picture(id=path.name, data=path).load()
        except ConfigError:
            continue
    hashes = hash_all(pictures)
    print(f"{len(pictures)} pictures; bits of 256 that differ; alike: at most {ALIKE}")
    for name, change in CHANGES.items():
        changed = hash_all({key: change(picture) for key, picture in pictures.items()})
        describe(name, np.array([distance(hashes[key], changed[key]) for key in pictures]))
    bits = np.stack(list(hashes.values()))
    apart = np.bitwise_count(bits[:, None] ^ bits[None]).sum(-1).astype(int)
    np.fill_diagonal(apart, 256)
    describe("nearest other picture", apart.min(1))


def hash_all(pictures: dict[str, Image.Image]) -> dict[str, np.ndarray]:
    """Of pictures that are in memory."""
    return hash_pictures({key: Picture(id=key, data=lambda p=picture: p) for key, picture in pictures.items()})


def distance(first: np.ndarray, second: np.ndarray) -> int:
    """Bits that differ."""
    return int(np.bitwise_count(first ^ second).sum())


def describe(name: str, distances: np.ndarray) -> None:
    """One line."""
    low, middle, high = np.percentile(distances, [5, 50, 95])
    print(
        f"{name:28s} median {middle:5.0f}   5 to 95 % {low:4.0f} to {high:4.0f}   alike {np.mean(distances <= ALIKE):6.1%}"
    )


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """Encoded and decoded."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 75": lambda p: as_jpeg(p, 75),
    "half size, JPEG 60": lambda p: as_jpeg(p.resize((max(1, p.width // 2), max(1, p.height // 2))), 60),
    "squashed to 224 x 224": lambda p: p.resize((224, 224)),
    "brighter by 20 %": lambda p: ImageEnhance.Brightness(p).enhance(1.2),
    "2 % cut off each side": lambda p: p.crop(
        (p.width // 50, p.height // 50, p.width - p.width // 50, p.height - p.height // 50)
    ),
}

if __name__ == "__main__":
    main()
