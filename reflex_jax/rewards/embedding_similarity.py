"""HOST: the embedding reward of MediX-R1: whether answer and truth lie close to each other in a text encoder's space."""

from __future__ import annotations

from collections.abc import Sequence

from reflex_jax.rewards.answered import Answered, Result
from reflex_jax.rewards.text_encoder import JUDGE, Pair, TextEncoders, pooling_problems, refuse
from reflex_jax.rewards.validity import is_valid_answer
from reflex_jax.text.completion import without_full_stops
from reflex_jax.text.normalise import LONGEST_ANSWER


def embedding_similarity_scores(
    rows: Sequence[Answered],
    encoders: TextEncoders,
    *,
    encoder: str = JUDGE,
    pooling: str | None = None,
    threshold: float | None = 0.8,
    valid_only: bool = False,
) -> list[Result]:
    """The component `embedding_similarity`: 1 where the cosine of answer and truth reaches the threshold, else 0.

    Both are compared without the full stops around them; the same text is 1 whatever the encoder says. The best of the truth
    and the accepted answers counts. No answer is 0.

    Args:
      rows: completions of a step.
      encoders: of the run.
      encoder: `judge` for the judge's text tower, or the directory of a BERT.
      pooling: projection (the judge's alone), cls or mean; None: as the encoder was made to be used.
      threshold: None: the cosine itself is paid, in [-1, 1].
      valid_only: answers that `is_valid_answer` refuses are 0.
    """
    answers = [without_full_stops((row.answer or "")[:LONGEST_ANSWER]) for row in rows]
    truths = [[without_full_stops(truth) for truth in (row.truth, *row.accepted)] for row in rows]
    is_scored = [bool(answer) and (is_valid_answer(answer) or not valid_only) for answer in answers]
    asked: list[list[Pair]] = [
        [(answer, truth) for truth in right] if scored and answer not in right else []
        for answer, right, scored in zip(answers, truths, is_scored, strict=True)
    ]
    cosines = iter(encoders[encoder].cosines([pair for pairs in asked for pair in pairs], pooling=pooling))

    def score(scored: bool, pairs: list[Pair]) -> float:
        if not scored:
            return 0.0
        best = max((next(cosines) for _ in pairs), default=1.0)
        return best if threshold is None else float(best >= threshold)

    return [score(scored, pairs) for scored, pairs in zip(is_scored, asked, strict=True)]


def check_embedding(*, encoder: str, pooling: str | None, threshold: float | None, valid_only: bool) -> None:
    """Refuses a threshold that every pair passes or none, and an unknown pooling.

    Raises:
      ValueError: out of range.
    """
    problems = pooling_problems(encoder, pooling)
    if threshold is not None and not -1 < threshold <= 1:
        problems.append(f"threshold: expected a cosine in (-1, 1], or null for none; got {threshold}")
    refuse(problems)
