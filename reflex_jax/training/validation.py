"""Held-out questions: reward of sampled completions, and greedy accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.records import HostScores
from reflex_jax.training.assembly import BatchBuilder, Models, make_generator, make_host_bridge
from reflex_jax.training.state import FrozenParams
from reflex_jax.training.step import ScoredRollout, score_rollout


class Evaluator:
    """Scores a policy on a fixed set of questions, with the reward of the run.

    Greedy accuracy stands beside the sampled one, because a rise of the sampled accuracy alone can be sharpening: the
    policy says more often what it already said most often.
    """

    def __init__(self, config: Config, models: Models, examples: Sequence[Example], builder: BatchBuilder):
        """Compiles nothing yet; the questions are the first `training.evaluation_questions` of the split."""
        limit = config.training.evaluation_questions or len(examples)
        self._examples = examples[:limit]
        self._models, self._builder = models, builder
        self._batch_size = config.grpo.prompts_per_step
        self._key = jax.random.key(config.run.seed + 1)
        self._bridge = make_host_bridge(config, models)
        self._sample = make_generator(
            config, models, group_size=config.grpo.group_size, temperature=config.rollout.temperature
        )
        self._greedy = make_generator(config, models, group_size=1, temperature=0.0)
        judge_config = models.judge.config
        self._score = jax.jit(lambda judge, inputs, scores: score_rollout(judge, inputs, scores, config, judge_config))

    def run(self, params: Any, frozen: FrozenParams) -> dict[str, float]:
        """Returns `eval/...` metrics of one policy: sampled (T as in training) and greedy, all, closed and open."""
        rows: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(self._examples), self._batch_size):
            chosen = self._examples[start : start + self._batch_size]
            # the last batch is filled up by its first question: one shape, one program
            batch = self._builder([*chosen, *[chosen[0]] * (self._batch_size - len(chosen))])
            prompts = self._models.place_batch(batch.prompts)
            ids = self._models.place_batch(np.arange(start, start + self._batch_size, dtype=np.int32))
            for name, generator in (("sampled", self._sample), ("greedy", self._greedy)):
                rollout = generator(params, frozen.fixed, prompts, self._key, ids)
                tokens, mask = jax.device_get((rollout.tokens, rollout.mask))
                bridged = self._bridge(batch.examples, tokens, mask, batch.judge_pixels)
                judge, scores = self._models.place_batch((bridged.judge, bridged.scores))
                scored = jax.device_get(self._score(frozen.judge, judge, scores))
                for key, values in _columns(name, scored, bridged.scores).items():
                    rows.setdefault(key, []).append(values[: len(chosen)].mean(-1))
        columns = {key: np.concatenate(parts) for key, parts in rows.items()}
        is_closed = np.asarray([e.answer_type == "closed" for e in self._examples])
        return _summarise(columns, is_closed)


def _columns(name: str, scored: ScoredRollout, scores: HostScores) -> dict[str, np.ndarray]:
    columns = {f"{name}/reward/{key}": np.asarray(values) for key, values in scored.components.items()}
    columns[f"{name}/reward/total"] = np.asarray(scored.rewards)
    columns[f"{name}/accuracy"] = np.asarray(scores.is_correct, np.float32)
    columns[f"{name}/iou"] = np.asarray(scored.iou)
    return columns


def _summarise(columns: dict[str, np.ndarray], is_closed: np.ndarray) -> dict[str, float]:
    summary = {}
    for key, values in columns.items():
        summary[f"eval/{key}"] = float(values.mean())
        if key.endswith("/accuracy"):
            for label, chosen in (("closed", is_closed), ("open", ~is_closed)):
                if chosen.any():
                    summary[f"eval/{key}_{label}"] = float(values[chosen].mean())
    return summary
