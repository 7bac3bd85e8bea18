"""HOST: which answers MediX-R1 takes for answers at all, before it compares any (its remedy against reward hacking)."""

from __future__ import annotations

from reflex_jax.text.completion import without_full_stops

_MARKS = ("__", ":", "?")


def is_valid_answer(answer: str | None) -> bool:
    """Whether an answer, full stops around it aside, has more than one character and holds none of `__`, `:` and `?`.

    A bare letter of a list of options is none by this rule.
    """
    text = without_full_stops(answer or "")
    return len(text) > 1 and not any(mark in text for mark in _MARKS)
