"""HOST: sentences that lack their answer: "the lesion is in the ___", "the diagnosis is:", "all are visible except"."""

from __future__ import annotations

import re
from dataclasses import replace

from reflex_jax.statements import clauses, grammar, verbs
from reflex_jax.statements.phrases import noun_phrase
from reflex_jax.statements.question import ASKING, Question
from reflex_jax.text.questions import BLANK

_BLANK = re.compile(rf"(?:{BLANK})")
_EXCEPT = re.compile(
    r"^(?:(?:the following|these|they)|all|each|every one|any|everything|every)"
    r"(?: one)?(?: of)?(?: the| these| those)?(?: following| above| below| listed)?"
    r"((?: \S+)+?),? (?:except|excluding|but|other than)(?: for)?(?: which| what)?(?: one)?(?: of (?:the following|these|them))?$"
)


# "the image shows all of the following except"
_ALL_INSIDE = re.compile(
    r"^(?!all |each |every |any )(.+?) (?:all|any|each|every one)(?: of)? (?:the following|the above|these|those)\b.*,? "
    r"(?:except|excluding|but)(?: for)?(?: one)?$"
)


# "which of the following is true except", "true about the tumor except"
_OTHERS = re.compile(
    r"^(.+?),?:? (?:except|excepting|excluding|with the exception of)(?: for)?(?: which| what)?(?: one)?"
    r"(?: of (?:the following|these|them))?$"
)
_TRUE_OF = re.compile(
    r"^((?:not )?(?:true|correct|false|incorrect))(?: statements?)? ((?:about|regarding|concerning|of|for) .+?)"
    r"(?:,? (?:is|are|include|includes))?(?:,? (?:all|any|each)(?: of)?(?: the following| these| the above)?)?$"
)


def without_exception(question: Question) -> Question:
    """The question without the "except" that ends it, marked as one that denies, where a question word opens it."""
    match = _OTHERS.match(question.text)
    if match is None:
        return question
    true_of = _TRUE_OF.match(match[1])
    asked = f"which is {true_of[1]} {true_of[2]}" if true_of else match[1]
    return replace(question, text=asked, has_exception=True) if ASKING.match(asked) else question


def declare_blank(question: Question, answer: str) -> str | None:
    """`the lesion is located in the ___`: the answer fills the blank."""
    if not _BLANK.search(question.text):
        return None
    pieces = _BLANK.split(question.text)
    parts = [part for part in re.split(r"\s*(?:;|,| and )\s*", answer) if part]
    fills = parts if len(parts) == len(pieces) - 1 > 1 else [answer] + [""] * (len(pieces) - 2)
    text = " ".join("".join(piece + fill for piece, fill in zip(pieces, [*fills, ""], strict=True)).split())
    return re.sub(r"\b(the|a|an) (?:the|a|an) ", r"\1 ", text)


def declare_unfinished(question: Question, answer: str) -> str | None:
    """`the arrow points to`, `the most likely diagnosis is`: the answer ends the sentence."""
    words = question.words
    if len(words) < 2 or ASKING.match(question.text) or words[0] in grammar.AUXILIARIES:
        return None
    if len(words) > 2 and words[-1] == "not" and words[-2] in grammar.BE:
        return f"{question.text} {noun_phrase(answer)}"
    if words[-1] not in grammar.PREPOSITIONS | grammar.ARTICLES | grammar.BE | {
        "be",
        "been",
        "by",
        "as",
        "called",
        "named",
    }:
        if not verbs.is_plainly_third(words[-1]):
            return None
    if words[-1] in grammar.ARTICLES:
        return f"{question.text} {re.sub(r'^(?:the|a|an) ', '', answer)}"
    is_place = words[-1] in grammar.PREPOSITIONS and grammar.begins_with_preposition(answer)
    return f"{question.text}{':' if is_place else ''} {noun_phrase(answer) if words[-1] in grammar.BE else answer}"


def declare_except(question: Question, answer: str) -> str | None:
    """`all of the following are visible except`: what is said of all is denied of the answer."""
    inside = _ALL_INSIDE.match(question.text)
    if inside and clauses.verb_of(f"{inside[1]} {answer}") is not None:
        return clauses.deny(f"{inside[1]} {answer}")
    match = _EXCEPT.match(question.text)
    if not match:
        return None
    words = [word.rstrip(",") for word in match[1].split() if word not in {"all", "each"}]
    start = next((i for i, w in enumerate(words) if grammar.is_finite(w) or verbs.is_plainly_base(w)), None)
    if start is None:
        return None
    words = words[start:]
    said = " ".join(words)
    if clauses.is_sentence(answer):
        is_true = re.match(r"(?:is|are) (?:true|correct|right|accurate)\b", said)
        return f"{clauses.deny(answer)}." if is_true else f"it is not the case that {answer}."
    subject = noun_phrase(answer)
    if words[0] in grammar.BE and len(words) > 1:
        be = grammar.be_for(answer) if words[0] in {"is", "are"} else "were" if grammar.is_plural(answer) else "was"
        rest = re.sub(r"^(?:the )?(\w+s) of ", r"one of the \1 of ", " ".join(words[1:]))
        is_noun = grammar.is_plural(rest) and not grammar.is_adjective(words[1]) and not verbs.is_participle(words[1])
        if is_noun and not grammar.is_plural(answer) and words[1] not in grammar.PREPOSITIONS and rest[:4] != "one ":
            rest = f"one of the {rest}"
        return f"{subject} {be} not {rest}"
    if words[0] in grammar.HAVE | grammar.MODALS:
        if words[0] in grammar.HAVE and words[1:2] and verbs.is_past_participle(words[1]):
            return f"{subject} {'have' if grammar.is_plural(answer) else 'has'} not {' '.join(words[1:])}"
        modal = "cannot" if words[0] == "can" else f"{words[0]} not"
        return (
            f"{subject} {modal} {' '.join(words[1:])}"
            if words[0] not in grammar.HAVE
            else (f"{subject} {'do' if grammar.is_plural(answer) else 'does'} not have {' '.join(words[1:])}")
        )
    do = "do" if grammar.is_plural(answer) else "does"
    return f"{subject} {do} not {verbs.base(words[0])} {' '.join(words[1:])}"
