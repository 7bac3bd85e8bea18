"""HOST: a question apart from what stands around it. A stand-in with the name of the reader that belongs here."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from reflex_jax.text.normalise import clean_text


@dataclass(frozen=True)
class ReadQuestion:
    """A question, taken apart."""

    asked: str
    context: str
    options: tuple[str, ...]


@functools.lru_cache(maxsize=4096)
def read_question(question: str, options: tuple[str, ...] | None = None) -> ReadQuestion:
    """Takes a question for the sentence that asks."""
    return ReadQuestion(clean_text(question), "", options or ())
