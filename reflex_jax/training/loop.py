"""Steps until the end, by either objective: step, log, evaluate, save; resumed by running it again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError, user_path
from reflex_jax.data.draws import Draws
from reflex_jax.data.examples import Example
from reflex_jax.data.pipeline import Batches, TrainingBatches
from reflex_jax.data.sources import load_validation
from reflex_jax.evaluation.validation import Evaluator, chosen_questions
from reflex_jax.evidence.log import EvidenceLog, open_log
from reflex_jax.evidence.recorder import open_recorder
from reflex_jax.models.attention_choice import tell_choices
from reflex_jax.processes import host_name, is_first, refused_together
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import open_run_directory, update_run_config
from reflex_jax.run.identity import (
    BY_CONTENT,
    check_identity,
    check_objective,
    check_processes_alike,
    check_statements,
    checkpoint_fingerprint,
    data_fingerprint,
    encoders_fingerprint,
    files_fingerprint,
)
from reflex_jax.run.logs import RunLogger, SilentLogger, last_metrics, open_logger
from reflex_jax.run.ownership import refuse_second_owner
from reflex_jax.run.samples import all_rows
from reflex_jax.sharding import make_mesh
from reflex_jax.statements.operator import DECL_VERSION
from reflex_jax.step.batch import leave_out_unfit, measure_prompts, refuse_colliding_options
from reflex_jax.step.encoders import encoder_directories
from reflex_jax.step.models import Models, load_adapters, load_models, load_params, make_host_bridge
from reflex_jax.step.offload import say_of_offload
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.score import most_failed_rows
from reflex_jax.step.state import TrainState
from reflex_jax.stops import PROCESS_LOST, RunStopped, StopRequest
from reflex_jax.training.before_loading import refuse_missing, vain_settings
from reflex_jax.training.faults import SkippedSteps, StepEnd
from reflex_jax.training.metric_names import check_best_metric
from reflex_jax.training.objectives import Grpo, Objective, Parts, Supervised
from reflex_jax.training.preflight import check_memory, check_processes
from reflex_jax.training.signs import Signs
from reflex_jax.training.trainer import Trainer
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

    objective: Objective
    models: Models
    program: Program
    batches: Batches
    trainer: Trainer
    evaluator: Evaluator | None
    checkpoints: RunCheckpoints
    identity: dict[str, str]
    start: int  # steps done before this command
    draws: Draws | None  # None: a step has one batch
    evidence: EvidenceLog

    @property
    def config(self) -> Config:
        """Of the run."""
        return self.objective.config

    def iterate(self) -> Iterator[Any]:
        """What the trainer takes for each step that is left."""
        return iter(self.draws or self.batches.iterate(self.start, self.trainer.build))

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Scores the policy after so many steps on the held-out questions."""
        frozen = self.trainer.frozen
        if self.evaluator is None:
            raise ValueError("evaluate: expected a run with held-out questions (training.evaluate_every).")
        return self.evaluator.run(self.program.gather(state.params, frozen.fixed), frozen.judge, step=step)

    def save(self, state: TrainState, step: int, metrics: dict[str, Any]) -> None:
        """Starts to save; the facts say what the state belongs to, and how the phases are laid out."""
        facts = {
            **self.identity, "step": step, "phase": self.batches.phase_name(step - 1), "seed": self.config.run.seed,
            "objective": self.objective.name, "layout": self.batches.layout, "decl": DECL_VERSION,
            **({"draws": self.draws.cursor} if self.draws else {}),
            **({"evidence": self.evidence.head.as_json()} if self.evidence.head.count else {}),
        }  # fmt: skip
        self.checkpoints.save(state, step, facts, metrics)


def train(config: Config) -> TrainResult:
    """Trains (or continues) the run a configuration describes, by GRPO.

    Raises:
      ConfigError: anything that would fail later is refused before the first step.
      RunStopped: the run ended early; the same command continues it.
    """
    return run_objective(Grpo(config))


def imitate(config: Config) -> TrainResult:
    """The supervised phase: imitates the target completions of the data source; leaves `policy/` in the run directory.

    Raises:
      ConfigError: as `train`; and a source without target completions.
      RunStopped: the run ended early; the same command continues it.
    """
    return run_objective(Supervised(config))


def run_objective(objective: Objective) -> TrainResult:
    """Runs the steps that are left of a run; see `train` and `imitate`."""
    config = objective.config
    refuse_second_owner(config.run.directory)
    with refused_together():
        mesh = make_mesh(config.mesh)
        objective.check_mesh(mesh)
    check_processes(config, mesh)
    with refused_together():
        found = refuse_missing(objective)
    if found and is_first():
        print(found, flush=True)
    with ExitStack() as held:  # the run directory, which is this run's until the end
        run, state = _open_run(objective, mesh, held)
        new_steps = max(len(run.batches) - run.start, 0)
        if new_steps:
            objective.begin()
        state, metrics = _run_to_the_end(run, state)
        objective.finish(run.models, state, run.trainer.frozen)
        return TrainResult(
            config.run.directory, len(run.batches), new_steps, metrics or last_metrics(config.run.directory)
        )


def _open_run(objective: Objective, mesh: Mesh, held: ExitStack) -> tuple[_Run, TrainState]:
    """Reads and compares everything, and takes the run up where its newest checkpoint left it."""
    config, directory = objective.config, objective.config.run.directory
    with refused_together():
        check_memory(objective, mesh)
        models = load_models(
            config, mesh, with_judge=objective.with_judge, with_rewards=objective.scores_answers
        )  # fmt: skip
        examples, held_out = (
            leave_out_unfit(config, models.processor, questions, with_judge=objective.with_judge)
            for questions in (objective.load_questions(), _held_out(config))
        )
        sizes = measure_prompts(config, models.processor, examples, held_out, with_judge=objective.with_judge)
        refuse_colliding_options(models.judge, config.judge.max_statement_tokens, examples, held_out)
        check_memory(objective, mesh, sizes)
        batches = objective.lay_out(examples)
        check_best_metric(objective, models.shapes, sizes, held_out)
        adapters = load_adapters(models, config.policy)
        params = load_params(models, config.policy.widest_dtype)
        identity = _identify(objective, examples, held_out)
        is_resumed = is_first() and held.enter_context(open_run_directory(config))
    check_processes_alike(identity)
    checkpoints = RunCheckpoints(
        directory, keep=config.training.keep_checkpoints, best_metric=config.training.best_metric
    )  # fmt: skip
    start, facts = checkpoints.latest_step() or 0, {}
    if start:
        facts = checkpoints.read_facts(start)
        with refused_together():
            check_objective(facts, objective.name, directory)
            check_identity(facts, identity, directory)
            if objective.with_judge:
                check_statements(facts, directory)
            batches = _as_laid_out(objective, examples, facts, batches)
    program = build_program(config, models.shapes, updates=len(batches) * objective.updates_per_step)
    with_reference = config.grpo.needs_reference and not objective.is_supervised
    judge = models.judge.params if models.judge else None
    state, frozen = program.start(params, judge, with_reference=with_reference, adapters=adapters)
    del params, adapters
    if start:
        state, _ = checkpoints.restore(state, start)
    if is_first():
        update_run_config(config)
    if is_resumed:
        print(f"{directory}: continuing after step {start} of {len(batches)}", flush=True)
    if is_first():
        _tell(objective, mesh, examples, batches)
    bridge = make_host_bridge(config, models, is_used=objective.scores_answers)
    held.callback(bridge.close)
    log = held.enter_context(open_log(config, facts, step=start))
    recorder = open_recorder(config, models.shapes, log, identity=identity, phase_name=batches.phase_name)
    trainer = objective.trainer(Parts(models, program, frozen, sizes, bridge, recorder))
    draws = None
    if config.grpo.dynamic_sampling and isinstance(batches, TrainingBatches):
        _tell_small_phases(config, batches)
        draws = Draws(batches, trainer.build, first_step=start, cursor=facts.get("draws"))
    evaluator = Evaluator(config, models, program, bridge, held_out, sizes, evidence=recorder) if held_out else None
    # what this command did not look at (held-out questions, say) stays as the run knew it
    identity = {key: value for key, value in facts.items() if key in BY_CONTENT} | identity
    run = _Run(objective, models, program, batches, trainer, evaluator, checkpoints, identity, start, draws, log)
    return run, state


def _tell(objective: Objective, mesh: Mesh, examples: list[Example], batches: Batches) -> None:
    """Says what settings come to that a user may not expect of them."""
    config = objective.config
    if said := say_of_offload(mesh, config.memory):
        print(said, flush=True)
    if config.grpo.algorithm and not objective.is_supervised:
        print(f"grpo.preset={config.grpo.algorithm}", flush=True)
    if batches.repeating:
        print(f"data.phases: {'; '.join(batches.repeating)}: some are in it more than once", flush=True)
    for line in vain_settings(config, examples) if objective.scores_answers else ():
        print(line, file=sys.stderr, flush=True)


def _tell_small_phases(config: Config, batches: TrainingBatches) -> None:
    """Says where the draws of one step may come to a question again."""
    most = config.grpo.dynamic_sampling * config.grpo.prompts_per_step
    named = zip(batches.phase_names, batches.phase_sizes, strict=True)
    small = [f"phase {name} has {size}" for name, size in named if size < most]
    if small and is_first():
        print(
            f"grpo.dynamic_sampling={config.grpo.dynamic_sampling}: a step may draw {most} questions, and {', '.join(small)}: "
            "it may learn from one more than once",
            flush=True,
        )


def _held_out(config: Config) -> list[Example]:
    """The held-out questions, where the run looks at them."""
    if not config.training.evaluate_every:
        return []
    return load_validation(config.data, seed=config.run.seed)


def _identify(objective: Objective, examples: list[Example], held_out: list[Example]) -> dict[str, str]:
    """What the run belongs to, by content."""
    config = objective.config
    identity = {
        "data": data_fingerprint(examples),
        "policy": checkpoint_fingerprint(resolve_checkpoint(config.policy.path, "policy")),
    }
    if config.policy.lora.path:
        identity["adapter"] = checkpoint_fingerprint(user_path(config.policy.lora.path))
    if objective.with_judge:
        identity["judge"] = checkpoint_fingerprint(resolve_checkpoint(config.judge.path, "judge"))
    if objective.scores_answers and (encoders := encoder_directories(config)):
        identity["encoders"] = encoders_fingerprint(encoders)
    if config.rewards.files:
        identity["rewards"] = files_fingerprint(config.rewards.files)
    if held_out:
        identity["evaluation"] = data_fingerprint(chosen_questions(config, held_out))
    return identity


def _as_laid_out(objective: Objective, examples: list[Example], facts: dict[str, Any], now: Batches) -> Batches:
    """The batches as the run was laid out.

    Raises:
      ConfigError: the checkpoint does not say, or was laid out for other phases or batches.
    """
    directory = objective.config.run.directory
    if "layout" not in facts:
        raise ConfigError(
            f"{directory} was saved by a version of reflex_jax that ordered the questions otherwise; it can be evaluated and "
            "exported, but not continued. Set run.name for a new run, or use that version."
        )
    try:
        found = {
            "names": [name for name, _ in facts["layout"]["phases"]],
            "prompts_per_step": facts["layout"]["prompts_per_step"],
            "weights": facts["layout"].get("weights"),
        }
        steps = [int(count) for _, count in facts["layout"]["phases"]]
    except (ValueError, TypeError, KeyError):
        found, steps = {}, []
    expected = {
        "names": [*now.phase_names], "prompts_per_step": now.prompts_per_step, "weights": now.layout.get("weights"),
    }  # fmt: skip
    if found != expected:
        raise ConfigError(
            f"{directory}: its newest checkpoint was laid out as {facts['layout']}, which is not what data.phases and the "
            "batch size say now. Put them back, or set run.name for a new run."
        )
    return objective.lay_out(examples, steps)


def _run_to_the_end(run: _Run, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Runs the steps that are left and closes the files, also when the run is stopped; returns the last metrics too."""
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


def _run_steps(
    run: _Run, state: TrainState, logger: RunLogger | SilentLogger, step_end: StepEnd
) -> tuple[TrainState, dict[str, Any]]:
    training, total = run.config.training, len(run.batches)
    grpo = run.config.grpo
    skipped = SkippedSteps(
        run.config.run.directory, limit=training.max_skipped_steps,
        most_failed=most_failed_rows(run.config.rewards, grpo.prompts_per_step * grpo.group_size),
        has_learned=run.start > 0,
    )  # fmt: skip
    metrics, signs = dict[str, Any](), Signs(run.config)
    if run.evaluator and run.start == 0:
        metrics = run.evaluate(state, 0)
        logger.log(0, {"phase": run.batches.phase_name(0), **metrics})
    bar = tqdm(
        run.iterate(), initial=run.start, total=total, unit="step",
        desc=run.config.run.name, disable=not (run.config.logging.progress and is_first()),
    )  # fmt: skip
    for step, batch in enumerate(bar, run.start + 1):
        state, result = run.trainer.run_step(state, batch, step)
        tell_choices()
        is_last = step == total
        metrics = {"phase": run.batches.phase_name(step - 1), **result.metrics}
        is_evaluated = run.evaluator is not None and (is_last or step % training.evaluate_every == 0)
        if is_evaluated:
            metrics |= run.evaluate(state, step)
        logger.log(step, metrics)
        if is_last or step % training.log_every == 0:
            logger.samples(step, all_rows(result.rows, result.places))
        is_saved = is_last or step % training.save_every == 0 or (is_evaluated and training.best_metric in metrics)
        skipped.note(step, result)
        signs.note(step, metrics, result.rows)
        # what has learned nothing leaves no checkpoint, so that whatever failed can be mended and the run begun anew
        is_worth_it = is_last or skipped.has_learned
        step_end(state, step, metrics, is_saved=is_worth_it and (is_saved or skipped.is_hopeless), is_last=is_last)
        if skipped.is_hopeless:
            run.checkpoints.wait()
            raise skipped.as_stop(step)
        bar.set_postfix({**_progress(metrics), "tok/s": f"{metrics['tokens_per_second']:.0f}"})
    return state, metrics


def _progress(metrics: dict[str, Any]) -> dict[str, str]:
    """The number to watch: the reward, or the loss where nothing is rewarded."""
    name = "reward/total" if "reward/total" in metrics else "loss"
    return {name.partition("/")[0]: f"{metrics[name]:.2f}"}
