"""HOST: the reasoning reward of RARL: how close a completion's thought is to the reasoning that the data set gives.

RARL does not say by what measure; BERTScore-F1 is how it scores open answers. Questions without a reference reasoning are not
scored, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflex_jax.rewards.answered import Answered, Result
from reflex_jax.rewards.text_encoder import JUDGE, TextEncoders, layer_problems, pooling_problems, refuse
from reflex_jax.text.normalise import has_visible_character

_MEASURES = ("bertscore", "embedding")


def reasoning_scores(
    rows: Sequence[Answered],
    encoders: TextEncoders,
    *,
    measure: str = "bertscore",
    encoder: str = JUDGE,
    layer: int | None = None,
    pooling: str | None = None,
) -> list[Result]:
    """The component `reasoning`; a completion without a readable thought gets 0, a question without a reference none.

    Args:
      rows: completions of a step; the reference is `reasoning` of their metadata.
      encoders: of the run.
      measure: `bertscore`: F1; `embedding`: the cosine of the two embeddings.
      encoder: `judge` for the judge's text tower, or the directory of a BERT; what is longer than it reads is cut.
      layer: of `bertscore`, whose hidden states are compared; None: the last.
      pooling: of `embedding`, see `embedding_similarity_scores`.
    """
    references = [row.metadata.get("reasoning") for row in rows]
    thoughts = [row.parts.thought or "" for row in rows]
    scored = [
        index
        for index, (thought, reference) in enumerate(zip(thoughts, references, strict=True))
        if reference is not None and has_visible_character(thought)
    ]
    pairs = [(thoughts[index], str(references[index])) for index in scored]
    opened = encoders[encoder]
    if measure == "bertscore":
        measured = opened.greedy_f1(pairs, layer=layer)
    else:
        measured = opened.cosines(pairs, pooling=pooling)
    found = dict(zip(scored, measured, strict=True))
    return [None if reference is None else found.get(index, 0.0) for index, reference in enumerate(references)]


def check_reasoning(*, measure: str, encoder: str, layer: int | None, pooling: str | None) -> None:
    """Refuses an unknown measure, and options out of range.

    Raises:
      ValueError: one is.
    """
    problems = [*layer_problems(layer), *pooling_problems(encoder, pooling)]
    if measure not in _MEASURES:
        problems.append(f"measure: expected {' or '.join(_MEASURES)}; got {measure[:80]!r}")
    refuse(problems)
