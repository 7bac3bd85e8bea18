"""HOST: one way to clean words and to compare answers, shared by parsing, statements and rewards."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

ARTICLES = frozenset({"a", "an", "the"})
LETTERS = "ABCDEFGHIJ"

_APOSTROPHES = re.compile("['\u2018\u2019\u02bc`\u00b4]")
_DECIMAL_POINT = re.compile(r"(?<![^\W\d_])\.(?=\d)")  # also ".5", not "t.2"
_MINUS = re.compile(r"(?<![\w%)])[-\u2212](?=[\d.])")
_EDGES = re.compile(r"^(?:[\s,;:!?\"'\u201c\u201d]|\.(?!\d))+|[\s.,;:!?\"'\u201c\u201d]+$")
# "B", "(B)", "B.", "B) a nodule", "option B: a nodule"
_LETTERED = re.compile(r"(?:(?:option|choice|answer) )?\(?([a-j])(?:[).:]+ *|$)(.*)", re.IGNORECASE)


def clean_text(text: str) -> str:
    """Folds compatibility forms (NFKC), drops invisible characters and collapses white space."""
    folded = unicodedata.normalize("NFKC", text)
    visible = "".join(" " if c.isspace() else c for c in folded if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join(visible.split())


def normalise_answer(answer: str, options: Sequence[str] | None = None) -> str:
    """The form in which two answers are the same: lower case, without punctuation and articles.

    A letter or the text of one of `options` stands for that option, whose text is normalised. Points inside numbers,
    signs before numbers and mathematical symbols stay (2.5 is not 25, < 5 is not > 5). Never empty for an answer with
    visible characters: what would vanish altogether ("A", "?") keeps its lower-case form.
    """
    option = match_option(answer, options) if options else None
    return _normalise(answer if option is None else options[option])


def match_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that an answer names by letter, by text or by both in agreement, else None.

    Letters come first: where "B" is a letter and the text of another option, it is the letter.
    """
    normalised_options = [_normalise(option) for option in options]
    lettered = _LETTERED.fullmatch(clean_text(answer))
    if lettered:
        index = LETTERS.index(lettered[1].upper())
        words = _normalise(lettered[2])
        if index < len(options) and (not words or words == normalised_options[index]):
            return index
    normalised = _normalise(answer)
    return normalised_options.index(normalised) if normalised and normalised in normalised_options else None


def trim_answer(answer: str) -> str:
    """The answer's own words in lower case, without the marks around them; equal trims have equal normal forms."""
    lowered = unicodedata.normalize("NFKC", clean_text(answer).lower())
    return _EDGES.sub("", lowered) or lowered


def _normalise(text: str) -> str:
    trimmed = trim_answer(text)
    kept = _APOSTROPHES.sub("", trimmed)
    kept = _DECIMAL_POINT.sub("\x00", kept)
    kept = _MINUS.sub("\x01", kept)
    kept = "".join(" " if _is_punctuation(c) else c for c in kept).replace("\x00", ".").replace("\x01", "-")
    words = [word for word in kept.split() if word not in ARTICLES]
    return " ".join(words or kept.split()) or trimmed


def _is_punctuation(character: str) -> bool:
    category = unicodedata.category(character)
    return (category[0] == "P" and character not in "%") or category == "Sk"
