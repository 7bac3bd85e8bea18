"""Optimised HLO text as computations and instructions: as much of the format as counting needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "f4e2m1fn": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16,
    "f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One array of an instruction's result."""

    dtype: str
    dims: tuple[int, ...]
    is_on_chip: bool  # lies in a memory space of its own, not in the device's main memory

    @property
    def bytes(self) -> float:
        """Size in main memory; 0 for what stays on the chip."""
        bits = _BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
        return 0 if self.is_on_chip else math.prod(self.dims) * bits / 8


@dataclass(frozen=True)
class Instruction:
    """One line of HLO."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result; several for a tuple
    arguments: str  # between the brackets: names of operands, or the value of a constant
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of the instructions it reads."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    @property
    def bytes(self) -> float:
        """Size of the result in main memory."""
        return sum(shape.bytes for shape in self.shapes)

    def called(self, attribute: str) -> str | None:
        """Name of the computation an attribute points to."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    def calls(self, attribute: str) -> str:
        """Name of the computation an attribute points to, in an instruction that always has it.

        Raises:
          ValueError: it has not.
        """
        return self.attribute(rf"\b{attribute}=%?([\w.\-]+)")

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern that the attributes always hold.

        Raises:
          ValueError: they do not.
        """
        found = re.search(pattern, self.attributes)
        if not found:
            raise ValueError(f"expected {pattern} in the HLO instruction {self.name}; got {self.attributes[:80]!r}.")
        return found[1]


@dataclass
class Computation:
    """A function of the module."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""

    def parameters(self) -> dict[int, str]:
        """Number of each parameter -> its name."""
        return {int(i.arguments): i.name for i in self.instructions.values() if i.opcode == "parameter"}

    def users(self, name: str) -> Iterator[tuple[Instruction, int]]:
        """Instructions that read a value, and at which place."""
        for instruction in self.instructions.values():
            for place, operand in enumerate(instruction.operands):
                if operand == name:
                    yield instruction, place


def parse_hlo(hlo: str) -> tuple[dict[str, Computation], str, int]:
    """Returns the computations by name, the name of the entry, and the number of partitions."""
    computations: dict[str, Computation] = {}
    current, entry = None, ""
    header = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
    hlo = re.sub(r"kernel_metadata=\{\n.*?\n\}", "kernel_metadata={}", hlo, flags=re.DOTALL)  # of several lines
    for line in hlo.splitlines():
        if line.startswith((" ", "\t")):
            if current is not None and " = " in line:
                instruction = _parse_instruction(line)
                current.instructions[instruction.name] = instruction
                if line.lstrip().startswith("ROOT "):
                    current.root = instruction.name
        elif (found := header.match(line)) and not line.startswith("HloModule"):
            current = computations.setdefault(found[2], Computation(found[2]))
            entry = found[2] if found[1] else entry
        else:
            current = None
    partitions = re.search(r"num_partitions=(\d+)", hlo.partition("\n")[0])
    return computations, entry, int(partitions[1]) if partitions else 1


def _parse_instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return Instruction(
        name=name.lstrip("%"),
        opcode=rest[:opening],
        shapes=tuple(_shapes(result)),
        arguments=rest[opening + 1 : closing],
        attributes=rest[closing + 1 :],
    )


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, dims, layout in re.findall(r"([a-z]\w*)\[([^\]]*)\](\{[^}]*\})?", text):
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        space = re.search(r"S\((\d+)\)", layout)
        yield Shape(dtype, sizes, space is not None and space[1] != "0")


def _closing(text: str, start: int) -> int:
    """Place of the bracket that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"expected a closed bracket in the HLO line {text[:80]!r}.")
