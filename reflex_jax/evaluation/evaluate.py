"""`reflex evaluate`: a finished or running run on held-out questions."""

from __future__ import annotations

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.data.sources import load_examples
from reflex_jax.evaluation.validation import Evaluator, chosen_questions
from reflex_jax.processes import refused_together
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import load_run_config
from reflex_jax.run.identity import check_identity, checkpoint_fingerprint, data_fingerprint, files_fingerprint
from reflex_jax.sharding import check_batch
from reflex_jax.step.program import (
    BatchBuilder,
    load_models,
    make_weight_gatherer,
    measure_prompts,
    place_state,
)


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
        models, params = load_models(config)
        examples = load_examples(config.data, config.data.evaluation_split, seed=config.run.seed)
        sizes = measure_prompts(config, models.policy.processor, examples)
        check_batch(models.mesh, config.grpo.prompts_per_step, "grpo.prompts_per_step")
        identity = _identify(config, examples)
    checkpoints = RunCheckpoints(config.run.directory, keep=config.training.keep_checkpoints, is_owner=False)
    facts = checkpoints.read_facts(checkpoints.find_step()) if checkpoints.steps() else {}
    with refused_together():
        check_identity(facts, identity, config.run.directory, purpose="evaluated")
    rows = models.rows(config.grpo.prompts_per_step)
    builder = BatchBuilder(models, sizes, rows, resize=config.judge.resize, blank_image=blank_image)
    state, frozen, _ = place_state(config, models, params, 1)
    if not initial:
        state, _ = checkpoints.restore(state)
    checkpoints.close()
    weights = make_weight_gatherer(config, models)(state.params, frozen.fixed)
    return Evaluator(config, models, examples, builder).run(weights, frozen.judge)


def _identify(config: Config, examples: list[Example]) -> dict[str, str]:
    """What has to be as the run knew it. Another judge or other questions may be asked for by name; the policy may not."""
    run = load_run_config(config.run.directory, [], runs_rewards=False)
    identity = {"policy": checkpoint_fingerprint(resolve_checkpoint(config.policy.path, "policy"))}
    if config.judge.path == run.judge.path:
        identity["judge"] = checkpoint_fingerprint(resolve_checkpoint(config.judge.path, "judge"))
    if config.rewards.files and config.rewards.files == run.rewards.files:
        identity["rewards"] = files_fingerprint(config.rewards.files)
    settings = [(c.data, c.training.evaluation_questions, c.run.seed) for c in (config, run)]
    if settings[0] == settings[1]:
        identity["evaluation"] = data_fingerprint(chosen_questions(config, examples))
    return identity
