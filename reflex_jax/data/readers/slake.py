"""HOST: SLAKE from its official files, in English and Chinese.

Liu, Zhan, Xu, Ma, Yang, Wu: "SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual
Question Answering", ISBI 2021. Official split: one file each, by picture inside a language; the two languages are split
separately, so that most English test pictures are in Chinese train. The validation file is validate.json in the authors'
archive and validation.json on the hub (BoKelvin/SLAKE), where the pictures are in imgs.zip. The official English training
file holds one question without an answer, qid 1622; any other such question is refused as well, but stops.

The picture's id is the whole `img_name`; ids of other languages than English begin with the language.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example, RefusedRow, RowError
from reflex_jax.data.layouts import (
    Layout,
    Rows,
    answer_type_by_rule,
    answer_type_of,
    name_rows,
    read_json_rows,
    read_rows,
    required,
    text_of,
)
from reflex_jax.data.picture_files import PictureFiles, path_of

_ANNOTATIONS = {
    "train": ("train.json",),
    "validation": ("validate.json", "validation.json"),
    "test": ("test.json",),
}
_IMAGE_FOLDER = "imgs"
_REQUIRED_FIELDS = ("qid", "img_name", "question", "answer", "answer_type", "q_lang")
_UNANSWERED_IN_OFFICIAL_FILES = ("train", "en", "1622")


def _files(root: Path, split: str) -> list[Path]:
    return [root / name for name in _ANNOTATIONS[split] if (root / name).is_file()]


def _splits(root: Path) -> Sequence[str]:
    return [split for split in _ANNOTATIONS if _files(root, split)]


def _read(root: Path, split: str) -> Rows:
    """The questions of "train", "validation" or "test" in both languages."""
    files = PictureFiles(root, sorted(root.glob(f"{_IMAGE_FOLDER}*.zip")))

    def make(name: str, row: dict[str, Any]) -> Example | RefusedRow:
        language = text_of(row["q_lang"], "q_lang").lower()
        if not (language.isascii() and language.isalpha() and len(language) == 2):
            raise RowError(f"a q_lang that is none: expected en or zh; got {language[:40]!r}")
        answer = text_of(row["answer"], "answer")
        if not answer:
            is_official = (split, language, name) == _UNANSWERED_IN_OFFICIAL_FILES
            return RefusedRow(id=name, reason="no answer", is_official=is_official)
        return Example(
            id=name if language == "en" else f"{language}-{name}",
            question=required(text_of(row["question"], "question"), "question"),
            answer=answer,
            answer_type=answer_type_of(row["answer_type"]) or answer_type_by_rule(answer),
            images=(files.find_inside(_IMAGE_FOLDER, path_of(row["img_name"])),),
            modality=text_of(row.get("modality"), "modality") or None,
            organ=text_of(row.get("location"), "location") or None,
            category=text_of(row.get("content_type"), "content_type") or None,
            language=language,
        )

    return read_rows(name_rows(read_json_rows(_files(root, split)[0], _REQUIRED_FIELDS), "qid", split), make)


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=("*.json", f"{_IMAGE_FOLDER}/**/*", f"{_IMAGE_FOLDER}*.zip"),
    expects="train.json, validate.json or validation.json, test.json, and imgs or imgs.zip",
    version="2.0.0",
    homepage="https://www.med-vqa.com/slake",
)
