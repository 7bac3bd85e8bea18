"""HOST: the answer reward R_ans (paper Eq. 9): exact match for closed questions, overlap of words for open ones.

The paper names "exact match" and "BLEU/ROUGE/BERTScore" without weights or normalisation. Here an exact match compares
normalised answers, with option letters resolved first, and the open reward is the weighted mean of BLEU-1 with brevity
penalty and the ROUGE-1 F-measure.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from reflex_jax.rewards.answered import Answered
from reflex_jax.text.normalise import LONGEST_ANSWER, normalise_answer

OPEN_ANSWER_PARTS = {"bleu1": 0.5, "rouge1": 0.5}


def answer_score(answered: Answered, *, parts: dict[str, float] = OPEN_ANSWER_PARTS) -> float:
    """The component `answer`; `parts` are the weights of the measures of an open answer."""
    return answer_reward(
        answered.answer, answered.truth, answer_type=answered.answer_type, options=answered.options, parts=parts
    )


def answer_reward(
    answer: str | None, truth: str, *, answer_type: str, options: Sequence[str] | None, parts: Mapping[str, float]
) -> float:
    """Scores one answer in [0, 1].

    Args:
      answer: content of the answer block; None or blank scores 0.
      truth: the dataset's answer, not blank.
      answer_type: closed (exact match) or open (overlap of words).
      options: texts behind the letters A, B, ... of a multiple-choice question.
      parts: weights of the measures of the open reward.
    Raises:
      ValueError: unknown answer type, blank truth, or weights that cannot be used.
    """
    if answer_type == "closed":
        return closed_answer_reward(answer, truth, options)
    if answer_type == "open":
        return open_answer_reward(answer, truth, parts=parts)
    raise ValueError(f"answer_type: expected closed or open; got {answer_type!r}.")


def closed_answer_reward(answer: str | None, truth: str, options: Sequence[str] | None = None) -> float:
    """1 if both normalise to the same words, or name the same one of `options` by letter or text; 0 otherwise.

    An answer of more than `LONGEST_ANSWER` characters is wrong, whatever its first ones say.
    """
    expected = normalise_answer(truth, options)
    if not expected:
        raise ValueError(f"closed_answer_reward: expected a true answer with visible characters; got {truth!r}.")
    if answer is None or len(answer) > LONGEST_ANSWER:
        return 0.0
    return float(normalise_answer(answer, options) == expected)


def open_answer_reward(answer: str | None, truth: str, *, parts: Mapping[str, float]) -> float:
    """Weighted mean of overlap measures, in [0, 1].

    Args:
      answer: None or blank scores 0.
      truth: the dataset's answer, not blank.
      parts: measure -> weight; weights are divided by their sum.
    """
    check_parts(parts=parts)
    if not normalise_answer(truth):
        raise ValueError(f"open_answer_reward: expected a true answer with visible characters; got {truth!r}.")
    if answer is None:
        return 0.0
    total = sum(weight * OPEN_ANSWER_MEASURES[name](answer, truth) for name, weight in parts.items())
    return total / sum(parts.values())


def check_parts(*, parts: Mapping[str, float]) -> None:
    """Refuses weights that no mean can be made of.

    Raises:
      ValueError: unknown measures, weights below 0, or none above.
    """
    unknown = sorted(set(parts) - set(OPEN_ANSWER_MEASURES))
    if unknown or any(weight < 0 for weight in parts.values()) or not sum(parts.values()) > 0:
        raise ValueError(
            f"parts: expected weights >= 0, not all 0, for some of {', '.join(OPEN_ANSWER_MEASURES)}; got {dict(parts)}."
        )


def bleu1(candidate: str, reference: str) -> float:
    """BLEU of single words: clipped precision, times exp(1 - r / c) for a candidate of c < r words."""
    candidate_words, reference_words = _words(candidate), _words(reference)
    overlap = _overlap(candidate_words, reference_words)
    if overlap == 0:
        return 0.0
    precision = overlap / len(candidate_words)
    return precision * min(1.0, math.exp(1 - len(reference_words) / len(candidate_words)))


def rouge1(candidate: str, reference: str) -> float:
    """F-measure of the words two texts share, each counted as often as both have it; no stemming."""
    candidate_words, reference_words = _words(candidate), _words(reference)
    overlap = _overlap(candidate_words, reference_words)
    if overlap == 0:
        return 0.0
    precision, recall = overlap / len(candidate_words), overlap / len(reference_words)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    """Runs of ASCII letters and digits in lower case, the tokens of the reference ROUGE implementation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _overlap(candidate: Sequence[str], reference: Sequence[str]) -> int:
    return sum((Counter(candidate) & Counter(reference)).values())


OPEN_ANSWER_MEASURES: dict[str, Callable[[str, str], float]] = {"bleu1": bleu1, "rouge1": rouge1}
