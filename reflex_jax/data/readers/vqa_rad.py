"""HOST: VQA-RAD from its official file, or from the parquet files on the hub.

Lau, Gayen, Ben Abacha, Demner-Fushman: "A dataset of clinically generated visual questions and answers about
radiology images", Scientific Data 2018. Official split: rows whose `phrase_type` starts with `test_` are test, the
rest train; both splits show the same pictures, by design. A row of another phrase type, or of none, may belong to
either and is refused in both. Fields of the file come in odd forms (numbers and text as ids and answers, "NULL" for
nothing, stray spaces, fields left out); they are mended, and closed questions are not always yes/no.

The parquet files (flaviagiammarino/vqa-rad) hold pictures, questions and answers in lower case and nothing else: there the
answer type is by rule, so that their closed questions are not those of the official flag. Where both are, the official
file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example, RowError
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
from reflex_jax.data.parquet_rows import find_shards, read_triples
from reflex_jax.data.picture_files import PictureFiles, path_of

_SPLITS = ("train", "test")
_ANNOTATIONS = "VQA_RAD Dataset Public.json"
_IMAGE_FOLDER = "VQA_RAD Image Folder"
_REQUIRED_FIELDS = ("qid", "phrase_type", "image_name", "question", "answer", "answer_type")
_SPLIT_OF_PHRASE = {"freeform": "train", "para": "train", "test_freeform": "test", "test_para": "test"}


def _splits(root: Path) -> Sequence[str]:
    if (root / _ANNOTATIONS).is_file():
        return _SPLITS
    return [split for split in _SPLITS if split in find_shards(root)]


def _read(root: Path, split: str) -> Rows:
    """The questions of "train" or "test"."""
    if not (root / _ANNOTATIONS).is_file():
        return read_triples(find_shards(root)[split], split)
    files = PictureFiles(root, sorted(root.glob(f"{_IMAGE_FOLDER}*.zip")))

    def make(name: str, row: dict[str, Any]) -> Example | None:
        if _split_of(row["phrase_type"]) not in (split, None):
            return None
        if _split_of(row["phrase_type"]) is None:
            raise RowError(f"a phrase_type of no split: {str(row['phrase_type'])[:40]}")
        answer = required(text_of(row["answer"], "answer"), "answer")
        return Example(
            id=name,
            question=required(text_of(row["question"], "question"), "question"),
            answer=answer,
            answer_type=answer_type_of(row["answer_type"]) or answer_type_by_rule(answer),
            images=(files.find_inside(_IMAGE_FOLDER, path_of(row["image_name"])),),
            organ=text_of(row.get("image_organ"), "image_organ") or None,
            category=text_of(row.get("question_type"), "question_type") or None,
            paraphrases=_paraphrases(row.get("question_rephrase")),
        )

    return read_rows(name_rows(read_json_rows(root / _ANNOTATIONS, _REQUIRED_FIELDS), "qid", split), make)


def _split_of(phrase_type: Any) -> str | None:
    return _SPLIT_OF_PHRASE.get(phrase_type.strip().lower()) if isinstance(phrase_type, str) else None


def _paraphrases(value: Any) -> tuple[str, ...]:
    texts = [text_of(text, "question_rephrase") for text in (value if isinstance(value, list) else [value])]
    return tuple(text for text in texts if text)


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=(_ANNOTATIONS, f"{_IMAGE_FOLDER}/**/*", f"{_IMAGE_FOLDER}*.zip", "data/*.parquet", "*.parquet"),
    expects=f"{_ANNOTATIONS} and {_IMAGE_FOLDER} (OSF), or data/train-*.parquet and data/test-*.parquet (hub)",
    version="2.0.0",
    homepage="https://osf.io/89kps",
)
