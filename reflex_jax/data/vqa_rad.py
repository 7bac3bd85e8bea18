"""HOST: TFDS builder of VQA-RAD from its official files.

Lau, Gayen, Ben Abacha, Demner-Fushman: "A dataset of clinically generated visual questions and answers about
radiology images", Scientific Data 2018. Official split: rows whose `phrase_type` starts with `test_` are test, the
rest train; both splits show the same pictures, by design. Fields of the file come in odd forms (numbers and text as
ids and answers, "NULL" for nothing, stray spaces, fields left out); they are mended, and closed questions are not
always yes/no.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from reflex_jax.data.examples import Example, check_examples
from reflex_jax.data.question_sets import (
    clean_text,
    normalise_images,
    question_features,
    question_records,
    read_rows,
    require_files,
)

ANNOTATIONS = "VQA_RAD Dataset Public.json"
IMAGE_FOLDER = "VQA_RAD Image Folder"
_REQUIRED_FIELDS = ("qid", "phrase_type", "image_name", "question", "answer", "answer_type")


def vqa_rad_files(root: Path) -> list[Path]:
    """The official files below the root; refuses by name what is missing."""
    require_files(root, (ANNOTATIONS, IMAGE_FOLDER), source="vqa_rad")
    return [root / ANNOTATIONS, *(path for path in (root / IMAGE_FOLDER).iterdir() if path.is_file())]


def read_vqa_rad(root: Path) -> dict[str, list[Example]]:
    """Reads, checks and normalises the official files: the questions of "train" and "test", with pictures."""
    require_files(root, (ANNOTATIONS, IMAGE_FOLDER), source="vqa_rad")
    splits: dict[str, list[Example]] = {"train": [], "test": []}
    for row in read_rows(root / ANNOTATIONS, _REQUIRED_FIELDS):
        split = "test" if clean_text(row["phrase_type"]).startswith("test_") else "train"
        paraphrase = clean_text(row.get("question_rephrase"))
        splits[split].append(
            Example(
                id=f"vqa_rad-{clean_text(row['qid'])}",
                question=clean_text(row["question"]),
                answer=clean_text(row["answer"]),
                answer_type=clean_text(row["answer_type"]).lower(),
                image_id=clean_text(row["image_name"]),
                image=None,
                organ=clean_text(row.get("image_organ")) or None,
                paraphrases=(paraphrase,) if paraphrase else (),
            )
        )
    check_examples([*splits["train"], *splits["test"]], source="vqa_rad")
    paths = {e.image_id: root / IMAGE_FOLDER / e.image_id for examples in splits.values() for e in examples}
    return normalise_images(splits, paths)


class VqaRad(tfds.core.GeneratorBasedBuilder):
    """VQA-RAD, one record per picture with its questions."""

    name = "vqa_rad"
    VERSION = tfds.core.Version("1.1.0")  # moves when pictures are decoded otherwise
    code_path = Path(__file__)  # TFDS would look it up through a package that it does not install
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Official files (https://osf.io/89kps): {ANNOTATIONS!r} and the folder {IMAGE_FOLDER!r}."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=question_features(), homepage="https://osf.io/89kps")

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[Any, Any]]]:
        splits = read_vqa_rad(Path(dl_manager.manual_dir))
        return {split: self._generate_examples(examples) for split, examples in splits.items() if examples}

    def _generate_examples(self, examples: Any) -> Iterator[tuple[Any, Any]]:
        return question_records(examples)
