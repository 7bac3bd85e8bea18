"""What the loop does when something goes wrong at the end of a step: nothing already computed is lost."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reflex_jax.processes import any_process, gather
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.step.state import TrainState
from reflex_jax.stops import NOT_FINITE, PREEMPTED, RunStopped, StopRequest, not_written
from reflex_jax.training.watchdog import Watchdog

SKIPPED_FOLDER = "skipped"


class StepEnd:
    """Saves when it is time, or when somebody asks the run to stop; tells the watchdog that the step is over."""

    def __init__(
        self,
        save: Callable[[TrainState, int, dict[str, Any]], None],
        checkpoints: RunCheckpoints,
        stop: StopRequest,
        watchdog: Watchdog,
    ):
        """Takes the hands it works with: `save(state, step, metrics)` starts a checkpoint."""
        self._save, self._checkpoints, self._stop, self._watchdog = save, checkpoints, stop, watchdog

    def __call__(self, state: TrainState, step: int, metrics: dict[str, Any], *, is_saved: bool, is_last: bool) -> None:
        """Ends a step.

        Raises:
          RunStopped: a signal came to any process; the step is saved.
        """
        is_asked = any_process(self._stop.name is not None)
        if is_saved or is_asked:
            self._save(state, step, metrics)
        self._watchdog.beat(step)
        if is_asked and not is_last:
            self._checkpoints.wait()
            raise RunStopped(
                PREEMPTED,
                f"stopped by {self._stop.name or 'a signal to another process'} after step {step}, which is saved. The same "
                "command continues.",
            )


class SkippedSteps:
    """Keeps what went into the updates that were skipped, and stops a run that no longer learns."""

    def __init__(self, directory: Path, *, limit: int, most_failed: int, has_learned: bool = False):
        """Starts counting.

        Args:
          directory: the run directory.
          limit: so many skipped steps in a row end the run.
          most_failed: a step with more failed rows ends it at once.
          has_learned: whether steps were taken before.
        """
        self._folder, self._limit, self._in_a_row = directory / SKIPPED_FOLDER, limit, 0
        self._most_failed, self._has_failed = most_failed, False
        self.has_learned = has_learned  # whether some step was not skipped, so that there is something to save
        self._cause = ""

    def note(self, step: int, result: Any) -> None:
        """Looks at one step (`trainer.StepResult`) and keeps its inputs if it was skipped.

        Raises:
          RunStopped: they cannot be written.
        """
        if not result.metrics["skipped"]:
            self._in_a_row, self.has_learned = 0, True
            return
        self._in_a_row += 1
        self._has_failed = result.metrics.get("failed_rows", 0) > self._most_failed
        self._cause = _cause_of(result)
        stem = f"step-{step:06d}.process-{jax.process_index()}"
        try:
            self._folder.mkdir(exist_ok=True)
            np.savez_compressed(self._folder / f"{stem}.npz", **result.arrays)
            with open(self._folder / f"{stem}.jsonl", "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(_without_nan(row), ensure_ascii=False) + "\n" for row in result.rows)
        except OSError as error:
            raise not_written(f"what went into the skipped step {step}", self._folder, error) from error

    @property
    def is_hopeless(self) -> bool:
        """Whether the run should end; its policy is still that of the last update."""
        return self._has_failed or self._in_a_row >= self._limit

    def as_stop(self, step: int) -> RunStopped:
        """Why the run ends."""
        if self._has_failed:
            steps = f"step {step} {self._cause}. rewards.max_failure_rate allows {self._most_failed} failed completions"
        else:
            steps = f"{self._in_a_row} steps in a row {self._cause} (the last was step {step})"
        policy = "the policy is that of before, and is saved"
        if not self.has_learned:
            policy = "nothing has been learned yet, so nothing is saved, and the same command begins anew"
        return RunStopped(NOT_FINITE, f"{steps}; {policy}. What went into it is in {self._folder}.")


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for what JSON has no number for; the arrays beside it keep the numbers."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _cause_of(result: Any) -> str:
    """Why a step (`trainer.StepResult`) was skipped, counted over all processes, which all call this."""
    if not all(math.isfinite(result.metrics[name]) for name in ("loss", "grad_norm")):
        return (
            "had a loss or gradient that is not a number: lower optimizer.learning_rate or look at what went into them"
        )
    counts: Counter[str] = Counter()
    for found in gather(Counter(row["failure"] for row in result.rows if row["failure"])):
        counts.update(found)
    reasons = "; ".join(f"{count} times {reason}" for reason, count in counts.most_common(3))
    return f"had {counts.total()} completions without a reward: {reasons}"
