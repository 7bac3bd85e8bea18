"""HOST: MMMU, its five subjects of health and medicine, from the parquet files on the hub.

Yue et al.: "MMMU: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for Expert AGI", CVPR 2024.
Official splits: dev (5 questions a subject), validation (30), test, whose answers are withheld: its rows are refused as
such. All five subjects are needed, for a score is over all their questions.

Deviation: `<image n>` in questions and options names a column, not always in order and not without gaps ("Compare <image 2>
with <image 1>"); the policy sees pictures without names. Pictures are given in the order of their marks, and the marks are
numbered anew: the first picture is <image 1>. Options are the text of a Python list, read as nothing but literals.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture, RefusedRow, RowError
from reflex_jax.data.layouts import (
    Layout,
    Rows,
    answer_type_by_rule,
    lines_of,
    name_rows,
    read_rows,
    required,
    text_of,
    with_options,
)
from reflex_jax.data.options import gold_option, option_texts, unmistakable
from reflex_jax.data.parquet_rows import find_shards, parquet_rows, pictures_of
from reflex_jax.data.picture_files import NO_PICTURE, PictureFiles
from reflex_jax.text.normalise import LETTERS

_SUBJECTS = (
    "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy", "Public_Health",
)  # fmt: skip
_SPLITS = ("dev", "validation", "test")
_PICTURES = tuple(f"image_{number}" for number in range(1, 8))
_COLUMNS = ("id", "question", "options", "answer", "image_1")
_MARK = re.compile(r"<image (\d+)>")


def _splits(root: Path) -> Sequence[str]:
    found = {split for subject in _SUBJECTS for split in find_shards(root / subject)}
    return [split for split in _SPLITS if split in found]


def _read(root: Path, split: str) -> Rows:
    """The questions of all subjects, one subject after the other."""
    shards = {subject: find_shards(root / subject).get(split, []) for subject in _SUBJECTS}
    if missing := [subject for subject, paths in shards.items() if not paths]:
        raise ConfigError(
            f"{root}: expected {split}-*.parquet of {len(_SUBJECTS)} subjects; missing: {', '.join(missing)}. Download them."
        )
    for subject, paths in shards.items():
        rows = parquet_rows(paths, _COLUMNS, ("explanation", *_PICTURES))
        make = partial(_make, split, subject, PictureFiles(paths[0].parent))
        yield from read_rows(name_rows(rows, "id", f"{split}_{subject}"), make)


def _make(split: str, subject: str, files: PictureFiles, name: str, row: dict[str, Any]) -> Example | RefusedRow:
    answers = _literals(row["answer"], "answer")
    if split == "test" and set(answers) <= {"", "?"}:
        return RefusedRow(id=name, reason="the answer is withheld", is_official=True)
    options = option_texts(_literals(row["options"], "options")) or None
    question = required(lines_of(row["question"], "question"), "question")
    order = _order_of_marks(" ".join([question, *(options or ())]), row)
    answer, *others = (_answer(required("" if text == "?" else text, "answer"), options) for text in answers)
    places = {f"<image {number}>": f"<image {place}>" for place, number in enumerate(order, start=1)}
    renumber = partial(_MARK.sub, lambda mark: places.get(mark[0], mark[0]))
    return Example(
        id=name,
        question=renumber(with_options(question, options) if options else question),
        answer=renumber(answer),
        answer_type=answer_type_by_rule(answer, options),
        images=tuple(_pictures(row, order, files)),
        accepted=tuple(renumber(other) for other in others),
        options=tuple(renumber(option) for option in options) if options else None,
        category=subject,
        reasoning=renumber(lines_of(row.get("explanation"), "explanation")) or None,
    )


def _literals(value: Any, field: str) -> list[str]:
    """A text, or the texts of a list that is written as Python writes it."""
    texts = value
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            texts = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise RowError(f"{field} in another form: expected a Python list; got {value[:60]!r}") from error
    return [text_of(text, field) for text in (texts if isinstance(texts, list) else [texts])] or [""]


def _answer(text: str, options: Sequence[str] | None) -> str:
    if not options:
        return text
    gold = gold_option(options, letter=text) if text in LETTERS else gold_option(options, text=text)
    return unmistakable(options, gold)


def _order_of_marks(text: str, row: dict[str, Any]) -> list[int]:
    """Numbers of the picture columns: those that are marked in the order of their marks, then the others."""
    marked = [int(number) for number in _MARK.findall(text)]
    return list(dict.fromkeys([*marked, *(n for n in range(1, 8) if row.get(f"image_{n}") is not None)]))


def _pictures(row: dict[str, Any], order: Sequence[int], files: PictureFiles) -> Iterator[Picture]:
    if not order:
        raise RowError(NO_PICTURE)
    for number in order:
        if row.get(f"image_{number}") is None:
            raise RowError(f"{NO_PICTURE}: <image {number}> is empty")
        yield from pictures_of(row[f"image_{number}"], files.find)


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=tuple(f"{subject}/{place}*" for subject in _SUBJECTS for place in ("", "data/")),
    expects=f"{', '.join(_SUBJECTS)} with dev-, validation- and test-*.parquet",
    version="2.0.0",
    homepage="https://huggingface.co/datasets/MMMU/MMMU",
)
