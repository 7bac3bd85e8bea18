"""HOST: yes/no questions as statements: what the question becomes when it is affirmed and when it is denied."""

from __future__ import annotations

import functools
import re

from reflex_jax.statements import grammar, verbs
from reflex_jax.statements.question import Question
from reflex_jax.text.normalise import normalise_answer, trim_answer


def declare_polar(question: Question, answer: str) -> str | None:
    """A yes/no question that is answered by yes or no, with whatever else is said."""
    polarity, clauses = _polarity(answer), polar_clauses(question.text)
    if polarity is None or clauses is None:
        return None
    return clauses[0 if polarity[0] else 1] + polarity[1]


def declare_state(question: Question, answer: str) -> str | None:
    """A yes/no question answered by a place: `is the spleen present` + on the left -> the spleen is on the left."""
    words = question.words
    if (
        len(words) < 3
        or words[0] not in grammar.BE
        or words[1] == "there"
        or not grammar.begins_with_preposition(answer)
    ):
        return None
    border = grammar.subject_length(words[1:])
    return f"{' '.join(words[1 : border + 1])} {words[0]} {answer}" if border else None


@functools.lru_cache(maxsize=4096)  # the G answers to a question ask for the same clauses
def polar_clauses(text: str) -> tuple[str, str] | None:
    """Returns (affirmed, negated) statements behind a yes/no question, None where it is not one.

    Args:
      text: lower case, without a question mark.
    """
    questions = re.split(r" and (?=(?:is|are) .)", text)
    if len(questions) > 1 and re.match(r"(?:is|are) .", text):
        clauses = [found for question in questions if (found := _single_clauses(question))]
        both = " and ".join(affirmed for affirmed, _ in clauses)
        return (both, f"it is not so that {both}") if len(clauses) == len(questions) else None
    return _single_clauses(text)


def _polarity(answer: str) -> tuple[bool, str] | None:
    """(is it affirmed?, what to add to the bare statement), or None where the answer says neither yes nor no."""
    bare = re.fullmatch(r"(yes|no)(?:\s*[.,;:!-]\s*(.+))?", answer)
    if bare:
        return bare[1] == "yes", f", {trim_answer(bare[2])}" if bare[2] else ""
    said = next((word for word in normalise_answer(answer).split() if word in {"yes", "no"}), None)
    return None if said is None else (said == "yes", f": {answer}")


def _single_clauses(text: str) -> tuple[str, str] | None:
    words = text.split()
    if len(words) < 2:
        return None
    if words[0] in {"any", "anything", "evidence", "notice"}:
        return _existence("is", words[words[0] == "notice" :])
    if words[0] in grammar.BE:
        return _existence(words[0], words[2:]) if words[1] == "there" else _copula(words[0], words[1:])
    if words[0] in grammar.DO:
        return _do_clauses(words[0], words[1:])
    if words[0] in grammar.HAVE:
        return _perfect(words[0], words[1:])
    if words[0] in grammar.MODALS:
        return _modal(words[0], words[1:])
    return None


def _existence(be: str, words: list[str]) -> tuple[str, str] | None:
    if not words:
        return None
    first, rest = words[0], " ".join(words[1:])
    whole = " ".join(words)
    if be == "is" and grammar.is_plural(" ".join(words[: grammar.noun_phrase_end(words)])):
        be = "are"
    if first == "anything":
        return f"there {be} something {rest}", f"there {be} nothing {rest}"
    if first == "no":
        return f"there {be} {whole}", f"there {be} {rest}"
    affirmed = re.sub(r"\bany\b ?", "", whole)
    if first == "any" and be == "is" and words[grammar.noun_phrase_end(words) - 1] in grammar.COUNT_NOUNS:
        affirmed = grammar.indefinite(affirmed)
    if first in {"a", "an", "any", "some"}:
        return f"there {be} {affirmed}", f"there {be} no {rest}"
    is_counted = first in {"the", "at", "more", "both", "multiple", "normal", "other"} or not first[0].isalpha()
    return f"there {be} {affirmed}", f"there {be} {'not' if is_counted else 'no'} {whole}"


def _copula(be: str, words: list[str]) -> tuple[str, str] | None:
    if words[0] == "you" and words[1:3] == ["able", "to"]:
        return _modal("can", ["you", *words[3:]])
    border = grammar.subject_length(words)
    if border is None:
        return None
    subject, predicate = words[:border], words[border:]
    if subject[-1] in grammar.BE:  # "is the tract is highlighted"
        subject = subject[:-1]
    if not predicate or not subject:
        return None
    if predicate[0] == "not":
        affirmed, negated = " ".join(predicate), " ".join(predicate[1:])
    else:
        affirmed, negated = " ".join(predicate), "not " + " ".join(predicate)
    indefinite = {"any": ("some", "no"), "anything": ("something", "nothing")}.get(subject[0])
    if indefinite:
        rest = " ".join(subject[1:])
        none = "none" if indefinite[1] == "no" and subject[1:2] == ["of"] else indefinite[1]
        return f"{indefinite[0]} {rest} {be} {affirmed}", f"{none} {rest} {be} {' '.join(predicate)}"
    return f"{' '.join(subject)} {be} {affirmed}", f"{' '.join(subject)} {be} {negated}"


def _do_clauses(do: str, words: list[str]) -> tuple[str, str] | None:
    if words[:2] in (["you", "see"], ["you", "notice"], ["you", "appreciate"]):
        return _existence(grammar.be_for(" ".join(words[2:])), words[2:])
    if words[:2] == ["you", "suspect"]:
        rest = " ".join(words[2:])
        return f"{rest} is suspected", f"{rest} is not suspected"
    position = grammar.verb_position(words)
    if position is None:
        return None
    subject, verb, rest = " ".join(words[:position]), words[position], " ".join(words[position + 1 :])
    if words[position - 1] == "not":
        positive = " ".join(words[: position - 1])
        return f"{positive} {do} not {verb} {rest}", f"{positive} {_conjugate(do, verb)} {rest}"
    if do == "does" and grammar.is_plural(subject):
        do = "do"
    negated = f"{subject} {do} not {verb} {rest}"
    if words[0] == "any":
        negated = (
            f"{'none' if words[1:2] == ['of'] else 'no'} {' '.join(words[1:position])} {_conjugate(do, verb)} {rest}"
        )
        subject = "some " + " ".join(words[1:position])
    return f"{subject} {_conjugate(do, verb)} {re.sub('^any ', '', rest)}", negated


def _conjugate(do: str, verb: str) -> str:
    return {"do": lambda v: v, "does": verbs.third_person, "did": verbs.past}[do](verb)


def _perfect(have: str, words: list[str]) -> tuple[str, str] | None:
    for position in range(1, len(words)):
        if words[position] in {"been", "become", "grown"} or words[position].endswith("ed"):
            subject, rest = " ".join(words[:position]), " ".join(words[position:])
            return f"{subject} {have} {rest}", f"{subject} {have} not {rest}"
    return None


def _modal(modal: str, words: list[str]) -> tuple[str, str] | None:
    negated_modal = "cannot" if modal == "can" else f"{modal} not"
    if words[0] == "you" and len(words) > 2:
        found = re.match(r"^(.+?)( (?:as|from|anywhere|in this)\b.*)?$", " ".join(words[2:]))
        thing, more = found.groups(default="") if found else ("", "")
        rest = f"{verbs.participle(words[1])}{more}"
        return f"{thing} {modal} be {rest}", f"{thing} {negated_modal} be {rest}"
    position = grammar.verb_position(words)
    if position is None:
        return None
    subject, rest = " ".join(words[:position]), " ".join(words[position:])
    return f"{subject} {modal} {rest}", f"{subject} {negated_modal} {rest}"
