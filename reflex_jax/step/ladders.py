"""Ladders of static sizes: a batch is padded to the smallest rung that holds it, and each rung compiles once.

The number of rungs bounds the compilations of a run. Which rung a batch takes has to be a function of what every process
knows of it, so that all of them run the same program.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def ladder(longest: int, *, count: int, multiple: int = 1, smallest: int | None = None) -> tuple[int, ...]:
    """At most `count` sizes in geometric steps, ascending, all multiples of `multiple`.

    Args:
      longest: what the last rung has to hold.
      count: how many rungs; 1: the last alone; more than there are sizes: all of these. Rungs that round up to the same
        size are one.
      multiple: of what the sizes are multiples; a `longest` of 0 stays 0.
      smallest: what the first rung has to hold; None: a quarter of `longest`.

    Raises:
      ValueError: numbers that make no ladder.
    """
    smallest = -(-longest // 4) if smallest is None else smallest
    if count < 1 or multiple < 1 or not 0 <= smallest <= longest:
        raise ValueError(
            "ladder: expected count >= 1, multiple >= 1 and 0 <= smallest <= longest; "
            f"got count={count}, multiple={multiple}, smallest={smallest}, longest={longest}."
        )
    ends = [_round_up(size, multiple) for size in (smallest, longest)]
    if count == 1 or ends[0] == ends[1]:
        return (ends[1],)
    low = max(ends[0], multiple)  # no geometric step leads away from 0
    sizes = range(low, ends[1] + 1, multiple)
    if count > len(sizes):
        return tuple(sorted({ends[0], *sizes}))
    ratio = (ends[1] / low) ** (1 / (count - 1))
    # rounded first: a power that misses a whole number by its last bit must not reach the next multiple
    between = (_round_up(round(low * ratio**step), multiple) for step in range(1, count - 1))
    return tuple(sorted({ends[0], *between, ends[1]}))


def rung(needed: int, sizes: Sequence[int]) -> int:
    """The smallest size of an ascending ladder that holds `needed`.

    Raises:
      ValueError: none does.
    """
    if needed > sizes[-1]:
        raise ValueError(f"rung: expected at most {sizes[-1]}, the last of {tuple(sizes)}; got {needed}.")
    return sizes[bisect_left(sizes, needed)]


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
