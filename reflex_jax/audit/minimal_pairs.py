"""Statements that differ from a true one in a single thing: the side, the level, the number, the negation."""

from __future__ import annotations

import re

from reflex_jax.statements.clauses import deny

_SIDES = {"left": "right", "right": "left", "left-sided": "right-sided", "right-sided": "left-sided"}
_LEVELS = {
    "upper": "lower", "lower": "upper", "superior": "inferior", "inferior": "superior", "top": "bottom", "bottom": "top",
}  # fmt: skip
_NUMBERS = {
    "0": "2", "1": "2", "2": "3", "3": "4", "4": "5", "5": "6", "one": "two", "two": "three", "three": "four",
    "single": "multiple", "multiple": "single", "solitary": "multiple",
}  # fmt: skip
_WORDS = re.compile(r"[a-z0-9-]+", re.IGNORECASE)


def other_side(statement: str) -> str | None:
    """Left for right and right for left; None where it names neither, or both."""
    return _swapped(statement, _SIDES)


def other_level(statement: str) -> str | None:
    """Upper for lower and lower for upper; None where it names neither, or both."""
    return _swapped(statement, _LEVELS)


def other_count(statement: str) -> str | None:
    """Another number of the same things; None where it counts nothing, or more than one thing."""
    return _swapped(statement, _NUMBERS)


def negated(statement: str) -> str:
    """The opposite."""
    return deny(statement)


def _swapped(statement: str, pairs: dict[str, str]) -> str | None:
    found = {word.lower() for word in _WORDS.findall(statement)} & pairs.keys()
    if len(found) != 1:
        return None
    (word,) = found
    return re.sub(rf"(?<![\w-]){word}(?![\w-])", pairs[word], statement, flags=re.IGNORECASE)
