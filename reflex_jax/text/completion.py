"""HOST: what a completion says: its thought, its answer, and whether it keeps the format. Never raises.

The one place that knows the shapes a completion may have (`CompletionShape`): which tags stand around the thought, whether
text may stand before it, and what stands in for a missing answer. The default is this package's own, which guesses nothing;
the others are those of published recipes (MediX-R1, Med-R1 without thoughts).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from reflex_jax.text.normalise import LONGEST_ANSWER, has_visible_character

THOUGHT_TAGS = ("think", "thinking", "none")
_FIRST_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
# each from the beginning of a run of white space, or trying every place of a long one would take the square of its length
_SPACE_BEFORE_MARKS, _SPACE_BEHIND_MARKS = re.compile(r"(?<!\s)\s+(?=[<>/])"), re.compile(r"(?<=[<>/])\s+")


@dataclass(frozen=True, kw_only=True)
class CompletionShape:
    """How completions are read; static settings of a run."""

    thought: str = "think"  # name of the tag around the thought: think | thinking | none: an answer block alone
    preamble: bool = False  # text before the first thought tag is not checked by the format
    # the first answer block counts, and where there is none the whole completion, both without the full stops around them;
    # the format then looks at the outermost tags alone
    fallback: bool = False
    compact: bool = False  # white space around <, > and / is deleted before anything is read, in answers too

    @property
    def opening(self) -> str:
        """The tag that a completion begins with."""
        return "<answer>" if self.thought == "none" else f"<{self.thought}>"

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags of the format."""
        blocks = ("answer",) if self.thought == "none" else (self.thought, "answer")
        return tuple(f"<{slash}{block}>" for block in blocks for slash in ("", "/"))


@dataclass(frozen=True)
class ParsedCompletion:
    """The parts of one completion."""

    thought: str | None  # content of the only think block, may be empty
    # content of the only answer block, None where the part of it that is read has no visible character
    answer: str | None
    is_well_formed: bool  # one think block, optional white space, one non-empty answer block, and nothing else
    preamble: str | None = None  # what stands before the first opening tag, may be empty; None: there is no such tag
    has_tag: bool = False  # whether there is any tag of the format
    repeats_answer_tag: bool = False  # there is no answer because a tag of its block occurs more than once


DEFAULT_SHAPE = CompletionShape()


def parse_completion(text: str, shape: CompletionShape = DEFAULT_SHAPE) -> ParsedCompletion:
    """Reads the blocks of a completion decoded without special tokens.

    A tag that occurs twice, is never closed or holds another block makes that block unreadable: no guess is made, and
    the whole text never stands in for a missing answer. That is meant of a tag which the thought only mentions, too ("I put
    it in <answer> </answer>"): which of two blocks is the answer would be a guess that a policy could play with. How often
    it happens is counted, see `repeats_answer_tag`. A shape with `fallback` makes these guesses, as published recipes do.
    """
    stripped = (_compacted(text) if shape.compact else text).strip()
    before, opening, _ = stripped.partition(shape.opening)
    preamble = before.strip() if opening else None
    body = stripped[len(before) :] if shape.preamble and opening else stripped
    thought, answer = _first_blocks(stripped, body, shape) if shape.fallback else _only_blocks(body, shape)
    answer = answer if answer and has_visible_character(answer[:LONGEST_ANSWER]) else None
    # with `fallback` the format says nothing of what is inside of the outermost tags
    is_complete = shape.fallback or (answer is not None and (thought is not None or shape.thought == "none"))
    return ParsedCompletion(
        thought=thought,
        answer=answer,
        is_well_formed=is_complete and _outermost(shape.thought).fullmatch(body) is not None,
        preamble=preamble,
        has_tag=any(tag in stripped for tag in shape.tags),
        repeats_answer_tag=not shape.fallback and repeats_answer_tag(body),
    )


def repeats_answer_tag(text: str) -> bool:
    """Whether a tag of the answer block occurs more than once."""
    return text.count("<answer>") > 1 or text.count("</answer>") > 1


def without_full_stops(text: str) -> str:
    """An answer without the white space and the full stops at its ends."""
    return text.strip().strip(".").strip()


def _only_blocks(text: str, shape: CompletionShape) -> tuple[str | None, str | None]:
    if shape.thought == "none":
        return None, _only_block(text, "answer", other=None)
    return _only_block(text, shape.thought, other="answer"), _only_block(text, "answer", other=shape.thought)


def _first_blocks(text: str, body: str, shape: CompletionShape) -> tuple[str | None, str]:
    found = _FIRST_ANSWER.search(text)
    thought = None
    if shape.thought != "none":
        _, opening, rest = body.partition(shape.opening)
        content, closing, _ = rest.partition(f"</{shape.thought}>")
        thought = content.strip() if opening and closing else None
    return thought, without_full_stops(found[1] if found else text)


def _only_block(text: str, name: str, *, other: str | None) -> str | None:
    opening, closing = f"<{name}>", f"</{name}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    content = text[text.index(opening) + len(opening) : text.index(closing)]  # empty where they are the wrong way round
    holds_other = other is not None and (f"<{other}>" in content or f"</{other}>" in content)
    if text.index(closing) < text.index(opening) or holds_other:
        return None
    return content.strip()


@functools.cache
def _outermost(thought: str) -> re.Pattern[str]:
    before = "" if thought == "none" else rf"<{thought}>.*</{thought}>\s*"
    return re.compile(rf"{before}<answer>.*</answer>", re.DOTALL)


def _compacted(text: str) -> str:
    return _SPACE_BEHIND_MARKS.sub("", _SPACE_BEFORE_MARKS.sub("", text))
