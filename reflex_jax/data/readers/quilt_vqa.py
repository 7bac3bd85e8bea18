"""HOST: Quilt-VQA and Quilt-VQA-RED from their official files.

Seyfioglu et al.: "Quilt-LLaVA: Visual Instruction Tuning by Extracting Localized Narratives from Open-Source Histopathology
Videos", CVPR 2024. All of it is for testing: split "test", though the parquet file calls it train. The json file holds all
questions (1,283), the parquet file one for each picture (985): the json file is read where its pictures are there. What it
leaves out of a question is taken from the jsonl file of the same numbers. RED asks about pictures with a red ring ("red")
and about the same ones without it ("red_unmarked"). Where the files lie below the root does not matter.

Deviation: answers are sentences, those of closed questions too; there the answer is `yes_no_answer` or the word that the
sentence begins with, and the sentence is kept as the reasoning.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture, RowError
from reflex_jax.data.json_lines import lines_of_file, parse_object
from reflex_jax.data.layouts import (
    Layout,
    Rows,
    answer_type_by_rule,
    answer_type_of,
    lines_of,
    read_json_rows,
    read_rows,
    required,
    text_of,
)
from reflex_jax.data.parquet_rows import find_shards, parquet_rows, pictures_of
from reflex_jax.data.picture_files import NO_PICTURE, PictureFiles, path_of

_ANSWERS = {  # split -> base names of the files with answers, and of those with the questions as they are asked
    "test": ("quiltvqa_test_w_ans.json", "quiltvqa_test_wo_ans.jsonl"),
    "red": ("quiltvqa_red_test_w_ans.json", "quiltvqa_red_test_wo_ans.jsonl"),
    "red_unmarked": ("quiltvqa_red_test_w_ans.json", "quiltvqa_nored_test_wo_ans.jsonl"),
}
_RED = "red_circle"
_YES_OR_NO = re.compile(r"\W*(yes|no)\b(?!-)", re.IGNORECASE)


def _splits(root: Path) -> Sequence[str]:
    return [split for split in _ANSWERS if _is_there(root, split) or (split == "test" and _shards(root))]


def _read(root: Path, split: str) -> Rows:
    """The questions of "test", "red" or "red_unmarked"."""
    shards = _shards(root) if split == "test" else []
    if shards and not (_is_there(root, split) and _pictures_are_there(root)):
        files = PictureFiles(shards[0].parent)
        rows = enumerate(parquet_rows(shards, ("image", "question", "answer", "answer_type")))
        return read_rows(
            ((f"{split}-{n}", row) for n, row in rows), partial(_make, lambda c: pictures_of(c, files.find))
        )
    is_red = split == "red"
    find = partial(_find, _places(root, is_red=is_red), f"{_RED}/" if is_red else "")
    return read_rows(_json_rows(root, split), partial(_make, find))


def _find_files(root: Path, name: str) -> list[Path]:
    return sorted(path for path in root.rglob(name) if path.is_file())


def _is_there(root: Path, split: str) -> bool:
    answers, questions = _ANSWERS[split]
    return bool(_find_files(root, answers)) and (split != "red_unmarked" or bool(_find_files(root, questions)))


def _shards(root: Path) -> list[Path]:
    is_red = (root / _ANSWERS["red"][0]).is_file() and not (root / _ANSWERS["test"][0]).is_file()
    shards = ({} if is_red else find_shards(root)) or find_shards(root / "Quilt_VQA")
    return shards.get("train") or shards.get("test") or []


def _pictures_are_there(root: Path) -> bool:
    return bool(_find_files(root, "quilt_vqa*.zip")) or any(
        path.is_dir() for name in ("images", "quilt_vqa") for path in root.rglob(name)
    )


def _json_rows(root: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, row) of a json file, filled up from the jsonl file, whose questions are also those that count for it."""
    answers, questions = (_find_files(root, name) for name in _ANSWERS[split])
    asked = {str(row.get("question_id")): row for path in questions[:1] for row in _lines(path)}
    for row in read_json_rows(answers[0], ("id", "answer", "answer_type")):
        number = str(row["id"])
        if split == "red_unmarked" and number not in asked:
            continue
        bare = asked.get(number, {})
        filled = {"question": bare.get("text"), "image": bare.get("image")}
        own = {field: value for field, value in row.items() if value is not None or field not in filled}
        yield f"{split}-{number}", filled | own


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in lines_of_file(path):
        try:
            yield parse_object(line)
        except RowError as error:
            raise ConfigError(f"{path}: line {number}: {error}. Download the file again.") from error


def _places(root: Path, *, is_red: bool) -> list[tuple[PictureFiles, str]]:
    """Where pictures are looked for; marked and unmarked ones have the same names, and are never taken for each other."""
    places = []
    for path in _find_files(root, f"{_RED}*.zip" if is_red else "quilt_vqa*.zip"):
        files = PictureFiles(path, [path])  # below a file there is no folder: only the archive is looked into
        places += [(files, folder) for folder in files.archive_folders()]
    folders = [".", *(path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_dir())]
    unpacked = PictureFiles(root)
    places += [(unpacked, folder) for folder in folders if _is_red(folder) == is_red]
    return places


def _is_red(folder: str) -> bool:
    return any(part.startswith(_RED) for part in PurePosixPath(folder).parts)


def _find(places: Sequence[tuple[PictureFiles, str]], prefix: str, name: Any) -> tuple[Picture, ...]:
    """The picture of a name, or of its last part, in the first place that has it."""
    path = PurePosixPath(path_of(name))
    for files, folder in places:
        with contextlib.suppress(RowError):
            found = files.find_first([f"{folder}/{path}", f"{folder}/{path.name}"])
            return (replace(found, id=f"{prefix}{path}"),)
    raise RowError(f"{NO_PICTURE}: {str(path)[:120]!r} is missing")


def _make(find: Callable[[Any], tuple[Picture, ...]], name: str, row: dict[str, Any]) -> Example:
    sentence = required(text_of(row["answer"], "answer"), "answer")
    answer_type = answer_type_of(row["answer_type"]) or answer_type_by_rule(sentence)
    answer = _yes_or_no(row.get("yes_no_answer"), sentence) if answer_type == "closed" else sentence
    return Example(
        id=name,
        question=required(lines_of(row["question"], "question"), "question"),
        answer=answer,
        answer_type=answer_type,
        images=find(row["image"]),
        reasoning=None if answer == sentence else sentence,
    )


def _yes_or_no(value: Any, sentence: str) -> str:
    text = text_of(value, "yes_no_answer") or sentence
    found = _YES_OR_NO.match(text)
    if found is None:
        raise RowError(f"a closed question whose answer begins with neither yes nor no: {text[:80]!r}")
    return found[1].capitalize()


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=("**/*",),
    expects="quiltvqa_test_w_ans.json and quilt_vqa.zip, or data/train-*.parquet; of RED its json files and red_circle.zip",
    version="2.0.0",
    homepage="https://huggingface.co/datasets/wisdomik/Quilt_VQA",
)
