"""GRPO from a configuration: sample, score at the seam, step, log, save; resumed by running it again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.pipeline import TrainingBatches, training_batches
from reflex_jax.data.sources import load_examples
from reflex_jax.evaluation.validation import Evaluator, chosen_questions
from reflex_jax.processes import gather, host_name, is_first, refused_together
from reflex_jax.records import TrainBatch
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import open_run_directory
from reflex_jax.run.identity import (
    check_identity,
    check_processes_alike,
    checkpoint_fingerprint,
    data_fingerprint,
    files_fingerprint,
)
from reflex_jax.run.logs import CompilationCounter, RunLogger, SilentLogger, last_metrics, open_logger
from reflex_jax.run.ownership import refuse_second_owner
from reflex_jax.sharding import batch_sharding, check_batch, make_mesh, replicated
from reflex_jax.step.bridge import BridgedRollout, HostBridge
from reflex_jax.step.program import (
    BatchBuilder,
    HostBatch,
    Models,
    load_models,
    make_generator,
    make_host_bridge,
    make_weight_gatherer,
    measure_prompts,
    place_state,
)
from reflex_jax.step.score import Scored, most_failed_rows
from reflex_jax.step.state import FrozenParams, TrainState
from reflex_jax.step.update import make_train_step
from reflex_jax.stops import PROCESS_LOST, RunStopped, StopRequest
from reflex_jax.training.faults import SkippedSteps, StepEnd
from reflex_jax.training.metric_names import check_best_metric
from reflex_jax.training.preflight import check_memory, check_processes
from reflex_jax.training.watchdog import Watchdog


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run is, and its last metrics."""

    directory: Path
    steps: int  # of the whole run
    new_steps: int  # done by this command; 0: the run was complete before
    metrics: dict[str, Any]


@dataclass
class _Run:
    """What the steps of one run share."""

    config: Config
    batches: TrainingBatches
    builder: BatchBuilder
    trainer: Trainer
    evaluator: Evaluator | None
    checkpoints: RunCheckpoints
    identity: dict[str, str]
    start: int  # steps done before this command

    def phase_name(self, step: int) -> str:
        """Answer type of the curriculum phase of a step, counted from 0."""
        return self.config.data.phases[self.batches.phase_of(step)].answer_type

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Scores the policy on the held-out questions."""
        return self.evaluator.run(self.trainer.gather_weights(state), self.trainer.frozen.judge)

    def save(self, state: TrainState, step: int, metrics: dict[str, Any]) -> None:
        """Starts to save; the facts say what the state belongs to, and how the phases are laid out."""
        facts = {
            **self.identity, "step": step, "phase": self.phase_name(step - 1), "seed": self.config.run.seed,
            "layout": _layout(self.config, self.batches.phase_steps),
        }  # fmt: skip
        self.checkpoints.save(state, step, facts, metrics)


def train(config: Config) -> TrainResult:
    """Trains (or continues) the run a configuration describes.

    Raises:
      ConfigError: anything that would fail later is refused before the first step.
      RunStopped: the run ended early; the same command continues it.
    """
    refuse_second_owner(config.run.directory)
    with refused_together():
        mesh = make_mesh(config.mesh)
        check_batch(
            mesh, config.grpo.prompts_per_step // config.grpo.minibatches, "grpo.prompts_per_step / minibatches"
        )
        check_batch(mesh, config.grpo.microbatch_prompts, "grpo.microbatch_prompts")
    check_processes(config, mesh)
    with ExitStack() as held:  # the run directory, which is this run's until the end
        run, state = _open_run(config, mesh, held)
        metrics = _run_to_the_end(run, state)
        new_steps = max(len(run.batches) - run.start, 0)
        return TrainResult(
            config.run.directory, len(run.batches), new_steps, metrics or last_metrics(config.run.directory)
        )


def _open_run(config: Config, mesh: Mesh, held: ExitStack) -> tuple[_Run, TrainState]:
    """Reads and compares everything, and takes the run up where its newest checkpoint left it."""

    def lay_out(laid_out: list[int] | None = None) -> TrainingBatches:
        return training_batches(
            examples, config.data, prompts_per_step=config.grpo.prompts_per_step, steps=config.training.steps,
            seed=config.run.seed, laid_out=laid_out,
        )  # fmt: skip

    with refused_together():
        check_memory(config, mesh)
        models, params = load_models(config)
        examples, held_out = _load_questions(config)
        check_best_metric(config, held_out)
        sizes = measure_prompts(config, models.policy.processor, examples, held_out)
        check_memory(config, mesh, sizes)
        batches = lay_out()
        identity = _identify(config, examples, held_out)
        is_resumed = is_first() and held.enter_context(open_run_directory(config))
    check_processes_alike(identity)
    checkpoints = RunCheckpoints(
        config.run.directory, keep=config.training.keep_checkpoints, best_metric=config.training.best_metric
    )
    start, facts = checkpoints.latest_step() or 0, {}
    if start:
        facts = checkpoints.read_facts(start)
        with refused_together():
            check_identity(facts, identity, config.run.directory)
            batches = lay_out(_phase_steps(facts, config))
    state, frozen, optimizer = place_state(
        config, models, params, len(batches) * config.grpo.epochs * config.grpo.minibatches
    )
    del params
    if start:
        state, _ = checkpoints.restore(state, start)
    if is_resumed:
        print(f"{config.run.directory}: continuing after step {start} of {len(batches)}", flush=True)
    if is_first() and batches.repeating:
        print(f"data.phases: {'; '.join(batches.repeating)}: some are in it more than once", flush=True)
    builder = BatchBuilder(models, sizes, models.rows(config.grpo.prompts_per_step), resize=config.judge.resize)
    bridge = make_host_bridge(config, models)
    held.callback(bridge.close)
    trainer = Trainer(config, models, state, frozen, optimizer, bridge)
    evaluator = Evaluator(config, models, held_out, builder, bridge) if held_out else None
    # what this command did not look at (held-out questions, say) stays as the run knew it
    identity = {key: value for key, value in facts.items() if key == "evaluation"} | identity
    return _Run(config, batches, builder, trainer, evaluator, checkpoints, identity, start), state


def _identify(config: Config, examples: list[Example], held_out: list[Example]) -> dict[str, str]:
    """What the run belongs to, by content."""
    identity = {
        "data": data_fingerprint(examples),
        "policy": checkpoint_fingerprint(resolve_checkpoint(config.policy.path, "policy")),
        "judge": checkpoint_fingerprint(resolve_checkpoint(config.judge.path, "judge")),
    }
    if config.rewards.files:
        identity["rewards"] = files_fingerprint(config.rewards.files)
    if held_out:
        identity["evaluation"] = data_fingerprint(chosen_questions(config, held_out))
    return identity


def _layout(config: Config, phase_steps: Sequence[int]) -> dict[str, Any]:
    """What decides which questions a step sees, beside the questions and the seed."""
    phases = [[phase.answer_type, steps] for phase, steps in zip(config.data.phases, phase_steps, strict=True)]
    return {"phases": phases, "prompts_per_step": config.grpo.prompts_per_step}


def _phase_steps(facts: dict[str, Any], config: Config) -> list[int]:
    """Steps of each phase as the run was laid out.

    Raises:
      ConfigError: the checkpoint does not say, or was laid out for other phases or batches.
    """
    directory = config.run.directory
    if "layout" not in facts:
        raise ConfigError(
            f"{directory} was saved by a version of reflex_jax that ordered the questions otherwise; it can be evaluated and "
            "exported, but not continued. Set run.name for a new run, or use that version."
        )
    try:
        steps = [int(count) for _, count in facts["layout"]["phases"]]
        is_same = facts["layout"] == _layout(config, steps)
    except (ValueError, TypeError, KeyError):
        is_same = False
    if not is_same:
        raise ConfigError(
            f"{directory}: its newest checkpoint was laid out as {facts['layout']}, which is not what data.phases and "
            "grpo.prompts_per_step say now. Put them back, or set run.name for a new run."
        )
    return steps


def _load_questions(config: Config) -> tuple[list[Example], list[Example]]:
    """The training split, and the held-out one where the run looks at it."""
    seed = config.run.seed
    examples = load_examples(config.data, config.data.split, seed=seed)
    if not config.training.evaluate_every:
        return examples, []
    return examples, load_examples(config.data, config.data.evaluation_split, seed=seed)


def _run_to_the_end(run: _Run, state: TrainState) -> dict[str, Any]:
    """Runs the steps that are left and closes the files, also when the run is stopped; returns the last metrics."""
    config, stop = run.config, StopRequest()
    with refused_together():
        logger = open_logger(
            config.run.directory, tensorboard=config.logging.tensorboard, wandb_project=config.logging.wandb_project,
            resume_step=run.start, is_writing=is_first(),
        )  # fmt: skip
        watchdog = Watchdog(
            config.run.directory, process=jax.process_index(), stall_seconds=config.training.stall_seconds
        )
    is_whole = True
    try:
        with stop.listening():
            return _run_steps(run, state, logger, StepEnd(run.save, run.checkpoints, stop, watchdog))
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        is_whole = False  # what follows may not wait for the process that is gone
        raise RunStopped(
            PROCESS_LOST,
            f"{host_name()}: the other processes do not answer any more; see their output. The same command continues from "
            f"step {run.checkpoints.latest_step() or 0}. ({str(error).splitlines()[0][:300]})",
        ) from error
    finally:
        watchdog.close()
        with ExitStack() as closing:
            if is_whole:
                closing.callback(run.checkpoints.close)
            logger.close()


def _run_steps(run: _Run, state: TrainState, logger: RunLogger | SilentLogger, step_end: StepEnd) -> dict[str, Any]:
    training, total = run.config.training, len(run.batches)
    grpo = run.config.grpo
    skipped = SkippedSteps(
        run.config.run.directory, limit=training.max_skipped_steps,
        most_failed=most_failed_rows(run.config.rewards, grpo.prompts_per_step * grpo.group_size),
    )  # fmt: skip
    metrics: dict[str, Any] = {}
    if run.evaluator and run.start == 0:
        metrics = run.evaluate(state)
        logger.log(0, {"phase": run.phase_name(0), **metrics})
    bar = tqdm(
        run.batches.iterate(run.start, run.builder), initial=run.start, total=total, unit="step",
        desc=run.config.run.name, disable=not (run.config.logging.progress and is_first()),
    )  # fmt: skip
    for step, batch in enumerate(bar, run.start + 1):
        state, result = run.trainer.run_step(state, batch, step)
        is_last = step == total
        metrics = {"phase": run.phase_name(step - 1), **result.metrics}
        is_evaluated = run.evaluator is not None and (is_last or step % training.evaluate_every == 0)
        if is_evaluated:
            metrics |= run.evaluate(state)
        logger.log(step, metrics)
        if is_last or step % training.log_every == 0:
            logger.samples(step, _all_rows(result.rows, run.builder.rows))
        is_saved = is_last or step % training.save_every == 0 or (is_evaluated and training.best_metric in metrics)
        skipped.note(step, result)
        step_end(state, step, metrics, is_saved=is_saved or skipped.is_hopeless, is_last=is_last)
        if skipped.is_hopeless:
            run.checkpoints.wait()
            raise skipped.as_stop(step)
        bar.set_postfix({"reward": f"{metrics['reward/total']:.2f}", "tok/s": f"{metrics['tokens_per_second']:.0f}"})
    return metrics


def _all_rows(rows: list[dict[str, Any]], layout: Any) -> list[dict[str, Any]]:
    """The completions of all processes in the order of the prompts, each once."""
    if jax.process_count() == 1:
        return rows
    group = len(rows) // len(layout.local)
    parts = gather([[int(p), rows[i * group : (i + 1) * group]] for i, p in enumerate(layout.local)])
    by_prompt = {number: group_rows for part in parts for number, group_rows in part}
    return [row for number in sorted(by_prompt) for row in by_prompt[number]]


@dataclass(frozen=True)
class StepResult:
    """What one step leaves behind on the host; arrays and rows are this process's part."""

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]  # one per completion
    arrays: dict[str, np.ndarray]  # what went into the update, for looking into a step that failed


class Trainer:
    """One step of the run: the compiled functions and the seam between them."""

    def __init__(
        self,
        config: Config,
        models: Models,
        state: TrainState,
        frozen: FrozenParams,
        optimizer: Any,
        bridge: HostBridge | None = None,
    ):
        """Builds the functions; they compile at the first step. `bridge`: default, that of `make_host_bridge`."""
        self.frozen = frozen
        self._bridge = bridge or make_host_bridge(config, models)
        self._rows = models.rows(config.grpo.prompts_per_step)
        self._key = jax.random.key(config.run.seed)
        self._gather = make_weight_gatherer(config, models)
        self._generate = make_generator(
            config, models, group_size=config.grpo.group_size, temperature=config.rollout.temperature
        )
        places = (models.policy_shardings(state), batch_sharding(models.mesh), replicated(models.mesh))
        self._train_step = make_train_step(
            config, models.policy.config, models.judge.config, optimizer, models.allowed, models.eos_ids, places
        )
        self._compilations = CompilationCounter()

    def gather_weights(self, state: TrainState) -> Any:
        """The policy as sampling wants it."""
        return self._gather(state.params, self.frozen.fixed)

    def run_step(self, state: TrainState, batch: HostBatch, step: int) -> tuple[TrainState, StepResult]:
        """Samples, scores and updates."""
        seconds: dict[str, float] = {}
        with _timed(seconds, "time/reshard"):
            weights = jax.block_until_ready(self.gather_weights(state))
        with _timed(seconds, "time/generate"):
            prompts = self._rows.place(batch.prompts)
            key = jax.random.fold_in(self._key, step)
            rollout = self._generate(weights, prompts, key, self._rows.place(self._rows.local.astype(np.int32)))
            tokens, mask = self._rows.fetch((rollout.tokens, rollout.mask))
            del weights
        with _timed(seconds, "time/bridge"):
            bridged = self._bridge(batch.examples, tokens, mask, batch.judge_pixels)
        with _timed(seconds, "time/train_step"):
            judge, scores = self._rows.place((bridged.judge, bridged.scores))
            state, scored, metrics = self._train_step(
                state, self.frozen, TrainBatch(prompts=prompts, rollout=rollout, judge=judge, scores=scores)
            )
            scored, metrics = self._rows.fetch(scored), jax.device_get(metrics)
        total = sum(seconds.values())
        metrics = {name: float(value) for name, value in metrics.items()}
        metrics |= seconds | {
            "time/step": total,
            "tokens_per_second": metrics["tokens"] / total,
            "compilations": self._compilations.read(),
        }
        arrays = {
            "tokens": tokens, "mask": mask, "rewards": scored.rewards, "advantages": scored.advantages,
            **{f"reward_{name}": values for name, values in scored.components.items()},
        }  # fmt: skip
        rows = completion_rows(batch, rollout_tokens=mask, bridged=bridged, scored=scored)
        return state, StepResult(metrics, rows, arrays)


def completion_rows(
    batch: HostBatch, *, rollout_tokens: np.ndarray, bridged: BridgedRollout, scored: Scored
) -> list[dict[str, Any]]:
    """One row per completion: what was asked, what came, what the judge read, and every score.

    A row that failed has no reward, and `failure` says why; a component that does not apply to a row has none there.
    """
    rows = []
    for p, example in enumerate(batch.examples):
        for g, completion in enumerate(bridged.completions[p]):
            failure = bridged.failures[p][g] or _failed_component(scored, p, g)
            rows.append(
                {
                    "id": example.id,
                    "question": example.question,
                    "true_answer": example.answer,
                    "completion": completion,
                    "parsed_answer": bridged.answers[p][g],
                    "statement": bridged.statements[p][g],
                    "anchor_statement": bridged.anchors[p],
                    "tokens": int(rollout_tokens[p, g].sum()),
                    "failure": failure and str(failure),
                    "reward": None if failure else float(scored.rewards[p, g]),
                    "advantage": float(scored.advantages[p, g]),
                    **{
                        f"reward/{name}": float(values[p, g]) if scored.applies[name][p, g] else None
                        for name, values in scored.components.items()
                    },
                    **_evidence_of(scored, p, g),
                }
            )
    return rows


def _failed_component(scored: Scored, p: int, g: int) -> str | None:
    """What failed on the device, where the host has nothing to complain of."""
    if scored.is_valid[p, g]:
        return None
    return "; ".join(
        f"{name}: {values[p, g]} is no score"
        for name, values in scored.components.items()
        if not np.isfinite(values[p, g])
    )


def _evidence_of(scored: Scored, p: int, g: int) -> dict[str, Any]:
    evidence = scored.evidence
    if evidence is None:
        return {}
    return {
        "iou": float(evidence.iou[p, g]),
        "text_text_similarity": float(evidence.text_text_similarity[p, g]),
        "image_text_similarity": float(evidence.image_text_similarity[p, g]),
        "is_degenerate": bool(evidence.is_degenerate[p, g]),
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
