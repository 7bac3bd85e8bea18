"""HOST: the evaluation data of HuatuoGPT-Vision, which bundles the tests of other sets.

Chen, Gui, Ouyang, Gao, Chen, ...: "HuatuoGPT-Vision, Towards Injecting Medical Visual Knowledge into Multimodal LLMs at
Scale", EMNLP 2024. One official split, "test": questions of VQA-RAD, SLAKE, PathVQA, PMC-VQA, OmniMedVQA and MMMU with options
and the text of the right one. The modality is the set's `subset`, the category its `dataset`. The file's name is misspelt.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example
from reflex_jax.data.layouts import (
    Layout,
    Rows,
    answer_type_by_rule,
    lines_of,
    present,
    read_json_rows,
    read_rows,
    text_of,
    with_options,
)
from reflex_jax.data.options import gold_option, lists_options, option_texts
from reflex_jax.data.picture_files import PictureFiles, path_of

_FILES = {"test": "medical_multimodel_evaluation_data.json"}


def read_bundle(path: Path, pictures: PictureFiles, folders: tuple[str, ...], split: str) -> Rows:
    """The rows of an annotation file.

    Args:
      path: of the file.
      pictures: of its rows.
      folders: that the pictures' paths may start from, each ending in "/".
      split: that ids begin with.
    """
    rows = read_json_rows(path, ("image", "question", "answer"))
    return read_rows(_name(rows, split), partial(_make_example, pictures, folders))


def _name(rows: list[dict[str, Any]], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{split}-{number}", row) for number, row in enumerate(rows))


def _make_example(pictures: PictureFiles, folders: tuple[str, ...], name: str, row: dict[str, Any]) -> Example:
    options = option_texts(row.get("options"))
    question, answer = lines_of(row["question"], "question"), text_of(row["answer"], "answer")
    if options:
        answer = gold_option(options, letter=text_of(row.get("solution"), "solution"), text=answer)
    paths = row["image"] if isinstance(row["image"], list) and row["image"] else [row["image"]]
    return Example(
        id=name,
        question=with_options(question, options) if options and not lists_options(question, options) else question,
        answer=answer,
        answer_type=answer_type_by_rule(answer, options),
        images=tuple(pictures.find_first(folder + path_of(path) for folder in folders) for path in paths),
        options=options or None,
        modality=text_of(row.get("subset"), "subset") or None,
        category=text_of(row.get("dataset"), "dataset") or None,
    )


def _read(root: Path, split: str) -> Rows:
    return read_bundle(root / _FILES[split], PictureFiles(root, [root / "images.zip"]), ("", "images/"), split)


LAYOUT = Layout(
    splits=partial(present, files=_FILES),
    read=_read,
    files=(*_FILES.values(), "images.zip", "images/**/*"),
    expects="medical_multimodel_evaluation_data.json beside images.zip",
    version="2.0.0",
    homepage="https://huggingface.co/datasets/FreedomIntelligence/Medical_Multimodal_Evaluation_Data",
)
