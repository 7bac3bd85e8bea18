"""HOST: which answers MediX-R1 takes for answers at all, before it compares any (its remedy against reward hacking)."""

from __future__ import annotations

_MARKS = ("__", ":", "?")


def is_valid_answer(answer: str | None) -> bool:
    """Whether an answer has more than one character and holds none of `__`, `:` and `?`.

    A bare letter of a list of options is none by this rule.
    """
    return answer is not None and len(answer) > 1 and not any(mark in answer for mark in _MARKS)
