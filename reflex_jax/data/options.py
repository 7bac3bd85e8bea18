"""HOST: the options of multiple-choice questions as official files write them, and which of them is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reflex_jax.data.examples import RowError
from reflex_jax.data.layouts import strip_letter, text_of
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.normalise import LETTERS, normalise_answer
from reflex_jax.text.questions import ReadQuestion


def option_texts(cells: Any) -> tuple[str, ...]:
    """The texts behind the letters A, B, ...; nothing at all, or none but empty ones: ().

    Empty ones at the end are options that the question does not have. Texts that come without their letters beside them may
    begin with them: "A:" is taken off wherever it stands, "A." and "A)" where all options begin so, for "C. difficile" is an
    option as well.

    Args:
      cells: a list of texts, a list of {"letter", "content"}, or a mapping letter -> text.

    Raises:
      RowError: another form, letters with gaps, an option without text before one that has it, more than ten.
    """
    if isinstance(cells, Mapping):
        texts = _by_letters(list(cells.items()))
    elif isinstance(cells, (list, tuple)) and cells and all(isinstance(cell, Mapping) for cell in cells):
        texts = _by_letters([(cell.get("letter"), cell.get("content")) for cell in cells])
    elif cells is None or isinstance(cells, (list, tuple)):
        texts = _strip_letters([text_of(cell, "option") for cell in cells or ()])
    else:
        raise RowError(f"options in another form: expected a list; got {type(cells).__name__} {str(cells)[:40]}")
    while texts and not texts[-1]:
        texts.pop()
    if not all(texts):
        raise RowError(f"an option without text: {LETTERS[texts.index('')]}")
    if len(texts) > len(LETTERS):
        raise RowError(f"more than {len(LETTERS)} options: {len(texts)}")
    return tuple(texts)


def gold_option(options: Sequence[str], *, letter: str = "", text: str = "") -> str:
    """The right option, which the files name by its letter, its text or both.

    A text is compared as it is first, then without case and marks, and then as a letter with or without a text behind it.

    Raises:
      RowError: neither is given, there is no such option, or the two name different ones.
    """
    if not letter and not text:
        raise RowError("no answer")
    named = [
        *([_option_of_letter(options, letter)] if letter else []),
        *([_option_of_text(options, text)] if text else []),
    ]
    if len(set(named)) > 1:
        raise RowError(f"letter and text of the answer disagree: {letter}, {text[:80]!r}")
    return named[0]


def unmistakable(options: Sequence[str], option: str) -> str:
    """An option's text as an answer, or its letter where the text reads as another option's: "B" may be the first of two."""
    index = list(options).index(option)
    return option if resolve_answer(option, ReadQuestion("", "", tuple(options))).option == index else LETTERS[index]


def lists_options(question: str, options: Sequence[str]) -> bool:
    """Whether a question's own words list all options by letter and text, e.g. "... (A) a disc (B) a line"."""
    words = " ".join(question.split())
    return bool(options) and any(
        all(mark.format(letter) + text in words for letter, text in zip(LETTERS, options, strict=False))
        for mark in ("({}) ", "{}) ", "{}. ", "{}: ", "{})", "{}:")
    )


def _by_letters(cells: list[tuple[Any, Any]]) -> list[str]:
    """Texts in the order of the letters beside them, taken as they are."""
    texts = {str(letter).strip().upper(): text_of(text, "option") for letter, text in cells}
    letters = sorted(texts)
    if letters != list(LETTERS[: len(cells)]):
        raise RowError(
            f"options in another form: expected the letters A, B, ... once each; got {', '.join(letters)[:80]}"
        )
    return [texts[letter] for letter in letters]


def _strip_letters(texts: list[str]) -> list[str]:
    pairs = list(zip(texts, LETTERS, strict=False))
    if all(strip_letter(text, letter) != text for text, letter in pairs if text):
        return [strip_letter(text, letter) for text, letter in pairs] + texts[len(pairs) :]
    return [text.removeprefix(f"{letter}:").strip() for text, letter in pairs] + texts[len(pairs) :]


def _option_of_letter(options: Sequence[str], letter: str) -> str:
    bare = letter.strip(" ().:").upper()
    if len(bare) != 1 or bare not in LETTERS[: len(options)]:
        raise RowError(f"the letter names no option: {letter[:40]!r} of {len(options)}")
    return options[LETTERS.index(bare)]


def _option_of_text(options: Sequence[str], text: str) -> str:
    if text in options:
        return text
    keys = [normalise_answer(option) for option in options]
    key = normalise_answer(text)
    index = keys.index(key) if key in keys else _resolved_option(text, options)
    if index is None:
        raise RowError(f"the answer is none of the options: {text[:80]!r}")
    return options[index]


def _resolved_option(text: str, options: Sequence[str]) -> int | None:
    return resolve_answer(text, ReadQuestion("", "", tuple(options))).option
