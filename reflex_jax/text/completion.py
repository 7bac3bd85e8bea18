"""HOST: what a completion says: its thought, its answer, and whether it keeps the format. Never raises."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reflex_jax.text.normalise import LONGEST_ANSWER, has_visible_character

_WELL_FORMED = re.compile(r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)


@dataclass(frozen=True)
class ParsedCompletion:
    """The parts of one completion."""

    thought: str | None  # content of the only think block, may be empty
    # content of the only answer block, None where the part of it that is read has no visible character
    answer: str | None
    is_well_formed: bool  # one think block, optional white space, one non-empty answer block, and nothing else


def parse_completion(text: str) -> ParsedCompletion:
    """Reads the think and answer blocks of a completion decoded without special tokens.

    A tag that occurs twice, is never closed or holds another block makes that block unreadable: no guess is made, and
    the whole text never stands in for a missing answer. That is meant of a tag which the thought only mentions, too ("I put
    it in <answer> </answer>"): which of two blocks is the answer would be a guess that a policy could play with. How often
    it happens is counted, see `repeats_answer_tag`.
    """
    stripped = text.strip()
    thought = _only_block(stripped, "think", other="answer")
    answer = _only_block(stripped, "answer", other="think")
    answer = answer if answer and has_visible_character(answer[:LONGEST_ANSWER]) else None
    is_complete = thought is not None and answer is not None
    is_well_formed = is_complete and _WELL_FORMED.fullmatch(stripped) is not None
    return ParsedCompletion(thought=thought, answer=answer, is_well_formed=is_well_formed)


def repeats_answer_tag(text: str) -> bool:
    """Whether a completion has no answer because a tag of its answer block occurs more than once."""
    return text.count("<answer>") > 1 or text.count("</answer>") > 1


def _only_block(text: str, name: str, *, other: str) -> str | None:
    opening, closing = f"<{name}>", f"</{name}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    content = text[text.index(opening) + len(opening) : text.index(closing)]  # empty where they are the wrong way round
    if text.index(closing) < text.index(opening) or f"<{other}>" in content or f"</{other}>" in content:
        return None
    return content.strip()
