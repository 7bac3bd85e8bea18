"""What the judge is shown of each question: the true answer in other words, and answers and pictures that are wrong.

Each statement stands beside the question's own, its anchor, as the statement of a sampled answer does.
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from reflex_jax.audit.minimal_pairs import negated, other_count, other_level, other_side
from reflex_jax.audit.paraphrases import paraphrase
from reflex_jax.audit.wrong_answers import WrongAnswers, flipped
from reflex_jax.data.examples import Example
from reflex_jax.statements.operator import decl

# name of each group of statements -> what they are
STATEMENT_GROUPS = {
    "truth": "the true statement itself",
    "paraphrase": "the true answer in other words",
    "wrong": "a wrong answer of the same type",
    "flipped": "no for yes and yes for no",
    "side": "left for right",
    "level": "upper for lower",
    "count": "another number",
    "negation": "the true statement denied",
    "letters": "random letters",
}
PICTURE_GROUPS = {
    "other_picture": "the true statement, another question's picture",
    "blank_picture": "the true statement, a grey picture",
}
GROUPS = STATEMENT_GROUPS | PICTURE_GROUPS
MINIMAL_PAIRS = ("side", "level", "count", "negation")


@dataclass(frozen=True)
class Variants:
    """One question and what is said of it."""

    example: Example
    anchor: str  # decl(question, true answer)
    texts: dict[
        str, str | None
    ]  # group of `STATEMENT_GROUPS` -> its statement; None: there is none that is not the anchor
    origin: str  # of the paraphrase, see `paraphrases`
    other: Example | None  # a question about another picture, of which the statement is not known to be true


def draw_variants(examples: Sequence[Example], *, count: int, seed: int) -> list[Variants]:
    """A sample of questions with their variants.

    Args:
      examples: of the set; wrong answers and other pictures come from all of them.
      count: of the sample; all where there are fewer.
      seed: the same numbers give the same sample.
    """
    random = np.random.default_rng((seed, 7))
    chosen = sorted(random.permutation(len(examples))[:count].tolist())
    wrong_answers, said = WrongAnswers(examples), _statements_by_picture(examples)
    return [_variants(examples[number], examples, wrong_answers, said, random) for number in chosen]


def _variants(
    example: Example,
    examples: Sequence[Example],
    wrong_answers: WrongAnswers,
    said: dict[str, set[str]],
    random: Generator,
) -> Variants:
    def state(answer: str | None) -> str | None:
        return None if answer is None else decl(example.question, answer, example.options)

    anchor = decl(example.question, example.answer, example.options)
    origin, reworded = paraphrase(example)
    other_polarity = state(flipped(example))
    texts = {
        "truth": anchor,
        "paraphrase": reworded,
        "wrong": state(wrong_answers.pick(example, random)),
        "flipped": other_polarity,
        "side": other_side(anchor),
        "level": other_level(anchor),
        "count": other_count(anchor),
        "negation": other_polarity or negated(anchor),
        "letters": _random_letters(anchor, random),
    }
    return Variants(
        example=example,
        anchor=anchor,
        texts={group: text if group == "truth" or text != anchor else None for group, text in texts.items()},
        origin=origin,
        other=_other_picture(example, anchor, examples, said, random),
    )


def _statements_by_picture(examples: Sequence[Example]) -> dict[str, set[str]]:
    said: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        said[example.image_id].add(decl(example.question, example.answer, example.options))
    return said


def _other_picture(
    example: Example, anchor: str, examples: Sequence[Example], said: dict[str, set[str]], random: Generator
) -> Example | None:
    for number in random.integers(len(examples), size=50):
        other = examples[int(number)]
        if other.images and other.image_id != example.image_id and anchor not in said[other.image_id]:
            return other
    return None


def _random_letters(statement: str, random: Generator) -> str:
    """As many words of as many letters."""
    letters = list(string.ascii_lowercase)
    return " ".join("".join(random.choice(letters, size=len(word))) for word in statement.split())
