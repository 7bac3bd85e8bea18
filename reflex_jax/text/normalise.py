"""HOST: one way to clean text and words, shared by parsing, statements and rewards."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

ARTICLES = frozenset({"a", "an", "the"})
LETTERS = "ABCDEFGHIJ"
# Characters of an answer that are compared and stated. True answers have some hundreds; a sampled one has as many as its
# tokens hold (one of Qwen's stands for 128 spaces), and each may become 18 when it is folded.
LONGEST_ANSWER = 4096

_LONGEST_KEPT = 1024  # characters of a text whose clean form is kept
_MOST_MARKS = 30  # combining marks on one letter that stand, as in Unicode's stream-safe text; languages need 17
_APOSTROPHES = re.compile("['\u2018\u2019\u02bc`\u00b4]")
_DECIMAL_POINT = re.compile(r"(?<![^\W\d_])\.(?=\d)")  # also ".5", not "t.2"
_MINUS = re.compile(r"(?<![\w%)])[-\u2212](?=[\d.])")
_OPENING_MARKS = re.compile(r"\A(?:[\s,;:!?\"'\u201c\u201d]|\.(?!\d))*")
_CLOSING_MARKS = " .,;:!?\"'\u201c\u201d"


def clean_text(text: str) -> str:
    """Drops invisible characters, folds compatibility forms (NFKC) and collapses white space."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    return _clean_kept(text) if len(text) <= _LONGEST_KEPT else _clean(text)


def _clean(text: str) -> str:
    invisible = {ord(c): None for c in set(text) if _is_invisible(c)}
    return " ".join(_fold(text.translate(invisible)).split())


_clean_kept = functools.lru_cache(maxsize=1024)(_clean)  # an answer is cleaned by each that reads it


def has_visible_character(text: str) -> bool:
    """Whether `clean_text` leaves anything of a text."""
    return any(not (c.isspace() or _is_invisible(c)) for c in text)


def limit_marks(text: str) -> str:
    """Keeps the first 30 of the combining marks on one letter: sorting a run of n, as any folding does, takes n^2 steps."""
    if text.isascii():
        return text
    marks = {c for c in set(text) if unicodedata.combining(unicodedata.normalize("NFKD", c)[0])}
    if not marks:
        return text
    runs = itertools.groupby(text, marks.__contains__)
    return "".join(c for is_mark, run in runs for c in (itertools.islice(run, _MOST_MARKS) if is_mark else run))


def normalise_answer(answer: str) -> str:
    """Lower case, without punctuation and articles: the form in which words are looked up.

    Whether two answers are the same is asked of `text.answers`, which knows the question. Points inside numbers, signs before
    numbers and mathematical symbols stay (2.5 is not 25, < 5 is not > 5), and so does an "A" that ends the answer, as in
    hepatitis A. Never empty for an answer with visible characters: what would vanish altogether ("the", "?") keeps its
    lower-case form. What stands behind the first `LONGEST_ANSWER` characters is not read.
    """
    trimmed = trim_answer(answer)
    kept = _APOSTROPHES.sub("", trimmed)
    kept = _DECIMAL_POINT.sub("\x00", kept)
    kept = _MINUS.sub("\x01", kept)
    kept = kept.translate({ord(c): " " for c in set(kept) if _is_punctuation(c)})
    found = kept.replace("\x00", ".").replace("\x01", "-").split()
    words = [word for word in found if word not in ARTICLES] + ["a"] * (len(found) > 1 and found[-1] == "a")
    return " ".join(words or kept.split()) or trimmed


def trim_answer(answer: str) -> str:
    """The answer's own words in lower case, without the marks around them; equal trims have equal normal forms."""
    lowered = _fold(clean_text(answer[:LONGEST_ANSWER]).lower())
    return _OPENING_MARKS.sub("", lowered, count=1).rstrip(_CLOSING_MARKS) or lowered


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", limit_marks(text))


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character)[0] == "C" and not character.isspace()


def _is_punctuation(character: str) -> bool:
    category = unicodedata.category(character)
    return (category[0] == "P" and character not in "%") or category == "Sk"
