"""HOST: parts of a split: what is held out of it for validation, whole pictures at a time, and so many of its questions.

The cut is a function of the questions alone: the same for every seed, machine and order of files. Questions that share a
picture, by its bytes where they are known, fall on the same side; questions of text alone stand for themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from reflex_jax.data.examples import Example


def split_by_picture(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(what stays for training, what is held out), each in its order.

    Args:
      examples: of one source.
      fraction: of the questions, reached by whole groups and exceeded by less than one.
    """
    groups = picture_groups(examples)
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    held_out: set[str] = set()
    count = 0
    for group in sorted(sizes, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest()):
        if count >= fraction * len(examples) or len(held_out) + 1 == len(sizes):
            break
        held_out.add(group)
        count += sizes[group]
    pairs = list(zip(examples, groups, strict=True))
    return [e for e, group in pairs if group not in held_out], [e for e, group in pairs if group in held_out]


def choose_by_id(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """So many of the questions, in their order; which ones depends on their ids alone. None: all."""
    if limit is None or limit >= len(examples):
        return list(examples)
    by_hash = sorted(examples, key=lambda e: hashlib.blake2b(e.id.encode(), digest_size=8).digest())
    ids = {example.id for example in by_hash[:limit]}
    return [example for example in examples if example.id in ids]


def picture_groups(examples: Sequence[Example]) -> list[str]:
    """A name for each example, equal where a chain of shared pictures leads from one to the other."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    keys = [[picture.digest or picture.id for picture in e.images] or [f"question {e.id}"] for e in examples]
    for names in keys:
        for other in names[1:]:
            first, second = sorted((find(names[0]), find(other)))
            parent[second] = first  # the smallest name stands for all: no order decides it
    return [find(names[0]) for names in keys]
