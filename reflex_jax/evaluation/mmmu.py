"""HOST: how MMMU's scorer finds a letter or a short answer in a response, without its draw for what it cannot read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reflex_jax.text.normalise import LETTERS

_ENDS = ",.!?;:'"
_LONG = 5  # words, beyond which a response may give the text of an option
_LEADS = ("could be", "so", "is", "thus", "therefore", "final", "answer", "result")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")


def parse_choice(response: str, options: Sequence[str]) -> int | None:
    """The option that a response names, None where it names none: that is wrong, and never drawn for.

    "(A)" counts first, then " A ", then in more than five words the text of an option; of several the last one in the response.

    Args:
      response: of the model.
      options: texts behind the letters A, B, ...
    """
    padded = f" {response.strip().strip(_ENDS)} "
    letters = LETTERS[: len(options)]
    places = {index: padded.rfind(f"({letter})") for index, letter in enumerate(letters)}
    if max(places.values(), default=-1) < 0:
        places = {index: padded.rfind(f" {letter} ") for index, letter in enumerate(letters)}
    if max(places.values(), default=-1) < 0 and len(response.split()) > _LONG:
        texts = [option.strip().lower() for option in options]
        places = {index: padded.lower().rfind(text) if text else -1 for index, text in enumerate(texts)}
    found = [index for index, place in places.items() if place >= 0]
    return max(found, key=lambda index: places[index]) if found else None


def is_right_open(response: str, truths: Sequence[str]) -> bool:
    """Whether a response gives a short answer: an equal number, or the text of a truth, in what its sentences end in.

    Numbers are rounded to two decimals. A truth that is a number has to be equal to one, not part of one.

    Args:
      response: of the model.
      truths: all that is right.
    """
    tails = [tail for sentence in _sentences(response) for tail in _tails(sentence)] or [response.strip().lower()]
    numbers = {number for tail in tails for number in map(_rounded, _NUMBER.findall(tail))}
    for truth in truths:
        text = truth.strip().lower()
        if _NUMBER.fullmatch(text):
            if _rounded(text) in numbers:
                return True
        elif text and any(text in tail for tail in tails):
            return True
    return False


def _sentences(response: str) -> list[str]:
    return [part.strip().lower() for part in _SENTENCE_END.split(response.strip()) if part.strip()]


def _tails(sentence: str) -> list[str]:
    """What stands behind the last word of a sentence that leads to an answer, nothing where there is none."""
    marks = [(sentence.rfind(f"{lead} "), lead) for lead in _LEADS]
    ends = [
        place + len(lead) for place, lead in marks if place >= 0 and (place == 0 or not sentence[place - 1].isalnum())
    ]
    if "=" in sentence:
        ends.append(sentence.rfind("=") + 1)
    return [sentence[max(ends) :].strip(f" {_ENDS}")] if ends else []


def _rounded(number: str) -> float:
    return round(float(number.replace(",", "")), 2)
