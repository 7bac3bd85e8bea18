"""`reflex evaluate`, its first stage: a run or a directory of weights asked held-out questions."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import reflex_jax
from reflex_jax.chat.check import look_at_endpoint
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError, EvidenceConfig, RewardsConfig, config_to_dict, user_path
from reflex_jax.data.examples import Example
from reflex_jax.data.probes import PROBES, show_instead
from reflex_jax.data.prompt_texts import PROMPTS
from reflex_jax.data.sources import load_evaluation
from reflex_jax.evaluation.asking import Asker
from reflex_jax.evaluation.generate import Destination, Pass, evaluation_metrics, name_groups, write_answers
from reflex_jax.evaluation.manifest import digest_of, pin_identity
from reflex_jax.evaluation.recording import open_recording
from reflex_jax.evaluation.validation import chosen_questions, evaluation_batch
from reflex_jax.processes import is_first, refused_together
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import load_run_config
from reflex_jax.run.identity import (
    check_identity,
    checkpoint_fingerprint,
    data_fingerprint,
    encoders_fingerprint,
    files_fingerprint,
)
from reflex_jax.run.weights import restored_policy, weights_fingerprint, weights_to_sample
from reflex_jax.sharding import make_mesh
from reflex_jax.step.batch import leave_out_unfit, measure_prompts, refuse_colliding_options
from reflex_jax.step.encoders import encoder_directories, encoder_settings
from reflex_jax.step.models import Models, completion_shape, load_models, make_host_bridge
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.score import needs_endpoint, needs_judge
from reflex_jax.trees import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answerer:
    """Whose answers are asked for."""

    config: Config  # of a run, `run.dir` pointing at it; else `policy.path` is the policy itself
    is_run: bool = True
    initial: bool = False  # of a run: the policy it started from
    step: int | None = None  # of a run: which checkpoint; None: the newest

    @property
    def has_checkpoint(self) -> bool:
        """Whether the weights are those of a checkpoint of a run."""
        return self.is_run and not self.initial


def evaluate_run(config: Config, *, blank_image: bool = False, initial: bool = False) -> dict[str, float]:
    """The `eval/...` metrics of a run's newest checkpoint, or of the policy it started from, on `data.evaluation_split`.

    Args:
      config: the run's, with `run.dir` pointing at it.
      blank_image: the policy sees a grey picture; the judge still sees the real one.
      initial: leave the checkpoint aside.
    Raises:
      ConfigError: no checkpoint, the questions do not fit, or policy, judge or questions are others than the run's without
        a setting that says so.
    """
    config = dataclasses.replace(config, evidence=EvidenceConfig())  # nobody could replay it
    probe = "blank" if blank_image else "real"
    passes = [Pass(probe), Pass(probe, config.grpo.group_size)]
    with tempfile.TemporaryDirectory() as folder:
        return generate_answers(Answerer(config=config, initial=initial), passes, Path(folder))


def generate_answers(answerer: Answerer, passes: Sequence[Pass], folder: Path) -> dict[str, float]:
    """Writes the answers of some passes into a folder; what is there already is not asked again.

    Args:
      answerer: whose answers.
      passes: those of the first one's probe give the metrics.
      folder: made where it is not there.
    Returns:
      The `eval/...` metrics.
    Raises:
      ConfigError: as `evaluate_run`, or the folder holds answers of another policy, prompt, sampling or of other questions.
    """
    config = answerer.config
    with _opened(answerer) as opened:
        groups, chosen = name_groups(opened.examples), chosen_questions(config, opened.examples)
        with refused_together():
            if is_first():
                identity = opened.identity | {"passes": {p.name: p.identity(config) for p in passes}}
                pin_identity(folder, identity, opened.about)
        rows, askers = {}, {}
        fingerprints = opened.fingerprints | {"evaluation": data_fingerprint(chosen)}
        step = opened.about["step"] or 0
        with open_recording(config, opened.models.shapes, folder, identity=fingerprints, step=step) as recording:
            to = Destination(folder, groups, recording, progress=config.logging.progress)
            for target in passes:
                # greedy and sampled completions of one program are asked for by one: what it compiled is there
                shared = (target.probe, target.samples if target.samples != config.grpo.group_size else 0)
                if shared not in askers:
                    askers[shared] = _asker(opened, target, chosen)
                lines = write_answers(askers[shared], opened.weights, opened.judge, chosen, target=target, to=to)
                if target.probe == passes[0].probe:
                    rows[target.generator] = lines
        return evaluation_metrics(rows)


def pinned(answerer: Answerer) -> Answerer:
    """The same with its step named: the newest one where none was asked for.

    Raises:
      ConfigError: the run has no such checkpoint.
    """
    config = answerer.config
    if not answerer.has_checkpoint:
        if answerer.step is not None:
            raise ConfigError("--step: expected a checkpoint of the run; --initial is the policy before any.")
        return answerer
    checkpoints = RunCheckpoints(config.run.directory, keep=config.training.keep_checkpoints, is_owner=False)
    try:
        return dataclasses.replace(answerer, step=checkpoints.find_step(answerer.step))
    finally:
        checkpoints.close()


def evaluation_folder(answerer: Answerer) -> Path:
    """Where the answers of a run lie unless `--to` says otherwise: a folder of the run for each split and step."""
    config = answerer.config
    which = "initial" if answerer.initial else f"step-{answerer.step}"
    return config.run.directory / "evaluation" / f"{config.data.evaluation_split.replace('/', '-')}-{which}"


def with_sets(config: Config, sets: Sequence[str]) -> Config:
    """The configuration with some of its sources alone, by their labels; without any as it is.

    Raises:
      ConfigError: there is no such source.
    """
    if not sets:
        return config
    labels = [source.label for source in config.data.mixture]
    if unknown := [label for label in sets if label not in labels]:
        raise ConfigError(f"--sets: expected some of {', '.join(labels)}; got {', '.join(unknown)}.")
    sources = tuple(source for source in config.data.mixture if source.label in sets)
    phases = tuple(dataclasses.replace(phase, sources=()) for phase in config.data.phases)
    data = dataclasses.replace(config.data, source="phantom", sources=sources, phases=phases)
    return dataclasses.replace(config, data=data)


def without_rewards(config: Config) -> Config:
    """The configuration with the rewards that need neither a judge nor code or models of others, of which no evidence is kept."""
    components = config.rewards.components | {
        k: c for k, c in RewardsConfig().components.items() if k not in config.rewards.components
    }
    rewards = RewardsConfig(components={name: components[name] for name in ("answer", "format")})
    return dataclasses.replace(config, rewards=rewards, evidence=EvidenceConfig())


@dataclasses.dataclass(frozen=True, eq=False)
class _Opened:
    """A policy that can be asked."""

    config: Config
    models: Models
    program: Program
    bridge: Any
    examples: list[Example]
    weights: Params
    judge: Params | None
    identity: dict[str, dict[str, Any]]
    fingerprints: dict[str, str]  # of policy and rewards, as evidence names them
    about: dict[str, Any]


@contextmanager
def _opened(answerer: Answerer) -> Iterator[_Opened]:
    config = answerer.config
    with refused_together():
        mesh = make_mesh(config.mesh)
        with_judge = needs_judge(config)
        if needs_endpoint(config):
            look_at_endpoint(config.endpoint)
        models = load_models(config, mesh, with_judge=with_judge)
        examples = load_evaluation(config.data, seed=config.run.seed)
        examples = leave_out_unfit(config, models.processor, examples, with_judge=with_judge)
        measure_prompts(config, models.processor, examples, with_judge=with_judge)  # refuses what does not fit
        refuse_colliding_options(models.judge, config.judge.max_statement_tokens, examples)
        base = checkpoint_fingerprint(resolve_checkpoint(config.policy.path, "policy"))
        rewards = _rewards_identity(config, with_judge=with_judge)
    program = build_program(config, models.shapes)
    step, checkpoint = None, None
    if answerer.is_run:
        checkpoints = RunCheckpoints(config.run.directory, keep=config.training.keep_checkpoints, is_owner=False)
        try:
            with refused_together():
                if answerer.has_checkpoint:
                    step = checkpoints.find_step(answerer.step)
                of_run = step or (checkpoints.find_step() if checkpoints.steps() else None)
                facts = {} if of_run is None else checkpoints.read_facts(of_run)
                now = _run_identity(config, examples, base, rewards, initial=answerer.initial)
                check_identity(facts, now, config.run.directory, purpose="evaluated")
            if step is not None:
                checkpoint = restored_policy(config, models, checkpoints, step)
        finally:
            checkpoints.close()
    weights = weights_to_sample(config, models, program, checkpoint)
    identity = {
        "policy": {"directory": base, "weights": weights_fingerprint(weights, mesh)},
        "reading": _reading(config),
        "rewards": {"identity": digest_of(rewards)},
        "data": {
            label: data_fingerprint([e for e in examples if e.source == label])
            for label in dict.fromkeys(e.source for e in examples)
        },
    }
    run = str(config.run.directory) if answerer.is_run else None
    about = {
        "run": run, "step": step, "policy": config.policy.path, "split": config.data.evaluation_split,
        "of": len(examples), "version": reflex_jax.__version__, "config": config_to_dict(config),
    }  # fmt: skip
    judge = models.judge.params if models.judge else None
    with closing(make_host_bridge(config, models)) as bridge:
        fingerprints = _fingerprints(config, identity["policy"], rewards)
        yield _Opened(config, models, program, bridge, examples, weights, judge, identity, fingerprints, about)


def _asker(opened: _Opened, target: Pass, chosen: Sequence[Example]) -> Asker:
    """Of one pass; its prompts are padded to what its own pictures take."""
    config, models = opened.config, opened.models
    with refused_together():
        probe = None if target.probe == "real" else PROBES[target.probe](opened.examples)
        try:
            shown = chosen if probe is None else [show_instead(example, probe) for example in chosen]
        except ValueError as error:
            raise ConfigError(f"--probe {error}") from error
        sizes = measure_prompts(config, models.processor, shown, with_judge=False)
        # the judge sees the real pictures, whatever the policy sees
        seen = measure_prompts(config, models.processor, chosen, with_judge=models.judge is not None)
        sizes = dataclasses.replace(sizes, judged=seen.judged)
    count = evaluation_batch(config, models.shapes.mesh, len(chosen))
    program = opened.program
    if target.samples and target.samples != config.grpo.group_size:
        grpo = dataclasses.replace(config.grpo, group_size=target.samples)
        program = build_program(dataclasses.replace(config, grpo=grpo), models.shapes)
    return Asker(config, models, program, opened.bridge, sizes, count, probe=probe)


def _reading(config: Config) -> dict[str, Any]:
    """How a question becomes a prompt, and a completion an answer."""
    data = config.data
    return {
        "prompt": digest_of([data.prompt, PROMPTS[data.prompt].texts]),
        "pixels": [data.min_pixels, data.max_pixels],
        "completion": dataclasses.asdict(completion_shape(config)),
        "eos_ids": list(config.rollout.eos_ids),
        "dtype": config.policy.dtype,
        "seed": config.run.seed,  # draws the text where a prompt has several
    }


def _rewards_identity(config: Config, *, with_judge: bool) -> dict[str, Any]:
    """What the rewards depend on, by content."""
    found: dict[str, Any] = {"components": config_to_dict(config.rewards)["components"]}
    if with_judge:
        found["judge"] = checkpoint_fingerprint(resolve_checkpoint(config.judge.path, "judge"))
        found["settings"] = config_to_dict(config.judge) | {"path": None}
    if encoder_settings(config):
        found["encoders"] = encoders_fingerprint(encoder_directories(config))
    if config.rewards.files:
        found["files"] = files_fingerprint(config.rewards.files)
    if needs_endpoint(config):
        found["model"] = config.endpoint.model
    return found


def _fingerprints(config: Config, policy: dict[str, str], rewards: dict[str, Any]) -> dict[str, str]:
    """What evidence says the answers and their scores came from."""
    found = {"policy": policy["directory"], "weights": policy["weights"]}
    if config.policy.lora.path:
        found["adapter"] = checkpoint_fingerprint(user_path(config.policy.lora.path))
    named = {"judge": "judge", "encoders": "encoders", "files": "rewards"}
    return found | {name: rewards[key] for key, name in named.items() if key in rewards}


def _run_identity(
    config: Config, examples: list[Example], base: str, rewards: dict[str, Any], *, initial: bool
) -> dict[str, str]:
    """What has to be as the run knew it. Another judge or other questions may be asked for by name; the policy may not."""
    run = load_run_config(config.run.directory, [], runs_rewards=False)
    identity = {"policy": base}
    if initial and config.policy.lora.path:
        identity["adapter"] = checkpoint_fingerprint(user_path(config.policy.lora.path))
    if "judge" in rewards and config.judge.path == run.judge.path:
        identity["judge"] = rewards["judge"]
    if "encoders" in rewards and encoder_settings(config) == encoder_settings(run):
        identity["encoders"] = rewards["encoders"]
    if "files" in rewards and config.rewards.files == run.rewards.files:
        identity["rewards"] = rewards["files"]
    settings = [(c.data, c.training.evaluation_questions, c.run.seed) for c in (config, run)]
    # a run knows the questions it looked at while it trained
    if settings[0] == settings[1] and config.data.evaluation_split == config.data.validation_split:
        identity["evaluation"] = data_fingerprint(chosen_questions(config, examples))
    return identity
