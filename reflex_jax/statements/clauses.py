"""HOST: sentences that are said to be true or false: "the patient has a mass" -> "the patient does not have a mass".

They stand where a question is none ("True or false?"), behind "tell me whether", and as options of "which is true?".
"""

from __future__ import annotations

import functools
import re

from reflex_jax.statements import grammar, verbs

_OPENING = re.compile(
    r"^(?:there|it|this|these|those|that|they|he|she|we|both|all|no|none|neither|some|most|each|every)\b"
)
QUANTIFIERS = frozenset({"both", "all", "every", "each", "everything", "everyone", "always", "most", "many"})
_NEGATED = frozenset({"no", "none", "neither", "nothing", "nobody", "never"})


@functools.lru_cache(maxsize=4096)
def verb_of(text: str) -> int | None:
    """Where the finite verb of a statement stands: 2 in "the heart is enlarged"; None for what is no sentence."""
    words = text.split()
    if not words or words[0] in grammar.PREPOSITIONS - {"within"} or len(words) < 2:
        return None
    guess = None
    for position in range(1, len(words)):
        word, before = words[position], words[position - 1]
        if word in {"that", "which", "who"}:
            return guess
        if before in grammar.ARTICLES | grammar.PREPOSITIONS | {"to"}:
            continue
        if word in grammar.AUXILIARIES or word == "cannot" or verbs.is_plainly_third(word):
            return position
        is_pronoun = before in {"these", "those", "they", "we", "both", "all", "this"} and position == 1
        if before in grammar.DETERMINERS and not is_pronoun:
            continue
        if guess is None and verbs.is_plainly_base(word) and grammar.is_plural(" ".join(words[:position])):
            guess = position
        if guess is None and verbs.is_past(word) and position + 1 < len(words) and words[position + 1] in _OBJECTS:
            guess = position
    return guess


_OBJECTS = grammar.DETERMINERS | {"to", "into", "from", "over", "through", "along"}


def is_sentence(text: str) -> bool:
    """Whether an answer is a statement by itself: "there is no lesion", "the lungs are clear"."""
    words = text.split()
    if len(words) == 2 and words[0] in {"it", "they", "he", "she"}:
        return verbs.is_past(words[1]) or verbs.is_third(words[1])
    if len(words) < 3 or words[0] in {"yes", "no"} and words[1] in {"is", "are", "there", "it"}:
        return False
    position = verb_of(text)
    if position is None or position + 1 >= len(words):
        return False
    if words[position] in grammar.AUXILIARIES | {"cannot"} or _OPENING.match(text):
        return True
    return words[0] in grammar.DETERMINERS or grammar.is_plural(" ".join(words[:position]))


@functools.lru_cache(maxsize=4096)
def deny(text: str) -> str:
    """The opposite of a statement; what has no place for a "not" becomes "it is not the case that ..."."""
    words = text.split()
    position = verb_of(text)
    denied = f"it is not the case that {text}"
    if text.startswith("it is not the case that "):
        return text.removeprefix("it is not the case that ")
    if position is None or set(words[:position]) & _NEGATED:
        return denied
    if words[0] in QUANTIFIERS:
        return f"not {text}"
    if (
        set(words) & QUANTIFIERS
        or " and " in f" {' '.join(words[position:])} "
        and " is " in text[text.find(" and ") :]
    ):
        return denied
    subject, verb, rest = words[:position], words[position], words[position + 1 :]
    if verb == "cannot":
        return " ".join([*subject, "can", *rest])
    if rest[:1] == ["not"] and verb in grammar.DO and len(rest) > 1:
        said = {"do": rest[1], "does": verbs.third_person(rest[1]), "did": verbs.past(rest[1])}[verb]
        return " ".join([*subject, said, *rest[2:]])
    if rest[:1] == ["not"]:
        return " ".join([*subject, verb, *rest[1:]])
    if subject == ["there"]:
        return _deny_existence(verb, rest)
    if verb in grammar.BE | grammar.MODALS | grammar.DO:
        return " ".join([*subject, verb, "not", *rest])
    if verb in grammar.HAVE and rest and (rest[0] in {"been", "had"} or verbs.is_past_participle(rest[0])):
        return " ".join([*subject, verb, "not", *rest])
    is_past = verbs.is_past(verb) and not verbs.is_third(verb)
    do = "did" if is_past or verb == "had" else "does" if verb == "has" or verbs.is_third(verb) else "do"
    return " ".join([*subject, do, "not", verbs.base(verb), *rest])


def _deny_existence(be: str, rest: list[str]) -> str:
    if rest[:1] == ["no"]:
        return f"there {be} {' '.join(rest[1:])}"
    if rest[:1] and rest[0] in {"a", "an", "any", "some"}:
        return f"there {be} no {' '.join(rest[1:])}"
    if rest[:1] and rest[0] in {"the", "more", "multiple", "many", "two", "several", "only", "at"}:
        return f"there {be} not {' '.join(rest)}"
    return f"there {be} no {' '.join(rest)}" if rest else f"there {be} not"
