"""HOST: pictures that training questions share with questions that score, by their bytes and by how they look.

Two pictures look alike where their perceptual hashes (of `imagehash`, 256 bits of a cosine transform) differ in at most
`ALIKE` bits: one that was scaled, re-encoded or slightly brightened. Other slices of one examination are usually further apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from reflex_jax.data.examples import Example, Picture

ALIKE = 14  # of 256 bits: see benchmarks/perceptual_hash.py
_SIDE = 16  # of the hash
_CHUNK = 2  # bytes: two hashes that differ in at most 15 bits share one of their 16 chunks
_LARGEST_BUCKET = 2048  # hashes that share a chunk and are compared with each other; more are of empty pictures


@dataclass(frozen=True)
class Hashed:
    """A distinct picture."""

    digest: str
    bits: UInt8[np.ndarray, "32"]


def distinct_pictures(examples: Iterable[Example]) -> dict[str, Picture]:
    """By digest; by id where the bytes are unknown (pictures that are drawn)."""
    return {key_of(picture): picture for example in examples for picture in example.images}


def key_of(picture: Picture) -> str:
    """What tells a picture from others."""
    return picture.digest or picture.id


def hash_pictures(pictures: dict[str, Picture], *, threads: int = 2) -> dict[str, UInt8[np.ndarray, "32"]]:
    """The perceptual hash of each picture, packed; one picture a thread is in memory at a time."""
    import imagehash  # its import takes half a second

    def hash_one(picture: Picture) -> UInt8[np.ndarray, "32"]:
        return np.packbits(imagehash.phash(picture.load().convert("L"), hash_size=_SIDE).hash.reshape(-1))

    with ThreadPoolExecutor(max_workers=threads) as pool:
        return dict(zip(pictures, pool.map(hash_one, pictures.values()), strict=True))


def alike_pairs(
    hashes: dict[str, UInt8[np.ndarray, "32"]], others: dict[str, UInt8[np.ndarray, "32"]]
) -> set[tuple[str, str]]:
    """(one of `hashes`, one of `others`) for all pairs of different keys whose hashes differ in at most `ALIKE` bits."""
    if not hashes or not others:
        return set()
    names, other_names = list(hashes), list(others)
    bits, other_bits = np.stack([hashes[n] for n in names]), np.stack([others[n] for n in other_names])
    found: set[tuple[str, str]] = set()
    for start in range(0, bits.shape[1], _CHUNK):
        chunks, other_chunks = (
            np.ascontiguousarray(b[:, start : start + _CHUNK]).view(np.uint16)[:, 0] for b in (bits, other_bits)
        )
        order = np.argsort(other_chunks, kind="stable")
        first, last = (np.searchsorted(other_chunks[order], chunks, side=side) for side in ("left", "right"))
        for row in np.flatnonzero((last > first) & (last - first <= _LARGEST_BUCKET)):
            candidates = order[first[row] : last[row]]
            distances = np.bitwise_count(other_bits[candidates] ^ bits[row]).sum(-1)
            found |= {
                (names[row], other_names[i]) for i in candidates[distances <= ALIKE] if names[row] != other_names[i]
            }
    return found


@dataclass(frozen=True)
class Leaks:
    """What training questions and scored questions share."""

    same_bytes: frozenset[str]  # ids of training questions
    alike: frozenset[str]  # ids of training questions whose pictures look like a scored one without being it

    @property
    def ids(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self.same_bytes | self.alike)


def find_leaks(
    training: Sequence[Example], scored: Sequence[Example], hashes: dict[str, UInt8[np.ndarray, "32"]]
) -> Leaks:
    """Training questions whose pictures are also asked about in `scored`.

    Args:
      training: questions to train on.
      scored: questions to validate and evaluate on.
      hashes: of all their pictures.
    """
    own, theirs = distinct_pictures(training), distinct_pictures(scored)
    pairs = alike_pairs({key: hashes[key] for key in own}, {key: hashes[key] for key in theirs})
    looks_alike = {key for key, _ in pairs}
    same = frozenset(e.id for e in training if any(key_of(p) in theirs for p in e.images))
    alike = frozenset(e.id for e in training if any(key_of(p) in looks_alike for p in e.images)) - same
    return Leaks(same, alike)
