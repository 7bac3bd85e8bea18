"""HOST: prompts and their completions laid end to end into rows of one static length, so that padding is not computed.

A row holds one prompt and its completions, or several of them behind one another. The rows of a minibatch are computed in
rounds of B rows, each device its own; how many rounds a step takes is data, how long a row is (T) is one of a few lengths,
so few programs are compiled. Where everything lies is a function of the lengths alone: all processes come to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int

from reflex_jax.config import Config
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.records import PromptInputs, RowLayout, TokenCounts
from reflex_jax.sharding import BATCH_AXES, AnyMesh, replicated, to_global
from reflex_jax.step.ladders import ladder
from reflex_jax.trees import Array

_SLOT_MULTIPLE = 32  # row lengths are multiples of it


@dataclass(frozen=True)
class RowPlan:
    """The static side of the rows of a run: what every layout of it has in common."""

    prompts: int  # P of a step
    minibatches: int  # M optimiser updates of a pass over them
    ways: int  # devices that share the prompts
    rows: int  # B, computed at one time on all devices
    prompt_tokens: int  # Lp, padding included
    completion_tokens: int  # Lc, padding included
    group: int  # G
    windows: int  # W of a prompt, padding included
    lengths: tuple[int, ...]  # T, ascending; the last holds any prompt and its completions

    @property
    def prompts_of_device(self) -> int:
        """Of one minibatch."""
        return self.prompts // self.minibatches // self.ways

    @property
    def rows_of_device(self) -> int:
        """Computed at one time."""
        return self.rows // self.ways

    @property
    def rounds(self) -> int:
        """N, the most that a minibatch can take: a prompt in each row."""
        return self.prompts_of_device // self.rows_of_device

    @property
    def slots(self) -> int:
        """Lp + G * Lc: places of a prompt and its completions in the padded arrays."""
        return self.prompt_tokens + self.group * self.completion_tokens


def plan_rows(config: Config, mesh: AnyMesh, sizes: PromptSizes, *, supervised: bool = False) -> RowPlan:
    """The rows of a run.

    Args:
      config: of the run; its batch sizes divide over the mesh.
      mesh: of the run.
      sizes: of the padded prompts.
      supervised: the run imitates, one completion for each prompt.
    """
    grpo, memory = config.grpo, config.memory
    prompts, minibatches, group = (
        (config.sft.batch_size, 1, 1) if supervised else (grpo.prompts_per_step, grpo.minibatches, grpo.group_size)
    )
    prompt_tokens = sizes.prompt_tokens
    longest = prompt_tokens + group * config.rollout.max_new_tokens
    smallest = min(longest, max(prompt_tokens // 2, longest // 8))
    return RowPlan(
        prompts=prompts,
        minibatches=minibatches,
        ways=mesh.shape["data"] * mesh.shape["fsdp"],
        rows=memory.microbatch_prompts or prompts // minibatches,
        prompt_tokens=prompt_tokens,
        completion_tokens=config.rollout.max_new_tokens,
        group=group,
        windows=sizes.windows,
        lengths=ladder(longest, count=memory.row_lengths, multiple=_SLOT_MULTIPLE, smallest=smallest),
    )


def count_tokens(prompts: PromptInputs, is_completion: Array) -> TokenCounts:
    """How much of the padded arrays exists.

    Args:
      prompts: padded on either side.
      is_completion: True for the tokens of the completions, which begin at place 0; [P, G, Lc].
    """
    image_ids = None if prompts.vision is None else prompts.vision.image_ids
    return TokenCounts(
        first=prompts.is_valid.argmax(-1).astype("int32"),
        prompt=prompts.is_valid.sum(-1, dtype="int32"),
        completions=is_completion.sum(-1, dtype="int32"),
        windows=None if image_ids is None else (image_ids > 0).any(-1).sum(-1, dtype="int32"),
    )


def abstract_rows(plan: RowPlan, mesh: AnyMesh) -> RowLayout:
    """The layout of a step whose completions are at their longest, as shapes and places."""
    whole, cut = replicated(mesh), NamedSharding(mesh, PartitionSpec(None, None, BATCH_AXES))
    of_minibatch = (plan.minibatches, plan.rounds)

    def numbers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.int32, sharding=cut if len(shape) == 4 else whole)

    slots = numbers(*of_minibatch, plan.rows, plan.lengths[-1])
    return RowLayout(
        order=numbers(plan.minibatches, plan.prompts // plan.minibatches),
        rounds=numbers(plan.minibatches),
        source=slots,
        predicted=slots,
        predicting=slots,
        most_predicted=numbers(*of_minibatch),
        window_rounds=numbers(plan.minibatches) if plan.windows else None,
        window_source=numbers(*of_minibatch, plan.rows, plan.windows) if plan.windows else None,
    )


def lay_out_rows(counts: TokenCounts, plan: RowPlan) -> RowLayout:
    """Lays the prompts of a step out into rows of the length that leaves the fewest slots empty.

    Args:
      counts: of `count_tokens`, on the host.
      plan: of the run.
    """
    needed = counts.prompt + counts.completions.sum(-1)
    members = [_share(needed, range(m, plan.prompts, plan.minibatches), plan.ways) for m in range(plan.minibatches)]
    length = _best_length(needed, members, plan)
    packed = [[_pack(needed, own, length) for own in of_device] for of_device in members]
    shape = (plan.minibatches, plan.rounds, plan.rows, length)
    source, predicted = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    predicting, rounds = np.zeros(shape, np.int32), np.zeros(plan.minibatches, np.int32)
    for m, of_devices in enumerate(packed):
        rounds[m] = _rounds(of_devices, plan)
        for device, rows in enumerate(of_devices):
            place = {prompt: number for number, prompt in enumerate(members[m][device])}
            for index, row in enumerate(rows):
                step, row_of_device = divmod(index, plan.rows_of_device)
                at = (m, step, device * plan.rows_of_device + row_of_device)
                source[at], predicted[at], predicting[at] = _fill(row, place, counts, plan, length)
    most = (predicted >= 0).sum(-1).max(-1)
    windows = {} if counts.windows is None else _lay_out_windows(counts.windows, members, plan)
    return RowLayout(
        order=np.asarray([[prompt for own in of_device for prompt in own] for of_device in members], np.int32),
        rounds=rounds, source=source, predicted=predicted, predicting=predicting, most_predicted=most.astype(np.int32),
        **{"window_rounds": None, "window_source": None} | windows,
    )  # fmt: skip


def describe_rows(layout: RowLayout) -> dict[str, float]:
    """Row length, and slots computed for each token that exists, as metrics of a step."""
    slots = np.prod(layout.source.shape[2:]) * layout.rounds.sum()
    return {"row_length": float(layout.source.shape[-1]), "slots_per_token": float(slots / (layout.source >= 0).sum())}


def place_rows(layout: RowLayout, mesh: AnyMesh) -> RowLayout:
    """Puts a layout, whole in every process, onto the devices: rows where they are computed, the rest everywhere."""
    whole, cut = replicated(mesh), NamedSharding(mesh, PartitionSpec(None, None, BATCH_AXES))
    return to_global(layout, jax.tree.map(lambda leaf: cut if np.ndim(leaf) == 4 else whole, layout))


def _share(needed: np.ndarray, prompts: Sequence[int], ways: int) -> list[list[int]]:
    """Deals prompts out to devices, the same number to each, the longest first to the device that has least."""
    each = len(prompts) // ways
    own: list[list[int]] = [[] for _ in range(ways)]
    loads = np.zeros(ways, np.int64)
    for prompt in sorted(prompts, key=lambda prompt: -needed[prompt]):
        device = min((d for d in range(ways) if len(own[d]) < each), key=lambda d: loads[d])
        own[device].append(prompt)
        loads[device] += needed[prompt]
    return [sorted(prompts) for prompts in own]


def _best_length(needed: np.ndarray, members: list[list[list[int]]], plan: RowPlan) -> int:
    """The row length with which the step computes the fewest slots; of equals the longest, with its fewer rounds."""
    costs = {}
    for length in plan.lengths:
        if length < needed.max():
            continue
        rounds = [_rounds([_pack(needed, own, length) for own in of_device], plan) for of_device in members]
        if max(rounds) <= plan.rounds:
            costs[length] = sum(rounds) * length
    return min(costs, key=lambda length: (costs[length], -length))


def _rounds(packed: list[list[list[int]]], plan: RowPlan) -> int:
    return max(-(-len(rows) // plan.rows_of_device) for rows in packed)


def _pack(needed: np.ndarray, items: Sequence[int], capacity: int) -> list[list[int]]:
    """First fit decreasing: rows of items that hold at most `capacity` together."""
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda item: -needed[item]):
        row = next((i for i, free in enumerate(room) if free >= needed[item]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(item)
        room[row] -= needed[item]
    return rows


def _fill(
    row: list[int], place: dict[int, int], counts: TokenCounts, plan: RowPlan, length: int
) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T"], Int[np.ndarray, "T"]]:
    """Sources of one row's slots, and of its completion tokens what they are and which slot predicts them."""
    source, predicted, predicting = [], [], []
    slot = 0
    for prompt in row:
        tokens = int(counts.prompt[prompt])
        base = place[prompt] * plan.slots
        source.append(base + int(counts.first[prompt]) + np.arange(tokens))
        last, slot = slot + tokens - 1, slot + tokens
        for g, count in enumerate(map(int, counts.completions[prompt])):
            steps = np.arange(count)
            source.append(base + plan.prompt_tokens + g * plan.completion_tokens + steps)
            predicted.append((place[prompt] * plan.group + g) * plan.completion_tokens + steps)
            predicting.append(np.where(steps == 0, last, slot + steps - 1))
            slot += count
    return _padded(source, length, -1), _padded(predicted, length, -1), _padded(predicting, length, 0)


def _padded(parts: list[np.ndarray], length: int, filler: int) -> Int[np.ndarray, "T"]:
    whole = np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)
    return np.pad(whole, (0, length - len(whole)), constant_values=filler)


def _lay_out_windows(windows: np.ndarray, members: list[list[list[int]]], plan: RowPlan) -> dict[str, Any]:
    """The same for the vision tower: the windows of several small pictures in the place of a large one."""
    source = np.full((plan.minibatches, plan.rounds, plan.rows, plan.windows), -1, np.int32)
    rounds = np.zeros(plan.minibatches, np.int32)
    for m, of_devices in enumerate(members):
        packed = [_pack(windows, [p for p in own if windows[p]], plan.windows) for own in of_devices]
        rounds[m] = _rounds(packed, plan)
        for device, rows in enumerate(packed):
            for index, row in enumerate(rows):
                step, row_of_device = divmod(index, plan.rows_of_device)
                parts = [of_devices[device].index(p) * plan.windows + np.arange(windows[p]) for p in row]
                at = (m, step, device * plan.rows_of_device + row_of_device)
                source[at] = _padded(parts, plan.windows, -1)
    return {"window_rounds": rounds, "window_source": source}
