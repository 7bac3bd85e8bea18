"""HOST: how LLaVA-Med's scorer makes texts comparable, and its recall, beside which published open numbers stand."""

from __future__ import annotations

import re
from collections import Counter

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_FREE_PERIOD = re.compile(r"\.(?!\d)")
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_NEGATED = "ai are ca could did does do had has have is might must should was were wo would".split()
_CONTRACTIONS = {f"{verb}nt": f"{verb}n't" for verb in _NEGATED} | {
    "im": "i'm", "ive": "i've", "thats": "that's", "theres": "there's", "theyre": "they're", "whats": "what's",
    "youre": "you're", "couldve": "could've", "shouldve": "should've", "wouldve": "would've",
}  # fmt: skip


def llava_med_words(text: str) -> list[str]:
    """Words of a text as LLaVA-Med compares them.

    Lower case. A mark is deleted everywhere if anywhere in the text it touches a space, or a comma stands between digits; else
    it becomes a space. Periods not before a digit go, articles go, none and zero to ten are digits, contractions get their
    apostrophe.
    """
    text = text.lower()
    for mark in _MARKS:
        is_deleted = f"{mark} " in text or f" {mark}" in text or _DIGIT_COMMA.search(text)
        text = text.replace(mark, "" if is_deleted else " ")
    words = [_NUMBERS.get(word, word) for word in _FREE_PERIOD.sub("", text).split()]
    return [_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES]


def counted_precision_recall(candidate: str, reference: str) -> tuple[float, float]:
    """Shares of LLaVA-Med: the candidate's words that the reference has, each time they come, over all of the candidate's, and
    over themselves and the reference's words that the candidate lacks."""
    said, true = Counter(llava_med_words(candidate)), Counter(llava_med_words(reference))
    found = sum(count for word, count in said.items() if word in true)
    missing = sum(count for word, count in true.items() if word not in said)
    if not found:
        return 0.0, 0.0
    return found / said.total(), found / (found + missing)


def counted_recall(candidate: str, reference: str) -> float:
    """The recall of `counted_precision_recall`; four times "left" beside "left lung" is 4 / 5."""
    return counted_precision_recall(candidate, reference)[1]
