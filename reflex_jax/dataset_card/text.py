"""HOST: what the judge will read of a data set, and how long its prompts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reflex_jax.data.examples import Example
from reflex_jax.statements.operator import decl_and_rule

READ_ALOUD = 20
_BARS = 12


def describe_statements(
    examples: Sequence[Example], encode: Callable[[str, int], tuple[int, ...]] | None, max_tokens: int
) -> dict[str, Any]:
    """Rules, examples to read, and statements that the judge would cut.

    Args:
      examples: questions with their answers.
      encode: the judge's tokenizer; None: lengths are unknown.
      max_tokens: of a statement, its frame included.
    """
    rules: Counter[str] = Counter()
    shown: dict[str, list[dict[str, str]]] = {}
    cut = []
    for example in examples:
        rule, statement = decl_and_rule(example.question, example.answer, example.options)
        rules[rule] += 1
        if len(shown.setdefault(rule, [])) < READ_ALOUD:
            row = {"question": example.question, "answer": example.answer, "statement": statement}
            shown[rule].append({"id": example.id, "rule": rule, **row})
        if encode is not None and len(encode(statement, max_tokens + 1)) > max_tokens:
            cut.append(example.id)
    return {
        "rules": dict(rules.most_common()),
        "to_read": _in_turns([shown[rule] for rule, _ in rules.most_common()]),
        "cut": None if encode is None else len(cut),
        "cut_ids": cut[:READ_ALOUD],
    }


def describe_numbers(values: Sequence[int]) -> dict[str, Any]:
    """Smallest, middle and largest value, and a histogram of equal steps."""
    if not values:
        return {"count": 0}
    array = np.asarray(values)
    counts, edges = np.histogram(array, bins=min(_BARS, max(1, int(np.ptp(array)))))
    return {
        "count": len(values),
        "min": int(array.min()),
        "median": int(np.median(array)),
        "p95": int(np.percentile(array, 95)),
        "max": int(array.max()),
        "histogram": [
            {"from": int(low), "to": int(high), "count": int(n)}
            for low, high, n in zip(np.ceil(edges[:-1]), np.floor(edges[1:]), counts, strict=True)
        ],
    }


def _in_turns(rows: Sequence[list[dict[str, str]]]) -> list[dict[str, str]]:
    """One of each rule, then a second of each, up to `READ_ALOUD`."""
    longest = max(map(len, rows), default=0)
    return [row[k] for k in range(longest) for row in rows if k < len(row)][:READ_ALOUD]
