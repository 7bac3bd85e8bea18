"""HOST: what raises marks its row as failed; the run goes on, and says why.

A failed row is not a row that earned nothing: it has no reward, so it leaves its group's mean and spread, the loss and
every metric but the count of failures. Whatever comes is caught here, as at the doors of rewards, pictures and tokenizers
(`tests/test_architecture.py` knows them all). Sampled text is input that nobody has seen before, and a step is
deterministic: an exception would end the run at the same place for ever. A mistake in a component, which fails many rows,
ends the run all the same (`rewards.max_failure_rate`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from reflex_jax.rewards.answered import Failed, Result


@dataclass(frozen=True)
class Failure:
    """What went wrong, and where."""

    component: str  # or the part of the seam before any component: completion, statement, anchor
    reason: Failed

    @property
    def kind(self) -> tuple[str, str, str]:
        """The same for failures that have one cause."""
        return self.component, self.reason.error, self.reason.place

    def __str__(self) -> str:
        return f"{self.component}: {self.reason}"


class RowFailures:
    """Computes what belongs to the P x G rows of one rollout and remembers where that failed."""

    def __init__(self, prompts: int, group: int):
        self.first: list[list[Failure | None]] = [[None] * group for _ in range(prompts)]  # the first of each row

    @property
    def is_valid(self) -> Bool[np.ndarray, "P G"]:
        """The rows that have not failed."""
        return np.array([[failure is None for failure in row] for row in self.first], bool)

    def of_component(
        self, component: str, score: Callable[[list[tuple[int, int]]], Sequence[Result]], rows: Bool[np.ndarray, "P G"]
    ) -> tuple[Float[np.ndarray, "P G"], Bool[np.ndarray, "P G"]]:
        """Scores some rows, but for those that have failed already, and notes which fail.

        Args:
          component: its name.
          score: results for rows (p, g), in their order.
          rows: those it applies to.
        Returns:
          The scores, 0 where there is none and NaN where it failed; and the rows that it applied to.
        """
        scores, applies = np.zeros(rows.shape, np.float32), rows & self.is_valid
        asked = [(int(p), int(g)) for p, g in np.argwhere(applies)]
        for (p, g), result in zip(asked, score(asked), strict=True):
            if isinstance(result, Failed):
                self.first[p][g] = Failure(component, result)
                scores[p, g] = np.nan
            elif result is None:
                applies[p, g] = False
            else:
                scores[p, g] = result
        return scores, applies

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
            failure = Failure(component, Failed.of(error))
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
