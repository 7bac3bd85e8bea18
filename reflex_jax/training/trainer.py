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

from reflex_jax.chat.client import ChatCounts
from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.evidence.recorder import EvidenceRecorder, Occasion
from reflex_jax.freed_memory import give_back_freed_memory
from reflex_jax.processes import gather
from reflex_jax.records import Draws, TrainBatch
from reflex_jax.rewards.answer_metrics import ANSWER_METRICS
from reflex_jax.run.logs import CompilationCounter
from reflex_jax.run.samples import completion_rows
from reflex_jax.sharding import BatchRows
from reflex_jax.step.batch import HostBatch
from reflex_jax.step.bridge import BridgedRollout, HostBridge
from reflex_jax.step.imitate import SftBatch
from reflex_jax.step.program import Program
from reflex_jax.step.rows import RowPlan, describe_rows, lay_out_rows, place_rows, widen_prompts
from reflex_jax.step.score import Scored, without_maps
from reflex_jax.step.state import FrozenParams, TrainState


@dataclass(frozen=True)
class StepResult:
    """What one step leaves behind on the host; arrays and rows are this process's part."""

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]  # one per completion
    arrays: dict[str, np.ndarray]  # what went into the update, for looking into a step that failed
    places: Sequence[int] = ()  # of the prompts of `rows` in the batch


@dataclass(frozen=True)
class Drawn:
    """A sampled batch; all but the last is this process's part."""

    host: HostBatch
    tokens: np.ndarray  # [p, G, Lc] of the completions
    mask: np.ndarray  # which of them exist
    bridged: BridgedRollout
    batch: TrainBatch  # without rows

    def scored(self, scored: Scored, rows: BatchRows) -> ScoredBatch:
        """With what was found of it, as evidence is made of it."""
        host = self.host
        return ScoredBatch(
            host.examples, host.judge_pixels, self.tokens, self.mask.sum(-1), self.bridged, rows.fetch(scored), rows
        )


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
        self, config: Config, program: Program, frozen: FrozenParams, build: Any, bridge: HostBridge, row_plan: RowPlan,
        evidence: EvidenceRecorder | None = None,
    ):  # fmt: skip
        self.frozen, self.build, self.evidence = frozen, build, evidence
        self.rows = program.shapes.rows(config.grpo.prompts_per_step)
        self.program, self._bridge, self._row_plan = program, bridge, row_plan
        self._widen = jax.jit(partial(widen_prompts, plan=row_plan), out_shardings=self.rows.sharding)
        self._key = jax.random.key(config.run.seed)
        self._compilations = CompilationCounter()

    def run_step(self, state: TrainState, batch: HostBatch, step: int) -> tuple[TrainState, StepResult]:
        """One step of GRPO (paper Eq. 1-10)."""
        seconds: dict[str, float] = {}
        drawn = self.draw(self.gather(state, seconds), batch, step, seconds)
        found = None
        if self.evidence is not None:
            # by the function that `reflex replay` calls, at every step, so that it does not matter which are recorded
            with self.timed(seconds, "time/score"):
                found = self.program.score(self.frozen.judge, drawn.batch.judge, drawn.batch.scores)
        state, scored, metrics = self.learn(state, drawn.batch, found, seconds)
        if self.evidence is not None and found is not None and self.evidence.is_due(step):
            with self.timed(seconds, "time/evidence"):
                self.evidence.record(Occasion(step), [drawn.scored(found, self.rows)])
        rows = completion_rows(batch, rollout_tokens=drawn.mask, bridged=drawn.bridged, scored=scored)
        arrays = step_arrays(drawn.tokens, drawn.mask, scored)
        return state, self.result(metrics, seconds, rows, self.rows.local.tolist(), arrays)

    def gather(self, state: TrainState, seconds: dict[str, float]) -> Any:
        """The weights to sample with."""
        with self.timed(seconds, "time/reshard"):
            return jax.block_until_ready(self.program.gather(state.params, self.frozen.fixed))

    def draw(
        self, weights: Any, host: HostBatch, step: int, seconds: dict[str, float], *, first_prompt: int = 0
    ) -> Drawn:
        """Samples a batch and scores its strings.

        Args:
          weights: of `gather`.
          host: the questions.
          step: its completions depend on its number,
          seconds: to which the times are added.
          first_prompt: and on the number of their prompt among those of the step, counted from here.
        """
        with self.timed(seconds, "time/generate"):
            prompts = self.rows.place(host.prompts)
            ids = self.rows.place((self.rows.local + first_prompt).astype(np.int32))
            rollout = self.program.sample(weights, prompts, Draws(jax.random.fold_in(self._key, step), ids))
            prompts = self._widen(prompts)
            tokens, mask = self.rows.fetch((rollout.tokens, rollout.mask))
        with self.timed(seconds, "time/bridge"):
            bridged = self._bridge(host.examples, tokens, mask, host.judge_pixels)
            judge, scores = self.rows.place((bridged.judge, bridged.scores))
        batch = TrainBatch(prompts=prompts, rollout=rollout, judge=judge, scores=scores)
        return Drawn(host=host, tokens=tokens, mask=mask, bridged=bridged, batch=batch)

    def learn(
        self, state: TrainState, batch: TrainBatch, scored: Scored | None, seconds: dict[str, float]
    ) -> tuple[TrainState, Scored, dict[str, Any]]:
        """Updates with a batch.

        Args:
          state: which the update takes over.
          batch: of `draw`.
          scored: None: the judge has yet to look.
          seconds: to which the times are added.

        Returns:
          The state; this process's part of what was scored, without maps; and metrics.
        """
        program = self.program
        with self.timed(seconds, "time/bridge"):
            layout = lay_out_rows(jax.device_get(program.count(batch.prompts, batch.rollout.mask)), self._row_plan)
        with self.timed(seconds, "time/train_step"):
            batch = dataclasses.replace(batch, rows=place_rows(layout, program.shapes.mesh))
            if scored is None and len(self._row_plan.lengths) == 1:
                state, scored, metrics = program.train_step(state, self.frozen, batch)
            else:  # its two halves, or the judge would be compiled anew for each length of rows
                # ended before the update starts, so that the judge's temporaries are free when the update asks for its own
                scored = jax.block_until_ready(scored or program.score(self.frozen.judge, batch.judge, batch.scores))
                state, metrics = program.update(state, self.frozen, batch, scored)
            scored, metrics = self.rows.fetch(without_maps(scored)), jax.device_get(metrics)
        return state, scored, metrics | describe_rows(layout)

    def result(
        self,
        metrics: dict[str, Any],
        seconds: dict[str, float],
        rows: list[dict[str, Any]],
        places: Sequence[int],
        arrays: dict[str, np.ndarray],
    ) -> StepResult:
        """Everything a step leaves behind."""
        metrics = metrics | chat_metrics(self._bridge.take_chat_counts())
        return StepResult(_with_times(metrics, seconds, self._compilations), rows, arrays, places)

    @staticmethod
    @contextmanager
    def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
        """Adds the seconds of its body."""
        started = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def step_arrays(tokens: np.ndarray, mask: np.ndarray, scored: Scored) -> dict[str, np.ndarray]:
    """What went into an update: completions [p, G, Lc] and what they were paid [p, G]."""
    return {
        "tokens": tokens, "mask": mask, "rewards": scored.rewards, "advantages": scored.advantages,
        **{f"reward_{name}": values for name, values in scored.components.items()},
    }  # fmt: skip


class SupervisedTrainer:
    """Imitates target completions."""

    def __init__(self, config: Config, program: Program, frozen: FrozenParams, build: Any, row_plan: RowPlan):
        self.frozen, self.build = frozen, build
        self.rows = program.shapes.rows(config.sft.batch_size)
        self._program, self._row_plan, self._compilations = program, row_plan, CompilationCounter()

    def run_step(self, state: TrainState, batch: SftBatch, step: int) -> tuple[TrainState, StepResult]:
        """One supervised step."""
        seconds: dict[str, float] = {}
        with GrpoTrainer.timed(seconds, "time/train_step"):
            placed = self.rows.place(batch)
            counts = self._program.count(placed.prompts, placed.weights > 0)
            layout = lay_out_rows(jax.device_get(counts), self._row_plan)
            placed = dataclasses.replace(placed, rows=place_rows(layout, self._program.shapes.mesh))
            state, metrics = self._program.imitate(state, self.frozen, placed)
            metrics = jax.device_get(metrics) | describe_rows(layout)
        arrays = {"tokens": np.asarray(batch.tokens), "weights": np.asarray(batch.weights)}
        return state, StepResult(_with_times(metrics, seconds, self._compilations), [], arrays)


def chat_metrics(counts: ChatCounts | None) -> dict[str, float]:
    """`endpoint/...`: what became of a step's questions to a language model, of all processes, which all call this."""
    if counts is None:
        return {}
    found = gather(dataclasses.asdict(counts))
    totals = {f"endpoint/{name}": float(sum(part[name] for part in found)) for name in found[0]}
    return totals | {"endpoint/seconds": max(part["seconds"] for part in found)}


def _with_times(metrics: Any, seconds: dict[str, float], compilations: CompilationCounter) -> dict[str, float]:
    """The numbers of a step that has ended; where it compiled, what that left in memory goes back."""
    # a step without an open question, say, has no number of open answers
    metrics = {
        name: float(value) for name, value in metrics.items() if not (name in ANSWER_METRICS and np.isnan(value))
    }
    total, compiled = sum(seconds.values()), compilations.read()
    if compiled:
        give_back_freed_memory()
    return metrics | seconds | {
        "time/step": total, "tokens_per_second": metrics["tokens"] / total, "compilations": compiled,
    }  # fmt: skip
