"""HOST: a user's own data as lines of JSON: `train.jsonl`, `test.jsonl`, ... with the fields of docs/own_data.md.

Any file name is a split. Pictures lie below the same folder or in its images.zip, or are in the rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reflex_jax.data.examples import Example, RowError
from reflex_jax.data.json_lines import lines_of_file, parse_object
from reflex_jax.data.layouts import Layout, Rows, read_rows
from reflex_jax.data.own_rows import ARCHIVE, order_splits, own_example, own_id, picture_finder


def _splits(root: Path) -> Sequence[str]:
    return order_splits(path.stem for path in root.glob("*.jsonl") if path.is_file())


def _read(root: Path, split: str) -> Rows:
    """The rows of a file; a wrong one is refused by its id, or by its line."""
    find = picture_finder(root, root)

    def rows() -> Iterator[tuple[str, tuple[int, Any]]]:
        for row_number, (line_number, line) in enumerate(lines_of_file(root / f"{split}.jsonl")):
            try:
                row: Any = parse_object(line)
            except RowError as error:
                row = error
            yield own_id(row) or f"line {line_number}", (row_number, row)

    def make(name: str, numbered: tuple[int, Any]) -> Example:
        row_number, row = numbered
        if isinstance(row, RowError):
            raise row
        return own_example(row, f"{split}-{row_number}", find)

    return read_rows(rows(), make)


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=("*.jsonl", ARCHIVE, "**/*"),
    expects="a file for each split, such as train.jsonl, with one question a line",
    version="2.0.0",
    homepage="docs/own_data.md",
)
