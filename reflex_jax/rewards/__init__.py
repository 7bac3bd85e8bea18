"""One file per reward, one line in `components`. DEVICE modules take arrays, HOST modules take strings.

A name is loaded when it is first used: a file with rewards of your own imports `reward` from here, and no array library.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Answered": "answered",
    "Failed": "answered",
    "answer_reward": "answer",
    "batch_reward": "answered",
    "bleu1": "answer_measures",
    "chance_corrected_iou": "visual_fidelity",
    "closed_answer_reward": "answer",
    "combine_rewards": "combine",
    "format_reward": "format",
    "intersection_over_union": "visual_fidelity",
    "is_degenerate": "visual_fidelity",
    "loop_tightness": "provenance",
    "open_answer_reward": "answer",
    "provenance_reward": "provenance",
    "quantile_mask": "visual_fidelity",
    "reward": "answered",
    "rouge1": "answer_measures",
    "tied_fraction": "visual_fidelity",
    "token_recall": "answer_measures",
    "visual_fidelity_reward": "visual_fidelity",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Loads a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'reflex_jax.rewards' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(f"reflex_jax.rewards.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return __all__
