"""Signs that a run does not learn, each said in one line once: what a curve shows only to who knows what to look for."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

from reflex_jax.config import Config
from reflex_jax.processes import is_first

_WINDOW = 10  # steps that are looked at together
_MOST = 0.5  # of the groups without a spread, and of the completions that are cut off


class Signs:
    """Looks at the metrics of the last steps of this command."""

    def __init__(self, config: Config):
        """Nothing has been seen yet."""
        self._config, self._told = config, set[str]()
        self._last: deque[Mapping[str, Any]] = deque(maxlen=_WINDOW)

    def note(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of a step and says what is new."""
        self._last.append(metrics)
        if len(self._last) < _WINDOW:
            return
        for sign, words in self._found().items():
            if sign not in self._told:
                self._told.add(sign)
                if is_first():
                    print(f"steps {step - _WINDOW + 1} to {step}: {words}", file=sys.stderr, flush=True)

    def _found(self) -> dict[str, str]:
        """What the last steps show, in words."""
        found = {}
        if (share := self._mean("frac_zero_std")) > _MOST:
            found["frac_zero_std"] = (
                f"in {share:.0%} of the groups all completions got the same reward, which teaches nothing (frac_zero_std). "
                "The questions are too easy or too hard for the policy, or its samples too much alike: see "
                "grpo.dynamic_sampling, grpo.group_size, rollout.temperature and rewards that pay in parts."
            )
        if (share := self._mean("truncation_rate")) > _MOST:
            found["truncation_rate"] = (
                f"{share:.0%} of the completions were cut off at rollout.max_new_tokens="
                f"{self._config.rollout.max_new_tokens} before they ended, most of them without an answer to pay "
                "(truncation_rate). Raise it."
            )
        for name, weight in self._config.rewards.weights.items():
            seen = [metrics.get(f"reward/{name}") for metrics in self._last]
            if weight and all(value is not None and math.isnan(value) for value in seen):
                found[f"reward/{name}"] = (
                    f"rewards.components.{name}, of weight {weight:g}, applied to no completion (reward/{name} is NaN): "
                    "nothing in these questions is what it scores, so nothing is paid. See docs/objectives.md."
                )
        return found

    def _mean(self, name: str) -> float:
        """Of a metric of all steps seen; NaN where one of them does not have it."""
        return sum(float(metrics.get(name, math.nan)) for metrics in self._last) / len(self._last)
