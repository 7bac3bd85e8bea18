"""HOST: the metrics of answers in words, of whatever gave them: a policy, a file of predictions, a constant.

Names and definitions are those of `rewards.answer_metrics`, under which training and evaluation write them too.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflex_jax.data.examples import Example
from reflex_jax.rewards.answer_metrics import ANSWER_METRICS, CLOSED_METRICS, OPEN_METRICS, answer_metrics
from reflex_jax.rewards.answered import Answered

AnswerScores = dict[str, float]  # metric -> value in [0, 1], of those that the question has


def score_answer(answer: str | None, example: Example) -> AnswerScores:
    """What one answer, None where there is none, scores on a question."""
    answered = Answered(
        question=example.question, completion="", answer=answer, truth=example.answer, accepted=example.accepted,
        answer_type=example.answer_type, options=example.options,
    )  # fmt: skip
    return {name: value for name, value in answer_metrics(answered).items() if name in CLOSED_METRICS + OPEN_METRICS}


def mean_scores(scores: Sequence[AnswerScores]) -> dict[str, float]:
    """Each metric's mean over the questions that have it; a mean over none is left out."""
    found = {name: [score[name] for score in scores if name in score] for name in ANSWER_METRICS}
    return {name: sum(values) / len(values) for name, values in found.items() if values}
