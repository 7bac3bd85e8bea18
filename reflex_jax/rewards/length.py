"""HOST: rewards of a completion's length in tokens: RARL's, which pays for it, and DAPO's, which takes off for too much."""

from __future__ import annotations

from reflex_jax.rewards.answered import Answered


def length_score(answered: Answered, *, per_token: float = 0.001, most: float = 1.0) -> float:
    """min(per_token * tokens, most), the length reward of RARL.

    Paid for every completion it pulls all of them towards `most / per_token` tokens, whatever they say; `when: right` pays it
    for right answers alone.
    """
    return min(per_token * answered.tokens, most)


def overlong_score(answered: Answered, *, limit: int = 1024, buffer: int = 256) -> float:
    """The soft overlong punishment of DAPO (arXiv:2503.14476, Eq. 13), in [-1, 0].

    0 up to `limit - buffer` tokens, from there down in a line to -1 at `limit`, and -1 beyond. A completion that was cut at
    `rollout.max_new_tokens` is punished where that is not above `limit`.
    """
    return -min(max(answered.tokens - (limit - buffer), 0) / buffer, 1.0)


def check_length(*, per_token: float, most: float) -> None:
    """Refuses a length that would cost something, and one that is worth nothing.

    Raises:
      ValueError: out of range.
    """
    for name, value in (("per_token", per_token), ("most", most)):
        if not value > 0:
            raise ValueError(f"{name}: expected more than 0; got {value}.")


def check_overlong(*, limit: int, buffer: int) -> None:
    """Refuses a punishment that begins before the first token.

    Raises:
      ValueError: out of range.
    """
    if not 0 < buffer <= limit:
        raise ValueError(
            f"limit, buffer: expected tokens with 0 < buffer <= limit; got limit={limit}, buffer={buffer}."
        )
