"""GRPO from a configuration: sample, score at the seam, step, log, save; resumed by running it again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from reflex_jax.config import Config
from reflex_jax.data.pipeline import TrainingBatches, training_batches
from reflex_jax.data.sources import load_examples
from reflex_jax.records import TrainBatch
from reflex_jax.rollout.host_bridge import BridgedRollout, HostBridge
from reflex_jax.sharding import check_batch
from reflex_jax.training.assembly import (
    BatchBuilder,
    HostBatch,
    Models,
    load_models,
    make_generator,
    make_host_bridge,
    measure_prompts,
    place_state,
)
from reflex_jax.training.checkpoint import RunCheckpoints
from reflex_jax.training.metrics import CompilationCounter, RunLogger
from reflex_jax.training.run_directory import open_run_directory
from reflex_jax.training.state import FrozenParams, TrainState
from reflex_jax.training.step import ScoredRollout, make_train_step
from reflex_jax.training.validation import Evaluator


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run is, and its last metrics."""

    directory: Path
    steps: int
    metrics: dict[str, Any]


def train(config: Config) -> TrainResult:
    """Trains (or continues) the run a configuration describes.

    Raises:
      ConfigError: anything that would fail later is refused before the first step.
    """
    models = load_models(config)
    grpo, seed = config.grpo, config.run.seed
    check_batch(models.mesh, grpo.prompts_per_step // grpo.minibatches, "grpo.prompts_per_step / minibatches")
    examples = load_examples(config.data, config.data.split, seed=seed)
    held_out = []
    if config.training.evaluate_every:
        held_out = load_examples(config.data, config.data.evaluation_split, seed=seed)
    sizes = measure_prompts(config, models.policy.processor, examples, held_out)
    batches = training_batches(
        examples, config.data, prompts_per_step=grpo.prompts_per_step, steps=config.training.steps, seed=seed
    )
    is_resumed = open_run_directory(config)
    state, frozen, optimizer = place_state(config, models, len(batches) * grpo.epochs * grpo.minibatches)
    checkpoints = RunCheckpoints(config.run.directory, keep=config.training.keep_checkpoints)
    start = checkpoints.latest_step() or 0
    if start:
        state, _ = checkpoints.restore(state)
    if is_resumed:
        print(f"{config.run.directory}: continuing after step {start} of {len(batches)}")
    builder = BatchBuilder(models.policy.processor, models.judge, sizes, resize=config.judge.resize)
    logger = RunLogger(
        config.run.directory,
        tensorboard=config.logging.tensorboard,
        wandb_project=config.logging.wandb_project,
        resume_step=start,
    )
    trainer = Trainer(config, models, frozen, optimizer, make_host_bridge(config, models))
    evaluator = Evaluator(config, models, held_out, builder) if held_out else None
    try:
        metrics = _run_steps(
            config, batches, trainer, evaluator, logger, checkpoints, state=state, start=start, builder=builder
        )
    finally:
        logger.close()
        checkpoints.close()
    return TrainResult(config.run.directory, len(batches), metrics)


def _run_steps(
    config: Config,
    batches: TrainingBatches,
    trainer: Trainer,
    evaluator: Evaluator | None,
    logger: RunLogger,
    checkpoints: RunCheckpoints,
    *,
    state: TrainState,
    start: int,
    builder: BatchBuilder,
) -> dict[str, Any]:
    """Runs the steps that are left; returns the metrics of the last one."""
    training = config.training
    metrics: dict[str, Any] = {}

    def phase_name(step: int) -> str:
        return config.data.phases[batches.phase_of(step)].answer_type

    if evaluator and start == 0:
        metrics = evaluator.run(state.params, trainer.frozen)
        logger.log(0, {"phase": phase_name(0), **metrics})
    bar = tqdm(
        batches.iterate(start, builder), initial=start, total=len(batches), unit="step", desc=config.run.name,
        disable=not config.logging.progress,
    )  # fmt: skip
    for step, batch in enumerate(bar, start + 1):
        state, metrics, rows = trainer.run_step(state, batch, step)
        metrics = {"phase": phase_name(step - 1), **metrics}
        is_last = step == len(batches)
        if evaluator and (is_last or step % training.evaluate_every == 0):
            metrics |= evaluator.run(state.params, trainer.frozen)
        logger.log(step, metrics)
        if is_last or step % training.log_every == 0:
            logger.samples(step, rows)
        if is_last or step % training.save_every == 0:
            checkpoints.save(state, step, {"phase": metrics["phase"], "data_seed": config.run.seed})
        bar.set_postfix({"reward": f"{metrics['reward/total']:.2f}", "tok/s": f"{metrics['tokens_per_second']:.0f}"})
    return metrics


class Trainer:
    """One step of the run: the compiled functions and the seam between them."""

    def __init__(self, config: Config, models: Models, frozen: FrozenParams, optimizer: Any, bridge: HostBridge):
        """Builds the functions; they compile at the first step."""
        self._models, self.frozen, self._bridge = models, frozen, bridge
        self._prompts_per_step = config.grpo.prompts_per_step
        self._key = jax.random.key(config.run.seed)
        self._generate = make_generator(
            config, models, group_size=config.grpo.group_size, temperature=config.rollout.temperature
        )
        self._train_step = make_train_step(
            config, models.policy.config, models.judge.config, optimizer, models.allowed, models.eos_ids
        )
        self._compilations = CompilationCounter()

    def run_step(self, state: TrainState, batch: HostBatch, step: int) -> tuple[TrainState, dict[str, Any], list[dict]]:
        """Samples, scores and updates; returns the new state, the metrics and one row per completion."""
        seconds: dict[str, float] = {}
        models = self._models
        with _timed(seconds, "time/generate"):
            prompts = models.place_batch(batch.prompts)
            key = jax.random.fold_in(self._key, step)
            prompt_ids = models.place_batch(np.arange(self._prompts_per_step, dtype=np.int32))
            rollout = self._generate(state.params, self.frozen.fixed, prompts, key, prompt_ids)
            tokens, mask = jax.device_get((rollout.tokens, rollout.mask))
        with _timed(seconds, "time/bridge"):
            bridged = self._bridge(batch.examples, tokens, mask, batch.judge_pixels)
        with _timed(seconds, "time/train_step"):
            judge, scores = models.place_batch((bridged.judge, bridged.scores))
            state, scored, metrics = self._train_step(
                state, self.frozen, TrainBatch(prompts=prompts, rollout=rollout, judge=judge, scores=scores)
            )
            scored, metrics = jax.device_get((scored, metrics))
        total = sum(seconds.values())
        metrics = {name: float(value) for name, value in metrics.items()}
        metrics |= seconds | {
            "time/step": total,
            "tokens_per_second": float(mask.sum()) / total,
            "compilations": self._compilations.read(),
        }
        return state, metrics, completion_rows(batch, rollout_tokens=mask, bridged=bridged, scored=scored)


def completion_rows(
    batch: HostBatch, *, rollout_tokens: np.ndarray, bridged: BridgedRollout, scored: ScoredRollout
) -> list[dict[str, Any]]:
    """One row per completion: what was asked, what came, what the judge read, and every score."""
    rows = []
    for p, example in enumerate(batch.examples):
        for g, completion in enumerate(bridged.completions[p]):
            rows.append(
                {
                    "id": example.id,
                    "question": example.question,
                    "true_answer": example.answer,
                    "completion": completion,
                    "answer": bridged.answers[p][g],
                    "statement": bridged.statements[p][g],
                    "anchor_statement": bridged.anchors[p],
                    "tokens": int(rollout_tokens[p, g].sum()),
                    "reward": float(scored.rewards[p, g]),
                    "advantage": float(scored.advantages[p, g]),
                    **{name: float(values[p, g]) for name, values in scored.components.items()},
                    "iou": float(scored.iou[p, g]),
                    "text_text_similarity": float(scored.text_text_similarity[p, g]),
                    "image_text_similarity": float(scored.image_text_similarity[p, g]),
                    "is_degenerate": bool(scored.is_degenerate[p, g]),
                }
            )
    return rows


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
