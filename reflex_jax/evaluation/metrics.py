"""HOST: the metrics of answers in words, of whatever gave them: a policy, a file of predictions, a constant.

Closed questions of yes and no, closed questions with another answer and open questions are three kinds, and no number is of
two of them. Names and definitions of exact matches are those of `rewards.answer_metrics`, under which training writes them too.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reflex_jax.data.examples import Example
from reflex_jax.evaluation.llava_med import counted_recall
from reflex_jax.rewards.answer import is_same_answer, read_asked
from reflex_jax.rewards.answer_measures import bleu1, rouge1, rouge_l, token_f1, token_recall
from reflex_jax.rewards.answer_metrics import ANSWER_METRICS, CLOSED_METRICS, OPEN_METRICS, answer_metrics
from reflex_jax.rewards.answered import Answered
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.normalise import LONGEST_ANSWER, normalise_answer
from reflex_jax.text.questions import ReadQuestion

# Moves with whatever changes the score of some answer (tests/evaluation/test_metrics.py holds it to a list of them).
MATCHER_VERSION = "1"
KINDS = ("yes_no", "choice", "open")
AnswerScores = dict[str, float]  # metric -> value in [0, 1], of those that the question has

_OPEN_MEASURES: dict[str, Callable[[str, str], float]] = {
    "recall": token_recall, "llava_med_recall": counted_recall, "f1": token_f1, "bleu1": bleu1, "rouge1": rouge1,
    "rougeL": rouge_l,
}  # fmt: skip
DEFINITIONS = {
    "yes_no/accuracy": "closed questions whose answer is yes or no: the answer means the same (text.answers)",
    "choice/accuracy": "closed questions with another answer: the answer names the same option, by letter, text or both, or "
    "means the same",
    "open/exact_match": "open questions: the answer means the same",
    "open/recall": "share of the truth's different words that the answer has",
    "open/llava_med_recall": "LLaVA-Med's recall: words of the answer that the truth has, each time they come, over these and "
    "the missing ones; rises with repetition",
    "open/f1": "F-measure of the different words of answer and truth",
    "open/bleu1": "clipped precision of single words with brevity penalty",
    "open/rouge1": "F-measure of the words both have, counted; no stemming",
    "open/rougeL": "F-measure of the longest common subsequence of words",
    "open/bertscore": "BERTScore-F1 of the encoder named, neither idf nor rescaling",
    "majority": "the answer that most samples give (ties: the first) is right; what cannot be read has no vote",
    "pass@": "unbiased estimate that at least one of so many samples is right (arXiv:2107.03374)",
    "reliance": "right on the real picture less right on the other one, of questions with a picture",
    "sensitivity": "share of answers that change with the picture, of questions with a picture",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Asked:
    """What of a question decides how an answer to it is scored."""

    question: str
    truth: str
    answer_type: str
    accepted: tuple[str, ...] = ()
    options: tuple[str, ...] | None = None
    category: str | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Asked:
        """Reads a line of answers.jsonl."""
        options = tuple(row["options"]) if row.get("options") else None
        return cls(
            row["question"],
            row["truth"],
            row["answer_type"],
            tuple(row.get("accepted") or ()),
            options,
            row.get("category"),
        )

    @classmethod
    def of_example(cls, example: Example) -> Asked:
        """Reads a question of a data set."""
        return cls(
            example.question, example.answer, example.answer_type, example.accepted, example.options, example.category
        )

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.answer_type == "open":
            return "open"
        return "yes_no" if normalise_answer(self.truth) in {"yes", "no"} else "choice"

    @property
    def exact(self) -> str:
        """The name of its exact match, as `measure` gives it."""
        return "open/exact_match" if self.kind == "open" else f"{self.kind}/accuracy"

    @property
    def read(self) -> ReadQuestion:
        """With the options it has or lists."""
        return read_asked(self.question, self.options)

    @property
    def truths(self) -> tuple[str, ...]:
        """All that is right."""
        return (self.truth, *self.accepted)

    def is_right(self, answer: str | None) -> bool:
        """Whether an answer means what one of the truths does; one of more than `LONGEST_ANSWER` characters does not."""
        if answer is None or len(answer) > LONGEST_ANSWER:
            return False
        return any(is_same_answer(answer, truth, self.read) for truth in self.truths)

    def key(self, answer: str | None) -> str:
        """Equal keys: the same answer; empty where it cannot be read."""
        if answer is None or len(answer) > LONGEST_ANSWER:
            return ""
        resolved = resolve_answer(answer, self.read)
        return "" if resolved.is_contradictory else resolved.key


def measure(asked: Asked, answer: str | None) -> AnswerScores:
    """What an answer scores, by "kind/metric"; the best over the truths counts, and none is 0 in each of them.

    Args:
      asked: the question.
      answer: content of an answer block; None: there is none.
    """
    is_exact = float(asked.is_right(answer))
    if asked.kind != "open":
        return {asked.exact: is_exact}
    said = answer if answer and len(answer) <= LONGEST_ANSWER else None
    overlaps = {
        f"open/{name}": max(of_pair(said, truth) for truth in asked.truths) if said else 0.0
        for name, of_pair in _OPEN_MEASURES.items()
    }
    return {asked.exact: is_exact} | overlaps


def is_parsed(asked: Asked, answer: str | None) -> bool:
    """Whether an answer says what its question asks for: yes or no, one of the options, or anything at all where it is open.

    What is not parsed is wrong, and never guessed at.
    """
    if not asked.key(answer) or answer is None:
        return False
    resolved = resolve_answer(answer, asked.read)
    if asked.kind == "yes_no":
        return resolved.polarity is not None or resolved.option is not None
    return asked.kind == "open" or not asked.read.options or resolved.option is not None


def measure_samples(asked: Asked, answers: Sequence[str | None]) -> AnswerScores:
    """What several samples of one question score together: pass@k for powers of two up to their number, and their majority.

    Args:
      asked: the question.
      answers: n >= 1 of them.
    """
    right = [asked.is_right(answer) for answer in answers]
    count, correct = len(right), sum(right)
    sizes = sorted({2**power for power in range(count.bit_length()) if 2**power <= count} | {count})
    keys = [asked.key(answer) for answer in answers]
    votes = Counter(key for key in keys if key)
    # the first of the most frequent ones: a Counter keeps the order in which they came
    is_majority_right = bool(votes) and right[keys.index(votes.most_common(1)[0][0])]
    return {f"{asked.kind}/pass@{k}": pass_at(k, count, correct) for k in sizes} | {
        f"{asked.kind}/majority": float(is_majority_right)
    }


def pass_at(k: int, count: int, correct: int) -> float:
    """1 - C(count - correct, k) / C(count, k): the chance that k of the samples, drawn without putting back, hold a right one."""
    return 1.0 - math.comb(count - correct, k) / math.comb(count, k)


def definition_of(name: str) -> str:
    """What a "kind/metric" is; empty for one of a convention, which says so itself."""
    metric = name.partition("/")[2]
    return DEFINITIONS.get(name) or next((text for key, text in DEFINITIONS.items() if metric.startswith(key)), "")


def score_answer(answer: str | None, example: Example) -> AnswerScores:
    """What one answer, None where there is none, scores on a question, in the names of `answer_metrics`."""
    answered = Answered(
        question=example.question, completion="", answer=answer, truth=example.answer, accepted=example.accepted,
        answer_type=example.answer_type, options=example.options,
    )  # fmt: skip
    return {name: value for name, value in answer_metrics(answered).items() if name in CLOSED_METRICS + OPEN_METRICS}


def mean_scores(scores: Sequence[AnswerScores]) -> dict[str, float]:
    """Each metric's mean over the questions that have it; a mean over none is left out."""
    found = {name: [score[name] for score in scores if name in score] for name in ANSWER_METRICS}
    return {name: sum(values) / len(values) for name, values in found.items() if values}
