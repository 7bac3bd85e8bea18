"""HOST: a question as the rules read it, and where its words are cut."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from reflex_jax.statements import grammar

ASKING = re.compile(r"^(?:what|which|where|how|why|whose)\b")


@dataclass(frozen=True)
class Question:
    """A question as the rules read it: lower case, without its question mark and its list of options."""

    text: str
    has_options: bool

    @property
    def words(self) -> list[str]:
        """The words of the text."""
        return self.text.split()


# The statement of a question and an answer in lower case, None where the rule does not fit.
Rule = Callable[[Question, str], str | None]


@functools.lru_cache(maxsize=4096)  # most rules ask for it, for each of the G answers
def find_core(question: Question) -> str:
    """The question without a list of alternatives or an afterthought behind a comma."""
    core = re.sub(r"[,?:] (?:and (?:what|where)\b.*|if any$|(?:[^,]+, )*[^,]+ or .+)$", "", question.text)
    return re.sub(r"\?.*$", "", core).strip(" ,")


def split_at_auxiliary(text: str) -> tuple[str, str, list[str]]:
    """("lobe", "is", ["the", "nodule", "located"]) of "lobe is the nodule located"."""
    words = text.split()
    position = next((i for i, word in enumerate(words) if word in grammar.AUXILIARIES), None)
    return ("", "", []) if position is None else (" ".join(words[:position]), words[position], words[position + 1 :])
