"""reflex_jax: reinforcement learning of medical vision-language models whose answers can be audited.

The table of contents below is the public surface; a name is loaded when it is first used, so importing the package is
quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"  # written here alone: setup.cfg reads this line, a test holds CITATION.cff to it

_PUBLIC = {
    "load_config": "reflex_jax.config_reader",
    "load_policy": "reflex_jax.checkpoints.policy",
    "policy_logits": "reflex_jax.checkpoints.policy",
    "load_judge": "reflex_jax.judge.evidence",
    "judge_evidence": "reflex_jax.judge.evidence",
    "decl": "reflex_jax.statements.operator",
    "make_phantom": "reflex_jax.data.phantom",
    "generate": "reflex_jax.step.completions",
    "completion_texts": "reflex_jax.step.completions",
    "train": "reflex_jax.training.loop",
    "evaluate": "reflex_jax.evaluation.evaluate",
    "rewards": "reflex_jax.rewards",
    "grpo": "reflex_jax.grpo",
}
_RENAMED = {"evaluate": "evaluate_run"}
_PACKAGES = ("rewards", "grpo")

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'reflex_jax' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    module = importlib.import_module(_PUBLIC[name])
    return module if name in _PACKAGES else getattr(module, _RENAMED.get(name, name))


def __dir__() -> list[str]:
    """Lists the public names."""
    return __all__
