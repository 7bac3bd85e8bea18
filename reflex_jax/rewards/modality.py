"""HOST: the modality reward of MediX-R1: whether a completion begins with the tag of its picture's kind."""

from __future__ import annotations

from reflex_jax.rewards.answered import Answered


def modality_score(answered: Answered) -> float | None:
    """1 where the text before the first thought tag is the true tag, `<CT_SCAN>`, whatever its case; else 0.

    A completion without a thought tag gets 0. It does not apply to questions whose modality is not known. Where the completions
    are not read with `completion.preamble`, the format takes the tag for a fault.
    """
    modality = answered.metadata.get("modality")
    if modality is None:
        return None
    preamble = answered.parts.preamble
    return float(preamble is not None and preamble.casefold() == f"<{modality}>".casefold())
