"""HOST: BERTScore-F1 of open answers, as RARL pays them, beside the exact match of closed ones.

What layer the package `bert-score` would take is a table of the models it names; any other has none. The default here is the
last layer, and `layer` sets the one that a published number was made with.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflex_jax.rewards.answer import closed_answer_reward
from reflex_jax.rewards.answered import Answered, Result
from reflex_jax.rewards.text_encoder import JUDGE, Pair, TextEncoders, layer_problems, refuse
from reflex_jax.text.normalise import LONGEST_ANSWER

_CLOSED = ("exact", "bertscore")


def bertscore_scores(
    rows: Sequence[Answered],
    encoders: TextEncoders,
    *,
    encoder: str = JUDGE,
    layer: int | None = None,
    closed: str = "exact",
) -> list[Result]:
    """The component `bertscore`: F1 of an open answer, 1 or 0 for a closed one.

    The best of the truth and the accepted answers counts. No answer is 0. Without rescaling two texts that have nothing in
    common score far above 0, so it tells answers apart within a group and is no measure of one.

    Args:
      rows: completions of a step.
      encoders: of the run.
      encoder: `judge` for the judge's text tower, or the directory of a BERT.
      layer: whose hidden states are compared; None: the last.
      closed: `exact`: closed questions are paid by `closed_answer_reward`, since "no" is close to "yes"; `bertscore`: as open
        ones.
    """
    scores: list[Result] = [0.0] * len(rows)
    pairs: list[Pair] = []
    owners: list[int] = []
    for index, row in enumerate(rows):
        if row.answer is None:
            continue
        truths = (row.truth, *row.accepted)
        if row.answer_type == "closed" and closed == "exact":
            exact = [closed_answer_reward(row.answer, t, row.options, question=row.question) for t in truths]
            scores[index] = max(exact)
        else:
            pairs += [(row.answer[:LONGEST_ANSWER], truth) for truth in truths]
            owners += [index] * len(truths)
    found: dict[int, float] = {}
    for index, score in zip(owners, encoders[encoder].greedy_f1(pairs, layer=layer), strict=True):
        found[index] = max(score, found.get(index, score))
    return [found.get(index, score) for index, score in enumerate(scores)]


def check_bertscore(*, encoder: str, layer: int | None, closed: str) -> None:
    """Refuses a layer that no encoder has, and an unknown way to score closed questions.

    Raises:
      ValueError: out of range.
    """
    problems = layer_problems(layer)
    if closed not in _CLOSED:
        problems.append(f"closed: expected {' or '.join(_CLOSED)}; got {closed[:80]!r}")
    refuse(problems)
