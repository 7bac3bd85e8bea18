"""What a language model replied when it was asked for a verdict: read strictly, or not at all."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_END_OF_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)
_LONGEST = 65536  # characters


class NoVerdict(ValueError):
    """The reply is not what was asked for."""


def without_thinking(text: str) -> str:
    """What stands behind the last `</think>` or `</thinking>`, stripped; all of it where there is none."""
    end = 0
    for found in _END_OF_THOUGHT.finditer(text):
        end = found.end()
    return text[end:].strip()


def read_yes_no(reply: str) -> bool:
    """True for YES, False for NO; in any case, with a full stop, quotes or stars around the one word, and nothing else.

    Raises:
      NoVerdict: anything else, "YES, because ..." and "YES or NO" among it.
    """
    word = without_thinking(reply).strip(" \t\n.\"'*`").upper()
    if word not in ("YES", "NO"):
        raise NoVerdict("expected YES or NO alone")
    return word == "YES"


def read_object(reply: str) -> dict[str, Any]:
    """The one JSON object that a reply is, in a code fence or without; a name that comes twice has no value.

    Raises:
      NoVerdict: it is anything else.
    """
    text = without_thinking(reply)
    fenced = _FENCE.fullmatch(text)
    try:
        if len(text) > _LONGEST:
            raise ValueError
        found = json.loads(fenced.group(1) if fenced else text, object_pairs_hook=_as_object)
    except (ValueError, RecursionError) as error:
        raise NoVerdict("expected one JSON object alone") from error
    if not isinstance(found, dict):
        raise NoVerdict("expected one JSON object alone")
    return found


def read_number(verdict: dict[str, Any], name: str, most: float, *, is_whole: bool = False) -> float:
    """A number of a verdict, from 0 to `most`; a text that is one ("1") counts, true and false do not.

    Raises:
      NoVerdict: there is none, or it is out of range.
    """
    value = verdict.get(name)
    try:
        number = float("nan" if isinstance(value, bool) or value is None else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= most or is_whole and not number.is_integer():
        raise NoVerdict(f"expected {name}: a number from 0 to {most:g}")
    return number


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found
