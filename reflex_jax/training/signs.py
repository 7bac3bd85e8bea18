"""Signs that a run does not learn, each said in one line once: what a curve shows only to who knows what to look for."""

from __future__ import annotations

import math
import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from reflex_jax.config import Config
from reflex_jax.processes import is_first
from reflex_jax.text.degenerate import KINDS, degenerate_kind
from reflex_jax.text.normalise import LONGEST_ANSWER, normalise_answer

_WINDOW = 10  # steps that are looked at together
_MOST = 0.5  # of the groups without a spread, and of the completions that are cut off or degenerate
_MOST_ALIKE = 0.3  # of the completions that give one answer, above the share of questions whose true answer it is
_FEWEST_QUESTIONS = 8  # of which one answer for all says something


class Signs:
    """Looks at the metrics and completions of the last steps of this command; completions are this process's part."""

    def __init__(self, config: Config):
        """Nothing has been seen yet."""
        self._config, self._told = config, set[str]()
        self._last: deque[Mapping[str, Any]] = deque(maxlen=_WINDOW)
        self._completions: deque[Counter[str]] = deque(maxlen=_WINDOW)

    def note(self, step: int, metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Takes the metrics and the completions of a step and says what is new.

        Args:
          step: its number.
          metrics: by name.
          rows: of `run.samples.completion_rows`; none in the supervised phase.
        """
        self._last.append(metrics)
        self._completions.append(_count_kinds(rows))
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
        return found | self._drifts()

    def _drifts(self) -> dict[str, str]:
        """What most completions do instead of answering."""
        counts: Counter[str] = Counter()
        for step in self._completions:
            counts.update(step)
        rows, found = counts[_ALL], {}
        advice = "See samples.jsonl, and `reflex audit rewards` for what such completions earn."
        for kind, (_, words) in KINDS.items():
            if counts[kind] > _MOST * rows:
                found[f"drift/{kind}"] = f"{counts[kind] / rows:.0%} of the completions {words}. {advice}"
        if counts[_ALIKE] > _MOST * len(self._completions) and len(self._completions) == _WINDOW:
            found["drift/one_answer"] = (
                f"in most steps one answer was given far more often than it is right, whatever was asked. {advice}"
            )
        return found

    def _mean(self, name: str) -> float:
        """Of a metric of all steps seen; NaN where one of them does not have it."""
        return sum(float(metrics.get(name, math.nan)) for metrics in self._last) / len(self._last)


_ALL, _ALIKE = "all", "one_answer"  # beside the kinds, in what a step's completions are counted as


def _count_kinds(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many completions of a step are of each kind, how many there are, and whether they give one answer."""
    counts: Counter[str] = Counter()
    for row in rows:
        kind = degenerate_kind(row["question"], row["completion"], row["parsed_answer"])
        counts[_ALL] += 1
        if kind is not None:
            counts[kind] += 1
    counts[_ALIKE] += _is_one_answer(rows)
    return counts


def _is_one_answer(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one answer is given to different questions, and more often than it is true."""
    if len({row["question"] for row in rows}) < _FEWEST_QUESTIONS:
        return False
    said = Counter(normalise_answer((row["parsed_answer"] or "")[:LONGEST_ANSWER]) for row in rows)
    del said[""]
    if not said:
        return False
    answer, count = said.most_common(1)[0]
    true = sum(normalise_answer(row["true_answer"][:LONGEST_ANSWER]) == answer for row in rows)
    return count - true > _MOST_ALIKE * len(rows)
