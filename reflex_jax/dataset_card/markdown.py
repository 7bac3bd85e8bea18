"""Markdown that can be read in a terminal too: sections, and tables whose columns stand below each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_LONGEST_CELL = 2000  # characters of a cell that are shown
_WIDEST_CELL = 60  # characters that are lined up


def section(title: str, text: str) -> str:
    """A heading and what stands below it."""
    return f"## {title}\n\n{text}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]} ..."


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of Markdown whose columns stand below each other in a terminal too."""
    cells = [[_short(" ".join(str(cell).replace("|", "\\|").split())) for cell in row] for row in (columns, *rows)]
    widths = [min(_WIDEST_CELL, max(len(row[k]) for row in cells)) for k in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
