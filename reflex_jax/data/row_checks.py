"""HOST: what makes a row unusable: no reward could score it, or no statement be made of it. One rule for every source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from reflex_jax.data.examples import ANSWER_TYPES, Example, RefusedRow
from reflex_jax.text.normalise import has_visible_character, normalise_answer


class RowChecks:
    """Passes on what can be asked and scored; of ids that occur twice the first row alone."""

    def __init__(self) -> None:
        """Begins with no id seen."""
        self._ids: set[str] = set()

    def fault(self, row: Example) -> str | None:
        """Why a row cannot be used, None where it can. Each row is to be shown once."""
        is_double = row.id in self._ids
        self._ids.add(row.id)
        texts = (row.id, row.question, row.answer, *row.accepted, *(row.options or ()), *row.paraphrases)
        if is_double:
            return "its id is used more than once"
        if not all(_is_encodable(text) for text in texts):
            return "text that is no UTF-8, or half of a surrogate pair"
        if not has_visible_character(row.question):
            return "no question"
        if not has_visible_character(row.answer):
            return "no answer"
        if not all(has_visible_character(text) for text in row.accepted):
            return "an accepted answer without a visible character"
        if row.answer_type not in ANSWER_TYPES:
            return f"answer type {row.answer_type!r}, expected {' or '.join(ANSWER_TYPES)}"
        return _fault_of_options(row.options) if row.options is not None else None


def refuse_unusable(rows: Iterable[Example | RefusedRow]) -> Iterator[Example | RefusedRow]:
    """The rows in their order, unusable ones as refused."""
    checks = RowChecks()
    for row in rows:
        fault = checks.fault(row) if isinstance(row, Example) else None
        if fault is not None:
            row = RefusedRow(id=row.id, reason=fault)
        if isinstance(row, RefusedRow):  # what it is called will be printed
            row = replace(row, id=_printable(row.id), detail=_printable(row.detail))
        yield row


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _fault_of_options(options: tuple[str, ...]) -> str | None:
    if len(options) < 2:
        return "fewer than two options"
    if not all(has_visible_character(option) for option in options):
        return "an option without a visible character"
    if len({normalise_answer(option) for option in options}) < len(options):
        return "two options that say the same"
    return None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
