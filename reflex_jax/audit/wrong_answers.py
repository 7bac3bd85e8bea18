"""Answers that are wrong and of the same type: what a policy that does not look might say instead of the right one.

What is right is decided by the rule of R_ans (`rewards.answer`), so that no wrong answer is one that it would call right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from numpy.random import Generator

from reflex_jax.audit.minimal_pairs import other_level, other_side
from reflex_jax.data.examples import Example
from reflex_jax.rewards.answer import OPEN_ANSWER_PARTS, answer_reward
from reflex_jax.statements.operator import decl_rule
from reflex_jax.step.bridge import OPEN_CORRECT_AT
from reflex_jax.text.normalise import normalise_answer
from reflex_jax.text.questions import read_question

_MOST_TRIED = 20  # candidates of one pool; more of them are wrong than right
_Key = tuple[str, ...]


class WrongAnswers:
    """Finds wrong answers among those that a set of questions has."""

    def __init__(self, examples: Sequence[Example]):
        """Sorts the answers of all questions by the kind of question they belong to."""
        self._pools: dict[_Key, dict[str, str]] = defaultdict(dict)
        for example in examples:
            for key in _kinds(example):
                self._pools[key].setdefault(normalise_answer(example.answer), example.answer)

    def pick(self, example: Example, random: Generator) -> str | None:
        """A wrong answer of the question's type; None where the set has none.

        The other of yes and no; another option; the other side or level where the question lets choose between them; else
        the answer of another question of the same words, category and form, category, or form, whichever is found first.
        """
        for pool in self._candidates(example):
            order = random.permutation(len(pool))[:_MOST_TRIED]
            for number in order:
                if not is_right(example, pool[number]):
                    return pool[number]
        return None

    def _candidates(self, example: Example) -> Iterator[list[str]]:
        if (other := flipped(example)) is not None:
            yield [other]
            return
        options = read_question(example.question, example.options).options
        if options:
            yield list(options)
            return
        if example.answer_type == "closed":
            yield [said for swap in (other_side, other_level) if (said := swap(example.answer)) is not None]
        for key in _kinds(example):
            yield list(self._pools[key].values())


def flipped(example: Example) -> str | None:
    """No for yes and yes for no; None where the answer is neither."""
    return {"yes": "no", "no": "yes"}.get(normalise_answer(example.answer))


def is_right(example: Example, answer: str) -> bool:
    """Whether R_ans, with its default parts, counts an answer as correct."""
    paid = answer_reward(
        answer, example.answer, answer_type=example.answer_type, options=example.options, parts=OPEN_ANSWER_PARTS,
        question=example.question, accepted=example.accepted,
    )  # fmt: skip
    return paid >= OPEN_CORRECT_AT


def _kinds(example: Example) -> Iterable[_Key]:
    """What questions a question's wrong answers may come from, the nearest first."""
    rule = decl_rule(example.question, example.answer, example.options)
    kind = (example.source, example.answer_type)
    yield (*kind, "question", normalise_answer(example.question))
    yield (*kind, "category", example.category or "", rule)
    if example.category:
        yield (*kind, "category", example.category)
    yield (*kind, "rule", rule)
    yield (*kind, "type")
