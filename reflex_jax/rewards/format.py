"""HOST: the format reward R_fmt (paper Eq. 9). Takes strings, returns numbers."""

from __future__ import annotations

from reflex_jax.rewards.answered import Answered
from reflex_jax.text.completion import ParsedCompletion, parse_completion


def format_score(answered: Answered, *, partial: float = 0.0) -> float:
    """The component `format`: 1 for the shape that the run asks for, see `text.completion`.

    Args:
      answered: one completion.
      partial: what a completion is worth that does not keep the format but has one of its tags; 0.1 in RARL.
    """
    return _pay(answered.parts, partial)


def format_reward(completion: str, *, partial: float = 0.0) -> float:
    """1 for one think block, optional white space and one non-empty answer block, nothing else.

    Otherwise `partial` where there is at least one of the four tags, and 0 where there is none.
    """
    return _pay(parse_completion(completion), partial)


def check_partial(*, partial: float) -> None:
    """Refuses to pay for tags alone as much as for the format.

    Raises:
      ValueError: out of range.
    """
    if not 0 <= partial < 1:
        raise ValueError(f"partial: expected a number in [0, 1); got {partial}.")


def _pay(parsed: ParsedCompletion, partial: float) -> float:
    if parsed.is_well_formed:
        return 1.0
    return partial if parsed.has_tag else 0.0
