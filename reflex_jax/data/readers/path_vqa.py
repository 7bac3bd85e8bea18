"""HOST: PathVQA from the parquet files on the hub, or as its authors packed it.

He, Zhang, Mou, Xing, Xie: "PathVQA: 30000+ Questions for Medical Visual Question Answering", arXiv 2003.10286. Official
split: train, validation, test. The parquet files (flaviagiammarino/path-vqa) are in lower case, without the doubled rows,
and without an answer type: it is by rule, which is the authors' own yes/no. One picture and question may have several
answers, each a row. Some pictures are CMYK.

The authors' `pvqa/` holds pickles, here read with every class refused: they are lists and mappings of plain values. The
questions are those of `qas/SPLIT_vqa.pkl` with their numbers; one whose answer is not among its labels has it from
`qas/SPLIT/SPLIT_qa.pkl`, and where only that file is there, rows are numbered. Where parquet files are too, they are read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, RowError
from reflex_jax.data.layouts import Layout, Rows, answer_type_by_rule, name_rows, read_rows, required, text_of
from reflex_jax.data.medical_images import read_file
from reflex_jax.data.parquet_rows import find_shards, read_triples
from reflex_jax.data.picture_faults import one_line
from reflex_jax.data.picture_files import PictureFiles, path_of

_NAMES = {"train": "train", "validation": "val", "test": "test"}  # split -> how the authors call it
_WHAT_DAMAGED_PICKLES_RAISE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
)  # fmt: skip


def _splits(root: Path) -> Sequence[str]:
    shards = find_shards(root)
    return [split for split in _NAMES if split in shards] or [split for split in _NAMES if any(_pickles(root, split))]


def _read(root: Path, split: str) -> Rows:
    """The questions of "train", "validation" or "test"."""
    shards = find_shards(root)
    return read_triples(shards[split], split) if split in shards else _read_pickles(root, split)


def _folder(root: Path) -> Path:
    return root / "pvqa" if (root / "pvqa").is_dir() else root


def _pickles(root: Path, split: str) -> tuple[Path | None, Path | None]:
    """The files of numbered questions and of bare ones, as far as they are there."""
    folder, name = _folder(root) / "qas", _NAMES[split]
    numbered, bare = folder / f"{name}_vqa.pkl", folder / name / f"{name}_qa.pkl"
    return numbered if numbered.is_file() else None, bare if bare.is_file() else None


def _read_pickles(root: Path, split: str) -> Rows:
    numbered, bare = _pickles(root, split)
    bare_rows = _load(bare, ("image", "question", "answer")) if bare else []
    answers = {(str(row["image"]), str(row["question"])): row["answer"] for row in bare_rows}
    files = PictureFiles(_folder(root), sorted(_folder(root).glob("images*.zip")))

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        if numbered is None:
            yield from ((f"{split}-{number}", row) for number, row in enumerate(bare_rows))
            return
        for name, row in name_rows(_load(numbered, ("question_id", "img_id", "sent", "label")), "question_id", split):
            image, question = row["img_id"], row["sent"]
            label = row["label"] or answers.get((str(image), str(question)))
            yield name, {**row, "image": image, "question": question, "answer": label}

    return read_rows(rows(), lambda name, row: _example(name, row, _NAMES[split], files))


def _example(name: str, row: dict[str, Any], folder: str, files: PictureFiles) -> Example:
    answer, *others = (required(text_of(text, "answer"), "answer") for text in _ranked(row["answer"]))
    image = path_of(row["image"])
    return Example(
        id=name,
        question=required(text_of(row["question"], "question"), "question"),
        answer=answer,
        answer_type=answer_type_by_rule(answer),
        images=(files.find_inside("images", f"{folder}/{image.removesuffix('.jpg')}.jpg"),),
        accepted=tuple(others),
        category=text_of(row.get("question_type"), "question_type") or None,
    )


def _ranked(label: Any) -> list[Any]:
    """The answers of a label {answer: score}, the best first; a bare answer alone."""
    if not isinstance(label, dict):
        return [label]
    if not all(isinstance(score, (int, float)) for score in label.values()):
        raise RowError("a label in another form: expected {answer: score}")
    return sorted(label, key=label.__getitem__, reverse=True)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, mappings, texts and numbers; a pickle that names any class or function would run code."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not read")


def _load(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a pickle.

    Raises:
      ConfigError: damaged, or no list of mappings with these fields.
    """
    try:
        rows = _PlainUnpickler(io.BytesIO(read_file(path)), encoding="utf-8").load()
    except ConfigError:
        raise
    except _WHAT_DAMAGED_PICKLES_RAISE as error:
        raise ConfigError(
            f"{path}: expected a pickle of plain lists; it cannot be read ({one_line(error)[:200]})."
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(fields) <= row.keys() for row in rows):
        raise ConfigError(f"{path}: expected a list of questions with {', '.join(fields)}; got another layout.")
    return rows


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=(
        "data/*.parquet", "*.parquet", "pvqa/qas/**/*.pkl", "pvqa/images/**/*", "pvqa/images*.zip",
        "qas/**/*.pkl", "images/**/*", "images*.zip",
    ),
    expects="data/{train,validation,test}-*.parquet (hub), or pvqa with qas and images (the authors' archive)",
    version="2.0.0",
    homepage="https://github.com/UCSD-AI4H/PathVQA",
)  # fmt: skip
