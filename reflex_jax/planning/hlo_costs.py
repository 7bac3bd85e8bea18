"""What a compiled program costs on one device, read from its optimised HLO text.

XLA's own `cost_analysis()` counts the body of a loop once; here every computation counts as often as it runs. A loop
runs as often as XLA noted (`known_trip_count`), or as its counter, bound and step say; a loop that may stop early counts
to its bound, and one that then takes its turns over, with fewer rows (`open_rows.SCOPE`), not at all. A loop whose length
the program does not say counts once and is named: its cost is never guessed. Of the branches of a conditional the dearest
counts.

FLOPs are those of matrix products and convolutions, two for each multiply-add: they are what a chip's peak is about, and
elementwise work shows in the bytes. Bytes are reads and writes of device memory by operations that XLA did not fuse
away; what stays in on-chip memory is not among them. Sizes are those of the arrays, without the padding of tiles.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from reflex_jax.planning.hlo import Computation, Instruction, Shape, parse_hlo
from reflex_jax.planning.kernel_costs import splash_costs
from reflex_jax.step.open_rows import SCOPE

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast iota partition-id replica-id after-all opt-barrier "
    "add-dependency domain get-dimension-size".split()
)
_MIRRORED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}  # the same comparison with its sides exchanged
_COPIES = frozenset("copy bitcast convert reshape copy-done".split())
_READS_PART = frozenset("dynamic-slice slice gather".split())


@dataclass(frozen=True)
class Costs:
    """Of one device, loops multiplied out."""

    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, float] = field(default_factory=dict)  # bytes one device sends, by kind
    bounded_loops: tuple[str, ...] = ()  # loops counted to a bound that they need not reach
    unknown_loops: tuple[str, ...] = ()  # loops whose length the program does not say, counted once

    def __add__(self, other: Costs) -> Costs:
        """Cost of doing both."""
        kinds = self.collectives.keys() | other.collectives.keys()
        return Costs(
            self.flops + other.flops,
            self.bytes + other.bytes,
            {kind: self.collectives.get(kind, 0.0) + other.collectives.get(kind, 0.0) for kind in sorted(kinds)},
            tuple(dict.fromkeys(self.bounded_loops + other.bounded_loops)),
            tuple(dict.fromkeys(self.unknown_loops + other.unknown_loops)),
        )

    def __mul__(self, times: float) -> Costs:
        """Cost of doing it several times."""
        collectives = {kind: times * sent for kind, sent in self.collectives.items()}
        return replace(self, flops=times * self.flops, bytes=times * self.bytes, collectives=collectives)


def count_costs(hlo: str) -> Costs:
    """Walks a program, `compiled.as_text()`."""
    return _Walk(hlo).of_entry()


def largest_arrays(hlo: str, count: int) -> list[tuple[float, str, str]]:
    """The largest intermediate results: (bytes, shape, what they were computed for), of different shape each."""
    computations, _, _ = parse_hlo(hlo)
    fused = {c for k in computations.values() for i in k.instructions.values() if (c := i.called("calls"))}
    found: dict[str, tuple[float, str, str]] = {}
    for computation in computations.values():
        if computation.name in fused:
            continue
        for instruction in computation.instructions.values():
            if instruction.opcode in _FREE or instruction.opcode in ("while", "conditional", "call"):
                continue
            for shape in instruction.shapes:
                label = f"{shape.dtype}[{','.join(map(str, shape.dims))}]"
                operation = re.search(r'op_name="([^"]*)"', instruction.attributes)
                if label not in found or not found[label][2]:
                    found[label] = (shape.bytes, label, operation[1] if operation else "")
    return sorted(found.values(), reverse=True)[:count]


class _Walk:
    """Adds up a module; every computation is walked once."""

    def __init__(self, hlo: str):
        self._computations, self._entry, self._partitions = parse_hlo(hlo)
        self._done: dict[str, Costs] = {}

    def of_entry(self) -> Costs:
        return self._of(self._entry)

    def _of(self, name: str) -> Costs:
        if name not in self._done:
            computation = self._computations[name]
            total = Costs()
            for instruction in computation.instructions.values():
                total = total + self._of_instruction(computation, instruction)
            self._done[name] = total
        return self._done[name]

    def _of_instruction(self, computation: Computation, instruction: Instruction) -> Costs:
        opcode = instruction.opcode
        if opcode == "while":
            if f"/{SCOPE}/" in instruction.attributes:
                return Costs()  # takes turns over from a loop that is counted to its bound
            count, is_sure = self._trip_count(computation, instruction)
            body = self._of(instruction.calls("body")) * (1 if count is None else count)
            found = re.search(r'op_name="([^"]*)"', instruction.attributes)
            name = found[1] if found else instruction.name
            if count is None:
                return body + Costs(unknown_loops=(name,))
            return body if is_sure else body + Costs(bounded_loops=(f"{name} x {count}",))
        if opcode == "conditional":
            listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = re.findall(r"%([\w.\-]+)", listed[1]) if listed else []
            names += [n for key in ("true_computation", "false_computation") if (n := instruction.called(key))]
            return max((self._of(n) for n in names), key=lambda costs: (costs.flops, costs.bytes))
        if opcode in ("call", "async-start"):
            return self._of(instruction.called("to_apply") or instruction.calls("calls"))
        moved = self._bytes_moved(computation, instruction)
        if opcode == "fusion":
            # of what is fused only the arithmetic counts: its values stay on the chip
            inner = self._of(instruction.calls("calls"))
            return replace(inner, bytes=moved)
        kind = opcode.removesuffix("-start")
        sent = {kind: self._bytes_sent(computation, instruction, kind)} if kind in COLLECTIVES else {}
        if opcode == "custom-call":
            operands = [shape for name in instruction.operands for shape in computation.instructions[name].shapes]
            if kernel := splash_costs(instruction.name, operands):
                return Costs(kernel[0], moved + kernel[1])
        return Costs(_flops(computation, instruction), moved, sent)

    # --- loops

    def _trip_count(self, computation: Computation, loop: Instruction) -> tuple[int | None, bool]:
        """How often a loop runs (None: not said), and whether it cannot stop earlier."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1]), True
        condition = self._computations[loop.calls("condition")]
        counts = []
        for compare, scope, is_sure in self._comparisons(condition, condition.root, {}, True):
            direction = compare.attribute(r"direction=(\w+)")
            left, right = (self._scalar(scope[0], name, scope[1]) for name in compare.operands)
            if isinstance(left, int):  # bound > counter
                left, right, direction = right, left, _MIRRORED.get(direction, direction)
            start, right = (self._loop_input(computation, loop, value) for value in (left, right))
            step = self._step(loop, left)
            if start is None or right is None or step is None:
                continue
            distance = right - start if direction in ("LT", "LE", "NE") else start - right
            distance += direction in ("LE", "GE")
            counts.append((max(0, -(-distance // abs(step))), is_sure))
        return min(counts, default=(None, False))

    def _comparisons(
        self, computation: Computation, name: str, outer: dict, is_sure: bool
    ) -> Iterator[tuple[Instruction, tuple[Computation, dict], bool]]:
        """Comparisons that must all hold for the loop to go on, each with where its operands are to be looked up."""
        instruction = computation.instructions[name]
        if instruction.opcode == "compare":
            yield instruction, (computation, outer), is_sure
        elif instruction.opcode == "and":
            for operand in instruction.operands:
                yield from self._comparisons(computation, operand, outer, False)
        elif instruction.opcode == "fusion":
            inner = self._computations[instruction.calls("calls")]
            numbers = enumerate(instruction.operands)
            scope = {i: self._scalar(computation, operand, outer) for i, operand in numbers}
            yield from self._comparisons(inner, inner.root, scope, is_sure)
        elif instruction.opcode in _COPIES:
            yield from self._comparisons(computation, instruction.operands[0], outer, is_sure)

    def _scalar(self, computation: Computation, name: str, outer: dict) -> int | str | None:
        """A constant as a number, an element of the loop's state as its place ("3"), anything else as None."""
        instruction = computation.instructions[name]
        if instruction.opcode == "constant":
            return int(instruction.arguments) if re.fullmatch(r"-?\d+", instruction.arguments) else None
        if instruction.opcode in _COPIES:
            return self._scalar(computation, instruction.operands[0], outer)
        if instruction.opcode == "get-tuple-element":
            source = computation.instructions[instruction.operands[0]]
            return instruction.attribute(r"index=(\d+)") if source.opcode == "parameter" else None
        if instruction.opcode == "parameter":
            return outer.get(int(instruction.arguments))
        return None

    def _loop_input(self, computation: Computation, loop: Instruction, value: int | str | None) -> int | None:
        """The constant that an element of the state starts with."""
        if value is None or isinstance(value, int):
            return value
        state = computation.instructions[loop.operands[0]]
        if state.opcode != "tuple":
            return None
        start = self._scalar(computation, state.operands[int(value)], {})
        return start if isinstance(start, int) else None

    def _step(self, loop: Instruction, place: int | str | None) -> int | None:
        """What one turn adds to the counter."""
        body = self._computations[loop.calls("body")]
        root = body.instructions[body.root]
        if not isinstance(place, str) or root.opcode != "tuple":
            return None
        return self._added(body, root.operands[int(place)], place, {})

    def _added(self, computation: Computation, name: str, place: str, outer: dict) -> int | None:
        instruction = computation.instructions[name]
        if instruction.opcode in _COPIES:
            return self._added(computation, instruction.operands[0], place, outer)
        if instruction.opcode == "fusion":
            inner = self._computations[instruction.calls("calls")]
            scope = {i: self._scalar(computation, operand, outer) for i, operand in enumerate(instruction.operands)}
            return self._added(inner, inner.root, place, scope)
        if instruction.opcode not in ("add", "subtract"):
            return None
        values = [self._scalar(computation, operand, outer) for operand in instruction.operands]
        numbers = [value for value in values if isinstance(value, int)]
        if place not in values or not numbers:
            return None
        return numbers[0] if instruction.opcode == "add" else -numbers[0]

    # --- memory

    def _bytes_moved(self, computation: Computation, instruction: Instruction) -> float:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return 0.0
        if opcode == "fusion":
            inner = self._computations[instruction.calls("calls")]
            names = inner.parameters()
            read = sum(self._bytes_read(inner, names[i]) for i in range(len(instruction.operands)) if i in names)
            return read + self._bytes_written(inner, inner.root)
        sizes = [self._size(computation, operand) for operand in instruction.operands]
        if opcode in _READS_PART:
            return 2 * instruction.bytes
        if opcode == "dynamic-update-slice":
            return 2 * sizes[1]
        if opcode == "scatter":
            return 2 * sum(sizes[2 * len(sizes) // 3 :]) + sum(sizes[len(sizes) // 3 : 2 * len(sizes) // 3])
        if opcode.endswith("-start"):  # its result repeats the operands
            return 2 * sum(sizes)
        return sum(sizes) + instruction.bytes

    def _size(self, computation: Computation, name: str) -> float:
        return computation.instructions[name].bytes

    def _bytes_read(self, computation: Computation, name: str) -> float:
        """How much of a fused parameter is read: less than all of it where only slices are."""
        whole, total = self._size(computation, name), 0.0
        if name == computation.root:  # handed on as it is
            return whole
        for user, place in computation.users(name):
            if user.opcode in _READS_PART and place == 0:
                total += user.bytes
            elif user.opcode == "dynamic-update-slice" and place == 0:
                # written in place, and perhaps read afterwards
                if any(reader.opcode != "tuple" for reader, _ in computation.users(user.name)):
                    return whole
            elif user.opcode in ("bitcast", "reshape"):
                total += self._bytes_read(computation, user.name)
            elif user.opcode == "fusion":
                inner = self._computations[user.calls("calls")]
                total += self._bytes_read(inner, inner.parameters()[place])
            else:
                return whole
        return min(whole, total)

    def _bytes_written(self, computation: Computation, name: str) -> float:
        instruction = computation.instructions[name]
        if instruction.opcode == "tuple":
            return sum(self._bytes_written(computation, operand) for operand in instruction.operands)
        if instruction.opcode == "dynamic-update-slice":
            return self._size(computation, instruction.operands[1])
        if instruction.opcode in ("bitcast", "reshape"):
            return self._bytes_written(computation, instruction.operands[0])
        if instruction.opcode == "fusion":
            inner = self._computations[instruction.calls("calls")]
            return self._bytes_written(inner, inner.root)
        return instruction.bytes

    def _bytes_sent(self, computation: Computation, instruction: Instruction, kind: str) -> float:
        """What one device sends in a ring; on-chip operands too."""
        shapes = [shape for name in instruction.operands for shape in computation.instructions[name].shapes]
        size = sum(Shape(shape.dtype, shape.dims, False).bytes for shape in shapes)
        ways = _group_size(instruction.attributes, self._partitions)
        share = (ways - 1) / ways
        factors = {"all-gather": ways - 1, "all-reduce": 2 * share, "collective-permute": 1}
        return size * factors.get(kind, share)


def _flops(computation: Computation, instruction: Instruction) -> float:
    result = math.prod(instruction.shapes[0].dims) if instruction.shapes else 0
    operands = [computation.instructions[name].shapes for name in instruction.operands]
    if instruction.opcode == "dot":
        summed = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
        return 2.0 * result * math.prod(operands[0][0].dims[int(axis)] for axis in summed if axis)
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, operands[0][0].dims, operands[1][0].dims)
    if instruction.opcode == "custom-call" and '"__cublas$' in instruction.attributes:
        axes = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', instruction.attributes)
        return 2.0 * result * math.prod(operands[0][0].dims[int(a)] for a in json.loads(axes[1])) if axes else 0.0
    return 0.0


def _convolution_flops(instruction: Instruction, left: tuple[int, ...], kernel: tuple[int, ...]) -> float:
    """TPU programs write matrix products as convolutions, batch axes as dilated spatial ones: only products of two real
    numbers count."""
    labels = instruction.attribute(r"dim_labels=(\w+->\w+)")
    of_input, of_kernel, of_output = labels.replace("->", "_").split("_")
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window and window[1] else {}
    batches = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    flops = 2.0 * left[of_input.index("b")] // (int(batches[1]) if batches else 1)
    flops *= kernel[of_kernel.index("i")] * kernel[of_kernel.index("o")]
    output = instruction.shapes[0].dims
    axes = sorted(character for character in of_kernel if character.isdigit())

    def setting(key: str, axis: int, default: str) -> str:
        return settings[key].split("x")[axis] if key in settings else default

    for axis, label in enumerate(axes):
        low, _ = setting("pad", axis, "0_0").split("_")
        flops *= _valid_positions(
            left[of_input.index(label)],
            kernel[of_kernel.index(label)],
            output[of_output.index(label)],
            int(setting("stride", axis, "1")),
            int(low),
            int(setting("lhs_dilate", axis, "1")),
            int(setting("rhs_dilate", axis, "1")),
        )
    return flops


@lru_cache(maxsize=4096)
def _valid_positions(
    size: int, kernel: int, output: int, stride: int, padding: int, dilation: int, kernel_dilation: int
) -> int:
    """Pairs of an output place and a kernel place that meet a real input, neither padding nor a dilation gap."""
    if kernel == 1 and stride == dilation == 1 and padding == 0:
        return output
    places = np.arange(output)[:, None] * stride + np.arange(kernel) * kernel_dilation - padding
    return int(((places >= 0) & (places < (size - 1) * dilation + 1) & (places % dilation == 0)).sum())


def _group_size(attributes: str, partitions: int) -> int:
    """How many devices take part in one group of a collective."""
    groups = re.search(r"replica_groups=(\{\{[\d,]*\}|\[\d+,\d+\]|mesh\[[^\]]*\] \{[^}]*\})", attributes)
    if not groups:
        return partitions
    text = groups[1]
    if text.startswith("{{"):
        return max(1, len(text.strip("{}").split(",")))
    if text.startswith("["):
        return int(text.strip("[]").split(",")[1])
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", text.partition("]")[0]))
    used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", text.partition("]")[2])
    return math.prod(int(part or sizes[axis]) for axis, part in used)
