"""HOST: SLAKE (English questions) from its official files.

Liu, Zhan, Xu, Ma, Yang, Wu: "SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual
Question Answering", ISBI 2021. Official split: one file each (by picture). The official training file holds one
question without an answer; it is left out by its number, any other such question is refused.
"""

from __future__ import annotations

from pathlib import Path

from reflex_jax.data.examples import Example
from reflex_jax.data.layouts import Layout, Row, clean_text, read_json_rows

_ANNOTATIONS = {"train": "train.json", "validation": "validate.json", "test": "test.json"}
_IMAGE_FOLDER = "imgs"
_REQUIRED_FIELDS = ("qid", "img_name", "question", "answer", "answer_type", "q_lang")
_UNANSWERED_IN_OFFICIAL_FILES = frozenset({"1622"})


def read_slake(root: Path) -> dict[str, list[Row]]:
    """The English questions of "train", "validation" and "test"."""
    splits: dict[str, list[Row]] = {}
    for split, name in _ANNOTATIONS.items():
        splits[split] = []
        for row in read_json_rows(root / name, _REQUIRED_FIELDS):
            number, answer = clean_text(row["qid"]), clean_text(row["answer"])
            if row["q_lang"] != "en" or (not answer and number in _UNANSWERED_IN_OFFICIAL_FILES):
                continue
            file = Path(str(row["img_name"]))
            question = Example(
                id=number,
                question=clean_text(row["question"]),
                answer=answer,
                answer_type=clean_text(row["answer_type"]).lower(),
                image_id=file.parent.name if file.stem == "source" else file.as_posix(),  # one folder, one picture
                image=None,
                modality=clean_text(row.get("modality")) or None,
                organ=clean_text(row.get("location")) or None,
            )
            splits[split].append(Row(question=question, picture=root / _IMAGE_FOLDER / file))
    return splits


LAYOUT = Layout(
    files=(*_ANNOTATIONS.values(), f"{_IMAGE_FOLDER}/*/*"),
    read=read_slake,
    version="1.1.0",
    homepage="https://www.med-vqa.com/slake",
)
