"""HOST: VQA-RAD from its official files.

Lau, Gayen, Ben Abacha, Demner-Fushman: "A dataset of clinically generated visual questions and answers about
radiology images", Scientific Data 2018. Official split: rows whose `phrase_type` starts with `test_` are test, the
rest train; both splits show the same pictures, by design. Fields of the file come in odd forms (numbers and text as
ids and answers, "NULL" for nothing, stray spaces, fields left out); they are mended, and closed questions are not
always yes/no.
"""

from __future__ import annotations

from pathlib import Path

from reflex_jax.data.examples import Example
from reflex_jax.data.layouts import Layout, Row, clean_text, read_json_rows

_ANNOTATIONS = "VQA_RAD Dataset Public.json"
_IMAGE_FOLDER = "VQA_RAD Image Folder"
_REQUIRED_FIELDS = ("qid", "phrase_type", "image_name", "question", "answer", "answer_type")


def read_vqa_rad(root: Path) -> dict[str, list[Row]]:
    """The questions of "train" and "test"."""
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for row in read_json_rows(root / _ANNOTATIONS, _REQUIRED_FIELDS):
        split = "test" if clean_text(row["phrase_type"]).startswith("test_") else "train"
        paraphrase = clean_text(row.get("question_rephrase"))
        question = Example(
            id=clean_text(row["qid"]),
            question=clean_text(row["question"]),
            answer=clean_text(row["answer"]),
            answer_type=clean_text(row["answer_type"]).lower(),
            image_id=clean_text(row["image_name"]),
            image=None,
            organ=clean_text(row.get("image_organ")) or None,
            paraphrases=(paraphrase,) if paraphrase else (),
        )
        splits[split].append(Row(question=question, picture=root / _IMAGE_FOLDER / question.image_id))
    return splits


LAYOUT = Layout(
    files=(_ANNOTATIONS, f"{_IMAGE_FOLDER}/*"),
    read=read_vqa_rad,
    version="1.1.0",
    homepage="https://osf.io/89kps",
)
