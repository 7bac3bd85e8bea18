"""What a step computes beside what exists, on the recorded lengths of `length_trace.json`: slots / tokens.

    python benchmarks/lengths.py

A slot is a place of an array that the policy computes, whether or not a token or a patch is in it. Layouts are functions
of a step; a new one is one more line in `LAYOUTS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reflex_jax.config import MemoryConfig
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.records import TokenCounts
from reflex_jax.step.batch import prompt_rungs
from reflex_jax.step.open_rows import gathered_sizes
from reflex_jax.step.rows import RowPlan, lay_out_rows, row_lengths

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


def sampled(completion_tokens: np.ndarray, sizes: Sequence[int], devices: int) -> int:
    """Rows computed for all tokens of [P, G] completions: of each device the fewest of `sizes` that hold its open ones."""
    of_devices = completion_tokens.reshape(devices, -1)
    most_open = (of_devices[..., None] > np.arange(completion_tokens.max())).sum(1).max(0)
    return devices * sum(min(size for size in (*sizes, of_devices.shape[1]) if size >= rows) for rows in most_open)


def packed(devices: int, at_once: int, lengths: int = MemoryConfig.row_lengths, *, gathers: bool = True) -> Layout:
    """The rows of `reflex_jax.step.rows` on so many devices, `at_once` prompts at one time on all of them.

    Sampling pads prompts to one of a few sizes (`prompt_rungs`) and, where it gathers what is open (`open_rows`), computes
    all rows until that is worth it.
    """

    def layout(step: Step, limits: Limits) -> dict[str, int]:
        prompts, group = step.completion_tokens.shape
        plan = RowPlan(
            prompts=prompts, minibatches=1, ways=devices, rows=at_once, prompt_tokens=limits.longest_prompt,
            completion_tokens=limits.max_new_tokens, group=group, windows=limits.most_windows,
            lengths=row_lengths(limits.longest_prompt, group * limits.max_new_tokens, count=lengths),
        )  # fmt: skip
        none = np.zeros(prompts, np.int32)
        rows = lay_out_rows(TokenCounts(none, step.prompt_tokens, step.completion_tokens, step.windows), plan)
        windows = int(np.prod(rows.window_source.shape[2:]) * rows.window_rounds.sum())
        rungs = prompt_rungs(PromptSizes(limits.longest_prompt, limits.most_windows), MemoryConfig.prompt_rungs)
        needed = PromptSizes(int(step.prompt_tokens.max()), int(step.windows.max()))
        prompt = next(size for size in rungs if size.union(needed) == size).prompt_tokens
        sizes = gathered_sizes(prompts, group, devices) if gathers else ()
        return {
            "update": int(np.prod(rows.source.shape[2:]) * rows.rounds.sum()),
            "sampling": prompts * prompt + sampled(step.completion_tokens, sizes, devices),
            "pictures": windows * limits.patches_per_window,
        }

    return layout


LAYOUTS: dict[str, Layout] = {
    "padded": padded,
    "rows, 1 device, 1 prompt at a time": packed(1, 1),
    "rows, 8 devices, 8 prompts at a time": packed(8, 8),
    "rows, 16 devices, 16 prompts at a time": packed(16, 16),
    "rows, 32 x 2 devices, 32 prompts at a time": packed(32, 32, gathers=False),
    "rows, 32 x 2 devices, all prompts at once": packed(32, 64, gathers=False),
}


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
        print(f"{name:42s} slots / tokens: " + ", ".join(f"{part} {ratio:.2f}" for part, ratio in found.items()))


if __name__ == "__main__":
    main()
