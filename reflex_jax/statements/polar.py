"""HOST: yes/no questions as statements: what the question becomes when it is affirmed and when it is denied."""

from __future__ import annotations

import functools
import re

from reflex_jax.statements import clauses, grammar, verbs
from reflex_jax.statements.question import ASKING, Question
from reflex_jax.text.normalise import normalise_answer, trim_answer


def declare_polar(question: Question, answer: str) -> str | None:
    """A yes/no question that is answered by yes or no, with whatever else is said."""
    polarity = polarity_of(answer)
    pair = polarity and polar_clauses(question.text)
    return pair[0 if polarity[0] else 1] + polarity[1] if polarity and pair else None


def declare_claim(question: Question, answer: str) -> str | None:
    """A sentence or a noun phrase that is said to be so or not: `the heart is enlarged` + false, `pneumonia` + no."""
    polarity = polarity_of({"t": "true", "f": "false"}.get(answer, answer))
    if polarity is None or ASKING.match(question.text) or not question.text:
        return None
    words = question.words
    if words[0] in grammar.AUXILIARIES:
        return None
    if clauses.verb_of(question.text) is not None:
        pair = question.text, clauses.deny(question.text)
    elif len(words) > 1 and (grammar.is_adjective(words[-1]) or verbs.is_participle(words[-1])):
        subject = " ".join(words[:-1])
        be = grammar.be_for(subject)
        pair = f"{subject} {be} {words[-1]}", f"{subject} {be} not {words[-1]}"
    else:
        found = _existence("is", words)
        if found is None:
            return None
        pair = found
    return pair[0 if polarity[0] else 1] + polarity[1]


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
    for joint in ("and", "or"):
        questions = re.split(rf" {joint} (?={_ASKS_AGAIN} .)", text)
        if len(questions) > 1 and re.match(rf"{_ASKS_AGAIN} .", text):
            found = [pair for question in questions if (pair := _single_clauses(question))]
            if len(found) != len(questions):
                return None
            affirmed = f" {joint} ".join(pair[0] for pair in found)
            denied = f"it is not so that {affirmed}" if joint == "and" else " and ".join(pair[1] for pair in found)
            return affirmed, denied
    return _single_clauses(text)


_ASKS_AGAIN = "(?:is|are|was|were|do|does|did|has|have|can)"


_SAYS_SO = {"yes": True, "true": True, "correct": True, "no": False, "false": False, "incorrect": False}


@functools.lru_cache(maxsize=4096)
def polarity_of(answer: str) -> tuple[bool, str] | None:
    """(is it affirmed?, what to add to the bare statement), or None where the answer says neither yes nor no."""
    bare = re.fullmatch(r"(yes|no)(?:\s*[.,;:!-]\s*(.+))?", answer)
    if bare:
        return bare[1] == "yes", f", {trim_answer(bare[2])}" if bare[2] else ""
    if answer in _SAYS_SO:  # the stop tells "true" from "yes"
        return _SAYS_SO[answer], "."
    said = next((word for word in normalise_answer(answer).split() if word in {"yes", "no"}), None)
    return None if said is None else (said == "yes", f": {answer}")


def _single_clauses(text: str) -> tuple[str, str] | None:
    words = text.split()
    if len(words) < 2:
        return None
    if words[0] == "any" and clauses.verb_of(text) is not None:
        return f"some {' '.join(words[1:])}", f"{'none' if words[1] == 'of' else 'no'} {' '.join(words[1:])}"
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


_COUNTED = frozenset(
    "the at more both multiple normal other only just two three four five six seven eight nine ten several many few "
    "numerous enough less fewer all another exactly".split()
)


def _existence(be: str, words: list[str]) -> tuple[str, str] | None:
    if not words:
        return None
    if words[0] == "not" and len(words) > 1:
        affirmed, denied = _existence(be, [w for i, w in enumerate(words[1:]) if i or w != "any"]) or ("", "")
        return denied, affirmed
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
    is_counted = first in _COUNTED or not first[0].isalpha()
    return f"there {be} {affirmed}", f"there {be} {'not' if is_counted else 'no'} {whole}"


def _copula(be: str, words: list[str]) -> tuple[str, str] | None:
    if words[0] == "you" and words[1:3] == ["able", "to"]:
        return _modal("can", ["you", *words[3:]])
    if words[0] == "not" and len(words) > 2:
        pair = _copula(be, words[1:])
        return pair and (pair[1], pair[0])
    border = grammar.subject_length(words)
    if border is None:
        return None
    subject, predicate = words[:border], words[border:]
    if subject[-1] in grammar.BE:  # "is the tract is highlighted"
        subject = subject[:-1]
    if not predicate or not subject:
        return None
    if subject[0] in {"no", "none", "neither", "nothing"} and len(subject) > 1:
        positive = f"{grammar.indefinite(' '.join(subject[1:]))}" if be in {"is", "was"} else " ".join(subject[1:])
        positive = positive if subject[0] == "no" else f"some {' '.join(subject[1:])}"
        denied = f"{positive} {be} {' '.join(predicate)}"
        return f"{' '.join(subject)} {be} {' '.join(predicate)}", denied
    if subject[0] in _QUANTIFIERS or (subject[0] == "either" and len(subject) > 1):
        affirmed = f"{' '.join(subject)} {be} {' '.join(predicate)}"
        return affirmed, f"n{affirmed}" if subject[0] == "either" else f"not {affirmed}"
    if predicate[0] in {"both", "all"} and predicate[1:2] != ["of"] and " and " not in " ".join(predicate):
        return (
            f"{' '.join(subject)} {be} {' '.join(predicate)}",
            f"it is not the case that {' '.join(subject)} {be} {' '.join(predicate)}",
        )
    if predicate[0] == "not":
        affirmed, negated = " ".join(predicate), " ".join(predicate[1:])
    else:
        affirmed, negated = " ".join(predicate), "not " + " ".join(predicate)
    indefinite = {"any": ("some", "no"), "some": ("some", "no"), "anything": ("something", "nothing")}.get(subject[0])
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
    if words[0] in _QUANTIFIERS or words[0] == "either":
        affirmed = f"{subject} {_conjugate(do, verb)} {rest}"
        return affirmed, f"n{affirmed}" if words[0] == "either" else f"not {affirmed}"
    if words[0] == "anything":
        said = f"{_conjugate(do, verb)} {rest}"
        return f"something {' '.join(words[1:position])} {said}", f"nothing {' '.join(words[1:position])} {said}"
    if words[0] == "some":
        none = "none" if words[1:2] == ["of"] else "no"
        said = f"{' '.join(words[1:position])} {_conjugate(do, verb)} {rest}"
        return f"some {said}", f"{none} {said}"
    if words[0] == "any":
        negated = (
            f"{'none' if words[1:2] == ['of'] else 'no'} {' '.join(words[1:position])} {_conjugate(do, verb)} {rest}"
        )
        subject = "some " + " ".join(words[1:position])
    return f"{subject} {_conjugate(do, verb)} {re.sub('^any ', '', rest)}", negated


# "not both lungs are clear": a "not" behind the verb would deny it of each
_QUANTIFIERS = clauses.QUANTIFIERS - {"always"}


def _conjugate(do: str, verb: str) -> str:
    return {"do": lambda v: v, "does": verbs.third_person, "did": verbs.past}[do](verb)


def _perfect(have: str, words: list[str]) -> tuple[str, str] | None:
    if words[0] in {"you", "we"} and len(words) > 2 and verbs.is_past_participle(words[1]):
        thing = re.sub("^any ", "", " ".join(words[2:]))
        have = "have" if grammar.is_plural(thing) else "has"
        return f"{thing} {have} been {words[1]}", f"{thing} {have} not been {words[1]}"
    for position in range(1, len(words)):
        word, before = words[position], words[position - 1]
        is_attribute = before in grammar.DETERMINERS | grammar.PREPOSITIONS and position < len(words) - 1
        is_past = verbs.is_past_participle(word)
        if word in {"been", "become", "grown", "had", "not"} or (is_past and not is_attribute):
            if (
                word in {"seen", "shown", "marked"}
                and position < len(words) - 2
                and words[position + 1] in {"in", "here"}
            ):
                continue
            rest = " ".join(words[position + (word == "not") :])
            subject = " ".join(word for word in words[:position] if word != "ever")
            yes, no = f"{subject} {have} {rest}", f"{subject} {have} not {rest}"
            if words[0] in _QUANTIFIERS:
                no = f"not {yes}"
            if words[0] == "no":
                no = yes.removeprefix("no ")
            return (no, yes) if word == "not" else (yes, no)
    end = grammar.noun_phrase_end(words)  # "has the patient a fever"
    articles = [i for i, word in enumerate(words) if i and word in {"a", "an", "any", "no"}]
    if articles and articles[0] <= end:
        subject, rest = " ".join(words[: articles[0]]), " ".join(words[articles[0] :])
        return (
            f"{subject} {have} {re.sub('^any ', '', rest)}",
            f"{subject} {'do' if have == 'have' else 'does'} not have {rest}",
        )
    return None


def _modal(modal: str, words: list[str]) -> tuple[str, str] | None:
    negated_modal = "cannot" if modal == "can" else f"{modal} not"
    if words[0] == "you" and len(words) > 2:
        found = re.match(r"^(.+?)( (?:as|from|anywhere|in this)\b.*)?$", " ".join(words[2:]))
        thing, more = found.groups(default="") if found else ("", "")
        rest = f"{verbs.participle(words[1])}{more}"
        if thing.startswith("any "):
            return f"{thing[4:]} {modal} be {rest}", f"no {thing[4:]} {modal} be {rest}"
        return f"{thing} {modal} be {rest}", f"{thing} {negated_modal} be {rest}"
    position = grammar.verb_position(words)
    if position is None:
        return None
    rest = " ".join(words[position:])
    if words[position - 1] == "not":
        subject = " ".join(words[: position - 1])
        return f"{subject} {negated_modal} {rest}", f"{subject} {modal} {rest}"
    subject = " ".join(words[:position])
    return f"{subject} {modal} {rest}", f"{subject} {negated_modal} {rest}"
