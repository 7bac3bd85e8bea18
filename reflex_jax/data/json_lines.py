"""HOST: files of one JSON object a line, read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import RowError
from reflex_jax.data.picture_faults import one_line


def lines_of_file(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank; the first has number 1.

    Raises:
      ConfigError: missing, UTF-16, or one JSON list instead of lines. A line that is no UTF-8 holds halves of surrogate
        pairs, for which its row is refused alone.
    """
    is_first = True
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if is_first and line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                    raise ConfigError(f"{path}: expected UTF-8 text; it is UTF-16. Save it as UTF-8.")
                if not line.strip():
                    continue
                if is_first and line.lstrip().startswith("["):
                    raise ConfigError(
                        f"{path}: expected one JSON object a line; got a JSON list. Write each on its own line."
                    )
                is_first = False
                yield number, line
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error


def parse_object(line: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
      RowError: no JSON, or no object.
    """
    try:
        row = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RowError(f"no JSON object: {one_line(error)[:80]}") from error
    if not isinstance(row, dict):
        raise RowError(f"no JSON object: {one_line(line)[:80]}")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands in it twice")
    return found
