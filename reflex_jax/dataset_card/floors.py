"""HOST: what can be scored without looking: the numbers that belong beside every score.

The question-only baseline answers each question with the answer that was most frequent in training for the same words, and a
question that training does not have with the most frequent answer to its kind. It needs no model, no picture and no format.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from reflex_jax.data.examples import Example
from reflex_jax.evaluation.metrics import mean_scores, score_answer
from reflex_jax.text.normalise import normalise_answer


def question_only_answers(training: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """The answer of the baseline to each of `examples`; ties go to the answer that training has first."""
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for example in training:
        by_question[_words(example)][example.answer] += 1
        by_kind[_kind(example)][example.answer] += 1
    overall = Counter(example.answer for example in training)

    def answer(example: Example) -> str:
        counts = by_question.get(_words(example)) or by_kind.get(_kind(example)) or overall
        return counts.most_common(1)[0][0] if counts else ""

    return [answer(example) for example in examples]


def question_only_scores(training: Sequence[Example], examples: Sequence[Example]) -> dict[str, float]:
    """The metrics of the question-only baseline, in the names of `answer_metrics`."""
    answers = question_only_answers(training, examples)
    return mean_scores([score_answer(answer or None, e) for answer, e in zip(answers, examples, strict=True)])


def _words(example: Example) -> str:
    return normalise_answer(example.question)


def _kind(example: Example) -> tuple[str, bool]:
    """What is known of the kind of answer before it is given: the type of the question, and whether it has options."""
    return example.answer_type, example.options is not None
