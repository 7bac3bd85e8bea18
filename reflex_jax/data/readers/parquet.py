"""HOST: a user's own data as parquet: `train.parquet` or `train-00000-of-00002.parquet`, ... with the fields of docs/own_data.md.

The files lie in the folder itself or in its `data`. Columns are the fields; a picture is a struct of bytes and path, as the
hub's files have it, plain bytes, or a path from the parquet file's own folder or the one that was named.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.layouts import Layout, Rows, read_rows
from reflex_jax.data.own_rows import (
    ARCHIVE,
    FIELDS,
    REQUIRED_FIELDS,
    order_splits,
    own_example,
    own_id,
    picture_finder,
    unknown_fields,
)
from reflex_jax.data.parquet_rows import find_shards, parquet_columns, parquet_rows


def _splits(root: Path) -> Sequence[str]:
    return order_splits(find_shards(root))


def _read(root: Path, split: str) -> Rows:
    """The rows of a split; a wrong one is refused by its id, or by its number."""
    paths = find_shards(root)[split]
    for path in paths:
        if unknown := unknown_fields(parquet_columns(path)):
            raise ConfigError(f"{path}: expected the columns {', '.join(FIELDS)}; got {unknown} Rename or drop it.")
    rows = parquet_rows(paths, REQUIRED_FIELDS, FIELDS)
    named = ((own_id(row) or f"row {number}", (number, row)) for number, row in enumerate(rows))
    return read_rows(named, partial(_make, split, picture_finder(root, paths[0].parent)))


def _make(split: str, find: Any, name: str, numbered: tuple[int, dict[str, Any]]) -> Example:
    number, row = numbered
    return own_example(row, f"{split}-{number}", find)


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=("*.parquet", "data/*.parquet", ARCHIVE, "**/*"),
    expects="a file for each split, such as train.parquet or train-00000-of-00002.parquet, in it or in its data",
    version="2.0.0",
    homepage="docs/own_data.md",
)
