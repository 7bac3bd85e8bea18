"""HOST: what a reward may ask of a text encoder, which the run opens and hands in by name (`judge.text_encoder` is one)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

JUDGE = "judge"  # the encoder that is the judge's own text tower; any other name is a directory
POOLINGS = ("projection", "cls", "mean")

Pair = tuple[str, str]  # what was said, what is true


@runtime_checkable
class TextEncoder(Protocol):
    """Compares texts; a batch at a time, each distinct text is encoded once."""

    def cosines(self, pairs: Sequence[Pair], *, pooling: str | None) -> Sequence[float]:
        """Cosine of the embeddings of each pair, in [-1, 1].

        Args:
          pairs: (what was said, what is true).
          pooling: how the rows of a text's tokens become its embedding, of `POOLINGS`; None: the encoder's own way.
        """
        ...

    def greedy_f1(self, pairs: Sequence[Pair], *, layer: int | None) -> Sequence[float]:
        """BERTScore-F1 of each pair, see `rewards.greedy_matching`; 0 where one of the two has no token.

        Args:
          pairs: (what was said, what is true).
          layer: whose hidden states are compared, 0: the embedding's; None: the last.
        """
        ...


TextEncoders = Mapping[str, TextEncoder]  # by the option `encoder`


def pooling_problems(encoder: str, pooling: str | None) -> list[str]:
    """What is wrong with a way to pool: there is no such, or only the judge has it."""
    choices = POOLINGS if encoder == JUDGE else POOLINGS[1:]
    if pooling is None or pooling in choices:
        return []
    return [
        f"pooling: expected one of {', '.join(choices)}, or null for the encoder's own, with encoder={encoder[:80]}; "
        f"got {pooling[:80]!r}"
    ]


def layer_problems(layer: int | None) -> list[str]:
    """What is wrong with a layer that no encoder has."""
    if layer is None or layer >= 0:
        return []
    return [f"layer: expected 0 for the embedding, 1 for the first layer, ..., null for the last; got {layer}"]


def refuse(problems: Sequence[str]) -> None:
    """Says all that is wrong with the options of a reward.

    Raises:
      ValueError: something is.
    """
    if problems:
        raise ValueError("; ".join(problems) + ".")
