"""HOST: MedXpertQA, with pictures (MM) and without (Text), from its official files.

Zuo, Qu, Li, Chen, Zhu, Hua, Zhang, Ding, Zhou: "MedXpertQA: Benchmarking Expert-Level Medical Reasoning and Understanding",
ICML 2025. Official splits: "test" and "dev" of MM, here "text_test" and "text_dev" of Text. Two forms of the rows are read:
those of the hub, and those of the evaluation input of the authors' repository (test alone). A question has one to six
pictures and lists its options itself, five of MM and ten of Text. Reported apart by question type, which is the category.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, RowError
from reflex_jax.data.layouts import Layout, Rows, lines_of, read_rows, text_of, with_options
from reflex_jax.data.medical_images import read_file
from reflex_jax.data.options import gold_option, lists_options, option_texts
from reflex_jax.data.picture_files import NO_PICTURE, PictureFiles, path_of

_INPUT = "eval/data/medxpertqa/input/"  # in the authors' repository
_FILES = {  # the first that is there
    "test": ("MM/test.jsonl", f"{_INPUT}medxpertqa_mm_input.jsonl", "medxpertqa_mm_input.jsonl"),
    "dev": ("MM/dev.jsonl",),
    "text_test": ("Text/test.jsonl", f"{_INPUT}medxpertqa_text_input.jsonl", "medxpertqa_text_input.jsonl"),
    "text_dev": ("Text/dev.jsonl",),
}
_FOLDERS = ("images/", "MM/images/", "images/images/", "eval/data/medxpertqa/images/")
_REQUIRED = ("id", "question", "options", "label")


def _splits(root: Path) -> list[str]:
    return [split for split, names in _FILES.items() if any((root / name).is_file() for name in names)]


def _read(root: Path, split: str) -> Rows:
    path = next((root / name for name in _FILES[split] if (root / name).is_file()), root / _FILES[split][0])
    pictures = None if split.startswith("text_") else PictureFiles(root, [root / "images.zip", root / "MM/images.zip"])
    return read_rows(_read_lines(path, split), partial(_make_example, pictures))


def _read_lines(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The id and the row of each line."""
    try:
        lines = read_file(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read as JSON lines ({error}). Download it again.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: line {number} is no JSON ({error}). Download the file again.") from error
        if not isinstance(row, dict) or not row.keys() >= set(_REQUIRED):
            raise ConfigError(f"{path}: line {number}: expected an object with {', '.join(_REQUIRED)}; got {line[:80]}")
        own = row["id"]
        yield own.strip() if isinstance(own, str) and own.strip() else f"{split}-{number}", row


def _make_example(pictures: PictureFiles | None, name: str, row: dict[str, Any]) -> Example:
    options = option_texts(row["options"])
    label = row["label"]
    letters = [text_of(letter, "label") for letter in (label if isinstance(label, list) else [label])]
    if len(letters) != 1:
        raise RowError(f"expected one right letter: {letters}")
    question = lines_of(row["question"], "question")
    if not lists_options(question, options):
        question = with_options(question, options)
    system = text_of(row.get("body_system"), "body_system")
    return Example(
        id=name,
        question=question,
        answer=gold_option(options, letter=letters[0]),
        answer_type="closed",
        images=() if pictures is None else tuple(_find_pictures(pictures, row.get("images"))),
        options=options,
        organ=None if system in ("", "Other / NA") else system,
        category=text_of(row.get("question_type"), "question_type") or None,
    )


def _find_pictures(pictures: PictureFiles, cells: Any) -> Iterator[Any]:
    """In the order of the row; a picture is named by itself or as {"image_path": name}."""
    if not isinstance(cells, list) or not cells:
        raise RowError(NO_PICTURE)
    for cell in cells:
        name = path_of(cell.get("image_path") if isinstance(cell, dict) else cell)
        base = PurePosixPath(name).name
        yield pictures.find_first([*(folder + base for folder in _FOLDERS), name])


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=(
        *(name for names in _FILES.values() for name in names),
        "images.zip",
        "MM/images.zip",
        *(f"{folder}**/*" for folder in _FOLDERS),
    ),
    expects="MM/test.jsonl and images.zip, or Text/test.jsonl",
    version="2.0.0",
    homepage="https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA",
)
