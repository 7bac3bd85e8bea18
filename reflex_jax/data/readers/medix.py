"""HOST: the training data of MediX-R1 from the parquet files on the hub.

Mullappilly et al.: "MediX-R1: Open Ended Medical Reinforcement Learning", 2026. Official splits: train (51,335 questions) and
test (2,451), gathered from other sets, whose name is the category here. The kind of picture stands before the answer in
`solution`, "<CT_SCAN>a dark disc": it is the modality as it is written, and the answer is all behind the first ">". Pictures
are a list. Options are not a field of their own: where a question lists them by letters and the answer is one of them, they
are taken from there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example, RowError
from reflex_jax.data.layouts import Layout, Rows, answer_type_by_rule, lines_of, name_rows, read_rows, required, text_of
from reflex_jax.data.options import gold_option, unmistakable
from reflex_jax.data.parquet_rows import find_shards, parquet_rows, pictures_of
from reflex_jax.data.picture_files import PictureFiles
from reflex_jax.text.normalise import LETTERS
from reflex_jax.text.option_lists import find_options

_SPLITS = ("train", "test")
_COLUMNS = ("id", "image", "problem", "solution")
_TAGGED = re.compile(r"\s*<([^<>]+)>(.*)", re.DOTALL)


def _splits(root: Path) -> Sequence[str]:
    shards = find_shards(root)
    return [split for split in _SPLITS if split in shards]


def _read(root: Path, split: str) -> Rows:
    """The questions of "train" or "test"."""
    paths = find_shards(root)[split]
    files = PictureFiles(paths[0].parent)

    def make(name: str, row: dict[str, Any]) -> Example:
        question = required(lines_of(row["problem"], "problem"), "question")
        solution = row["solution"] if isinstance(row["solution"], str) else text_of(row["solution"], "solution")
        tagged = _TAGGED.fullmatch(solution)
        answer = required(text_of(tagged[2] if tagged else solution, "solution"), "answer")
        options = _listed_options(question, answer)
        return Example(
            id=name,
            question=question,
            answer=unmistakable(options, gold_option(options, text=answer)) if options else answer,
            answer_type=answer_type_by_rule(answer, options),
            images=pictures_of(row["image"], files.find),
            options=options,
            modality=tagged[1].strip() or None if tagged else None,
            category=text_of(row.get("source"), "source") or None,
        )

    return read_rows(name_rows(parquet_rows(paths, _COLUMNS, ("source",)), "id", split), make)


def _listed_options(question: str, answer: str) -> tuple[str, ...] | None:
    found = find_options(question)
    if found is None or found.labels != tuple(LETTERS[: len(found.labels)]) or not found.labels:
        return None
    try:
        gold_option(found.options, text=answer)
    except RowError:
        return None
    return found.options


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=("data/*.parquet", "*.parquet"),
    expects="data/train-*.parquet and data/test-*.parquet",
    version="2.0.0",
    homepage="https://huggingface.co/datasets/MBZUAI/medix-rl-data",
)
