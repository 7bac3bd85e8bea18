"""HOST: lists of options inside a question: "(A) cyst (B) nodule", "1. cyst", "[a] cyst", one behind the other or in lines.

A list stands at the end of a question, or at its start with "which of these" behind it, and counts up from its first mark.
Letters of panels ("the CT in (a) and the MRI in (b)") are marks too, but do not stand where a list would.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from reflex_jax.text.normalise import LETTERS

_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")
_LABELS = (tuple(LETTERS), tuple(LETTERS.lower()), tuple(str(n) for n in range(1, 11)), _ROMAN)
# How a mark is written around its label; the last, a letter alone, only as a capital behind "?", ":" or a new line.
_STYLES = (r"\(\s?{}\s?\)", r"\[\s?{}\s?\]", r"{}\s?\)", r"{}\.(?!\d)", r"{}\s?:", r"{}\s[-\u2013]", r"<{}>", r"{}")
_BARE = _STYLES[-1]
_MOST_WORDS = 60  # of one option
_MOST_OPENINGS = 8  # first marks that are tried in one text
_JOINED = re.compile(r"^(?:and|or|&|,|show\w*)\b|\b(?:and|or)$|^\W*$", re.IGNORECASE)
# What stands before a letter that names a panel, an image or a type.
_PANEL = re.compile(
    r"\b(?:panels?|figures?|figs?\.?|images?|arrows?|labels?|letters?|structures?|in|on|at|of|to|from|with|by|and|or|the|"
    r"this|type|grade|hepatitis|vitamin)\s*$",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(
    r"\s*(?:[-\u2022*]\s*)?\b(?:(?:the )?(?:answer |possible |available )?"
    r"(?:choices|options|alternatives|answers)(?: are| include)?|"
    r"(?:please )?(?:choose|select|pick)(?: one)?(?: (?:from|of|among))?(?: the following)?(?: options)?)\s*:?\s*$",
    re.IGNORECASE,
)
_REFERS = re.compile(
    r"\b(?:these|following|above|options?|choices|alternatives|candidates|listed)\b|"
    r"^which (?:is|one|of|would|best)\b|^what is it\b",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"\b(?:answer |possible )?(?:choices|options)\s*:\s*([^\n:?]+)$", re.IGNORECASE)
_END = re.compile(r"\n|(?<=[.?!;])\s+(?=[A-Za-z])")


@dataclass(frozen=True)
class OptionList:
    """A list of options and what is left of the text without it."""

    rest: str
    options: tuple[str, ...]
    labels: tuple[str, ...]  # as written: "A", "a", "1", "ii"; () where nothing marks them


def find_options(text: str) -> OptionList | None:
    """The list of at least two options that a text ends or begins with; None where it has none.

    Args:
      text: clean lines, divided by line feeds.
    """
    for labels in _LABELS:
        for style in _STYLES if labels is _LABELS[0] else _STYLES[:-1]:
            found = _find_list(text, style, labels)
            if found is not None:
                return found
    plain = _PLAIN.search(text)
    options = tuple(option.strip(" .\"'") for option in re.split(r"[,;|/]\s*(?:or |and )?", plain[1])) if plain else ()
    if plain and len(options) > 1 and all(options):
        return OptionList(text[: plain.start()].rstrip(), options, ())
    return None


def _find_list(text: str, style: str, labels: tuple[str, ...]) -> OptionList | None:
    openings = (mark for mark in _mark(style, labels[0]).finditer(text) if _opens(text, mark.start(), style))
    for first in itertools.islice(openings, _MOST_OPENINGS):
        marks = [first]
        for label in labels[1:]:
            following = _mark(style, label).search(text, marks[-1].end())
            if following is None:
                break
            marks.append(following)
        found = _read_list(text, marks, is_bare=style == _BARE) if len(marks) > 1 else None
        if found is not None:
            return OptionList(*found, labels[: len(found[1])])
    return None


def _mark(style: str, label: str) -> re.Pattern[str]:
    after = r"(?=\s)" if style == _BARE else r"(?=\s|\S)"
    return re.compile(rf"(?<![^\s,;|/])(?:[Oo]ption |[Cc]hoice )?(?:{style.format(label)}){after}\s*")


def _opens(text: str, position: int, style: str) -> bool:
    """Whether a first mark stands where a list can begin."""
    before = text[max(0, position - 80) : position].rstrip(" ")
    if style == _BARE:
        return before.endswith(("?", ":", "\n"))
    if not before or before.endswith(("?", ":", ".", ";", ",", "\n", "\u2014", "-", "*")):
        return True
    if _ANNOUNCED.search(before):
        return True
    return style in _STYLES[:3] and not _PANEL.search(before[-20:])


def _read_list(text: str, marks: list[re.Match[str]], *, is_bare: bool) -> tuple[str, tuple[str, ...]] | None:
    """(the rest of the text, the options); None where the marks do not enclose a list."""
    in_lines = all(text[mark.start() - 1] == "\n" for mark in marks[1:])
    if is_bare and not in_lines and len(marks) < 3:
        return None
    last, after = _cut_tail(text[marks[-1].end() :], in_lines=in_lines)
    items = [text[mark.end() : following.start()] for mark, following in zip(marks, marks[1:], strict=False)]
    options = [" ".join(item.split()).strip(" ,;|").rstrip(".").strip() for item in [*items, last]]
    if any(_JOINED.search(o) or len(o.split()) > _MOST_WORDS or _asks_inside(o) for o in options):
        return None
    before = _ANNOUNCED.sub("", text[: marks[0].start()].rstrip())
    if after and _asks_inside(after) and not (before.strip() and _INSTRUCTS.match(after)):
        if before.strip() or not _REFERS.search(after):
            return None
    return f"{before}\n{after}".strip(), tuple(options)


def _cut_tail(text: str, *, in_lines: bool) -> tuple[str, str]:
    """The last option and what stands behind it: further lines, instructions, or the question."""
    if in_lines:
        last, _, after = text.partition("\n")
        return last, after.strip()
    for end in _END.finditer(text):
        if end[0] == "\n" or _asks_inside(text[end.end() :]) or _INSTRUCTS.match(text, end.end()):
            return text[: end.start()], text[end.end() :].strip()
    return text, ""


_INSTRUCTS = re.compile(r"(?:please |kindly )?(?:answer|choose|select|pick|respond|reply|explain)\b", re.IGNORECASE)
_ASKS = re.compile(
    r"\?|(?:^|[.!\n]\s+)(?:which|what|where|how|why|is|are|does|do|select|choose|pick|identify) ", re.IGNORECASE
)


def _asks_inside(text: str) -> bool:
    return _ASKS.search(text) is not None


def join_lines(lines: Iterable[str]) -> str:
    """Lines as one text, without those that are empty."""
    return "\n".join(line for line in lines if line)
