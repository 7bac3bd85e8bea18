"""What a step computes beside what exists, on the recorded lengths of `length_trace.json`: slots / tokens.

    python benchmarks/lengths.py

A slot is a place of an array that the policy computes, whether or not a token or a patch is in it. Layouts are functions
of a step; a new one is one more line in `LAYOUTS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TRACE = Path(__file__).resolve().parent / "length_trace.json"


@dataclass(frozen=True)
class Limits:
    """What arrays are padded to where nothing else bounds them."""

    max_new_tokens: int  # Lc
    longest_prompt: int  # Lp, of the data set
    most_windows: int  # W, of the data set
    patches_per_window: int  # U


@dataclass(frozen=True)
class Step:
    """Lengths of one step."""

    prompt_tokens: np.ndarray  # [P]
    windows: np.ndarray  # [P]
    patches: np.ndarray  # [P]
    completion_tokens: np.ndarray  # [P, G]

    @property
    def tokens(self) -> dict[str, int]:
        """What exists: tokens that the update scores or reads, tokens that sampling reads or writes, patches."""
        text = int(self.prompt_tokens.sum() + self.completion_tokens.sum())
        return {"update": text, "sampling": text, "pictures": int(self.patches.sum())}


Layout = Callable[[Step, Limits], dict[str, int]]  # slots of "update", "sampling" and "pictures"


def padded(step: Step, limits: Limits) -> dict[str, int]:
    """Prompts and pictures as long as the data set's longest, completions as long as allowed.

    Sampling computes every row until the last one of the step has ended.
    """
    prompts, group = step.completion_tokens.shape
    read = prompts * limits.longest_prompt
    return {
        "update": read + prompts * group * limits.max_new_tokens,
        "sampling": read + prompts * group * int(step.completion_tokens.max()),
        "pictures": prompts * limits.most_windows * limits.patches_per_window,
    }


LAYOUTS: dict[str, Layout] = {"padded": padded}


def read_trace(path: Path = TRACE) -> tuple[list[Step], Limits]:
    """The recorded steps, and what their run pads to."""
    trace: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names = ("prompt_tokens", "windows", "patches", "completion_tokens")
    steps = [Step(**{name: np.asarray(step[name]) for name in names}) for step in trace["steps"]]
    return steps, Limits(**{name: trace[name] for name in Limits.__dataclass_fields__})


def overhead(steps: list[Step], limits: Limits, layout: Layout) -> dict[str, float]:
    """Slots / tokens of each part, over all steps."""
    slots = [layout(step, limits) for step in steps]
    tokens = [step.tokens for step in steps]
    return {part: sum(s[part] for s in slots) / sum(t[part] for t in tokens) for part in slots[0]}


def main() -> None:
    """Prints one line for each layout."""
    steps, limits = read_trace()
    prompts, group = steps[0].completion_tokens.shape
    lengths = np.concatenate([step.prompt_tokens for step in steps])
    completions = np.concatenate([step.completion_tokens.ravel() for step in steps])
    print(
        f"{len(steps)} steps of {prompts} prompts x {group}: prompts of {lengths.min()} to {lengths.max()} tokens, mean "
        f"{lengths.mean():.0f}; completions of mean {completions.mean():.0f}, longest {completions.max()}"
    )
    for name, layout in LAYOUTS.items():
        found = overhead(steps, limits, layout)
        print(f"{name:8s} slots / tokens: " + ", ".join(f"{part} {ratio:.2f}" for part, ratio in found.items()))


if __name__ == "__main__":
    main()
