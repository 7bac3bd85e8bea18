"""HOST: the embedding reward of MediX-R1: whether answer and truth lie close to each other in a text encoder's space."""

from __future__ import annotations

from collections.abc import Sequence

from reflex_jax.rewards.answered import Answered, Result
from reflex_jax.rewards.text_encoder import JUDGE, Pair, TextEncoders, pooling_problems, refuse
from reflex_jax.text.completion import without_full_stops
from reflex_jax.text.normalise import LONGEST_ANSWER


def embedding_similarity_scores(
    rows: Sequence[Answered],
    encoders: TextEncoders,
    *,
    encoder: str = JUDGE,
    pooling: str | None = None,
    threshold: float | None = 0.8,
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
    """
    answers = [without_full_stops((row.answer or "")[:LONGEST_ANSWER]) for row in rows]
    truths = [[without_full_stops(truth) for truth in (row.truth, *row.accepted)] for row in rows]
    asked: list[list[Pair]] = [
        [(answer, truth) for truth in right] if answer and answer not in right else []
        for answer, right in zip(answers, truths, strict=True)
    ]
    cosines = iter(encoders[encoder].cosines([pair for pairs in asked for pair in pairs], pooling=pooling))

    def score(answer: str, pairs: list[Pair]) -> float:
        if not answer:
            return 0.0
        best = max((next(cosines) for _ in pairs), default=1.0)
        return best if threshold is None else float(best >= threshold)

    return [score(answer, pairs) for answer, pairs in zip(answers, asked, strict=True)]


def check_embedding(*, encoder: str, pooling: str | None, threshold: float | None) -> None:
    """Refuses a threshold that every pair passes or none, and an unknown pooling.

    Raises:
      ValueError: out of range.
    """
    problems = pooling_problems(encoder, pooling)
    if threshold is not None and not -1 < threshold <= 1:
        problems.append(f"threshold: expected a cosine in (-1, 1], or null for none; got {threshold}")
    refuse(problems)
