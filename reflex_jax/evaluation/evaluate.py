"""`reflex evaluate`: a finished or running run on held-out questions."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import jax

from reflex_jax.chat.check import look_at_endpoint
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, user_path
from reflex_jax.data.examples import Example
from reflex_jax.data.sources import load_evaluation
from reflex_jax.evaluation.validation import Evaluator, chosen_questions
from reflex_jax.processes import refused_together
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import load_run_config
from reflex_jax.run.identity import (
    check_identity,
    checkpoint_fingerprint,
    data_fingerprint,
    encoders_fingerprint,
    files_fingerprint,
)
from reflex_jax.run.weights import restore_policy
from reflex_jax.sharding import make_mesh
from reflex_jax.step.batch import leave_out_unfit, measure_prompts, refuse_colliding_options
from reflex_jax.step.encoders import encoder_directories, encoder_settings
from reflex_jax.step.models import Models, load_adapters, load_models, load_params, make_host_bridge
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.score import needs_endpoint, needs_judge
from reflex_jax.step.trained import draw_adapters, split_trainable


def evaluate_run(config: Config, *, blank_image: bool = False, initial: bool = False) -> dict[str, float]:
    """Evaluates the newest checkpoint of a run, or the policy it started from, on `data.evaluation_split`.

    Args:
      config: the run's, with `run.dir` pointing at it.
      blank_image: the policy sees a grey picture; the judge still sees the real one.
      initial: leave the checkpoint aside.
    Raises:
      ConfigError: no checkpoint, the questions do not fit, or policy, judge or questions are others than the run's without
        a setting that says so.
    """
    with refused_together():
        mesh = make_mesh(config.mesh)
        with_judge = needs_judge(config)
        if needs_endpoint(config):
            look_at_endpoint(config.endpoint)
        models = load_models(config, mesh, with_judge=with_judge)
        examples = load_evaluation(config.data, seed=config.run.seed)
        examples = leave_out_unfit(config, models.processor, examples, with_judge=with_judge)
        sizes = measure_prompts(config, models.processor, examples, with_judge=with_judge)
        refuse_colliding_options(models.judge, config.judge.max_statement_tokens, examples)
        identity = _identify(config, examples, with_judge=with_judge, initial=initial)
    checkpoints = RunCheckpoints(config.run.directory, keep=config.training.keep_checkpoints, is_owner=False)
    try:
        facts = checkpoints.read_facts(checkpoints.find_step()) if checkpoints.steps() else {}
        with refused_together():
            check_identity(facts, identity, config.run.directory, purpose="evaluated")
        program = build_program(config, models.shapes)
        weights = _weights(config, models, program, None if initial else checkpoints)
    finally:
        checkpoints.close()
    judge = models.judge.params if models.judge else None
    with closing(make_host_bridge(config, models)) as bridge:
        evaluator = Evaluator(config, models, program, bridge, examples, sizes, blank_image=blank_image)
        return evaluator.run(weights, judge)


def _weights(config: Config, models: Models, program: Program, checkpoints: RunCheckpoints | None) -> Any:
    """The policy as sampling reads it: of the newest checkpoint, or (None) the one the run started from."""
    if checkpoints is None:
        params = load_params(models)
        trained, fixed = split_trainable(params, config.policy)
        trained = (
            load_adapters(models, config.policy) or draw_adapters(params, config.policy, config.run.seed) or trained
        )
    else:
        trained, fixed = restore_policy(
            checkpoints, checkpoints.find_step(), models.directory, models.shapes.policy, models.shapes.mesh,
            settings=config.policy,
        )  # fmt: skip
    return program.gather(trained, jax.tree.map(lambda x: x.astype(config.policy.dtype), fixed))


def _identify(config: Config, examples: list[Example], *, with_judge: bool, initial: bool) -> dict[str, str]:
    """What has to be as the run knew it. Another judge or other questions may be asked for by name; the policy may not."""
    run = load_run_config(config.run.directory, [], runs_rewards=False)
    identity = {"policy": checkpoint_fingerprint(resolve_checkpoint(config.policy.path, "policy"))}
    if initial and config.policy.lora.path:
        identity["adapter"] = checkpoint_fingerprint(user_path(config.policy.lora.path))
    if with_judge and config.judge.path == run.judge.path:
        identity["judge"] = checkpoint_fingerprint(resolve_checkpoint(config.judge.path, "judge"))
    if encoder_settings(config) and encoder_settings(config) == encoder_settings(run):
        identity["encoders"] = encoders_fingerprint(encoder_directories(config))
    if config.rewards.files and config.rewards.files == run.rewards.files:
        identity["rewards"] = files_fingerprint(config.rewards.files)
    settings = [(c.data, c.training.evaluation_questions, c.run.seed) for c in (config, run)]
    # a run knows the questions it looked at while it trained
    if settings[0] == settings[1] and config.data.evaluation_split == config.data.validation_split:
        identity["evaluation"] = data_fingerprint(chosen_questions(config, examples))
    return identity
