"""HOST: Med-R1's splits of OmniMedVQA from its repository.

Lai, Zhong, Li, Zhao, Yang: "Med-R1: Reinforcement Learning for Generalizable Medical Reasoning in Vision-Language Models",
2025. Official splits: "train" and "test" by modality; the splits by question type are not read, they hold other divisions of
the same questions. The modality is the name of the file, typing errors included; `unknown` is none. Options are part of the
question ("... A)A disc, B)A line, thin"), which stays as it is; the pictures are those of OmniMedVQA. Train and test may
share a picture, and a row.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example, RowError
from reflex_jax.data.layouts import Layout, Rows, read_json_rows, read_rows, text_of
from reflex_jax.data.options import gold_option, option_texts
from reflex_jax.data.picture_files import PictureFiles, path_of
from reflex_jax.text.normalise import LETTERS

_SPLITS = ("train", "test")
_PICTURES = ("", "OmniMedVQA/")  # folders that the pictures' paths may start from
_SOLUTION = re.compile(r"(?:.*<answer>)?\s*([A-Za-z])\s*(?:</answer>)?")


def _annotations(root: Path, split: str) -> list[Path]:
    found = sorted(root.glob(f"Splits/modality/{split}/*.json"))
    return [path for path in found if not path.name.startswith(".")]


def _read(root: Path, split: str) -> Rows:
    pictures = PictureFiles(root, sorted(root.glob("OmniMedVQA*.zip")))
    for path in _annotations(root, split):
        modality = path.stem.removesuffix(f"_{split}")
        make = partial(_make_example, pictures, None if modality == "unknown" else modality)
        rows = read_json_rows(path, ("image", "problem", "solution"))
        yield from read_rows(((f"{path.stem}-{number}", row) for number, row in enumerate(rows)), make)


def _make_example(pictures: PictureFiles, modality: str | None, name: str, row: dict[str, Any]) -> Example:
    problem = text_of(row["problem"], "problem")
    options = option_texts(dict(zip(LETTERS, split_options(problem), strict=False)))
    solution = _SOLUTION.fullmatch(text_of(row["solution"], "solution"))
    place = path_of(row["image"])
    return Example(
        id=name,
        question=problem,
        answer=gold_option(options, letter=solution[1] if solution else ""),
        answer_type="closed",
        images=(pictures.find_first(folder + place for folder in _PICTURES),),
        options=options,
        modality=modality,
    )


def split_options(problem: str) -> list[str]:
    """The options at the end of a problem, e.g. "Is it? A)No, B)Yes" -> ["No", "Yes"].

    Commas occur inside options, and so do brackets that end in a letter, "(T&E)". A letter counts behind a comma and a blank,
    in the order A, B, ...; where no comma stands before "B)", behind a blank.

    Raises:
      RowError: no option B.
    """
    comma = "," if ", B)" in problem else ""
    head = re.search(rf"(?:^|(?<= ))A\)(?=(?:(?! A\)).)*{comma} B\))", problem)  # the last A before a B
    if head is None:
        raise RowError(f"no options in the problem: {problem[-80:]!r}")
    rest, texts = problem[head.end() :], []
    for letter in LETTERS[1:]:
        text, mark, behind = rest.partition(f"{comma} {letter})")
        if not mark:
            break
        texts.append(text)
        rest = behind
    return [*(text.strip() for text in texts), rest.strip()]


LAYOUT = Layout(
    splits=lambda root: [split for split in _SPLITS if _annotations(root, split)],
    read=_read,
    files=("Splits/modality/*/*.json", *(f"{folder}Images/**/*" for folder in _PICTURES), "OmniMedVQA*.zip"),
    expects="Splits/modality/{train,test}/*.json beside OmniMedVQA's Images",
    version="2.0.0",
    homepage="https://github.com/Yuxiang-Lai117/Med-R1",
)
