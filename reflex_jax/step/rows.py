"""HOST: prompts and their completions laid end to end into rows of one static length, so that padding is not computed.

A row holds one prompt and its completions, or several of them behind one another. The rows of a minibatch are computed in
rounds of B rows, each device its own; how many rounds a step takes is data, how long a row is (T) is one of a few lengths,
so few programs are compiled. Where everything lies is a function of the lengths alone: all processes come to the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
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
# What a row costs, in slots of a short one. Rough: of a decoder of 3B parameters, whose attention to 32,000 tokens costs as
# much as its matrices; good enough to choose between layouts, which differ by more.
_LENGTH_OF_DOUBLE_COST = 32768
_COST_OF_A_ROUND = 256


@dataclass(frozen=True)
class RowPlan:
    """The static side of the rows of a run: what every layout of it has in common."""

    prompts: int  # P of a step
    minibatches: int  # M optimiser updates of a pass over them
    ways: int  # devices that share the prompts
    rows: int  # computed at one time on all devices, at most
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
    def most_rows(self) -> int:
        """Rows that a device computes at one time, at most."""
        return self.rows // self.ways

    def shape(self, rows: int) -> tuple[int, int, int]:
        """(M, N, B) where each device computes so many rows at one time; each has one prompt at least."""
        return self.minibatches, self.prompts_of_device // rows, self.ways * rows

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
    return RowPlan(
        prompts=prompts,
        minibatches=minibatches,
        ways=mesh.shape["data"] * mesh.shape["fsdp"],
        rows=memory.microbatch_prompts or prompts // minibatches,
        prompt_tokens=sizes.prompt_tokens,
        completion_tokens=config.rollout.max_new_tokens,
        group=group,
        windows=sizes.windows,
        lengths=row_lengths(sizes.prompt_tokens, group * config.rollout.max_new_tokens, count=memory.row_lengths),
    )


def row_lengths(prompt_tokens: int, completion_tokens: int, *, count: int) -> tuple[int, ...]:
    """Lengths that rows may have, ascending; the last holds the longest prompt with all of its completions at their longest.

    Args:
      prompt_tokens: of the longest prompt.
      completion_tokens: of a group, at most.
      count: how many lengths, at most.
    """
    # fewer than an eighth of the places of the longest prompt's completions are seldom filled
    smallest, longest = prompt_tokens + completion_tokens // 8, prompt_tokens + completion_tokens
    return ladder(longest, count=count, multiple=_SLOT_MULTIPLE, smallest=smallest)


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


def widen_prompts(prompts: PromptInputs, plan: RowPlan) -> PromptInputs:
    """Prompts that were padded to a smaller size, padded to that of the plan: one program updates with batches of any."""
    more = plan.prompt_tokens - prompts.tokens.shape[1]

    def on_the_left(x: Array, filler: int = 0) -> Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(more, 0)], constant_values=filler)

    vision = prompts.vision
    if vision is not None:
        behind = plan.windows - vision.image_ids.shape[1]
        widened = {
            name: jnp.pad(x, [(0, 0), (0, behind)] + [(0, 0)] * (x.ndim - 2))
            for name, x in (
                ("patches", vision.patches),
                ("coordinates", vision.coordinates),
                ("image_ids", vision.image_ids),
                ("places", vision.places),
            )
            if x is not None
        }
        vision = dataclasses.replace(vision, **widened)
    return PromptInputs(
        tokens=on_the_left(prompts.tokens),
        is_valid=on_the_left(prompts.is_valid),
        positions=on_the_left(prompts.positions),
        feature_index=on_the_left(prompts.feature_index, -1),
        vision=vision,
    )


def abstract_rows(plan: RowPlan, mesh: AnyMesh) -> RowLayout:
    """The layout of a step whose completions are at their longest, as shapes and places."""
    whole, cut = replicated(mesh), NamedSharding(mesh, PartitionSpec(None, None, BATCH_AXES))
    shape = plan.shape(plan.most_rows)

    def numbers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.int32, sharding=cut if len(shape) == 4 else whole)

    slots = numbers(*shape, plan.lengths[-1])
    return RowLayout(
        order=numbers(plan.minibatches, plan.prompts // plan.minibatches),
        rounds=numbers(plan.minibatches),
        source=slots,
        predicted=slots,
        predicting=slots,
        most_predicted=numbers(*shape[:2]),
        window_rounds=numbers(plan.minibatches) if plan.windows else None,
        window_source=numbers(*shape, plan.windows) if plan.windows else None,
    )


def lay_out_rows(counts: TokenCounts, plan: RowPlan) -> RowLayout:
    """Lays the prompts of a step out into rows of the length that leaves the fewest slots empty.

    Args:
      counts: of `count_tokens`, on the host.
      plan: of the run.
    """
    needed = counts.prompt + counts.completions.sum(-1)
    members = [_share(needed, range(m, plan.prompts, plan.minibatches), plan.ways) for m in range(plan.minibatches)]
    length, most = _best_shape(needed, members, plan)
    shape = (*plan.shape(most), length)
    source, predicted = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    predicting, rounds = np.zeros(shape, np.int32), np.zeros(plan.minibatches, np.int32)
    for m, of_devices in enumerate(members):
        packed = [_pack(needed, own, length) for own in of_devices]
        rounds[m] = _rounds(packed, most)
        for device, number, row in _places(packed, most):
            place = {prompt: n for n, prompt in enumerate(of_devices[device])}
            source[m][number], predicted[m][number], predicting[m][number] = _fill(row, place, counts, plan, length)
    windows = {} if counts.windows is None else _lay_out_windows(counts.windows, members, plan, most)
    return RowLayout(
        order=np.asarray([[prompt for own in of_devices for prompt in own] for of_devices in members], np.int32),
        rounds=rounds, source=source, predicted=predicted, predicting=predicting,
        most_predicted=(predicted >= 0).sum(-1).max(-1).astype(np.int32),
        **{"window_rounds": None, "window_source": None} | windows,
    )  # fmt: skip


def describe_rows(layout: RowLayout) -> dict[str, float]:
    """Row length, and slots computed for each token that exists, as metrics of a step."""
    slots = np.prod(layout.source.shape[2:]) * layout.rounds.sum()
    return {
        "rows/length": float(layout.source.shape[-1]),
        "rows/slots_per_token": float(slots / (layout.source >= 0).sum()),
    }


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


def _best_shape(needed: np.ndarray, members: list[list[list[int]]], plan: RowPlan) -> tuple[int, int]:
    """Row length, and rows that a device computes at one time: one, or as many as it may.

    The cheapest, counted in slots: a slot costs more in a long row, whose attention reads more of it, and each round reads
    the weights and adds up the gradients once more.
    """
    costs = {}
    for length in plan.lengths:
        if length < needed.max():
            continue
        packed = [[_pack(needed, own, length) for own in of_devices] for of_devices in members]
        for most in {1, plan.most_rows}:
            rounds = [_rounds(of_devices, most) for of_devices in packed]
            if max(rounds) <= plan.shape(most)[1]:
                slots = most * length * (1 + length / _LENGTH_OF_DOUBLE_COST)
                costs[length, most] = sum(rounds) * (slots + _COST_OF_A_ROUND)
    return min(costs, key=lambda shape: (costs[shape], -shape[0], shape[1]))


def _rounds(packed: list[list[list[int]]], most: int) -> int:
    """Rounds that the device with most rows needs."""
    return max(-(-len(rows) // most) for rows in packed)


def _places(packed: list[list[list[int]]], most: int) -> Iterator[tuple[int, tuple[int, int], list[int]]]:
    """Device, (round, row of the round) and members of each row."""
    for device, rows in enumerate(packed):
        for index, row in enumerate(rows):
            yield device, (index // most, device * most + index % most), row


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


def _lay_out_windows(windows: np.ndarray, members: list[list[list[int]]], plan: RowPlan, most: int) -> dict[str, Any]:
    """The same for the vision tower: the windows of several small pictures in the place of a large one."""
    source = np.full((*plan.shape(most), plan.windows), -1, np.int32)
    rounds = np.zeros(plan.minibatches, np.int32)
    for m, of_devices in enumerate(members):
        packed = [_pack(windows, [p for p in own if windows[p]], plan.windows) for own in of_devices]
        rounds[m] = _rounds(packed, most)
        for device, number, row in _places(packed, most):
            parts = [of_devices[device].index(p) * plan.windows + np.arange(windows[p]) for p in row]
            source[m][number] = _padded(parts, plan.windows, -1)
    return {"window_rounds": rounds, "window_source": source}
