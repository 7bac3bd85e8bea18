"""A step of GRPO that samples until P groups have a spread of rewards: DAPO's dynamic sampling (arXiv:2503.14476)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from reflex_jax.config import Config
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.evidence.recorder import Occasion
from reflex_jax.processes import is_first
from reflex_jax.run.samples import completion_rows
from reflex_jax.step.batch import HostBatch
from reflex_jax.step.keep_groups import GroupFacts, choose_groups, drawn_groups
from reflex_jax.step.score import most_failed_rows, without_maps
from reflex_jax.step.state import TrainState
from reflex_jax.training.trainer import Drawn, GrpoTrainer, StepResult, step_arrays


class DynamicTrainer:
    """Draws batches, keeps the groups whose rewards differ, and updates with P of them.

    After `grpo.dynamic_sampling` draws the places that are left are filled with groups that have none, whose advantage is 0.
    What is drawn beyond P is dropped. A draw with more failed rows than `rewards.max_failure_rate` allows becomes the batch as
    it is, so that the run ends as it would without further draws.
    """

    def __init__(self, config: Config, trainer: GrpoTrainer):
        """Takes the trainer whose halves of a step it uses."""
        self._trainer, self.frozen, self.rows, self.build = trainer, trainer.frozen, trainer.rows, trainer.build
        self._most_draws = config.grpo.dynamic_sampling
        prompts = config.grpo.prompts_per_step
        self._most_failed = most_failed_rows(config.rewards, prompts * config.grpo.group_size)
        self._is_told = False

    def run_step(self, state: TrainState, batch: Iterator[HostBatch], step: int) -> tuple[TrainState, StepResult]:
        """One step, of as many batches as it needs."""
        trainer, program = self._trainer, self._trainer.program
        seconds: dict[str, float] = {}
        weights = trainer.gather(state, seconds)
        kept, sources, facts = None, np.empty(0, np.int32), None
        samples: dict[int, list[dict[str, Any]]] = {}  # by number of the group among all that were drawn
        seen: list[GroupFacts] = []
        evidence = trainer.evidence if trainer.evidence is not None and trainer.evidence.is_due(step) else None
        draws: list[ScoredBatch] = []  # where they are recorded
        for number, host in enumerate(batch):
            drawn = trainer.draw(weights, host, step, seconds, first_prompt=number * self.rows.count)
            with trainer.timed(seconds, "time/score"):
                scored = program.score(self.frozen.judge, drawn.batch.judge, drawn.batch.scores)
                fresh = drawn_groups(drawn.batch, scored)
                own = jax.device_get(program.group_facts(fresh.scored))
            samples |= self._samples(drawn, scored, number)
            draws += [drawn.scored(scored, self.rows)] if evidence is not None else []
            seen.append(own)
            numbers = np.arange(self.rows.count, dtype=np.int32) + number * self.rows.count
            has_failed = own.failed_rows > self._most_failed
            if kept is None or facts is None or has_failed:
                kept, sources, facts = fresh, numbers, own
            else:
                chosen = choose_groups(facts.has_spread, own.has_spread)
                kept, sources = program.keep_groups(kept, fresh, chosen), np.concatenate([sources, numbers])[chosen]
                facts = jax.device_get(program.group_facts(kept.scored))
            samples = {n: samples[n] for n in sources.tolist() if n in samples}  # those of dropped groups go
            if has_failed or facts.has_spread.all() or number + 1 >= self._most_draws:
                break
        if kept is None or facts is None:
            raise ValueError("run_step: expected at least one batch to draw; got none.")
        del weights
        self._tell(facts, len(seen))
        rows, places = _chosen_samples(samples, sources, facts)
        if evidence is not None:
            with trainer.timed(seconds, "time/evidence"):
                evidence.record(Occasion(step), draws, sources=sources, advantages=facts.advantages)
        state, scored, metrics = trainer.learn(state, kept.batch, kept.scored, seconds)
        tokens, mask = self.rows.fetch((kept.batch.rollout.tokens, kept.batch.rollout.mask))
        arrays = step_arrays(tokens, mask, scored)
        return state, trainer.result(metrics | _draw_metrics(seen), seconds, rows, places, arrays)

    def _samples(self, drawn: Drawn, scored: Any, number: int) -> dict[int, list[dict[str, Any]]]:
        """The completions of this process's part of a draw, by number of their group."""
        fetched = self.rows.fetch(without_maps(scored))
        rows = completion_rows(drawn.host, rollout_tokens=drawn.mask, bridged=drawn.bridged, scored=fetched)
        group = len(rows) // len(self.rows.local)
        first = number * self.rows.count
        return {first + int(p): rows[i * group : (i + 1) * group] for i, p in enumerate(self.rows.local)}

    def _tell(self, facts: GroupFacts, draws: int) -> None:
        """Says once that the draws do not suffice."""
        lacking = int((~facts.has_spread).sum())
        if lacking and not self._is_told and is_first():
            self._is_told = True
            print(
                f"grpo.dynamic_sampling={self._most_draws}: after {draws} draws {lacking} of {len(facts.has_spread)} groups "
                "have equal rewards and fill up the batch; the metric frac_zero_std counts them from here on.",
                file=sys.stderr,
                flush=True,
            )


def _chosen_samples(
    samples: dict[int, list[dict[str, Any]]], sources: np.ndarray, facts: GroupFacts
) -> tuple[list[dict[str, Any]], list[int]]:
    """The completions of the groups that were learned from, with their advantages, and the places of the groups."""
    rows, places = [], []
    for place, number in enumerate(sources):
        for row, advantage in zip(samples.get(int(number), []), facts.advantages[place], strict=False):
            rows.append({**row, "advantage": float(advantage)})
        places += [place] if int(number) in samples else []
    return rows, places


def _draw_metrics(seen: list[GroupFacts]) -> dict[str, float]:
    """Of all draws of a step, those included that were dropped."""
    rewards = [float(facts.reward) for facts in seen if np.isfinite(facts.reward)]
    return {
        "draws/count": float(len(seen)),
        "draws/frac_zero_std": float(np.mean([~facts.has_spread for facts in seen])),
        "draws/reward": float(np.mean(rewards)) if rewards else float("nan"),
    }
