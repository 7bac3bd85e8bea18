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


def check_pooling(encoder: str, pooling: str | None) -> None:
    """Refuses a way to pool that there is not, or that only the judge has.

    Raises:
      ValueError: it is one.
    """
    choices = POOLINGS if encoder == JUDGE else POOLINGS[1:]
    if pooling is not None and pooling not in choices:
        raise ValueError(
            f"pooling: expected one of {', '.join(choices)}, or null for the encoder's own, with encoder={encoder[:80]}; "
            f"got {pooling[:80]!r}."
        )


def check_layer(layer: int | None) -> None:
    """Refuses a layer that no encoder has.

    Raises:
      ValueError: it is below 0.
    """
    if layer is not None and layer < 0:
        raise ValueError(
            f"layer: expected 0 for the embedding, 1 for the first layer, ..., null for the last; got {layer}."
        )
