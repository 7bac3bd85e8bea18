"""The true answer in other words, which a judge has to know again: never the statement itself, which any judge would.

In this order: the statement of a question that the data set gives in other words (VQA-RAD's `question_rephrase`), the second
wording of a phantom's claim, and a rule on the statement's grammar. The rules keep what is said and move its words:

- `seen`: "there is a nodule in the lung" -> "a nodule is seen in the lung", "there is no mass" -> "no mass is seen";
- `contains`: "the picture contains lung" -> "lung is seen in the picture";
- `lies`: "the cyst is located in the liver" -> "the cyst lies in the liver";
- `exchanged`: "the modality of this image is ct" -> "ct is the modality of this image", where the answer was named;
- `framed`: "it can be seen that ...", what no other rule takes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from reflex_jax.data.examples import Example
from reflex_jax.data.phantom_text import all_claims
from reflex_jax.statements.clauses import verb_of
from reflex_jax.statements.operator import decl, decl_and_rule

_PLACE = re.compile(r" (?=(?:in|on|at|within|along|near|behind|above|below|beside) )")
_THERE = re.compile(r"^there (is|are|was|were) (?!not )(.+)$")
_CONTAINS = re.compile(r"^((?:the|this) \w+) (contains|shows|does not contain|does not show) (.+)$")
_LOCATED = re.compile(r"^(.+) (is|are) (not )?located (.+)$")
_NAMING = frozenset({"what_is", "subject_question", "finite", "in_question", "what_does", "named"})


def paraphrase(example: Example) -> tuple[str, str]:
    """(where it comes from, another statement of the true answer); it differs from the question's own statement."""
    rule, statement = decl_and_rule(example.question, example.answer, example.options)
    for question in example.paraphrases:
        if (said := decl(question, example.answer, example.options)) != statement:
            return "question_rephrase", said
    for wording in _wordings().get(statement, ()):
        if wording != statement:
            return "second_wording", wording
    for name, reword in _RULES.items():
        reworded = reword(statement) if name != "exchanged" or rule in _NAMING else None
        if reworded is not None:
            return name, reworded
    return "framed", f"it can be seen that {statement}"


@functools.cache
def _wordings() -> dict[str, tuple[str, ...]]:
    """Each wording of a claim about phantoms -> all of them."""
    return {wording: claim.wordings for claim in all_claims() for wording in claim.wordings}


def _seen(statement: str) -> str | None:
    match = _THERE.match(statement)
    if match is None:
        return None
    thing, *place = _PLACE.split(match[2], maxsplit=1)
    return " ".join([thing, match[1], "seen", *place])


def _contains(statement: str) -> str | None:
    match = _CONTAINS.match(statement)
    return match and f"{match[3]} is {'not ' if ' not ' in match[2] else ''}seen in {match[1]}"


def _lies(statement: str) -> str | None:
    match = _LOCATED.match(statement)
    if match is None:
        return None
    lies = "lies" if match[2] == "is" else "lie"
    return f"{match[1]} does not lie {match[4]}" if match[3] else f"{match[1]} {lies} {match[4]}"


def _exchanged(statement: str) -> str | None:
    words, position = statement.removesuffix(".").split(), verb_of(statement)
    if (
        position is None and " that " in statement and " is " in statement
    ):  # "the part that this image belongs to is the chest"
        position = len(words) - 1 - words[::-1].index("is")
    if position is None or words[position] not in {"is", "are"} or words[position + 1 :][:1] in ([], ["not"]):
        return None
    subject, named = words[:position], words[position + 1 :]
    return " ".join([*named, words[position], *subject])


_RULES: dict[str, Callable[[str], str | None]] = {
    "seen": _seen, "contains": _contains, "lies": _lies, "exchanged": _exchanged,
}  # fmt: skip
