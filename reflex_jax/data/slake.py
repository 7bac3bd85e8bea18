"""HOST: TFDS builder of SLAKE (English questions) from its official files.

Liu, Zhan, Xu, Ma, Yang, Wu: "SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual
Question Answering", ISBI 2021. Official split: one file each (by picture). The official training file holds one
question without an answer; it is left out by its number, any other such question is refused.
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

ANNOTATIONS = {"train": "train.json", "validation": "validate.json", "test": "test.json"}
IMAGE_FOLDER = "imgs"
_REQUIRED_FIELDS = ("qid", "img_name", "question", "answer", "answer_type", "q_lang")
_UNANSWERED_IN_OFFICIAL_FILES = frozenset({"1622"})


def slake_files(root: Path) -> list[Path]:
    """The official files below the root; refuses by name what is missing."""
    require_files(root, (*ANNOTATIONS.values(), IMAGE_FOLDER), source="slake")
    pictures = (path for path in (root / IMAGE_FOLDER).glob("*/*") if path.is_file())
    return [*(root / name for name in ANNOTATIONS.values()), *pictures]


def read_slake(root: Path) -> dict[str, list[Example]]:
    """Reads, checks and normalises the official files: the English questions of each split, with pictures."""
    require_files(root, (*ANNOTATIONS.values(), IMAGE_FOLDER), source="slake")
    splits: dict[str, list[Example]] = {}
    paths: dict[str, Path] = {}
    for split, name in ANNOTATIONS.items():
        splits[split] = []
        for row in read_rows(root / name, _REQUIRED_FIELDS):
            number, answer = clean_text(row["qid"]), clean_text(row["answer"])
            if row["q_lang"] != "en" or (not answer and number in _UNANSWERED_IN_OFFICIAL_FILES):
                continue
            file = Path(str(row["img_name"]))
            image_id = file.parent.name if file.stem == "source" else file.as_posix()  # one folder, one picture
            paths[image_id] = root / IMAGE_FOLDER / file
            splits[split].append(
                Example(
                    id=f"slake-{number}",
                    question=clean_text(row["question"]),
                    answer=answer,
                    answer_type=clean_text(row["answer_type"]).lower(),
                    image_id=image_id,
                    image=None,
                    modality=clean_text(row.get("modality")) or None,
                    organ=clean_text(row.get("location")) or None,
                )
            )
    check_examples([example for examples in splits.values() for example in examples], source="slake")
    return normalise_images(splits, paths)


class Slake(tfds.core.GeneratorBasedBuilder):
    """SLAKE in English, one record per picture with its questions."""

    name = "slake"
    VERSION = tfds.core.Version("1.1.0")  # moves when pictures are decoded otherwise
    code_path = Path(__file__)  # TFDS would look it up through a package that it does not install
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Official files (https://www.med-vqa.com/slake): train.json, validate.json, test.json, imgs/."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=question_features(), homepage="https://www.med-vqa.com/slake"
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[Any, Any]]]:
        splits = read_slake(Path(dl_manager.manual_dir))
        return {split: self._generate_examples(examples) for split, examples in splits.items() if examples}

    def _generate_examples(self, examples: Any) -> Iterator[tuple[Any, Any]]:
        return question_records(examples)
