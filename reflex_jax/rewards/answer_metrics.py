"""HOST: what is reported of an answer beside its reward. No number is of closed and of open questions at once.

An open answer has four numbers side by side, as they are defined elsewhere: the contrasts that R_ans heeds change none of them.
Recall alone is reached by listing every word there is, and an overlap of words hardly tells left from right; exact match is
not reached so.
"""

from __future__ import annotations

from collections.abc import Callable

from reflex_jax.rewards.answer import is_same_answer, read_asked
from reflex_jax.rewards.answer_measures import bleu1, rouge1, token_recall
from reflex_jax.rewards.answered import Answered
from reflex_jax.text.normalise import LONGEST_ANSWER, normalise_answer

_MEASURES: dict[str, Callable[[str, str], float]] = {
    "open/recall": token_recall,
    "open/bleu1": bleu1,
    "open/rouge1": rouge1,
}
OPEN_METRICS = ("open/exact_match", *_MEASURES)
CLOSED_METRICS = ("accuracy", "accuracy_yes_no", "accuracy_choice")
# Every name that a rollout and an evaluation write; the last counts answers that a tag within the thought made unreadable.
ANSWER_METRICS = (*CLOSED_METRICS, *OPEN_METRICS, "repeated_tag_rate")


def metrics_of_question(answer_type: str, truth: str) -> tuple[str, ...]:
    """Names of what is reported of the answers to a question, of `ANSWER_METRICS`."""
    if answer_type == "open":
        return (*OPEN_METRICS, "repeated_tag_rate")
    kind = "accuracy_yes_no" if normalise_answer(truth) in {"yes", "no"} else "accuracy_choice"
    return ("accuracy", kind, "repeated_tag_rate")


def answer_metrics(answered: Answered) -> dict[str, float]:
    """What is reported of an answer, under the names that `metrics_of_question` gives.

    `accuracy` is the exact match of a closed question, once more apart for those of yes and no and for the others. The best
    over the truth and the accepted answers counts. No answer is 0 in each of these, and so is one of more than
    `LONGEST_ANSWER` characters.
    """
    truths = (answered.truth, *answered.accepted)
    question = read_asked(answered.question, answered.options)
    answer = answered.answer if answered.answer and len(answered.answer) <= LONGEST_ANSWER else None
    is_exact = float(answer is not None and any(is_same_answer(answer, truth, question) for truth in truths))
    names = metrics_of_question(answered.answer_type, answered.truth)
    found = dict.fromkeys(names, is_exact) | {"repeated_tag_rate": float(answered.parts.repeats_answer_tag)}
    for name in _MEASURES.keys() & found.keys():
        found[name] = max(_MEASURES[name](answer, truth) for truth in truths) if answer else 0.0
    return found
