"""HOST: one row of a user's own data, from a line of JSON or a row of parquet, as a question (docs/own_data.md)."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reflex_jax.config import nearest_name
from reflex_jax.data.examples import Example, Picture, RowError
from reflex_jax.data.layouts import (
    answer_type_by_rule,
    answer_type_of,
    lines_of,
    required,
    text_of,
    with_options,
)
from reflex_jax.data.options import gold_option, lists_options, option_texts, unmistakable
from reflex_jax.data.parquet_rows import pictures_of
from reflex_jax.data.picture_files import NO_PICTURE, PictureFiles

REQUIRED_FIELDS = ("question", "answer")
FIELDS = (
    *REQUIRED_FIELDS, "image", "images", "id", "answer_type", "options", "modality", "organ", "category", "paraphrases",
    "reasoning", "target", "language",
)  # fmt: skip
ARCHIVE = "images.zip"
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_FIRST_SPLITS = ("train", "validation", "dev", "test")

Finder = Callable[[str], Picture]


def order_splits(names: Iterable[str]) -> list[str]:
    """Names of splits, the usual ones first."""
    known = {name: place for place, name in enumerate(_FIRST_SPLITS)}
    return sorted(names, key=lambda name: (known.get(name, len(known)), name))


def unknown_fields(names: Iterable[str]) -> str:
    """What is wrong with names that no field has, with the nearest that there is; "" where nothing is.

    Names that begin with "_" are the user's own.
    """
    unknown = [name for name in names if name not in FIELDS and not name.startswith("_")]
    return "; ".join(f"{name[:40]!r}.{nearest_name(name, FIELDS)}" for name in unknown)


def picture_finder(root: Path, folder: Path) -> Finder:
    """Finds pictures by their paths from a folder or from the root above it, or in an images.zip of either.

    Members of the archive may leave "images/" out.
    """
    files = PictureFiles(root, [folder / ARCHIVE, root / ARCHIVE])
    start = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    return lambda path: files.find_first([start + path, path, path.removeprefix("images/")])


def own_id(row: Any) -> str:
    """The id that a row has, "" where it has none."""
    value = row.get("id") if isinstance(row, Mapping) else None
    return text_of(value, "id") if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def own_example(row: Mapping[str, Any], default_id: str, find: Finder) -> Example:
    """The question of a row.

    Args:
      row: field -> value; a field that is None is as good as left out.
      default_id: of a row that has none.
      find: the picture of a path.

    Raises:
      RowError: what is wrong with it.
    """
    row = {field: None if isinstance(value, float) and math.isnan(value) else value for field, value in row.items()}
    if unknown := unknown_fields(row):
        raise RowError(f"an unknown field: {unknown}")
    text_of(row.get("id"), "id")  # an id of another kind is not passed over
    question = required(lines_of(row.get("question"), "question"), "question")
    options = _options(row.get("options"))
    answers = [required(text, "answer") for text in _texts(row.get("answer"), "answer")] or [required("", "answer")]
    if options:
        answers = [unmistakable(options, gold_option(options, text=answer)) for answer in answers]
        question = question if lists_options(question, options) else with_options(question, options)
    answer, *others = dict.fromkeys(answers)
    return Example(
        id=own_id(row) or default_id,
        question=question,
        answer=answer,
        answer_type=answer_type_of(row.get("answer_type")) or answer_type_by_rule(answer, options),
        images=tuple(_pictures(row, find)),
        accepted=tuple(others),
        options=options,
        modality=text_of(row.get("modality"), "modality") or None,
        organ=text_of(row.get("organ"), "organ") or None,
        category=text_of(row.get("category"), "category") or None,
        language=_language(row.get("language")),
        paraphrases=tuple(text for text in _texts(row.get("paraphrases"), "paraphrases") if text),
        reasoning=_verbatim(row.get("reasoning"), "reasoning"),
        target=_verbatim(row.get("target"), "target"),
    )


def _texts(value: Any, field: str) -> list[str]:
    """A text, or a list of them."""
    return [text_of(text, field) for text in (value if isinstance(value, list) else [value])]


def _options(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    options = option_texts(value)
    if len(options) < 2:
        raise RowError("fewer than two options")
    return options


def _language(value: Any) -> str:
    language = text_of(value, "language").lower() or "en"
    if not _LANGUAGE.fullmatch(language):
        raise RowError(f"a language that is none: expected a code of ISO 639, such as en; got {language[:40]!r}")
    return language


def _verbatim(value: Any, field: str) -> str | None:
    """A longer text as it is: its line breaks and blanks are part of it."""
    text = text_of(value, field)
    return str(value) if text else None


def _pictures(row: Mapping[str, Any], find: Finder) -> Iterator[Picture]:
    one, several = row.get("image"), row.get("images")
    if one is not None and several is not None:
        raise RowError("both image and images: give one of them")
    cells = one if several is None else several
    for cell in cells if isinstance(cells, list) else [] if cells is None else [cells]:
        yield from pictures_of(_decoded(cell), find)


def _decoded(cell: Any) -> Any:
    """A picture cell, whose bytes are base64 where JSON holds it."""
    if isinstance(cell, dict) and (unknown := set(cell) - {"bytes", "path"}):
        raise RowError(
            f"{NO_PICTURE}: expected bytes or path inside it; got {', '.join(sorted(map(str, unknown)))[:80]}"
        )
    if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), str):
        return cell
    try:
        return {**cell, "bytes": base64.b64decode("".join(cell["bytes"].split()), validate=True)}
    except (binascii.Error, ValueError) as error:
        raise RowError(f"{NO_PICTURE}: its bytes are not base64") from error
