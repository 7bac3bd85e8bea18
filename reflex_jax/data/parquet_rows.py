"""HOST: rows of parquet files, a few at a time, and the pictures in their cells.

Files are read by their columns and never through the feature schema that hub files carry: newer ones name types that older
readers refuse. A picture cell is a struct of bytes and path, plain bytes, or a path; a list of them is several pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from reflex_jax.config import ConfigError, nearest_name
from reflex_jax.data.examples import Example, Picture, RowError, list_offenders
from reflex_jax.data.layouts import Rows, answer_type_by_rule, read_rows, required, text_of
from reflex_jax.data.picture_faults import one_line
from reflex_jax.data.picture_files import NO_PICTURE, PictureFiles

_ROWS_AT_ONCE = 16  # pictures of so many rows are in memory at a time
_READ_AT_ONCE = 1 << 20  # bytes of a column; without it a whole row group is read, which may hold thousands of pictures
# "train.parquet", "train-00000-of-00002.parquet", "train-00000-of-00002-eb8844602202be60.parquet", "train-3.parquet"
_SHARD = re.compile(r"(?P<split>.+?)(?:-(?P<index>\d+)(?:-of-(?P<total>\d+)(?:-[0-9a-f]+)?)?)?\.parquet")


def find_shards(root: Path) -> dict[str, list[Path]]:
    """Split -> its parquet files in order, of those in `root/data`, or of those in the root where there are none.

    Raises:
      ConfigError: shards of a split are missing, or are there twice.
    """
    paths = sorted(root.glob("data/*.parquet")) or sorted(root.glob("*.parquet"))
    found: dict[str, list[tuple[int, int, Path]]] = {}
    for path in paths:
        if path.is_file() and (parts := _SHARD.fullmatch(path.name)):
            place = (int(parts["index"] or 0), int(parts["total"] or 0), path)
            found.setdefault(parts["split"], []).append(place)
    for split, shards in found.items():
        _check_complete(split, sorted(shards))
    return {split: [path for *_, path in sorted(shards)] for split, shards in found.items()}


def _check_complete(split: str, shards: Sequence[tuple[int, int, Path]]) -> None:
    indices, totals = [index for index, _, _ in shards], {total for _, total, _ in shards}
    if len(set(indices)) < len(indices) or len(totals) > 1:
        names = list_offenders([path.name for *_, path in shards])
        raise ConfigError(
            f"{shards[0][2].parent}: expected one set of files of split {split}; got {names}. Remove others."
        )
    if missing := sorted(set(range(max(totals))) - set(indices)):
        numbers = list_offenders([str(index) for index in missing])
        raise ConfigError(
            f"{shards[0][2].parent}: split {split} has {max(totals)} parquet files; missing: those numbered {numbers}. "
            "Download them."
        )


def parquet_columns(path: Path) -> list[str]:
    """The names of a file's columns.

    Raises:
      ConfigError: no parquet file, or a damaged one.
    """
    with _open(path) as file:
        return list(file.schema_arrow.names)


def parquet_rows(
    paths: Sequence[Path], columns: Collection[str], optional: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of files, one after the other, as {column: value}; optional columns that a file lacks are left out.

    Raises:
      ConfigError: no parquet file, a damaged one, or one that lacks a column; the line names it.
    """
    for path in paths:
        with _open(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, names, columns, optional)
            wanted = [name for name in names if name in columns or name in optional]
            try:
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
                    yield from batch.to_pylist()
            except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
                raise _unreadable(path, error) from error


def read_triples(paths: Sequence[Path], split: str) -> Rows:
    """The rows of files that hold a picture, a question, an answer and nothing else; their answer type is by rule."""

    def make(name: str, row: dict[str, Any]) -> Example:
        answer = required(text_of(row["answer"], "answer"), "answer")
        return Example(
            id=name,
            question=required(text_of(row["question"], "question"), "question"),
            answer=answer,
            answer_type=answer_type_by_rule(answer),
            images=pictures_of(row["image"], files.find),
        )

    files = PictureFiles(paths[0].parent)
    rows = parquet_rows(paths, ("image", "question", "answer"))
    return read_rows(((f"{split}-{number}", row) for number, row in enumerate(rows)), make)


def pictures_of(cell: Any, find: Callable[[str], Picture]) -> tuple[Picture, ...]:
    """The pictures of a cell: one, or those of a list in order.

    Args:
      cell: as the columns hold it; nothing at all is no picture.
      find: the picture of a path, for cells without bytes; raises RowError.

    Raises:
      RowError: there is none, an element of a list is empty, or a path leads nowhere.
    """
    cells = cell if isinstance(cell, list) else [cell]
    if not cells:
        raise RowError(NO_PICTURE)
    return tuple(_picture_of(one, find) for one in cells)


def picture_of_bytes(data: bytes) -> Picture:
    """A picture that was given as bytes: equal bytes are the same picture."""
    return Picture(id=hashlib.sha256(data).hexdigest()[:16], data=data)


def _picture_of(cell: Any, find: Callable[[str], Picture]) -> Picture:
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    if isinstance(data, bytes) and data:
        return picture_of_bytes(data)
    if isinstance(path, str) and path:
        return find(path)
    if cell is None or isinstance(cell, (dict, str, bytes)):
        raise RowError(NO_PICTURE)
    raise RowError(f"{NO_PICTURE}: expected a path or bytes; got {type(cell).__name__}")


def _check_columns(path: Path, names: Sequence[str], columns: Collection[str], optional: Collection[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        others = sorted(set(names) - {*columns, *optional})
        near = "".join(nearest_name(name, others) for name in missing)
        raise ConfigError(
            f"{path}: expected the columns {', '.join(columns)}; missing: {', '.join(missing)}; "
            f"got {one_line(list_offenders(names))}.{near}"
        )


def _open(path: Path) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(path, buffer_size=_READ_AT_ONCE, pre_buffer=False)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be read as parquet ({one_line(error)[:200]}). Download it again; where it was cloned, "
        "`git lfs pull` gets the file itself."
    )
