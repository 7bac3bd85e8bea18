"""HOST: how the official files of a data set lie on disk, and what every reader of them needs.

A reader turns official files into rows and does nothing else. What all sets have in common is done by `question_sets`: it
names what is missing, decodes the pictures, checks the questions, names them after their set and keeps what is prepared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.medical_images import read_file


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question as the official files give it, and where its picture lies."""

    question: Example  # without a picture; its id is the official one, before which the builder writes the set's name
    picture: Path  # any file that `medical_images` reads; rows of one image_id share one


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The official files of a data set and their reader."""

    files: tuple[str, ...]  # patterns below the root of all that a row may come from, e.g. "train.json", "imgs/*/*"
    read: Callable[[Path], Mapping[str, Sequence[Row]]]  # root -> the rows of each split, in the official order
    version: str  # moves when the same files give other rows, or pictures are decoded otherwise: all is prepared anew
    homepage: str  # where the official files come from


def clean_text(value: Any) -> str:
    """A field of an official file as text: stray spaces removed, "NULL" and nothing at all empty."""
    text = "" if value is None else " ".join(str(value).split())
    return "" if text == "NULL" else text


def read_json_rows(path: Path, required: Sequence[str]) -> list[dict[str, Any]]:
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
