"""HOST: the format reward R_fmt (paper Eq. 9). Takes strings, returns numbers."""

from __future__ import annotations

from reflex_jax.rewards.answered import Answered
from reflex_jax.text.completion import parse_completion


def format_score(answered: Answered) -> float:
    """The component `format`."""
    return format_reward(answered.completion)


def format_reward(completion: str) -> float:
    """1 for one think block, optional white space and one non-empty answer block, nothing else; 0 otherwise."""
    return float(parse_completion(completion).is_well_formed)
