"""One timed step of a run: the compiled functions of its program and the seam between them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.records import Draws, TrainBatch
from reflex_jax.rewards.answer_metrics import ANSWER_METRICS
from reflex_jax.run.logs import CompilationCounter
from reflex_jax.run.samples import completion_rows
from reflex_jax.sharding import BatchRows
from reflex_jax.step.batch import HostBatch
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.imitate import SftBatch
from reflex_jax.step.program import Program
from reflex_jax.step.rows import RowPlan, describe_rows, lay_out_rows, place_rows, widen_prompts
from reflex_jax.step.score import without_maps
from reflex_jax.step.state import FrozenParams, TrainState


@dataclass(frozen=True)
class StepResult:
    """What one step leaves behind on the host; arrays and rows are this process's part."""

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]  # one per completion
    arrays: dict[str, np.ndarray]  # what went into the update, for looking into a step that failed


@runtime_checkable
class Trainer(Protocol):
    """What the loop asks of either phase."""

    frozen: FrozenParams
    rows: BatchRows

    def build(self, examples: Sequence[Example]) -> Any:
        """This process's part of P questions as arrays on the host; pure, called ahead of time in threads."""
        ...

    def run_step(self, state: TrainState, batch: Any, step: int) -> tuple[TrainState, StepResult]:
        """One step, which takes the state over."""
        ...


class GrpoTrainer:
    """Samples, scores and updates."""

    def __init__(
        self, config: Config, program: Program, frozen: FrozenParams, build: Any, bridge: HostBridge, row_plan: RowPlan
    ):
        self.frozen, self.build = frozen, build
        self.rows = program.shapes.rows(config.grpo.prompts_per_step)
        self._program, self._bridge, self._row_plan = program, bridge, row_plan
        self._widen = jax.jit(partial(widen_prompts, plan=row_plan), out_shardings=self.rows.sharding)
        self._key = jax.random.key(config.run.seed)
        self._compilations = CompilationCounter()

    def run_step(self, state: TrainState, batch: HostBatch, step: int) -> tuple[TrainState, StepResult]:
        """One step of GRPO (paper Eq. 1-10)."""
        program = self._program
        seconds: dict[str, float] = {}
        with _timed(seconds, "time/reshard"):
            weights = jax.block_until_ready(program.gather(state.params, self.frozen.fixed))
        with _timed(seconds, "time/generate"):
            prompts = self.rows.place(batch.prompts)
            ids = self.rows.place(self.rows.local.astype(np.int32))
            rollout = program.sample(weights, prompts, Draws(jax.random.fold_in(self._key, step), ids))
            prompts = self._widen(prompts)
            counts = program.count(prompts, rollout.mask)
            tokens, mask = self.rows.fetch((rollout.tokens, rollout.mask))
            del weights
        with _timed(seconds, "time/bridge"):
            bridged = self._bridge(batch.examples, tokens, mask, batch.judge_pixels)
            layout = lay_out_rows(jax.device_get(counts), self._row_plan)
        with _timed(seconds, "time/train_step"):
            judge, scores = self.rows.place((bridged.judge, bridged.scores))
            rows = place_rows(layout, program.shapes.mesh)
            placed = TrainBatch(prompts=prompts, rollout=rollout, judge=judge, scores=scores, rows=rows)
            if len(self._row_plan.lengths) == 1:
                state, scored, metrics = program.train_step(state, self.frozen, placed)
            else:  # its two halves, or the judge would be compiled anew for each length of rows
                scored = program.score(self.frozen.judge, judge, scores)
                state, metrics = program.update(state, self.frozen, placed, scored)
            scored, metrics = self.rows.fetch(without_maps(scored)), jax.device_get(metrics)
        arrays = {
            "tokens": tokens, "mask": mask, "rewards": scored.rewards, "advantages": scored.advantages,
            **{f"reward_{name}": values for name, values in scored.components.items()},
        }  # fmt: skip
        samples = completion_rows(batch, rollout_tokens=mask, bridged=bridged, scored=scored)
        metrics |= describe_rows(layout)
        return state, StepResult(_with_times(metrics, seconds, self._compilations), samples, arrays)


class SupervisedTrainer:
    """Imitates target completions."""

    def __init__(self, config: Config, program: Program, frozen: FrozenParams, build: Any, row_plan: RowPlan):
        self.frozen, self.build = frozen, build
        self.rows = program.shapes.rows(config.sft.batch_size)
        self._program, self._row_plan, self._compilations = program, row_plan, CompilationCounter()

    def run_step(self, state: TrainState, batch: SftBatch, step: int) -> tuple[TrainState, StepResult]:
        """One supervised step."""
        seconds: dict[str, float] = {}
        with _timed(seconds, "time/train_step"):
            placed = self.rows.place(batch)
            counts = self._program.count(placed.prompts, placed.weights > 0)
            layout = lay_out_rows(jax.device_get(counts), self._row_plan)
            placed = dataclasses.replace(placed, rows=place_rows(layout, self._program.shapes.mesh))
            state, metrics = self._program.imitate(state, self.frozen, placed)
            metrics = jax.device_get(metrics) | describe_rows(layout)
        arrays = {"tokens": np.asarray(batch.tokens), "weights": np.asarray(batch.weights)}
        return state, StepResult(_with_times(metrics, seconds, self._compilations), [], arrays)


def _with_times(metrics: Any, seconds: dict[str, float], compilations: CompilationCounter) -> dict[str, float]:
    # a step without an open question, say, has no number of open answers
    metrics = {
        name: float(value) for name, value in metrics.items() if not (name in ANSWER_METRICS and np.isnan(value))
    }
    total = sum(seconds.values())
    return metrics | seconds | {
        "time/step": total, "tokens_per_second": metrics["tokens"] / total, "compilations": compilations.read(),
    }  # fmt: skip


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
