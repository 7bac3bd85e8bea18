"""HOST: OmniMedVQA from its official files.

Hu, Li, Lu, Wu, Xu, Shen, Luo: "OmniMedVQA: A New Large-Scale Comprehensive Evaluation Benchmark for Medical LVLM", CVPR 2024.
No official split: "all", or one of its two parts, "open_access" and "restricted". Rows of the restricted part name files of
their source set, which are not shipped; they are refused unless somebody has put the file there. One file calls the modality
`modality`, all others `modality_type`; there are two to four options, and the answer is the text of one. Reported by modality
and by question type, which is the category.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example, RefusedRow, RowError
from reflex_jax.data.layouts import Layout, Rows, read_json_rows, read_rows, text_of, with_options
from reflex_jax.data.options import gold_option, option_texts
from reflex_jax.data.picture_files import PictureFiles, path_of

_PARTS = {"open_access": "Open-access", "restricted": "Restricted-access"}
_FOLDERS = ("OmniMedVQA/", "")  # the archive holds one folder: the root may be beside it or be it
_REQUIRED = ("question_id", "question_type", "question", "gt_answer", "image_path", "option_A")


def _annotations(root: Path, part: str) -> list[Path]:
    """The files of a part, one for each source set, by name."""
    found = [path for folder in _FOLDERS for path in root.glob(f"{folder}QA_information/{_PARTS[part]}/*.json")]
    return sorted(path for path in found if not path.name.startswith("."))


def _splits(root: Path) -> list[str]:
    parts = [part for part in _PARTS if _annotations(root, part)]
    return ["all", *parts] if parts else []


def _read(root: Path, split: str) -> Rows:
    pictures = PictureFiles(root, sorted(root.glob("OmniMedVQA*.zip")))
    for part in _PARTS if split == "all" else (split,):
        for path in _annotations(root, part):
            yield from read_rows(_read_set(path), partial(_make_example, pictures, part == "restricted"))


def _read_set(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(read_json_rows(path, _REQUIRED)):
        name = row["question_id"]
        yield (name if isinstance(name, str) and name.strip() else f"{path.stem}-{number}"), row


def _make_example(pictures: PictureFiles, is_restricted: bool, name: str, row: dict[str, Any]) -> Example | RefusedRow:
    options = option_texts({letter: row.get(f"option_{letter}") for letter in "ABCD"})
    answer = gold_option(options, text=text_of(row["gt_answer"], "gt_answer"))
    place = path_of(row["image_path"])
    try:
        picture = pictures.find_first(folder + place for folder in _FOLDERS)
    except RowError:
        if is_restricted:
            return RefusedRow(id=name, reason="picture of the restricted part, which is not shipped", is_official=True)
        raise
    return Example(
        id=text_of(name, "question_id"),
        question=with_options(text_of(row["question"], "question"), options),
        answer=answer,
        answer_type="closed",
        images=(picture,),
        options=options,
        modality=text_of(row.get("modality_type", row.get("modality")), "modality_type") or None,
        category=text_of(row["question_type"], "question_type") or None,
    )


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=(
        *(f"{folder}{inside}/**/*" for folder in _FOLDERS for inside in ("QA_information", "Images")),
        "OmniMedVQA*.zip",
    ),
    expects="OmniMedVQA/QA_information/{Open-access,Restricted-access}/*.json beside OmniMedVQA/Images",
    version="2.0.0",
    homepage="https://huggingface.co/datasets/foreverbeliever/OmniMedVQA",
)
