"""HOST: SilVar-Med, as the reader in its authors' repository expects it.

Pham, Ngo, Nguyen, Hy: "SilVar-Med: A Speech-Driven Visual Language Model for Explainable Abnormality Detection in Medical
Imaging", 2025. Splits "train" and "test", a folder each; the authors' own configuration scores on the train folder. A row may
hold several questions with an answer each. A picture that is not there is looked for under the part of its name before the
first "_". The spoken questions are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example, RowError
from reflex_jax.data.layouts import Layout, Rows, answer_type_by_rule, present, read_json_rows, read_rows, text_of
from reflex_jax.data.picture_files import PictureFiles, path_of

_FILES = {split: f"{split}/dataset_unique_abnormal.json" for split in ("train", "test")}


def _read(root: Path, split: str) -> Rows:
    pictures = PictureFiles(root, sorted((root / split).glob("*.zip")))
    rows = read_json_rows(root / _FILES[split], ("img_name", "question", "answer"))
    return read_rows(_questions(rows, split), partial(_make_example, pictures, f"{split}/imgs_{split}_abnormal/"))


def _questions(rows: list[dict[str, Any]], split: str) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """(id, (picture, question, answer)) of each question; lists that do not belong together stay lists."""
    for number, row in enumerate(rows):
        name, question, answer = f"{split}-{number}", row["question"], row["answer"]
        if isinstance(question, list) and isinstance(answer, list) and len(question) == len(answer) > 0:
            for k, pair in enumerate(zip(question, answer, strict=True)):
                yield f"{name}-{k}", (row["img_name"], *pair)
        else:
            yield name, (row["img_name"], question, answer)


def _make_example(pictures: PictureFiles, folder: str, name: str, row: tuple[Any, Any, Any]) -> Example:
    if isinstance(row[1], list) or isinstance(row[2], list):
        raise RowError("not as many answers as questions")
    picture, answer = path_of(row[0]), text_of(row[2], "answer")
    head, mark, _ = picture.partition("_")
    return Example(
        id=name,
        question=text_of(row[1], "question"),
        answer=answer,
        answer_type=answer_type_by_rule(answer),
        images=(pictures.find_first([folder + picture, *([f"{folder}{head}.jpg"] if mark else [])]),),
    )


LAYOUT = Layout(
    splits=partial(present, files=_FILES),
    read=_read,
    files=(*_FILES.values(), "*/*.zip", *(f"{split}/imgs_{split}_abnormal/**/*" for split in _FILES)),
    expects="train/dataset_unique_abnormal.json beside train/imgs_train_abnormal, or the same of test",
    version="2.0.0",
    homepage="https://github.com/Hanhpt23/SilVarMed",
)
