"""HOST: what raises marks its row as failed; the run goes on, and says why.

A failed row is not a row that earned nothing: it has no reward, so it leaves its group's mean and spread, the loss and
every metric but the count of failures. Whatever comes is caught here, as at the doors of pictures and tokenizers
(`tests/test_architecture.py` knows them all). Sampled text is input that nobody has seen before, and a step is
deterministic: an exception would end the run at the same place for ever. A mistake in a component, which fails every
row, ends the run all the same (`training.max_skipped_steps`).
"""

from __future__ import annotations

import math
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Failure:
    """What a component raised."""

    component: str
    error: str  # name of the exception
    place: str  # file and line that raised
    message: str

    @classmethod
    def of(cls, component: str, error: Exception) -> Failure:
        """Reads an exception that was caught."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        message = (str(error).strip().splitlines() or ["no message"])[0][:200]
        return cls(component, type(error).__name__, place, message)

    @property
    def kind(self) -> tuple[str, str, str]:
        """The same for failures that have one cause."""
        return self.component, self.error, self.place

    def __str__(self) -> str:
        return f"{self.component}: {self.error} at {self.place}: {self.message}"


class RowFailures:
    """Computes what belongs to the P x G rows of one rollout and remembers where that failed."""

    def __init__(self, prompts: int, group: int):
        self.first: list[list[Failure | None]] = [[None] * group for _ in range(prompts)]  # the first of each row

    def of_rows(self, component: str, compute: Callable[[int, int], Any], *, otherwise: Any = None) -> list[list[Any]]:
        """[P][G] results of `compute(p, g)`, and `otherwise` where it raised: that row has failed."""
        return [
            [self._attempt(component, compute, otherwise, p, [g], g) for g in range(len(row))]
            for p, row in enumerate(self.first)
        ]

    def of_prompts(self, component: str, compute: Callable[[int], Any], *, otherwise: Any = None) -> list[Any]:
        """[P] results of `compute(p)`, and `otherwise` where it raised: all rows of that prompt have failed."""
        return [self._attempt(component, compute, otherwise, p, range(len(row))) for p, row in enumerate(self.first)]

    def _attempt(
        self, component: str, compute: Callable[..., Any], otherwise: Any, p: int, rows: Iterable[int], *index: int
    ) -> Any:
        try:
            return compute(p, *index)
        except Exception as error:
            failure = Failure.of(component, error)
            for g in rows:
                self.first[p][g] = self.first[p][g] or failure
            return otherwise


class FailureReporter:
    """Tells each kind of failure once, on stderr."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str, str]] = set()

    def tell(self, failures: RowFailures) -> None:
        """Writes a line for each kind among the failures that was not told before."""
        found = [failure for row in failures.first for failure in row if failure]
        counts = Counter(failure.kind for failure in found)
        for failure in found:
            if failure.kind in self._told:
                continue
            self._told.add(failure.kind)
            print(
                f"\n{counts[failure.kind]} of {sum(map(len, failures.first))} completions have no reward, because this "
                f"failed: {failure}. They are left out, and so are later ones like them, without another line; metrics "
                "count them as failed_rows, samples.jsonl says why.",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def finite(value: float) -> float:
    """The value of a component, which has to be a number.

    Raises:
      ValueError: it is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"expected a finite reward; got {value}.")
    return value
