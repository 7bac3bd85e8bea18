"""HOST: how the official files of a data set lie on disk, and what every reader of them needs.

A reader turns official files into rows, one at a time, and does nothing else. What all sets have in common is done by
`question_sets`: it names what is missing, decodes and keeps the pictures, checks the questions, names them after their
source and lists what was refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import ANSWER_TYPES, Example, RefusedRow, RowError, list_offenders
from reflex_jax.data.medical_images import read_file
from reflex_jax.text.normalise import normalise_answer

Rows = Iterator[Example | RefusedRow]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The official files of a data set and their reader.

    `read` gives the rows of one split in the official order, pictures unopened and ids as the set has them (unique over its
    splits where it can: the source's label is written before them). A row that cannot be used is given as `RefusedRow`.
    """

    splits: Callable[[Path], Sequence[str]]  # root -> the splits whose files are there
    read: Callable[[Path, str], Rows]  # (root, split) -> its rows
    # patterns below the root of all that a row may come from, e.g. "train.json", "imgs/**/*": other files, prepared anew
    files: tuple[str, ...]
    expects: str  # what lies below the root, for the line that says nothing does
    version: str  # moves when the same files give other rows, or pictures are decoded otherwise: all is prepared anew
    homepage: str  # where the official files come from


def read_rows(rows: Iterable[tuple[str, Any]], make: Callable[[str, Any], Example | RefusedRow | None]) -> Rows:
    """What `make(name, row)` makes of each (name, row); where it raises `RowError`, a refused row of that name.

    None leaves a row out that belongs to another split.
    """
    for name, row in rows:
        try:
            made = make(name, row)
        except RowError as error:
            reason, _, detail = str(error).partition(": ")
            made = RefusedRow(id=name, reason=reason, detail=detail)
        if made is not None:
            yield made


def text_of(value: Any, field: str) -> str:
    """A field of an official file as text, stray spaces removed; "NULL", NaN and nothing at all are empty.

    Raises:
      RowError: a list, a mapping or a truth value, where text or a number is meant.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        raise RowError(f"{field}: expected text or a finite number; got {value}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        advice = " (write yes or no)" if isinstance(value, bool) else ""
        raise RowError(f"{field}: expected text; got {type(value).__name__} {str(value)[:40]}{advice}")
    text = " ".join(str(value).split())
    return "" if text == "NULL" else text


def lines_of(value: Any, field: str) -> str:
    """As `text_of`, for texts whose lines mean something: questions that list their options one a line."""
    text = text_of(value, field)
    if not text or not isinstance(value, str):
        return text
    return "\n".join(" ".join(line.split()) for line in value.strip().splitlines())


def required(text: str, field: str) -> str:
    """The text.

    Raises:
      RowError: it is empty.
    """
    if not text:
        raise RowError(f"no {field}")
    return text


def answer_type_of(value: Any) -> str | None:
    """A field that says CLOSED or OPEN, in any case; None where it says nothing.

    Raises:
      RowError: it says something else.
    """
    answer_type = text_of(value, "answer_type").lower()
    if answer_type not in ("", *ANSWER_TYPES):
        raise RowError(f"an answer_type that is neither closed nor open: {answer_type[:40]!r}")
    return answer_type or None


def name_rows(rows: Iterable[Any], field: str, otherwise: str) -> Iterator[tuple[str, Any]]:
    """(name, row) for `read_rows`: the text or number in `field`; where there is none, "OTHERWISE-0" by the row's number."""
    for number, row in enumerate(rows):
        name = row.get(field)
        is_name = isinstance(name, (str, int)) and not isinstance(name, bool)
        yield (text_of(name, field) if is_name else "") or f"{otherwise}-{number}", row


def answer_type_by_rule(answer: str, options: Sequence[str] | None = None) -> str:
    """The answer type of a question whose set does not say: closed with options or where the answer is yes or no."""
    return "closed" if options or normalise_answer(answer) in {"yes", "no"} else "open"


def with_options(question: str, options: Sequence[str]) -> str:
    """The question with its lettered options behind it, one a line, as the policy is asked."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip("ABCDEFGHIJ", options, strict=False))])


def strip_letter(text: str, letter: str) -> str:
    """An option without the letter it begins with, where it is its own: " A:Left " -> "Left"."""
    text = " ".join(text.split())
    for mark in (":", ".", ")"):
        if text.startswith(letter + mark):
            return text[2:].strip()
    return text.removeprefix(f"({letter})").strip()


def read_json_rows(path: Path, required: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of an official JSON file.

    Raises:
      ConfigError: not a JSON list of objects, or rows lack required fields.
    """
    try:
        rows = json.loads(read_file(path).decode("utf-8-sig"))
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a JSON list of questions; it cannot be read ({error}).") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path}: expected a JSON list of questions; got another layout.")
    lacking = [
        f"row {i} ({', '.join(sorted(missing))})" for i, row in enumerate(rows) if (missing := set(required) - set(row))
    ]
    if lacking:
        raise ConfigError(f"{path}: rows without a required field: {list_offenders(lacking)}.")
    return rows


def present(root: Path, files: Mapping[str, str]) -> list[str]:
    """The splits of `split -> pattern below the root` for which there is a file."""
    return [split for split, pattern in files.items() if any(root.glob(pattern))]
